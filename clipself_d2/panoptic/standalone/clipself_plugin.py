"""Parts for ODISE and FC-CLIP: their masks, with CLIP's scores pooled from a CLIPSelf tower's dense map.

Copy this file and ``clipself_dense.py`` beside the other project's code. It needs Python 3.8 and torch 1.13.
docs/panoptic.md has the lines that a user adds to either project.

ODISE gives every mask a class token that attends to the mask's patches. A CLIPSelf tower is not trained for that: its
last block is read without attention, and on the token path its weights do worse than plain CLIP's
(github.com/wusize/CLIPSelf/issues/26). The plug-in therefore replaces the path, not only the weights. FC-CLIP pools
dense maps, but supports convolutional CLIPs only.

Bad input raises a ValueError of one line.
"""

from __future__ import annotations

import logging
from operator import attrgetter
from typing import Any, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Classes = Sequence[Sequence[str]]

# What makes ODISE's adapters right on open_clip 3.
_WRAP = (
    "for a in ({adapters}): f = a.clip.visual.transformer.forward; a.clip.visual.transformer.forward = "
    "lambda x, *r, f=f, **k: f(x.transpose(0, 1), *r, **k).transpose(0, 1)"
)
_LOGGER = logging.getLogger(__name__)


def fuse(predicted: Tensor, clip: Tensor, valid: Tensor, seen: Tensor, alpha: float, beta: float) -> Tensor:
    """ODISE's and FC-CLIP's fusion: the geometric mean of two softmaxes, renormalized.

    Args:
        predicted: ... x K logits of the mask generator, without void.
        clip: ... x K logits.
        valid: ... bool; a mask that covers no cell of CLIP's map keeps the generator's scores.
        seen: K bool, the classes that the generator was trained on.
        alpha: CLIP's weight for these.
        beta: CLIP's weight for the others.

    Returns:
        ... x K log probabilities.
    """
    weight = torch.where(seen, torch.full_like(clip, alpha), torch.full_like(clip, beta)) * valid[..., None]
    fused = (1 - weight) * predicted.float().log_softmax(dim=-1) + weight * clip.log_softmax(dim=-1)
    return fused.log_softmax(dim=-1)


class ODISEMaskClassifier(nn.Module):
    """A drop-in for the `clip_head` of an ODISE config: CLIP's scores from the dense path, ODISE's fusion.

    Args:
        clip: an `ExportedCLIP`, or any module with its `embed_masks` and `logits`.
        alpha: CLIP's weight for the trained classes: ODISE's caption model .35, its label model .3; 1 for CLIP only, 0
            for the prediction only.
        beta: CLIP's weight for the others: .65 and .7; likewise.
        train_labels: the classes that ODISE was trained on, each a list of synonyms. None: ODISE's list.
        size_divisibility: ODISE pads images to multiples of it to predict masks, but not those that it passes to this
            head.

    Attributes:
        test_labels: the classes to look for; set by ODISE's wrapper of a test set.
        with_bg: always False: void is the mask generator's.
    """

    with_bg = False
    clip: Any

    def __init__(
        self,
        clip: nn.Module,
        alpha: float = 0.35,
        beta: float = 0.65,
        train_labels: Classes | None = None,
        size_divisibility: int = 64,
    ) -> None:
        super().__init__()
        self.clip = clip
        self.alpha = alpha
        self.beta = beta
        self.train_labels = self.default_train_labels() if train_labels is None else train_labels
        self.size_divisibility = size_divisibility
        self.test_labels: Classes | None = None
        self._is_attached = False

    def default_train_labels(self) -> Classes:
        """The COCO classes as ODISE lists them."""
        from odise.data.build import get_openseg_labels

        return get_openseg_labels("coco_panoptic", prompt_engineered=True)

    def seen_classes(self, classes: Classes) -> list[bool]:
        """Which classes ODISE was trained on: those that share a synonym with one of its classes, letter for letter."""
        trained = {name for synonyms in self.train_labels for name in synonyms}
        return [not trained.isdisjoint(synonyms) for synonyms in classes]

    @torch.no_grad()
    def forward(self, outputs: dict[str, Any], targets: None = None) -> dict[str, Any]:
        """ODISE's call in evaluation.

        Args:
            outputs: `images` (B x 3 x H x W RGB in 0..1, padded to the largest), `pred_masks` (B x Q x h x w
                logits), `pred_open_logits` (B x Q x K, taken out of it) and maybe `labels`.
            targets: None.

        Returns:
            `pred_open_logits`: B x Q x K, whose softmax is the fused probability without void; `labels` if they
            were there.

        Raises:
            ValueError: without test labels, or with others than the scores are about.
        """
        if self.test_labels is None:
            raise ValueError("ODISEMaskClassifier has no test_labels: evaluate through ODISE's OpenPanopticInference")
        if not self._is_attached:
            _LOGGER.warning("ODISE's use of open_clip was not checked: call model.clip_head.attach(model) once")
            self._is_attached = True
        predicted: Tensor = outputs.pop("pred_open_logits")
        _check_classes(predicted, self.test_labels)
        images = outputs["images"] * 255
        height, width = images.shape[-2:]
        images = F.pad(images, (0, -width % self.size_divisibility, 0, -height % self.size_divisibility))
        embeddings, valid = self.clip.embed_masks(images, outputs["pred_masks"])
        logits = self.clip.logits(embeddings, self.test_labels).to(predicted.device)
        seen = torch.tensor(self.seen_classes(self.test_labels), device=predicted.device)
        fused = fuse(predicted, logits, valid.to(predicted.device), seen, self.alpha, self.beta)
        results: dict[str, Any] = {"pred_open_logits": fused}
        return {**results, "labels": self.test_labels} if "labels" in outputs else results

    def open_state_dict(self, destination: dict[str, Any] | None = None, prefix: str = "") -> dict[str, Any]:
        """Return what ODISE's wrapper of a test set swaps: the test labels."""
        destination = {} if destination is None else destination
        destination[f"{prefix}test_labels"] = self.test_labels
        return destination

    def attach(self, model: Any) -> Any:
        """Make this the head of a built ODISE model, which is returned, and check that ODISE uses its CLIP rightly.

        ODISE was written for open_clip 2.0.2. Its captioner passes tokens in the order sequence, batch; the transformer
        of open_clip 3 takes them in the other order, without an error.

        Raises:
            ValueError: another kind of model; a `ClipAdapter` that embeds a random image unlike its CLIP.
        """
        _require(model, ("clip_head", "sem_seg_head", "backbone"), "ODISE")
        model.clip_head = self.to(next(model.parameters()).device)
        self._is_attached = True
        cosines = {
            f"model.{name}": _adapter_cosine(module)
            for name, module in model.named_modules()
            if hasattr(module, "embed_image") and hasattr(getattr(module, "clip", None), "encode_image")
        }
        wrong = [name for name, cosine in cosines.items() if not cosine > 0.99]
        if wrong:
            raise ValueError(
                f"{wrong[0]}: ODISE embeds an image unlike its CLIP (cosine {cosines[wrong[0]]:.2f}), because it was "
                "written for another open_clip: install open-clip-torch 2.0.2, or wrap its CLIP: "
                + _WRAP.format(adapters="".join(f"{name}, " for name in wrong).rstrip())
            )
        return model


