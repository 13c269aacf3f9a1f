"""Draw a window of an OV-Shapes scene at any resolution, with the segment of every pixel.

Outlines are polygons that Pillow fills at four times the resolution. Textures are functions of world coordinates: a
thing or a ground looks the same in every window of the scene.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw

from clipself_d2.miniature.world import COLORS, COMPOUNDS, STUFF, Scene, Thing

SUPERSAMPLING = 4
TEXTURE_PERIODS = 14.0
"""The number of bricks, tiles or planks side by side in the unit square."""

Polygon = np.ndarray
Texture = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def _turn(points: int, radius: float = 1.0, start: float = -np.pi / 2) -> Polygon:
    """Return a regular polygon: `points` x 2, the first corner at angle `start` (up)."""
    angles = start + 2 * np.pi * np.arange(points) / points
    return radius * np.stack([np.cos(angles), np.sin(angles)], 1)


def _polar(radius: Callable[[np.ndarray], np.ndarray], points: int = 72) -> Polygon:
    angles = 2 * np.pi * np.arange(points) / points
    return np.stack([np.cos(angles), np.sin(angles)], 1) * radius(angles)[:, None]


def _heart() -> Polygon:
    t = 2 * np.pi * np.arange(60) / 60
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
    return np.stack([16 * np.sin(t) ** 3, y - 2.5], 1) / 16


def _moon() -> Polygon:
    """Return a crescent: the disk's left rim from top to bottom, then back along a shifted, flatter rim."""
    outer = np.linspace(-np.pi * 0.35, -np.pi * 1.65, 40)
    inner = np.linspace(-np.pi * 1.65, -np.pi * 0.35, 40)
    tip = np.cos(np.pi * 0.35)
    back = np.stack([tip + 0.55 * (np.cos(inner) - tip), np.sin(inner)], 1)
    return np.concatenate([np.stack([np.cos(outer), np.sin(outer)], 1), back]) + [0.2, 0]


def _polygon(*corners: tuple[float, float]) -> Polygon:
    return np.array(corners, dtype=float)


_STAR = _turn(10)
_STAR[1::2] *= 0.42

OUTLINES: dict[str, tuple[Polygon, ...]] = {
    "circle": (_turn(48),),
    "square": (_polygon((-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)),),
    "triangle": (_polygon((0, -0.95), (1, 0.8), (-1, 0.8)),),
    "star": (_STAR,),
    "heart": (_heart(),),
    "cross": (
        _polygon(
            *[(-0.33, -1), (0.33, -1), (0.33, -0.33), (1, -0.33), (1, 0.33), (0.33, 0.33)],
            *[(0.33, 1), (-0.33, 1), (-0.33, 0.33), (-1, 0.33), (-1, -0.33), (-0.33, -0.33)],
        ),
    ),
    "ring": (_turn(48), _turn(48, 0.55)),
    "moon": (_moon(),),
    "arrow": (_polygon((1, 0), (0.1, -0.9), (0.1, -0.35), (-1, -0.35), (-1, 0.35), (0.1, 0.35), (0.1, 0.9)),),
    "diamond": (_polygon((0, -1), (0.62, 0), (0, 1), (-0.62, 0)),),
    "bolt": (_polygon((0.25, -1), (-0.6, 0.15), (-0.05, 0.15), (-0.3, 1), (0.6, -0.25), (0.05, -0.25), (0.5, -1)),),
    "flower": (_polar(lambda a: 0.72 + 0.28 * np.cos(5 * a)), _turn(24, 0.22)),
}
"""Each shape within the unit circle, roughly: its outline and, where it has one, its hole."""


