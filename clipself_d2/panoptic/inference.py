"""Panoptic, semantic and instance results from fused scores and masks: the rules of Mask2Former, ODISE and FC-CLIP.

All functions take masks as logits at the generator's resolution and resize them bilinearly to the image, in row chunks:
250 masks of a megapixel are a gigabyte that is never held at once. The chunks do not change the results.
"""

from __future__ import annotations

from typing import Any

import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor

from clipself_d2.regions import PackedMasks
from clipself_d2.regions.interpolate import interpolate_in_chunks
from clipself_d2.regions.pixel_scores import new_result


@torch.no_grad()
def panoptic_segments(
    scores: Tensor,
    masks: Tensor,
    isthing: Tensor,
    size: tuple[int, int],
    object_threshold: float = 0.0,
    overlap_threshold: float = 0.8,
) -> tuple[Tensor, list[dict[str, Any]]]:
    """Assign every pixel to at most one mask.

    A mask takes part if its best class is not void and scores above the object threshold. A pixel goes to the mask with
    the highest score x probability, and is segmented where that mask's probability is at least 0.5. A mask is dropped
    if it wins fewer pixels than the overlap threshold times those where its probability is at least 0.5. All masks of a
    stuff class are one segment.

    Args:
        scores: Q x (K + 1) probabilities, void last.
        masks: Q x h x w logits of the whole image.
        isthing: K bool.
        size: rows and columns of the image.
        object_threshold: score that a mask must exceed.
        overlap_threshold: least part of a mask that must stay visible.

    Returns:
        H x W int32 segment ids (0: none), and for each segment `id`, `category_id` (0..K-1), `isthing` and `score` (the
        best of its masks), in the order of the masks.
    """
    best, label = scores.float().max(dim=1)
    taking_part = ((label < scores.shape[1] - 1) & (best > object_threshold)).nonzero()[:, 0]
    best, label, masks = best[taking_part], label[taking_part], masks[taking_part]
    count = len(best)
    if not count:
        return torch.zeros(size, dtype=torch.int32, device=scores.device), []

    won = torch.zeros(count, dtype=torch.long, device=scores.device)
    extent, owners = won.clone(), []
    for _, logits in interpolate_in_chunks(masks, size):
        probability = logits.sigmoid_()
        inside = probability >= 0.5
        owner = probability.mul_(best[:, None, None]).argmax(dim=0)
        won += _histogram(owner, count)
        extent += inside.flatten(1).sum(dim=1)
        owners.append(owner.where(inside.gather(0, owner[None])[0], count))  # `count`: no mask
    owner = torch.cat(owners)
    visible = _histogram(owner, count + 1)[:count]
    kept = (visible > 0) & (won >= overlap_threshold * extent)

    thing = isthing.to(label.device, non_blocking=True)[label]
    table = torch.stack([kept, thing, label, best], dim=1).double().tolist()  # one copy to the host
    ids = torch.zeros(count + 1, dtype=torch.int32)
    segments: list[dict[str, Any]] = []
    stuff: dict[int, dict[str, Any]] = {}
    for number, (is_kept, is_thing, class_id, score) in enumerate(table):
        if not is_kept:
            continue
        category = int(class_id)
        if is_thing or category not in stuff:
            segment = {"id": len(segments) + 1, "category_id": category, "isthing": bool(is_thing), "score": score}
            segments.append(segment)
            if not is_thing:
                stuff[category] = segment
        else:
            segment = stuff[category]
            segment["score"] = max(segment["score"], score)
        ids[number] = segment["id"]
    return ids.to(owner.device, non_blocking=True)[owner], segments


@torch.no_grad()
def semantic_map(scores: Tensor, masks: Tensor, size: tuple[int, int], labels_only: bool = False) -> dict[str, Tensor]:
    """Sum the masks' probabilities, weighted by their class scores.

    Args:
        scores: Q x (K + 1) probabilities, void last.
        masks: Q x h x w logits of the whole image.
        size: rows and columns of the image.
        labels_only: give the best class of each pixel alone.

    Returns:
        `sem_seg`, K x H x W float32, of which the largest is the pixel's class; or `labels` (H x W int32) and
        `label_scores` (H x W).
    """
    classes = scores[:, :-1].float()
    result = new_result(labels_only, classes.shape[1], size, classes.device)
    with torch.autocast(scores.device.type, enabled=False):
        for rows, logits in interpolate_in_chunks(masks, size):
            result.add(torch.einsum("qk,qhw->khw", classes, logits.sigmoid_()), rows)
    return result.result()


@torch.no_grad()
def top_instances(scores: Tensor, masks: Tensor, isthing: Tensor, size: tuple[int, int], topk: int = 100) -> Instances:
    """Keep the best pairs of a mask and a class; those of things are instances.

    Args:
        scores: Q x (K + 1) probabilities, void last.
        masks: Q x h x w logits of the whole image.
        isthing: K bool.
        size: rows and columns of the image.
        topk: how many of the Q x K pairs are considered.

    Returns:
        Instances of the image's size: `pred_masks` (`PackedMasks`, N x H x W), `pred_boxes`, `pred_classes`, and
        `scores` (the class score times the mask's mean probability inside itself). Pairs of score 0 and empty masks are
        left out.
    """
    classes = scores[:, :-1].float()
    num_classes = classes.shape[1]
    best, pair = classes.flatten().topk(min(topk, classes.numel()))
    label = pair % max(1, num_classes)
    chosen = (isthing.to(label.device, non_blocking=True)[label] & (best > 0)).nonzero()[:, 0]
    best, label = best[chosen], label[chosen]
    # A mask is resized once, whatever the number of its classes.
    query, which = (pair[chosen] // max(1, num_classes)).unique(return_inverse=True)
    masks = masks[query]

    bits = torch.zeros(len(masks), size[0], -(-size[1] // 8), dtype=torch.uint8, device=masks.device)
    total = torch.zeros(len(masks), dtype=torch.float64, device=masks.device)
    area = torch.zeros(len(masks), dtype=torch.long, device=masks.device)
    down, across = (torch.zeros(len(masks), side, dtype=torch.bool, device=masks.device) for side in size)
    for rows, logits in interpolate_in_chunks(masks, size):
        inside = logits > 0
        bits[:, rows] = packed = PackedMasks.pack(inside)
        down[:, rows] = packed.any(dim=2)
        across |= inside.any(dim=1)
        total += logits.sigmoid_().mul_(inside).flatten(1).sum(dim=1)
        area += inside.flatten(1).sum(dim=1)
    (top, bottom), (left, right) = _extent(down), _extent(across)
    boxes = torch.stack([left, top, right, bottom], dim=1).float()
    found = (area[which] > 0).nonzero()[:, 0]
    which = which[found]
    return Instances(
        size,
        pred_masks=PackedMasks(bits, size[1])[which],
        pred_boxes=Boxes(boxes[which]),
        pred_classes=label[found],
        scores=best[found] * (total[which] / area[which]).float(),
    )


def _extent(taken: Tensor) -> tuple[Tensor, Tensor]:
    """The first place that is taken, and the place after the last; N x L bool to N each."""
    return taken.byte().argmax(dim=1), taken.shape[1] - taken.flip(1).byte().argmax(dim=1)


def _histogram(numbers: Tensor, count: int) -> Tensor:
    """How often each of 0..count - 1 occurs: `bincount`, which on GPUs would wait for the largest number."""
    return numbers.new_zeros(count).index_add_(0, numbers.flatten(), numbers.new_ones(1).expand(numbers.numel()))