class FCCLIPMaskClassifier(nn.Module):
    """FC-CLIP's out-of-vocabulary classifier with a CLIP of its own, such as a ViT, for which FC-CLIP has none.

    FC-CLIP keeps its convolutional CLIP for masks and in-vocabulary scores. Once attached, this module replaces the
    scores of FC-CLIP's head by the fused ones and sets FC-CLIP's own ensemble weights to 0, which passes them through
    unchanged. FC-CLIP's code needs no change.

    Args:
        clip: an `ExportedCLIP`, or any module with its `embed_masks` and `logits`.
        alpha: CLIP's weight for the trained classes; FC-CLIP's is .4.
        beta: CLIP's weight for the others; FC-CLIP's is .8.
    """

    clip: Any

    def __init__(self, clip: nn.Module, alpha: float = 0.4, beta: float = 0.8) -> None:
        super().__init__()
        self.clip = clip
        self.alpha = alpha
        self.beta = beta

    @torch.no_grad()
    def forward(self, images: Tensor, masks: Tensor, logits: Tensor, classes: Classes, seen: Tensor) -> Tensor:
        """Fuse the scores.

        Args:
            images: B x 3 x H x W RGB in 0..255, padded as in FC-CLIP.
            masks: B x Q x h x w, its `pred_masks`.
            logits: B x Q x (K + 1), its in-vocabulary `pred_logits`, void last.
            classes: K lists of synonyms.
            seen: K, its `category_overlapping_mask`.

        Returns:
            B x Q x (K + 1) log probabilities, void last.

        Raises:
            ValueError: classes that the scores are not about.
        """
        predicted, void = logits.float().log_softmax(dim=-1).split([logits.shape[-1] - 1, 1], dim=-1)
        _check_classes(predicted, classes)
        embeddings, valid = (x.to(logits.device) for x in self.clip.embed_masks(images, masks))
        clip_logits = self.clip.logits(embeddings, classes).to(logits.device)
        fused = fuse(predicted, clip_logits, valid, seen.bool().to(logits.device), self.alpha, self.beta)
        return torch.cat([fused + predicted.logsumexp(dim=-1, keepdim=True), void], dim=-1)

    def attach(self, model: Any) -> Any:
        """Make a built FC-CLIP model, which is returned, classify with this module in evaluation alone.

        FC-CLIP's `encode_text` was written for open_clip 2 and fails with open_clip 3. It is then replaced, on this
        model alone, by open_clip's own. FC-CLIP walks through the layers of its image tower itself; that these are all
        of them is checked.

        Args:
            model: an `FCCLIP`, with `backbone`, `sem_seg_head`, `pixel_mean`, `pixel_std`, `test_metadata`,
                `category_overlapping_mask` and the two weights `geometric_ensemble_alpha` and `.._beta`.

        Raises:
            ValueError: another kind of model; a backbone that embeds a random image unlike its CLIP.
        """
        needed = ("sem_seg_head", "category_overlapping_mask", "geometric_ensemble_alpha", "test_metadata")
        _require(model, ("backbone.clip_model.visual", "backbone.encode_text", *needed), "FC-CLIP")
        cosine = _backbone_cosine(model.backbone)
        if not cosine > 0.99:
            raise ValueError(
                f"model.backbone: FC-CLIP embeds an image unlike its CLIP (cosine {cosine:.2f}), because it was "
                "written for another open_clip or timm: install open_clip_torch 2.23.0 and timm 0.9.12"
            )
        _correct_encode_text(model.backbone)
        model.geometric_ensemble_alpha = model.geometric_ensemble_beta = 0.0
        images: list[Tensor] = []

        def keep_images(_: nn.Module, arguments: tuple[Any, ...]) -> None:
            if not model.training:
                images[:] = [arguments[0] * model.pixel_std + model.pixel_mean]

        def replace_scores(_: nn.Module, __: Any, outputs: dict[str, Any]) -> dict[str, Any] | None:
            if model.training:
                return None
            metadata = model.test_metadata
            names = getattr(metadata, "stuff_classes", None) or metadata.thing_classes
            classes = [[synonym.strip() for synonym in name.split(",")] for name in names]
            overlap = model.category_overlapping_mask
            scores = self(images.pop(), outputs["pred_masks"], outputs["pred_logits"], classes, overlap)
            return {**outputs, "pred_logits": scores}

        model.backbone.register_forward_pre_hook(keep_images)
        model.sem_seg_head.register_forward_hook(replace_scores)
        self.to(model.pixel_mean.device)
        return model


