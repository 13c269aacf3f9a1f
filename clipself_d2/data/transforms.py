"""Random resizing, cropping and mirroring as Detectron2 transforms, drawn from a generator."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.data import transforms as T
from PIL import Image

Size = tuple[int, int]


class ResizeCropTransform(T.Transform):
    """Resize an image and crop a window of the result, in one resampling of what the window shows.

    The same geometry as `ResizeTransform` followed by `CropTransform`, without computing pixels that the crop drops: at
    large-scale jitter's factor of 2 that is three quarters of them. Pillow rounds its filter otherwise when it is given
    a window, which moves 0.3 % of the values, by up to 2 of 255 levels. Labels are resampled by Pillow too, to the
    center of each pixel, where `ResizeTransform` takes PyTorch's "nearest" for more than 8 bits.

    Args:
        source: height and width of the image, in pixels.
        resized: height and width that it is resized to.
        top: first row of the window in the resized image.
        left: first column of the window.
        shape: height and width of the window.
        antialias: whether pixels of an image that becomes smaller are averaged. False: as OpenCV's bilinear resize,
            from which no value differs by more than 1 of 255 levels.
    """

    def __init__(self, source: Size, resized: Size, top: int, left: int, shape: Size, antialias: bool = True):
        super().__init__()
        self.antialias = antialias
        self.source, self.resized, self.top, self.left, self.shape = source, resized, top, left, shape

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        """Resample H x W x 3 or H x W uint8, bilinear."""
        if not self.antialias:
            return self._interpolate(img)
        return self._resample(Image.fromarray(img), Image.Resampling.BILINEAR)

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        """Resample H x W labels of up to 31 bits to the nearest: int32."""
        return self._resample(Image.fromarray(segmentation.astype(np.int32)), Image.Resampling.NEAREST)

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        """Map N x 2 points x, y."""
        scale = self.resized[1] / self.source[1], self.resized[0] / self.source[0]
        return coords * scale - (self.left, self.top)

    def _interpolate(self, img: np.ndarray) -> np.ndarray:
        (height, width), channels = self.shape, img.shape[2:]
        image = torch.from_numpy(img).view(*self.source, -1).permute(2, 0, 1)[None].float()
        resized = F.interpolate(image, self.resized, mode="bilinear")[0].round().byte()
        window = resized[:, self.top : self.top + height, self.left : self.left + width]
        return window.permute(1, 2, 0).reshape(height, width, *channels).numpy()

    def _resample(self, image: Image.Image, method: Image.Resampling) -> np.ndarray:
        (height, width), down, right = self.shape, self.source[0] / self.resized[0], self.source[1] / self.resized[1]
        window = (
            self.left * right,
            self.top * down,
            min((self.left + width) * right, self.source[1]),
            min((self.top + height) * down, self.source[0]),
        )
        return np.array(image.resize((width, height), method, box=window))


def random_resize_crop(
    source: Size, long_side: float, size: int, flip: float, rng: np.random.Generator, antialias: bool = True
) -> tuple[T.TransformList, Size]:
    """Resize an image, crop a window of it and perhaps mirror that.

    Args:
        source: height and width of the image, in pixels.
        long_side: of the resized image, whose aspect is kept; no side becomes less than one pixel.
        size: the window has up to size x size pixels; every place of it has the same chance.
        flip: probability of mirroring left and right, 0..1.
        rng: draws the mirroring, then the window's top and left.
        antialias: see `ResizeCropTransform`.

    Returns:
        The transforms, and height and width of their result.
    """
    factor = long_side / max(source)
    rows, columns = resized = max(1, round(source[0] * factor)), max(1, round(source[1] * factor))
    height, width = shape = min(size, rows), min(size, columns)
    mirrored = rng.random() < flip
    top, left = int(rng.integers(rows - height + 1)), int(rng.integers(columns - width + 1))
    crop = ResizeCropTransform(source, resized, top, left, shape, antialias)
    return T.TransformList([crop, T.HFlipTransform(width)] if mirrored else [crop]), shape
