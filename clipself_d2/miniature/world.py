"""OV-Shapes, the small synthetic world: what is in a scene, before anything is drawn.

Things are colour x shape compounds ("red star"), stuff is textured ground ("lawn"). A scene lives in the unit square,
so that any window of it can be drawn at any resolution (:mod:`clipself_d2.miniature.render`). Everything comes from a
seed.

The base / novel split is over compounds: a quarter of them are novel, chosen so that each colour and each shape
occurs in several base compounds. CLIP sees captions of all of them, as web CLIP does; detectors train on base only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 40, 40),
    "green": (40, 160, 60),
    "blue": (40, 80, 210),
    "yellow": (240, 210, 40),
    "purple": (140, 50, 170),
    "cyan": (60, 210, 220),
    "white": (245, 245, 245),
    "black": (25, 25, 25),
}
SHAPES: tuple[str, ...] = (
    "circle",
    "square",
    "triangle",
    "star",
    "heart",
    "cross",
    "ring",
    "moon",
    "arrow",
    "diamond",
    "bolt",
    "flower",
)
STUFF: tuple[str, ...] = (
    "lawn",
    "pond",
    "beach",
    "brick wall",
    "wood floor",
    "tile floor",
    "gravel path",
    "snow field",
)
COMPOUNDS: tuple[tuple[str, str], ...] = tuple((colour, shape) for shape in SHAPES for colour in COLOURS)
"""Thing classes as (colour, shape), in class order."""

THINGS: tuple[str, ...] = tuple(f"{colour} {shape}" for colour, shape in COMPOUNDS)
CLASSES: tuple[str, ...] = THINGS + STUFF


def is_novel(thing: int) -> bool:
    """Whether thing class `thing` (an index into `THINGS`) is novel: no box or mask of it is ever trained on."""
    shape, colour = divmod(thing, len(COLOURS))
    return (shape + 3 * colour) % 4 == 0


def frequency(thing: int) -> str:
    """LVIS-style frequency of a thing class: "r" (the novel ones), "c" or "f" (base, alternating)."""
    if is_novel(thing):
        return "r"
    return "f" if thing % 3 else "c"


@dataclass(frozen=True)
class Thing:
    """One object: class, centre (unit square), radius, rotation (radians), colour jitter and strength of shading."""

    category: int
    x: float
    y: float
    radius: float
    angle: float
    tint: tuple[float, float, float]
    shading: float


@dataclass(frozen=True)
class Ground:
    """One region of ground: its stuff class, a seed for its texture, its brightness."""

    category: int
    seed: int
    brightness: float


@dataclass(frozen=True)
class Scene:
    """Things, drawn in order, on grounds that are divided by straight lines.

    `lines` holds one (nx, ny, offset) fewer than there are `grounds`; a point belongs to ground i where i counts the
    lines that it lies beyond (nx * x + ny * y > offset), so parallel lines make bands.
    """

    things: tuple[Thing, ...]
    grounds: tuple[Ground, ...]
    lines: tuple[tuple[float, float, float], ...]


def sample_thing(category: int, x: float, y: float, radius: float, rng: np.random.Generator) -> Thing:
    """A thing of class `category` with random rotation (within 20 degrees), tint and shading."""
    tint = tuple(float(t) for t in rng.uniform(-18, 18, 3))
    return Thing(category, x, y, radius, float(rng.uniform(-0.35, 0.35)), tint, float(rng.uniform(0.0, 0.25)))  # type: ignore[arg-type]


def sample_grounds(
    rng: np.random.Generator, count: int
) -> tuple[tuple[Ground, ...], tuple[tuple[float, float, float], ...]]:
    """`count` different grounds in parallel bands of a random direction, each at least a fifth of the square wide."""
    categories = rng.choice(len(STUFF), count, replace=False)
    grounds = tuple(Ground(int(c), int(rng.integers(1 << 31)), float(rng.uniform(0.8, 1.15))) for c in categories)
    angle = rng.uniform(0, 2 * np.pi)
    normal = np.array([np.cos(angle), np.sin(angle)])
    reach = np.array([[0, 0], [0, 1], [1, 0], [1, 1]]) @ normal
    shares = np.cumsum(0.25 + rng.dirichlet(np.ones(count)) * (1 - 0.25 * count))[:-1]
    offsets = reach.min() + shares * (reach.max() - reach.min())
    return grounds, tuple((float(normal[0]), float(normal[1]), float(o)) for o in offsets)


def sample_scene(
    rng: np.random.Generator,
    *,
    categories: tuple[int, ...] = tuple(range(len(THINGS))),
    things: tuple[int, int] = (4, 7),
    radius: tuple[float, float] = (0.09, 0.19),
    grounds: tuple[int, int] = (1, 3),
) -> Scene:
    """A random scene.

    Args:
        rng: where all randomness comes from.
        categories: thing classes to draw from, uniformly.
        things: fewest and most things (fewer where the square is full: things may overlap only a little).
        radius: smallest and largest radius of a thing, in units of the square's side.
        grounds: fewest and most regions of ground.
    """
    placed: list[Thing] = []
    for _ in range(int(rng.integers(things[0], things[1] + 1))):
        for _attempt in range(12):
            r = float(rng.uniform(*radius))
            x, y = (float(v) for v in rng.uniform(0.7 * r, 1 - 0.7 * r, 2))
            if all((x - t.x) ** 2 + (y - t.y) ** 2 > (0.85 * (r + t.radius)) ** 2 for t in placed):
                placed.append(sample_thing(int(rng.choice(categories)), x, y, r, rng))
                break
    ground, lines = sample_grounds(rng, int(rng.integers(grounds[0], grounds[1] + 1)))
    return Scene(tuple(placed), ground, lines)
