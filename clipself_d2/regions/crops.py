"""Cropping and resizing on the device: the student's letterboxed image and the teacher's crops.

The arithmetic is Pillow's 8-bit bicubic with antialiasing (a = -0.5, support widened when shrinking, the horizontal
pass first, each pass rounded to whole gray levels), written as products with small weight matrices. In fp32 the result
equals Pillow's except for rare differences of one or two gray levels; with TF32 they are more frequent.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# Most float elements of the patches in one product: 256 MiB. Larger calls are split into runs of regions.
_MAX_ELEMENTS = 2**26


def crop_and_resize(image: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Crop regions as the teacher sees them: aspect kept, longest side `size`, centered on black.

    Boxes are first rounded and clipped, see `whole_boxes`.

    Args:
        image: 3 x H x W uint8; its device is used.
        boxes: R x 4 ``x0, y0, x1, y1`` in pixels.
        size: side of the square result in pixels.

    Returns:
        R x 3 x size x size float tensor of whole numbers in 0..255.
    """
    boxes = whole_boxes(boxes, *image.shape[-2:])
    crops = image.new_empty((len(boxes), image.shape[0], size, size), dtype=torch.float32)
    if len(boxes) == 0:
        return crops
    extent = boxes[:, 2:] - boxes[:, :2]
    run = max(1, _MAX_ELEMENTS // (image.shape[0] * int(extent.amax(dim=0).prod())))
    # Sorted: crops of similar size share a run, which saves padding.
    for chunk in extent.prod(dim=1).argsort().split(run):
        crops[chunk.to(image.device, non_blocking=True)] = _resample(image, boxes[chunk], size, centered=True)
    return crops


def letterbox(images: Sequence[Tensor], size: int) -> tuple[Tensor, list[float]]:
    """Resize whole images as the student sees them: aspect kept, longest side `size`, black to the right and below.

    Args:
        images: 3 x H x W uint8 tensors on one device, each of its own size.
        size: side of the square result in pixels.

    Returns:
        B x 3 x size x size float tensor of whole numbers in 0..255, and per image the factor from its pixels to the
        result's.
    """
    whole = [torch.tensor([[0, 0, image.shape[-1], image.shape[-2]]]) for image in images]
    batch = [_resample(image, box, size, centered=False) for image, box in zip(images, whole, strict=True)]
    return torch.cat(batch), [size / max(image.shape[-2:]) for image in images]


def whole_boxes(boxes: Tensor, height: int, width: int) -> Tensor:
    """The pixels that `crop_and_resize` crops, R x 4 long on the CPU: boxes rounded half to even (as
    ``PIL.Image.crop`` does), clipped to the image and of at least one pixel."""
    limit = torch.tensor([width, height])
    boxes = boxes.detach().cpu().double().nan_to_num().round()
    start = boxes[:, :2].clamp(min=0).minimum(limit - 1)
    end = boxes[:, 2:].minimum(limit).maximum(start + 1)
    return torch.cat([start, end], dim=1).long()


@torch.no_grad()
def _resample(image: Tensor, boxes: Tensor, size: int, centered: bool) -> Tensor:
    """R >= 1 crops, whole pixels inside the image, on the CPU -> R x 3 x size x size."""
    extent = boxes[:, 2:] - boxes[:, :2]
    content = (extent * (size / extent.amax(dim=1, keepdim=True).double())).round().long().clamp(min=1)
    offset = (size - content) // 2 if centered else torch.zeros_like(content)
    max_width, max_height = extent.amax(dim=0).tolist()
    height, width = image.shape[-2:]

    # One R x 3 x h x w batch: smaller crops are filled with pixels beyond them, whose weight is zero.
    device = image.device
    corner, extent, content, offset = torch.stack([boxes[:, :2], extent, content, offset]).to(device, non_blocking=True)
    x0, y0 = corner.split(1, dim=1)
    x = (x0 + torch.arange(max_width, device=device)).clamp(max=width - 1)
    y = (y0 + torch.arange(max_height, device=device)).clamp(max=height - 1)
    channel = torch.arange(image.shape[0], device=device)[:, None, None]
    patches = image[channel, y[:, None, :, None], x[:, None, None, :]].float()

    across, down = (
        _bicubic_weights(extent[:, axis], content[:, axis], offset[:, axis], size, longest)
        for axis, longest in enumerate((max_width, max_height))
    )
    with torch.autocast(device.type, enabled=False):
        rows = (patches.flatten(1, 2) @ across.mT).round_().clamp_(0, 255).unflatten(1, patches.shape[1:3])
        return (down[:, None] @ rows).round_().clamp_(0, 255)


def _bicubic_weights(extent: Tensor, content: Tensor, offset: Tensor, size: int, longest: int) -> Tensor:
    """Resampling weights along one axis.

    Args:
        extent: R: length of each crop.
        content: R: its length in the result.
        offset: R: its first pixel there.
        size: pixels of the result; those outside the content get zero weights (black).
        longest: length of the common patch; pixels beyond the crop get zero weights.

    Returns:
        R x size x longest float tensor; the rows of the content sum to 1.
    """
    extent, content, offset = (each[:, None, None] for each in (extent, content, offset))
    target = torch.arange(size, device=extent.device)[None, :, None] - offset
    source = torch.arange(longest, device=extent.device)
    scale = extent / content
    distance = (source + 0.5 - (target + 0.5) * scale).div_(scale.clamp(min=1)).abs_()
    near = (1.5 * distance - 2.5) * distance * distance + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    weights = torch.where(distance < 1, near, torch.where(distance < 2, far, 0.0))
    weights = weights * ((source < extent) & (target >= 0) & (target < content))
    return weights / weights.sum(dim=-1, keepdim=True).where(weights.any(dim=-1, keepdim=True), 1.0)
