"""Overlays on images: boxes, masks, label maps, heatmaps of a word. Enlarge small images first: pixels stay crisp."""

import math
from collections.abc import Mapping, Sequence

import matplotlib
import matplotlib.colors
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn.functional import normalize

Colour = tuple[int, int, int]


def colours(count: int) -> list[Colour]:
    """`count` RGB colours, 0..255: the ten of Tableau, then their ten light shades, then hues a golden angle apart."""
    tableau = matplotlib.colormaps["tab20"](np.r_[0:20:2, 1:20:2], bytes=True)[:, :3]
    number = np.arange(max(0, count - len(tableau)))
    # Three shades in turn, for neighbours on the circle of hues come from far apart.
    more = np.stack([number * 0.618034 % 1, 0.55 + 0.2 * (number % 3 == 0), 0.65 + 0.15 * (number % 3)], axis=-1)
    more = np.rint(255 * matplotlib.colors.hsv_to_rgb(more))
    return [(int(r), int(g), int(b)) for r, g, b in np.concatenate([tableau, more])[:count]]


def to_pil(image: Tensor) -> Image.Image:
    """Turn a uint8 3 x H x W RGB tensor into a picture."""
    return Image.fromarray(image.permute(1, 2, 0).contiguous().cpu().numpy())


def upscale(image: Image.Image, width: int) -> Image.Image:
    """Resize to `width` pixels, aspect kept: nearest neighbour when that enlarges, antialiased when it shrinks."""
    height = max(1, round(image.height * width / image.width))
    return image.resize((width, height), Image.Resampling.NEAREST if width >= image.width else Image.Resampling.LANCZOS)


def similarity(dense: Tensor, words: Tensor) -> Tensor:
    """Cosine of every location with every word.

    Args:
        dense: C x h x w features.
        words: K x C text embeddings.

    Returns:
        K x h x w, -1..1.
    """
    return torch.einsum("kc,chw->khw", normalize(words.float(), dim=1), normalize(dense.float(), dim=0))


def draw_labels(labels: Tensor, size: tuple[int, int]) -> Image.Image:
    """Draw a label map.

    Args:
        labels: h x w long, from 0; each number has its colour, the same in every map.
        size: (width, height) of the picture, pixels.
    """
    palette = np.array(colours(int(labels.max()) + 1), dtype=np.uint8)
    return Image.fromarray(palette[labels.cpu().numpy()]).resize(size, Image.Resampling.NEAREST)


def draw_heatmap(
    image: Image.Image,
    values: Tensor,
    low: float | None = None,
    high: float | None = None,
    opacity: float = 0.75,
) -> Image.Image:
    """Lay a map of values over an image, dark for `low` and bright for `high`.

    Args:
        image: the picture underneath.
        values: h x w, any unit; one cell becomes one crisp rectangle.
        low: value of the darkest colour, the smallest of `values` by default.
        high: value of the brightest colour, the largest of `values` by default.
        opacity: of the heatmap, 0..1.
    """
    values = values.detach().float().cpu()
    low = float(values.min()) if low is None else low
    high = float(values.max()) if high is None else high
    level = ((values - low) / max(high - low, 1e-12)).clamp(0, 1).numpy()
    heat = Image.fromarray(matplotlib.colormaps["inferno"](level, bytes=True)[..., :3])
    return Image.blend(image.convert("RGB"), heat.resize(image.size, Image.Resampling.NEAREST), opacity)


def draw_masks(
    image: Image.Image,
    masks: Tensor,
    palette: Sequence[Colour] | None = None,
    opacity: float = 0.5,
) -> Image.Image:
    """Tint regions and draw their outline.

    Args:
        image: the picture underneath.
        masks: R x h x w bool over the whole image, at any resolution; later masks cover earlier ones.
        palette: a colour a mask.
        opacity: of the tint, 0..1.
    """
    canvas = image.convert("RGB")
    for mask, colour in zip(masks, palette or colours(len(masks)), strict=True):
        stencil = Image.fromarray(mask.cpu().numpy().astype(np.uint8) * 255).resize(
            image.size, Image.Resampling.NEAREST
        )
        inside = np.array(stencil) > 0
        padded = np.pad(inside, 1)
        core = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
        alpha = np.where(inside & ~core, 255, np.where(inside, round(255 * opacity), 0)).astype(np.uint8)
        canvas.paste(colour, (0, 0), Image.fromarray(alpha))
    return canvas