def _noise(x: np.ndarray, y: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Return value noise in [-1, 1] at world points (in lattice units), bilinear on a random `table` that repeats."""
    n = len(table)
    i, j = np.floor(y).astype(int), np.floor(x).astype(int)
    v, u = y - i, x - j
    i0, i1, j0, j1 = i % n, (i + 1) % n, j % n, (j + 1) % n
    top = table[i0, j0] * (1 - u) + table[i0, j1] * u
    return top * (1 - v) + (table[i1, j0] * (1 - u) + table[i1, j1] * u) * v


def _mix(a: tuple[int, int, int], b: tuple[int, int, int], t: np.ndarray) -> np.ndarray:
    """Return color `a` where t = 0, color `b` where t = 1: H x W x 3."""
    return np.asarray(a, dtype=float) + t[..., None] * (np.asarray(b, dtype=float) - np.asarray(a, dtype=float))


def _bricks(x: np.ndarray, y: np.ndarray, table: np.ndarray) -> np.ndarray:
    row = np.floor(1.6 * y)
    u, v = (0.8 * x + 0.5 * (row % 2)) % 1, (1.6 * y) % 1
    mortar = (u < 0.1) | (v < 0.16)
    shade = 0.5 + 0.5 * _noise(np.floor(0.8 * x + 0.5 * (row % 2)), row, table)
    joint, brick = _mix((196, 186, 172), (180, 170, 160), shade), _mix((160, 84, 62), (128, 62, 46), shade)
    return np.where(mortar[..., None], joint, brick)


def _tiles(x: np.ndarray, y: np.ndarray, table: np.ndarray) -> np.ndarray:
    checker = (np.floor(x) + np.floor(y)) % 2
    return _mix((206, 206, 200), (120, 126, 136), checker) + 5 * _noise(4 * x, 4 * y, table)[..., None]


def _planks(x: np.ndarray, y: np.ndarray, table: np.ndarray) -> np.ndarray:
    row = np.floor(y)
    grain = 0.5 + 0.5 * _noise(0.6 * x + 7 * row, 9 * y, table)
    gap = (y % 1) < 0.12
    return np.where(gap[..., None], _mix((70, 44, 24), (70, 44, 24), grain), _mix((178, 128, 78), (134, 90, 50), grain))


def _lawn(x: np.ndarray, y: np.ndarray, table: np.ndarray) -> np.ndarray:
    return _mix((70, 118, 44), (118, 160, 74), 0.5 + 0.5 * _noise(7 * x, 2.4 * y, table))


def _pond(x: np.ndarray, y: np.ndarray, table: np.ndarray) -> np.ndarray:
    wave = np.sin(2 * np.pi * (1.1 * y + 0.35 * _noise(0.8 * x, 0.8 * y, table)))
    return _mix((52, 110, 140), (104, 160, 184), 0.5 + 0.5 * wave)


def _beach(x: np.ndarray, y: np.ndarray, table: np.ndarray) -> np.ndarray:
    return _mix((214, 190, 142), (236, 216, 172), 0.5 + 0.5 * _noise(8 * x, 8 * y, table))


def _gravel(x: np.ndarray, y: np.ndarray, table: np.ndarray) -> np.ndarray:
    pebble = np.cos(2 * np.pi * (x + 0.3 * _noise(x, y, table))) * np.cos(2 * np.pi * (y + 0.3 * _noise(y, x, table)))
    return _mix((92, 88, 86), (156, 152, 146), 0.5 + 0.35 * pebble + 0.15 * _noise(5 * x, 5 * y, table))


def _snow(x: np.ndarray, y: np.ndarray, table: np.ndarray) -> np.ndarray:
    return _mix((192, 204, 226), (228, 234, 246), 0.5 + 0.5 * _noise(1.2 * x, 1.2 * y, table))


MARKINGS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "circle": lambda u, v: np.cos(8 * u) * np.cos(8 * v),
    "square": lambda u, v: np.sign(np.sin(7 * u) * np.sin(7 * v)),
    "triangle": lambda u, v: np.sin(11 * v),
    "star": lambda u, v: np.cos(11 * np.hypot(u, v)),
    "heart": lambda u, v: np.sin(11 * u),
    "cross": lambda u, v: np.sin(8 * (u + v)),
    "ring": lambda u, v: np.sign(np.sin(6 * np.arctan2(v, u))),
    "moon": lambda u, v: np.maximum(np.sin(8 * (u + v)), np.sin(8 * (u - v))),
    "arrow": lambda u, v: np.sin(9 * (u + np.abs(v))),
    "diamond": lambda u, v: np.cos(9 * (np.abs(u) + np.abs(v))),
    "bolt": lambda u, v: -np.ones_like(u),
    "flower": lambda u, v: np.cos(5 * np.arctan2(v, u)),
}
"""The surface of each shape at points (u, v) of its own frame, from -1 (plain) to 1 (marked).

Real objects are recognized by their surface (fur, wheels, keys) as well as by their outline, and so are these things.
"""
MARKING_STRENGTH = 0.45

TEXTURES: dict[str, Texture] = {
    "lawn": _lawn,
    "pond": _pond,
    "beach": _beach,
    "brick wall": _bricks,
    "wood floor": _planks,
    "tile floor": _tiles,
    "gravel path": _gravel,
    "snow field": _snow,
}


def render(
    scene: Scene, size: int, window: tuple[float, float, float] = (0.0, 0.0, 1.0)
) -> tuple[np.ndarray, np.ndarray]:
    """Draw the square `window` (left, top, side; in scene units) of `scene` as `size` x `size` pixels.

    Returns:
        The image, size x size x 3 uint8 RGB, and the segment of each pixel, size x size int64: i for ground i, and
        `len(scene.grounds) + j` for the visible part of thing j.
    """
    left, top, side = window
    axis = (np.arange(size) + 0.5) * side / size
    x, y = np.broadcast_arrays(left + axis[None, :], top + axis[:, None])
    segments = np.zeros((size, size), dtype=np.int64)
    for nx, ny, offset in scene.lines:
        segments += nx * x + ny * y > offset
    canvas = np.empty((size, size, 3))
    for i, ground in enumerate(scene.grounds):
        inside = segments == i
        if inside.any():
            rng = np.random.default_rng(ground.seed)
            table, (dx, dy) = rng.uniform(-1, 1, (32, 32)), rng.uniform(0, 32, 2)
            world_x, world_y = TEXTURE_PERIODS * x[inside] + dx, TEXTURE_PERIODS * y[inside] + dy
            canvas[inside] = TEXTURES[STUFF[ground.category]](world_x, world_y, table) * ground.brightness
    for j, thing in enumerate(scene.things):
        _draw(thing, canvas, segments, len(scene.grounds) + j, window)
    return canvas.clip(0, 255).round().astype(np.uint8), segments


def _draw(
    thing: Thing, canvas: np.ndarray, segments: np.ndarray, label: int, window: tuple[float, float, float]
) -> None:
    """Paint a thing over `canvas` and `segments`, in place."""
    size, scale = len(canvas), len(canvas) / window[2]
    center = (np.array([thing.x, thing.y]) - window[:2]) * scale
    radius = thing.radius * scale
    low = np.maximum(np.floor(center - 1.25 * radius), 0).astype(int)
    high = np.minimum(np.ceil(center + 1.25 * radius), size).astype(int)
    width, height = high - low
    if width <= 0 or height <= 0:
        return
    color, shape = COMPOUNDS[thing.category]
    rotation = np.array([[np.cos(thing.angle), np.sin(thing.angle)], [-np.sin(thing.angle), np.cos(thing.angle)]])
    stencil = Image.new("L", (int(width) * SUPERSAMPLING, int(height) * SUPERSAMPLING))
    pen = ImageDraw.Draw(stencil)
    for fill, outline in zip((255, 0), OUTLINES[shape], strict=False):
        corners = (outline @ rotation * radius + center - low) * SUPERSAMPLING
        pen.polygon([(float(px), float(py)) for px, py in corners], fill=fill)
    alpha = np.asarray(stencil.reduce(SUPERSAMPLING), dtype=float) / 255
    across, down = ((np.arange(low[i], high[i]) + 0.5 - center[i]) / radius for i in (0, 1))
    own = np.stack(np.meshgrid(across, down), -1) @ rotation.T
    paint = (np.array(COLORS[color]) + thing.tint) * (1 - thing.shading * down[:, None, None])
    marking = MARKING_STRENGTH * 0.5 * (1 + MARKINGS[shape](own[..., 0], own[..., 1]))[..., None]
    paint = paint + marking * ((255 if sum(COLORS[color]) < 330 else 0) - paint)
    view = (slice(low[1], high[1]), slice(low[0], high[0]))
    canvas[view] += alpha[..., None] * (paint.clip(0, 255) - canvas[view])
    segments[view][alpha > 0.5] = label
