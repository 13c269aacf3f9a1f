"""OV-Shapes, the small synthetic world: the content of a scene, before anything is drawn.

Things are compounds of a color and a shape ("red star"); stuff is textured ground ("lawn"). A scene is in the unit
square, and any window of it can be drawn at any resolution (:mod:`clipself_d2.miniature.render`). All randomness comes
from a seed.

A third of the compounds are novel classes: all of two shapes, all of one color, and some pairs of which base classes
have the color and the shape apart. CLIP reads captions of all classes, as web CLIP does; detectors are trained on base
classes only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

COLORS: dict[str, tuple[int, int, int]] = {
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
COMPOUNDS: tuple[tuple[str, str], ...] = tuple((color, shape) for shape in SHAPES for color in COLORS)
"""Thing classes as (color, shape), in class order."""

THINGS: tuple[str, ...] = tuple(f"{color} {shape}" for color, shape in COMPOUNDS)
CLASSES: tuple[str, ...] = THINGS + STUFF
NOVEL_COLOR = "purple"
NOVEL_SHAPES = ("star", "moon")


def is_novel(thing: int) -> bool:
    """Whether a thing class (an index into `THINGS`) is novel: no box or mask of it is ever trained on."""
    color, shape = COMPOUNDS[thing]
    return color == NOVEL_COLOR or shape in NOVEL_SHAPES or thing % 11 == 0


def frequency(thing: int) -> str:
    """LVIS frequency of a thing class: "r" for novel classes, "c" or "f" for base classes in turn."""
    if is_novel(thing):
        return "r"
    return "f" if thing % 3 else "c"


@dataclass(frozen=True)
class Thing:
    """One object: class, center (unit square), radius, rotation (radians), color jitter and strength of shading."""

    category: int
    x: float
    y: float
    radius: float
    angle: float
    tint: tuple[float, float, float]
    shading: float


@dataclass(frozen=True)
class Ground:
    """One region of ground: stuff class, seed of the texture, and brightness."""

    category: int
    seed: int
    brightness: float


@dataclass(frozen=True)
class Scene:
    """Things, drawn in order, on grounds that are divided by straight lines.

    Attributes:
        things: the later ones cover the earlier ones.
        grounds: one more than lines. Ground i holds the points that are beyond i lines.
        lines: (nx, ny, offset); a point is beyond a line if nx * x + ny * y > offset. Parallel lines make bands.
    """

    things: tuple[Thing, ...]
    grounds: tuple[Ground, ...]
    lines: tuple[tuple[float, float, float], ...]


def sample_thing(category: int, x: float, y: float, radius: float, rng: np.random.Generator) -> Thing:
    """Return a thing with random rotation (within 20 degrees), tint and shading."""
    tint = tuple(float(t) for t in rng.uniform(-18, 18, 3))
    return Thing(category, x, y, radius, float(rng.uniform(-0.35, 0.35)), tint, float(rng.uniform(0.0, 0.25)))  # type: ignore[arg-type]


def sample_grounds(
    rng: np.random.Generator, count: int
) -> tuple[tuple[Ground, ...], tuple[tuple[float, float, float], ...]]:
    """Return `count` different grounds in parallel bands, each at least 0.2 wide, and the lines between them."""
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
    """Return a random scene.

    Args:
        rng: the only source of randomness.
        categories: thing classes to draw from, uniformly.
        things: fewest and most things; fewer if the square is full, for things overlap only a little.
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