def draw_boxes(
    image: Image.Image,
    boxes: Tensor,
    labels: Sequence[str] | None = None,
    palette: Sequence[Colour] | None = None,
    scale: float = 1.0,
    font_size: int = 13,
    line_width: int = 2,
) -> Image.Image:
    """Draw boxes and their names.

    Args:
        image: the picture underneath.
        boxes: R x 4, x0 y0 x1 y1.
        labels: a text a box, written above it, or inside where there is no room above.
        palette: a colour a box.
        scale: pixels of `image` per unit of `boxes` (of an enlarged picture: the factor of enlargement).
        font_size: pixels.
        line_width: pixels.
    """
    canvas = image.convert("RGB")
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(font_size)
    corners = (boxes.detach().float().cpu() * scale).tolist()
    placed = list(zip(corners, palette or colours(len(boxes)), labels or [""] * len(boxes), strict=True))
    for (x0, y0, x1, y1), colour, _ in placed:
        draw.rectangle((x0, y0, max(x0, x1 - 1), max(y0, y1 - 1)), outline=colour, width=line_width)
    for (x0, y0, _, _), colour, label in placed:  # after all boxes, so that no box crosses a name
        if label:
            left, top, right, bottom = draw.textbbox((0, 0), label, font=font)
            width, height = right - left + 6, bottom - top + 6
            x = max(0.0, min(x0, canvas.width - width))
            y = y0 - height if y0 >= height else y0
            draw.rectangle((x, y, x + width, y + height), fill=colour)
            draw.text((x + 3 - left, y + 3 - top), label, font=font, fill=_ink(colour))
    return canvas


def grid(rows: Sequence[Sequence[Image.Image]], titles: Sequence[str] = (), gap: int = 8) -> Image.Image:
    """Put pictures in rows and columns on white, titles above the columns.

    Args:
        rows: pictures; a column is as wide as its widest picture, a row as high as its highest.
        titles: a text a column.
        gap: pixels between pictures.
    """
    columns = max(len(row) for row in rows)
    widths = [max((row[i].width for row in rows if i < len(row)), default=0) for i in range(columns)]
    heights = [max(picture.height for picture in row) for row in rows]
    head = 28 if titles else 0
    size = (sum(widths) + gap * (columns + 1), head + sum(heights) + gap * (len(rows) + 1))
    canvas = Image.new("RGB", size, (255, 255, 255))
    draw = ImageDraw.Draw(canvas)
    lefts = [gap + sum(widths[:i]) + gap * i for i in range(columns)]
    for left, width, title in zip(lefts, widths, titles, strict=False):
        draw.text(
            (left + width / 2, gap + head / 2), title, font=ImageFont.load_default(16), fill=(30, 30, 30), anchor="mm"
        )
    top = head + gap
    for row, height in zip(rows, heights, strict=True):
        for left, picture in zip(lefts, row, strict=False):
            canvas.paste(picture, (left, top))
        top += height + gap
    return canvas


def add_legend(image: Image.Image, entries: Mapping[str, Colour], font_size: int = 13) -> Image.Image:
    """Put coloured squares and their meanings on white below a picture.

    Args:
        image: the picture; it becomes wider only where a meaning alone is wider.
        entries: meaning -> colour, in as many rows as they need.
        font_size: pixels; a row is twice as high.
    """
    font = ImageFont.load_default(font_size)
    places: list[tuple[float, int]] = []
    left, row, width = font_size / 2, 0, image.width
    for text in entries:
        step = 3 * font_size + font.getlength(text)
        if places and left + step > image.width:
            left, row = font_size / 2, row + 1
        places.append((left, row))
        left += step
        width = max(width, math.ceil(left))
    canvas = Image.new("RGB", (width, image.height + 2 * font_size * (row + 1 if entries else 0)), (255, 255, 255))
    canvas.paste(image, (0, 0))
    draw = ImageDraw.Draw(canvas)
    for (text, colour), (left, row) in zip(entries.items(), places, strict=True):
        middle = image.height + font_size * (2 * row + 1)
        square = (left, middle - font_size / 2, left + font_size, middle + font_size / 2)
        draw.rectangle(square, fill=colour, outline=(160, 160, 160))
        draw.text((left + 1.5 * font_size, middle), text, font=font, fill=(30, 30, 30), anchor="lm")
    return canvas


def _ink(colour: Colour) -> Colour:
    """Black or white, whichever reads better on `colour`."""
    luma = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]
    return (0, 0, 0) if luma > 140 else (255, 255, 255)
