"""Open-vocabulary panoptic segmentation, the masks given, against plain arithmetic and the bare tower."""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from clipself_d2.benchmark import plain
from clipself_d2.benchmark.arguments import IMAGE, add_common, autocast, check_at_least
from clipself_d2.benchmark.measure import Parts, count_flops, medians, peak_flops, peak_memory
from clipself_d2.clip import build_image_tower
from clipself_d2.engine.trainer import PRECISIONS
from clipself_d2.errors import RunError
from clipself_d2.panoptic import MaskPredictions, OpenVocabularyPanoptic, mask_embedder, open_vocabulary
from clipself_d2.panoptic.inference import panoptic_segments
from clipself_d2.regions import LetterboxedImages, dense_features, fuse_scores
from clipself_d2.vocabulary import Vocabulary

COSINE_TOLERANCE = 0.02
"""Most that the cosine of a mask's embeddings by the two paths may fall short of 1."""
PIXEL_TOLERANCE = 0.001
"""Largest part of the pixels whose segments may differ, of the same scores."""

_MASKS = (120, 160)  # as mask transformers predict them: a quarter of the photograph
_THRESHOLDS = (0.0, 0.8)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command line may say."""
    add_common(parser, batch=None)
    add = parser.add_argument
    add("--size", type=int, default=640, metavar="PIXELS", help="side of the square input (%(default)s)")
    add("--masks", type=int, default=100, metavar="Q", help="of the photograph (%(default)s)")
    add("--classes", type=int, default=133, metavar="K", help="of the vocabulary (%(default)s)")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure, with random weights, on a photograph of noise and the masks of random discs.

    Args:
        args: what `add_arguments` declares, and `device`.

    Returns:
        Seconds of a photograph: `ours` (masks pooled and named, scores fused, segments merged at the photograph's
        resolution), `reference` (see `Reference`), `tower` (`tower.features` on what ours gives it, in our precision);
        `ratio`, the reference's over ours; `ratio_to_tower`, ours over the tower's; `peak_fraction`, our operations a
        second over `peak_flops`; `peak_memory_bytes` and `flops`; `parts` of ours; `agreement`; `settings`.

    Raises:
        InputError: for an unknown model, or a number out of its range.
        RunError: the two paths do not agree.
    """
    check_at_least(args, masks=1, classes=1, rounds=1)
    torch.manual_seed(0)
    tower = build_image_tower(args.model, "random").to(args.device).eval()
    vocabulary = Vocabulary([f"class {i}" for i in range(args.classes)], torch.randn(args.classes, tower.embed_dim))
    isthing = [i < args.classes // 2 for i in range(args.classes)]
    predictions = draw_predictions(args.masks, args.classes).to(args.device)
    model = OpenVocabularyPanoptic(
        lambda inputs, vocabulary: [predictions] * len(inputs),
        tower,
        vocabulary.to(args.device),
        isthing,
        args.size,
        object_threshold=_THRESHOLDS[0],
        overlap_threshold=_THRESHOLDS[1],
        tasks=("panoptic_seg",),
    ).to(args.device)
    inputs = [{"image": torch.randint(0, 256, (3, *IMAGE), dtype=torch.uint8)}]
    precision = autocast(args)
    reference = Reference(model, predictions)

    def ours() -> Any:
        with torch.inference_mode(), precision:
            return model(inputs)

    scale = args.size / max(IMAGE)
    pixels = torch.randn(1, 3, args.size, args.size, device=args.device)

    def bare() -> Any:
        with torch.inference_mode(), precision:
            images = LetterboxedImages(pixels, [scale], [(IMAGE[0] * scale, IMAGE[1] * scale)])
            return dense_features(tower, images, dense_mode=model.embedder.dense_mode).dense

    agreement = agree(model, reference, inputs[0]["image"], precision)
    calls = {"ours": ours, "reference": lambda: reference(inputs[0]["image"]), "tower": bare}
    seconds = medians(calls, args.device, args.rounds)
    flops = {name: count_flops(call) for name, call in calls.items()}
    attainable = peak_flops(args.device, PRECISIONS[args.precision])
    said = ("model", "size", "masks", "classes", "precision", "rounds")
    return {
        **seconds,
        "ratio": seconds["reference"] / seconds["ours"],
        "ratio_to_tower": seconds["ours"] / seconds["tower"],
        "peak_fraction": flops["ours"] / seconds["ours"] / attainable,
        "peak_memory_bytes": {name: peak_memory(call, args.device) for name, call in calls.items()},
        "flops": flops,
        "parts": Parts(_parts(model), args.device)(ours, args.rounds),
        "agreement": agreement,
        "settings": {"image": list(IMAGE), **{name: getattr(args, name) for name in said}},
    }


def draw_predictions(count: int, classes: int, seed: int = 0) -> MaskPredictions:
    """Overlapping discs of all sizes, each with scores of its own."""
    rng = np.random.default_rng(seed)
    rows, columns = (torch.arange(side) for side in _MASKS)
    y, x = (torch.from_numpy(rng.uniform(0, side, count)).float()[:, None, None] for side in _MASKS)
    radius = torch.from_numpy(rng.uniform(2, 30, count)).float()[:, None, None]
    distance = ((rows[:, None] - y) ** 2 + (columns - x) ** 2).sqrt()
    scores = torch.from_numpy(rng.normal(0, 3, (count, classes + 1))).float()
    return MaskPredictions(radius - distance, scores.log_softmax(dim=1))


class Reference:
    """The same work, plainly: fp32, attention with its matrix, the padded square, masks pooled one by one on a copy of
    the map, and merged as Mask2Former does: all of them resized at once, then a loop over the masks.

    Args:
        model: what is measured; its towers, thresholds and weights are used.
        predictions: the masks.
    """

    def __init__(self, model: OpenVocabularyPanoptic, predictions: MaskPredictions) -> None:
        self.model = model
        self.predictions = predictions

    def __call__(self, image: Tensor) -> tuple[Tensor, list[int]]:
        """Segment ids, H x W, and the class of each segment."""
        return self.merge(self.scores(*self.embed(image)), (image.shape[1], image.shape[2]))

    @torch.no_grad()
    def embed(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Q x C unit embeddings, and whether the masks weigh anything."""
        tower, size = self.model.embedder.tower, self.model.embedder.size
        pixels = plain.letterbox(Image.fromarray(image.permute(1, 2, 0).numpy()), size)[None]
        with plain.naive_attention():
            dense = tower.dense_embeddings(tower.normalize(pixels.to(tower.pixel_mean.device)))
        grid, longest = size // tower.stride, max(image.shape[1:])
        content = (round(image.shape[1] * grid / longest), round(image.shape[2] * grid / longest))
        rows, valid = [], []
        for logits in self.predictions.masks:
            cells = torch.zeros(grid, grid, device=dense.device)
            resized = F.interpolate(logits[None, None], content, mode="bilinear", align_corners=False)
            cells[: content[0], : content[1]] = resized[0, 0] > 0
            weighed = dense.clone() * cells
            rows.append(weighed.sum(dim=(2, 3))[0] / (cells.sum() + 1e-12))
            valid.append(cells.any())
        return F.normalize(torch.stack(rows), dim=-1), torch.stack(valid)

    @torch.no_grad()
    def scores(self, embeddings: Tensor, valid: Tensor) -> Tensor:
        """Q x (K + 1) fused probabilities."""
        model, predicted = self.model, self.predictions.log_scores
        clip = (model.temperature * model.vocabulary.cosines(embeddings)).log_softmax(dim=1)
        fused = fuse_scores(predicted, clip, model.vocabulary.is_base, model.alpha, model.beta, model.fusion)
        return fused.where(valid[:, None], predicted.exp())

    @torch.no_grad()
    def merge(self, scores: Tensor, size: tuple[int, int]) -> tuple[Tensor, list[int]]:
        """See `__call__`."""
        best, label = scores.max(dim=1)
        taking_part = (label < scores.shape[1] - 1) & (best > self.model.object_threshold)
        best, label = best[taking_part], label[taking_part]
        masks = F.interpolate(self.predictions.masks[taking_part][None], size, mode="bilinear", align_corners=False)[0]
        masks = masks.sigmoid()
        ids = torch.zeros(size, dtype=torch.int32, device=scores.device)
        classes: list[int] = []
        stuff: dict[int, int] = {}
        owner = (best[:, None, None] * masks).argmax(dim=0) if len(masks) else ids
        for row, category in enumerate(label.tolist()):
            won, inside = owner == row, masks[row] >= 0.5
            visible = won & inside
            if not visible.any() or won.sum().item() / inside.sum().item() < self.model.overlap_threshold:
                continue
            if category in stuff:
                ids[visible] = stuff[category]
                continue
            classes.append(category)
            ids[visible] = len(classes)
            if not self.model.isthing[category]:
                stuff[category] = len(classes)
        return ids, classes


def agree(model: OpenVocabularyPanoptic, reference: Reference, image: Tensor, precision: Any) -> dict[str, float]:
    """Compares the embeddings of the masks, ours read with the reference's padding, and the segments of one set of
    scores.

    Returns:
        `lowest_cosine` of the embeddings and `differing_pixels`, a part of all.

    Raises:
        RunError: beyond the tolerances.
    """
    masks = reference.predictions.masks
    fit, model.embedder.skip_padding = model.embedder.skip_padding, False
    with torch.inference_mode(), precision:
        [(found, valid)] = model.embedder([image], [masks])
    model.embedder.skip_padding = fit
    expected, weighed = reference.embed(image)
    cosine = float((found * expected).sum(dim=-1)[weighed].min())
    scores, size = reference.scores(expected, weighed), (image.shape[1], image.shape[2])
    ids, segments = panoptic_segments(scores, masks, model.isthing, size, *_THRESHOLDS)
    plain_ids, classes = reference.merge(scores, size)
    differing = float((ids != plain_ids).float().mean())
    same = torch.equal(valid, weighed) and [segment["category_id"] for segment in segments] == classes
    if not cosine >= 1 - COSINE_TOLERANCE or not differing <= PIXEL_TOLERANCE or not same:
        raise RunError(
            f"ours and the reference do not agree: cosine of embeddings {cosine:.4f} (at least {1 - COSINE_TOLERANCE}),"
            f" {100 * differing:.2f} % of the pixels differ (at most {100 * PIXEL_TOLERANCE}), {len(segments)} and "
            f"{len(classes)} segments"
        )
    return {"lowest_cosine": cosine, "differing_pixels": differing}


def _parts(model: OpenVocabularyPanoptic) -> dict[str, tuple[Any, str]]:
    """Functions whose time is told."""
    return {
        "tower": (model.embedder.tower, "features"),
        "letterbox": (mask_embedder, "letterbox_images"),
        "masks to the grid": (mask_embedder, "mask_cells"),
        "mask pooling": (mask_embedder, "pool_masks"),
        "scores": (model, "_fuse"),
        "merging": (open_vocabulary, "panoptic_segments"),
    }
