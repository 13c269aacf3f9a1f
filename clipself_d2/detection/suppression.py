"""Non-maximum suppression of a batch: all images, classes and levels in one call, and one copy to the host."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torchvision import ops

MAX_CANDIDATES = 2000
"""Most boxes of an image that go into the suppression at first. LVIS's 1,203 classes and score threshold of 1e-4 let
through a million boxes of an untrained detector, which takes minutes; 300 detections are kept in the end."""


def select_detections(
    boxes: Sequence[Tensor],
    scores: Sequence[Tensor],
    sizes: Sequence[tuple[float, float]],
    score_thresh: float,
    nms_thresh: float,
    most: int,
) -> list[Instances]:
    """Choose the detections of a batch, as Detectron2's `fast_rcnn_inference` does image by image.

    The suppression sees the best candidates of each image, and more of them until enough survive or all were seen: no
    candidate suppresses one of a higher score.

    Args:
        boxes: per image R_i x 4, the same for all classes; a row that is not finite is left out, here and in `scores`.
        scores: per image R_i x K.
        sizes: height and width of the images, to which the boxes are clipped.
        score_thresh: a detection has a higher score.
        nms_thresh: IoU above which the worse of two boxes of a class is dropped.
        most: most detections per image; -1 for all.

    Returns:
        `pred_boxes`, `scores` and `pred_classes` per image, best first. Boxes without area count among the most, and
        are left out afterwards, as in Detectron2.
    """
    num_classes, limit = scores[0].shape[1], MAX_CANDIDATES
    corners = pad_sequence(list(boxes), batch_first=True)
    table = pad_sequence(list(scores), batch_first=True, padding_value=torch.nan)
    finite = (corners.isfinite().all(dim=2) & table.isfinite().all(dim=2))[..., None]
    corners = clip_boxes(corners.where(finite, 0), box_limits(sizes, corners))
    table = table.where(finite & (table > score_thresh), -torch.inf).flatten(1)
    most = table.shape[1] if most < 0 else most
    while True:
        index, found, cut = best_candidates(table, limit)
        candidates = rows(corners, index // num_classes)
        kept, counts = suppress(candidates, found, index % num_classes, nms_thresh, most)
        best = rows(candidates, kept)
        chosen = torch.arange(kept.shape[1], device=kept.device) < counts[:, None]
        chosen &= (best[..., 2:] > best[..., :2]).all(dim=2)
        *lengths, unfinished = torch.cat([chosen.sum(dim=1), (cut & (counts < most)).any()[None]]).tolist()
        if not unfinished:
            break
        limit *= 4
    kept = kept.gather(1, chosen.byte().argsort(dim=1, descending=True, stable=True))
    results = (rows(candidates, kept), found.gather(1, kept), (index % num_classes).gather(1, kept))
    return [
        Instances(size, pred_boxes=Boxes(box[:length]), scores=score[:length], pred_classes=label[:length])
        for size, length, box, score, label in zip(sizes, lengths, *results, strict=True)
    ]


def best_candidates(table: Tensor, limit: int) -> tuple[Tensor, Tensor, Tensor]:
    """Choose the entries of each row that go into the suppression.

    Args:
        table: B x N scores, -inf for those that do not take part.
        limit: most entries of a row; those that equal the best one left out are left out too.

    Returns:
        B x min(N, limit + 1) indices, their scores, and B bool: whether some were left out.
    """
    ranked, index = table.topk(min(limit + 1, table.shape[1]), dim=1)
    index = index.sort(dim=1).values  # equal scores are ranked by their place
    found = table.gather(1, index)
    if table.shape[1] <= limit:
        return index, found, torch.zeros(len(table), dtype=torch.bool, device=table.device)
    return index, found.where(found > ranked[:, -1:], -torch.inf), ranked[:, -1] > -torch.inf


def suppress(boxes: Tensor, scores: Tensor, classes: Tensor, threshold: float, most: int) -> tuple[Tensor, Tensor]:
    """Leave out the boxes that overlap a better one of their image and class; nothing is copied to the host.

    Args:
        boxes: B x N x 4, finite.
        scores: B x N; -inf for boxes that do not take part.
        classes: B x N long, from 0.
        threshold: IoU above which the worse of two boxes is left out.
        most: most boxes per image.

    Returns:
        B x min(N, most) indices of boxes, best first; and B, how many of them count.
    """
    (batch, size), most = scores.shape, min(scores.shape[1], most)
    images = torch.arange(batch, device=boxes.device)[:, None]
    kept = _batched_nms(boxes.flatten(0, 1), scores.flatten(), (classes * batch + images).flatten(), threshold)
    owner = images.expand(batch, size).flatten()[kept]
    if batch > 1:
        order = owner.argsort(stable=True)  # image by image, best first
        kept, owner = kept[order], owner[order]
    takes_part = scores.flatten()[kept] > -torch.inf
    totals, counts = (
        torch.zeros(batch, dtype=torch.long, device=boxes.device).index_add_(0, owner, ones.long())
        for ones in (torch.ones_like(takes_part), takes_part)
    )
    rank = torch.arange(kept.shape[0], device=boxes.device) - (totals.cumsum(0) - totals)[owner]
    chosen = classes.new_zeros(batch, most + 1)  # the last column takes what is too much
    chosen[owner, rank.clamp(max=most)] = kept - owner * size
    return chosen[:, :most], counts.clamp(max=most)


def box_limits(sizes: Sequence[tuple[float, float]], boxes: Tensor) -> Tensor:
    """Largest coordinates, B x 4, of boxes in images of these heights and widths; of the type of `boxes`."""
    limits = torch.tensor([[width, height, width, height] for height, width in sizes], dtype=boxes.dtype)
    return limits.to(boxes.device, non_blocking=True)


def clip_boxes(boxes: Tensor, limits: Tensor) -> Tensor:
    """Clip boxes, B x N x 4, to 0 and their images' `box_limits`."""
    return boxes.clamp(min=0).minimum(limits[:, None])


def _batched_nms(boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float) -> Tensor:
    """`torchvision.ops.batched_nms`, which loops over the groups of many boxes: on GPUs one call instead.

    In double precision, because float32 would round boxes that are moved apart by more than a million pixels. ONNX has
    float32 alone: there groups lie in rows of 32, which keeps the distances short.
    """
    if torch.compiler.is_exporting():
        place = torch.stack([groups % 32, groups // 32] * 2, dim=1)
        return ops.nms(boxes + place * (boxes.max() + 1), scores, threshold)
    boxes, scores = boxes.double(), scores.double()
    if boxes.device.type == "cpu" or not len(boxes):
        return ops.batched_nms(boxes, scores, groups, threshold)
    return ops.nms(boxes + groups[:, None] * (boxes.max() + 1), scores, threshold)


def rows(table: Tensor, index: Tensor) -> Tensor:
    """The rows of B x N x D that B x M indices name."""
    return table.gather(1, index[..., None].expand(-1, -1, table.shape[2]))
