"""Whether the models compute on a device what they compute on the CPU: losses, gradients and predictions, in fp32.

Every model is a recipe, most of `configs/miniature`, with untrained heads, on two images of OV-Shapes. Their tower is
a plain ViT: the other families are compared as they are published, with random weights.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.structures import Instances
from detectron2.utils.events import EventStorage
from omegaconf import DictConfig
from torch import Tensor

from clipself_d2.clip import build_image_tower
from clipself_d2.engine.config import build, load_config
from clipself_d2.miniature.dataset import VERSION, ensure_ov_shapes

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


@dataclass(frozen=True)
class Model:
    """A recipe.

    Args:
        config: its file below `configs`.
        overrides: that leave nothing to chance, because a GPU draws other random numbers than the CPU.
        draws: its losses are of places that are drawn on the device: they must be finite, but differ.
    """

    config: str
    overrides: tuple[str, ...] = ()
    draws: bool = False


_ALL_BOXES = (
    "model.rpn.batch_size_per_image=100000",
    "model.roi_heads.batch_size_per_image=100000",
    "model.roi_heads.score_thresh=0",  # as many detections, whatever the rounding
)
_MASK_HEAD = (  # OV-LVIS's and its evaluator, with the miniature's channels
    "model.roi_heads.mask_head={_target_: detectron2.modeling.roi_heads.MaskRCNNConvUpsampleHead, num_classes: 1, "
    "conv_dims: [96, 96], conv_norm: GN, "
    "input_shape: {_target_: detectron2.layers.ShapeSpec, channels: 96}}",
    "model.roi_heads.mask_resolution=14",
    "model.roi_heads.match_best=True",
    "dataloader.train.mapper.masks=True",
    "dataloader.evaluator={_target_: clipself_d2.evaluation.OpenVocabularyLVISEvaluator, tasks: [segm, bbox], "
    "dataset_name: ov_shapes_val, output_dir: null}",
)
_PROPOSALS = (  # OV-COCO's, on the miniature's images
    "model.backbone.bottom_up.weights=null",
    "model.rpn.batch_size_per_image=100000",
    "model.rpn.post_nms_topk=[100,100]",
    "model.short_edge=128",
    "dataloader.train.dataset=ov_shapes_train_base",
    "dataloader.train.mapper.size=128",
    "dataloader.test.dataset=ov_shapes_val",
)
_NAMED_REGIONS = (
    "dataloader.train.mapper.regions.json_file=${oc.env:DETECTRON2_DATASETS,datasets}"
    f"/ov_shapes_{VERSION}/annotations/instances_train.json"
)

MODELS = {
    "CLIPSelf": Model("miniature/clipself_patches.py"),
    "CLIPSelf with a correlation": Model(
        "miniature/clipself_patches.py", ("model.correlation=${correlations.denserc}",)
    ),
    "region-text": Model("miniature/region_text.py", (_NAMED_REGIONS,)),
    "image-text": Model("miniature/image_text.py"),
    "CLIP": Model("miniature/clip.py"),
    "region proposals": Model("detection/rpn_r50_fpn_ovcoco.py", _PROPOSALS),
    "F-ViT": Model("miniature/fvit.py", _ALL_BOXES),
    "F-ViT with masks": Model("miniature/fvit.py", (*_ALL_BOXES, *_MASK_HEAD)),
    "mask generator": Model("miniature/panoptic_masks.py", draws=True),
    "panoptic segmentation": Model("miniature/panoptic.py", ("model.generator=${ground_truth}",)),
    "CAT-Seg": Model("miniature/cat_seg.py"),
    "zero-shot segmentation": Model("miniature/zero_shot_semantic.py"),
}

TOWERS = ("EVA02-B-16", "ViT-B-16-quickgelu", "ViT-B-16-SigLIP", "RN50")
"""One CLIP of each family."""


@dataclass(frozen=True)
class Outputs:
    """What a model computes, on the CPU.

    Attributes:
        losses: by name; empty for a model without training.
        gradient: of the sum of the losses, all parameters in one vector.
        predictions: tensors of the evaluation, in order; the scores alone of instances.
        results: the evaluator's of these predictions. They are not compared: ranks of untrained scores are chance.
    """

    losses: dict[str, float]
    gradient: Tensor
    predictions: list[Tensor]
    results: dict[str, Any] = field(default_factory=dict)


def config(model: Model, device: str, folder: str) -> DictConfig:
    """A model's config, which writes to a folder; draws the images where they are not there."""
    ensure_ov_shapes(os.environ.get("DETECTRON2_DATASETS", "datasets"))
    overrides = [*model.overrides, f"train.device={device}", f"train.output_dir={folder}"]
    return load_config(CONFIGS / model.config, overrides)