def _require(model: Any, attributes: Sequence[str], host: str) -> None:
    for name in attributes:
        try:
            attrgetter(name)(model)
        except AttributeError:
            raise ValueError(f"{type(model).__name__} has no {name}: attach to a model of {host}") from None


def _check_classes(scores: Tensor, classes: Classes) -> None:
    if scores.shape[-1] != len(classes):
        raise ValueError(
            f"scores of {scores.shape[-1]} classes for {len(classes)} classes: the test labels of this head and of the "
            "mask generator differ"
        )


@torch.no_grad()
def _adapter_cosine(adapter: Any) -> float:
    """Cosine of an adapter's embedding of a random image with that of its CLIP's own `encode_image`."""
    image = torch.rand(1, 3, *adapter.image_size, device=next(adapter.parameters()).device)
    # open_clip's class itself is asked, without a forward that was put on the instance.
    wrapped = vars(adapter.clip.visual.transformer).pop("forward", None)
    try:
        own = adapter.clip.encode_image(adapter.clip_preprocess(image)).float()
    finally:
        if wrapped is not None:
            adapter.clip.visual.transformer.forward = wrapped
    return float(F.cosine_similarity(adapter.embed_image(image).image_embed.float(), own))


@torch.no_grad()
def _backbone_cosine(backbone: Any) -> float:
    """Cosine of CLIP's pooling of FC-CLIP's dense features of a random image with CLIP's own `encode_image`."""
    visual = backbone.clip_model.visual
    size = visual.image_size
    height, width = size if isinstance(size, tuple) else (size, size)
    image = torch.randn(1, 3, height, width, device=next(backbone.parameters()).device)
    dense = backbone(image)["clip_vis_dense"]
    # A ResNet's attention pool, a ConvNeXt's average.
    pooled = visual.attnpool(dense) if hasattr(visual, "attnpool") else visual.head(visual.trunk.head(dense))
    return float(F.cosine_similarity(pooled.float(), backbone.clip_model.encode_image(image).float()))


@torch.no_grad()
def _correct_encode_text(backbone: Any) -> None:
    """Replace an `encode_text` of FC-CLIP's backbone that fails, or does not embed as its CLIP does."""
    tokens = backbone.tokenize_text(["a photo of a dog.", "sky"]).to(next(backbone.parameters()).device)
    own = backbone.clip_model.encode_text(tokens).float()
    try:
        cosine = float(F.cosine_similarity(backbone.encode_text(tokens).float(), own).min())
    except (RuntimeError, AttributeError, TypeError) as error:
        reason = str(error).splitlines()[0]
    else:
        if cosine > 0.99:
            return
        reason = f"cosine {cosine:.2f}"
    backbone.encode_text = backbone.clip_model.encode_text
    _LOGGER.warning("FC-CLIP's encode_text does not fit this open_clip (%s): using CLIP's own encode_text", reason)
