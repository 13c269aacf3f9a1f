"""Captioned views of OV-Shapes, on which the miniature's CLIP is pretrained.

A batch has every thing class once as the main thing of a close view, every stuff class once as bare ground, and windows
of ordinary scenes. With whole scenes alone the shapes are learned several times slower. Most captions do not name the
ground: the prompt "a red star" is then an ordinary caption. Views are blurred and padded at random, as teacher crops of
small regions are.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image

from clipself_d2.miniature.render import render
from clipself_d2.miniature.world import STUFF, THINGS, Scene, sample_scene

TEMPLATES: tuple[str, ...] = ("a {}", "a photo of a {}", "a picture of a {}")
"""Openings of captions, and the prompt templates of the miniature's text classifier."""

SCENES_PER_BATCH = 56
VIEW_SIZE = 64
MAX_NAMED = 4

Window = tuple[float, float, float]


def caption_roles() -> list[dict[str, Any]]:
    """Return the 160 roles of one batch: `{"role": "thing" or "stuff", "category": i}` or `{"role": "scene"}`.

    As a data set whose epoch is one batch, they make every batch have each role once.
    """
    things = [{"role": "thing", "category": i} for i in range(len(THINGS))]
    stuff = [{"role": "stuff", "category": i} for i in range(len(STUFF))]
    return [*things, *stuff, *({"role": "scene"} for _ in range(SCENES_PER_BATCH))]


class SceneCaptionMapper:
    """The mapper of a caption loader."""

    def __call__(self, role: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """Draw a random view for a role: `{"image": uint8 3 x 64 x 64, "caption": str}`."""
        if role["role"] == "thing":
            scene, window = _close_view(role["category"], rng)
        elif role["role"] == "stuff":
            scene, window = _ground_view(role["category"], rng)
        else:
            scene, window = _scene_view(rng)
        size = VIEW_SIZE if rng.random() < 0.4 else int(rng.integers(20, VIEW_SIZE))
        image, segments = render(scene, size, window)
        words = [THINGS[role["category"]]] if role["role"] == "thing" else _visible(scene, segments)
        ground = STUFF[scene.grounds[np.bincount(segments.ravel()).argmax() if not words else 0].category]
        listing = " and a ".join([", a ".join(words[:-1]), words[-1]] if len(words) > 1 else words) or ground
        caption = TEMPLATES[rng.integers(len(TEMPLATES))].format(listing)
        if words and len(scene.grounds) == 1 and rng.random() < 0.25:
            caption += f" on a {ground}"
        return {"image": torch.from_numpy(_degrade(image, rng)).permute(2, 0, 1).contiguous(), "caption": caption}


def _visible(scene: Scene, segments: np.ndarray) -> list[str]:
    """Return the things that a caption names: up to four, the largest that cover at least 4 % of the view."""
    areas = np.bincount(segments.ravel(), minlength=len(scene.grounds) + len(scene.things))[len(scene.grounds) :]
    largest = np.argsort(-areas)[:MAX_NAMED]
    return [THINGS[scene.things[i].category] for i in largest if areas[i] >= 0.04 * segments.size]


def _close_view(category: int, rng: np.random.Generator) -> tuple[Scene, Window]:
    """Return a scene whose first thing is of a class, and a window around that thing, which may cut it."""
    scene = sample_scene(rng, things=(1, 7), grounds=(1, 2))
    main = replace(scene.things[0], category=category)
    side = 2 * main.radius * rng.uniform(0.6, 2.2)
    slack = 0.5 * max(side - 2 * main.radius, 0.6 * main.radius)
    x, y = main.x + rng.uniform(-slack, slack), main.y + rng.uniform(-slack, slack)
    return replace(scene, things=(main, *scene.things[1:])), (x - side / 2, y - side / 2, side)


def _scene_view(rng: np.random.Generator) -> tuple[Scene, Window]:
    """Return any square window of an ordinary scene, as a grid patch is."""
    scene = sample_scene(rng)
    side = rng.uniform(0.25, 0.9)
    x, y = rng.uniform(0, 1 - side, 2)
    return scene, (x, y, side)


def _ground_view(category: int, rng: np.random.Generator) -> tuple[Scene, Window]:
    """Return a view of bare ground of a class."""
    scene = sample_scene(rng, things=(0, 0), grounds=(1, 1))
    scene = replace(scene, grounds=(replace(scene.grounds[0], category=category),))
    side = rng.uniform(0.12, 1.0)
    x, y = rng.uniform(0, 1 - side, 2)
    return scene, (x, y, side)


def _degrade(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Scale to `VIEW_SIZE`, which blurs, and at times blacken two bands, as letterboxed crops have."""
    if len(image) != VIEW_SIZE:
        image = np.asarray(Image.fromarray(image).resize((VIEW_SIZE, VIEW_SIZE), Image.Resampling.BICUBIC)).copy()
    if rng.random() < 0.3:
        band = int(rng.integers(1, VIEW_SIZE // 4))
        axis = np.swapaxes(image, 0, 1) if rng.random() < 0.5 else image
        axis[:band], axis[-band:] = 0, 0
    return image