def run(model: Model, device: str) -> Outputs:
    """Build a model, take a training step's losses and gradients, predict, and evaluate the predictions."""
    with tempfile.TemporaryDirectory() as folder:
        return run_config(config(model, device, folder), device)


def run_config(cfg: DictConfig, device: str) -> Outputs:
    """`run` of a config."""
    torch.manual_seed(0)
    module: torch.nn.Module = build(cfg, "model").to(device)
    losses, gradient = {}, torch.zeros(0)
    if "train" in cfg.dataloader:
        module.train()
        torch.manual_seed(0)
        with EventStorage():
            values = module(first_batch(cfg, "train"))
        sum(values.values()).backward()
        losses = {name: value.item() for name, value in values.items()}
        gradient = torch.cat([p.grad.flatten().cpu() for p in module.parameters() if p.grad is not None])
    if "test" not in cfg.dataloader:
        return Outputs(losses, gradient, [])
    inputs, evaluator = first_batch(cfg, "test"), build(cfg, "dataloader.evaluator")
    with torch.inference_mode():
        outputs = module.eval()(inputs)
        predictions = [tensor.cpu() for tensor in tensors(outputs)]
        evaluator.reset()
        evaluator.process(inputs, outputs)
    return Outputs(losses, gradient, predictions, evaluator.evaluate())


def run_tower(name: str, device: str) -> Outputs:
    """Build an image tower with random weights, take a gradient, and embed images that are not square."""
    torch.manual_seed(0)
    tower = build_image_tower(name, None).eval()
    size = tower.native_size
    pixels = torch.randn(2, 3, size, size + 2 * tower.stride)
    tower, pixels = tower.to(device), pixels.to(device)
    embeddings, dense = tower.image_embeddings(pixels), tower.dense_embeddings(pixels)
    (embeddings.square().mean() + dense[:, :, 0].mean()).backward()
    gradient = torch.cat([p.grad.flatten().cpu() for p in tower.parameters() if p.grad is not None])
    predictions = [F.normalize(embeddings, dim=-1), dense]
    return Outputs({}, gradient, [each.detach().cpu() for each in predictions])


def compare(cpu: Outputs, device: Outputs, draws: bool = False) -> dict[str, float]:
    """Compare the outputs of two devices.

    Args:
        cpu: of the CPU.
        device: of the other.
        draws: see `Model`.

    Returns:
        The largest relative difference of a loss, 1 - cosine of the gradients, the largest difference of a predicted
        number, and the largest part of the predicted pixels or classes that differ; of what the model has.
    """
    figures = {}
    if cpu.losses and not draws:
        figures["loss"] = max(abs(device.losses[k] - v) / max(abs(v), 1e-6) for k, v in cpu.losses.items())
    if cpu.gradient.any() and not draws:
        cosine = torch.cosine_similarity(cpu.gradient.double(), device.gradient.double(), dim=0)
        figures["gradient"] = 1 - float(cosine)
    pairs = list(zip(cpu.predictions, device.predictions, strict=True))
    floats = [float((a - b).abs().max()) for a, b in pairs if a.is_floating_point() and a.numel()]
    labels = [float((a != b).double().mean()) for a, b in pairs if not a.is_floating_point() and a.numel()]
    return figures | ({"numbers": max(floats)} if floats else {}) | ({"labels": max(labels)} if labels else {})


def first_batch(cfg: DictConfig, section: str) -> list[dict[str, Any]]:
    """The first two samples of a loader of a config."""
    loader = cfg.dataloader[section]
    loader.num_workers = 0
    loader["total_batch_size" if section == "train" else "batch_size"] = 2
    return next(iter(build(cfg, f"dataloader.{section}")))


def tensors(outputs: Any) -> Iterator[Tensor]:
    """The tensors of nested outputs; of instances the scores, in order, as those of equal scores may change places."""
    if isinstance(outputs, Tensor):
        yield outputs
    elif isinstance(outputs, Instances):
        scores = outputs.scores if outputs.has("scores") else outputs.objectness_logits
        yield scores.sort(descending=True).values
    elif isinstance(outputs, Mapping):
        for value in outputs.values():
            yield from tensors(value)
    elif isinstance(outputs, Sequence) and not isinstance(outputs, str):
        for value in outputs:
            yield from tensors(value)
