"""Zero-shot segmentation (MaskCLIP): compare each cell of the dense map with the text of each class."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from clipself_d2.clip import ImageTower
from clipself_d2.clip.frozen import FrozenModules
from clipself_d2.data.image import result_size
from clipself_d2.errors import InputError
from clipself_d2.regions import LetterboxedImages, dense_features, letterbox_images
from clipself_d2.regions.pixel_scores import new_result
from clipself_d2.semantic.cost import cell_cosines
from clipself_d2.semantic.fine_map import check_factor, fine_map, map_origin
from clipself_d2.vocabulary import Vocabulary

SCORINGS = ("cell", "patch_weighted")
"""Score a cell alone (MaskCLIP), or together with the whole image (PACL)."""


def patch_weighted_scores(dense: Tensor, text: Tensor, temperature: float = 1.0) -> Tensor:
    """Score whole images with texts by their patches (PACL's compatibility function).

    For each text, the image embedding is a weighted mean of the patches: the weights are a softmax over patches of
    their similarity to the text. The score is the product of this mean with the text.

    Args:
        dense: B x C x h x w, unit norm over C.
        text: K x C unit vectors.
        temperature: factor of the similarities within the softmax, 1 in PACL. 0 weights all patches equally; a large
            value selects the best patch.

    Returns:
        B x K float32 in -1..1.
    """
    with torch.autocast(dense.device.type, enabled=False):
        return weigh_patches(torch.einsum("bchw,kc->bkhw", dense.float(), text.float()), temperature)


def weigh_patches(similarities: Tensor, temperature: float = 1.0) -> Tensor:
    """Compute `patch_weighted_scores` from the similarities of patches and texts: ... x h x w to ..."""
    flat = similarities.flatten(-2)
    # The product of a weighted mean and a text is the weighted mean of the products.
    return ((temperature * flat).softmax(dim=-1) * flat).sum(dim=-1)


def confident_classes(probabilities: Tensor, threshold: float) -> Tensor:
    """Select the classes that reach a probability somewhere in the image (MaskCLIP's prompt denoising).

    Args:
        probabilities: K x h x w.
        threshold: the probability to reach.

    Returns:
        K bool; all True if no class reaches the threshold.
    """
    kept = probabilities.flatten(1).amax(dim=1) >= threshold
    return kept | ~kept.any()


_MAX_ELEMENTS = 2**24  # of the resized cells that are held at once: 64 MiB


def resize_cells(
    cells: Tensor, size: tuple[int, int], extent: tuple[float, ...], origin: float = 0.0
) -> Iterator[tuple[slice, Tensor]]:
    """Resize a map whose cells need not align with the borders of the result: bilinear, sampled at pixel centers.

    Args:
        cells: K x h x w float.
        size: rows and columns of the result.
        extent: rows and columns of cells that the result spans, possibly fractional or more than h and w. The nearest
            cell is repeated before the first and beyond the last center.
        origin: start of the first cell in the result along both axes, in cells.

    Yields:
        A slice of rows, and these rows: K x rows x W.
    """
    # The center of each pixel, in -1..1 from the outer edge of the first cell to that of the last one.
    rows, columns = (
        ((torch.arange(pixels, device=cells.device) + 0.5) * (span / pixels) - origin) * (2 / count) - 1
        for pixels, span, count in zip(size, extent, cells.shape[1:], strict=True)
    )
    run = max(1, _MAX_ELEMENTS // (max(1, len(cells)) * size[1]))
    for start in range(0, size[0], run):
        part = slice(start, min(start + run, size[0]))
        centers = torch.stack(torch.broadcast_tensors(columns, rows[part, None]), dim=-1)
        yield part, F.grid_sample(cells[None], centers[None], padding_mode="border", align_corners=False)[0]


class ZeroShotSegmenter(FrozenModules):
    """Classify each pixel by text alone, with a frozen tower and without training.

    Args:
        tower: a CLIP image tower; it is frozen and not part of the state dict.
        vocabulary: K classes, the default of a call.
        size: side of the tower's square input in pixels, a multiple of its stride. A CLIPSelf tower works best at the
            size of its distillation.
        dense_mode: dense mode of the tower; "no_attn" is MaskCLIP's, and the one that CLIPSelf distills.
        temperature: factor of the cosines: CLIP's own logit scale, which is clamped at 100.
        finer: factor by which the result is finer than the tower's map along each axis, at ``finer ** 2`` forwards;
            see `fine_map`.
        scoring: ``"cell"`` (MaskCLIP), or ``"patch_weighted"``: the product of the probabilities of a cell and of the
            whole image by PACL's score, normalized again.
        patch_temperature: temperature of PACL's weights, see `patch_weighted_scores`.
        denoise: MaskCLIP's prompt denoising: drop a class for an image in which its probability stays below this value.
            0 for none; 0.5 in MaskCLIP.
        background_threshold: a pixel whose best class has a lower probability is background; 0 for none.
        background_class: the class of the vocabulary that stands for the background, if any. It gets the pixels that
            are background by the threshold or by the vocabulary's background embedding.
        skip_padding: leave the padding of the square input out of the forward, see `regions.dense_features`.
        labels_only: give the best class of each pixel instead of the scores of all classes, which take 4 K H W bytes.

    Raises:
        InputError: a vocabulary of another tower or without the background class; a size that is not a multiple of the
            stride; an unknown dense mode or scoring; a temperature or threshold out of range; shifts that are not whole
            pixels.
    """

    tower: ImageTower

    def __init__(
        self,
        tower: ImageTower,
        vocabulary: Vocabulary,
        size: int,
        *,
        dense_mode: str = "no_attn",
        temperature: float = 100.0,
        finer: int = 1,
        scoring: str = "cell",
        patch_temperature: float = 1.0,
        denoise: float = 0.0,
        background_threshold: float = 0.0,
        background_class: str | None = None,
        skip_padding: bool = True,
        labels_only: bool = False,
    ) -> None:
        super().__init__()
        tower.check_size(size, "model.size")
        tower.check_dense_mode(dense_mode)
        check_factor(tower.stride, finer, "model.finer")
        if temperature <= 0:
            raise InputError(f"model.temperature={temperature}: must be above 0")
        if scoring not in SCORINGS:
            raise InputError(f"model.scoring={scoring!r} is not known: use {' or '.join(SCORINGS)}")
        for name, value in (("denoise", denoise), ("background_threshold", background_threshold)):
            if not 0 <= value <= 1:
                raise InputError(f"model.{name}={value}: is a probability, give 0..1")
        self.hold_frozen("tower", tower)
        self.size = size
        self.dense_mode = dense_mode
        self.skip_padding = skip_padding
        self.temperature = temperature
        self.finer = finer
        self.scoring = scoring
        self.patch_temperature = patch_temperature
        self.denoise = denoise
        self.background_threshold = background_threshold
        self.background_class = background_class
        self.labels_only = labels_only
        self._check(vocabulary)
        self.vocabulary = vocabulary

    @property
    def device(self) -> torch.device:
        """The device of the tower."""
        return self.tower.pixel_mean.device

    @torch.no_grad()
    def forward(self, inputs: list[dict[str, Any]], vocabulary: Vocabulary | None = None) -> list[dict[str, Tensor]]:
        """Segment a batch of images.

        Args:
            inputs: samples with ``image`` (3 x H x W uint8 RGB). ``height`` and ``width`` give the frame of the results
                (default: the image's).
            vocabulary: the classes to segment; None for the model's own.

        Returns:
            ``sem_seg`` per image, K x H x W probabilities; the class of a pixel is that of the highest one. With
            `labels_only`, ``labels`` (H x W int32) and ``label_scores`` (H x W) instead. With a background that is none
            of the K classes also ``background``, H x W bool.

        Raises:
            InputError: a vocabulary of another tower, or without the background class.
        """
        if vocabulary is not None:
            self._check(vocabulary)
        vocabulary = (self.vocabulary if vocabulary is None else vocabulary).to(self.device)
        images = letterbox_images(self.tower, [x["image"] for x in inputs], self.size)
        sizes = [(max(1, round(height)), max(1, round(width))) for height, width in images.sizes]
        cosines_of = partial(self._cosines, sizes, vocabulary)
        maps = fine_map(cosines_of, images.pixels, self.tower.stride, self.finer)
        cell = self.tower.stride / self.finer  # in pixels of the tower's input
        origin = map_origin(self.tower.stride, self.finer) / cell
        results = []
        for x, cosines, size in zip(inputs, maps, sizes, strict=True):
            extent = (size[0] / cell, size[1] / cell)
            # Cells whose center lies beyond the image do not count.
            rows, columns = (max(1, int(span - origin + 0.5)) for span in extent)
            probabilities = self._probabilities(cosines[:, :rows, :columns], len(vocabulary))
            results.append(self._result(probabilities, result_size(x), extent, origin, vocabulary))
        return results

    def _cosines(
        self, sizes: list[tuple[int, int]], vocabulary: Vocabulary, windows: Tensor, numbers: list[int]
    ) -> Tensor:
        """Return the cosines, N x K (or K + 1) x h x w, of windows of the images with these batch indices."""
        stride = self.tower.stride
        margin = (stride - stride // self.finer) // 2  # most pixels before the image in a window
        extents: list[tuple[float, float]] = [(sizes[n][0] + margin, sizes[n][1] + margin) for n in numbers]
        features = dense_features(
            self.tower,
            LetterboxedImages(windows, [1.0] * len(numbers), extents),
            dense_mode=self.dense_mode,
            skip_padding=self.skip_padding,
        )
        return cell_cosines(features.dense, vocabulary)

    def _probabilities(self, cosines: Tensor, num_classes: int) -> Tensor:
        """Return the probabilities K x h x w of an image, or K + 1 with the background."""
        logits = self.temperature * cosines
        if self.scoring == "patch_weighted":
            logits = logits + self.temperature * weigh_patches(cosines, self.patch_temperature)[:, None, None]
        if self.denoise:
            kept = confident_classes(logits.softmax(dim=0)[:num_classes], self.denoise)
            logits[:num_classes][~kept] = -torch.inf
        return logits.softmax(dim=0)

    def _result(
        self, cells: Tensor, size: tuple[int, int], extent: tuple[float, ...], origin: float, vocabulary: Vocabulary
    ) -> dict[str, Tensor]:
        result = new_result(self.labels_only, len(vocabulary), size, cells.device)
        with_background = len(cells) > len(vocabulary) or self.background_threshold > 0
        apart = torch.zeros(size, dtype=torch.bool, device=cells.device)
        for rows, probabilities in resize_cells(cells, size, extent, origin):
            scores, row = probabilities.tensor_split([len(vocabulary)])
            if with_background:
                background = row.sum(dim=0).clamp(min=self.background_threshold)
                if self.background_class is None:
                    apart[rows] = background > scores.amax(dim=0)
                else:
                    own = scores[vocabulary.names.index(self.background_class)]
                    torch.maximum(own, background, out=own)
            result.add(scores, rows)
        kept = {"background": apart} if with_background and self.background_class is None else {}
        return {**result.result(), **kept}

    def _check(self, vocabulary: Vocabulary) -> None:
        vocabulary.check_embed_dim(self.tower.embed_dim)
        if self.background_class is not None and self.background_class not in vocabulary.names:
            raise InputError(
                f"model.background_class={self.background_class!r} is no class of the vocabulary: name one of its "
                f"{len(vocabulary)} classes"
            )
