"""Samples to train a mask generator with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from clipself_d2.data.panoptic import PanopticMapper


class SegmentMapper:
    """Reads a photograph with its segments, mirrored at random."""

    def __init__(self, flip: float = 0.5):
        """Sets the probability of mirroring, 0..1."""
        self.flip = flip
        self.read = PanopticMapper()

    def __call__(self, record: Mapping[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """Maps a panoptic record to a training sample.

        Args:
            record: see `PanopticMapper`.
            rng: draws the mirroring.

        Returns:
            `PanopticMapper`'s sample: ``image``, ``masks``, ``classes``, ``isthing``, ``iscrowd``, ..
        """
        sample = self.read(record)
        if rng.random() < self.flip:
            sample.update({key: sample[key].flip(-1) for key in ("image", "masks", "sem_seg")})
        return sample
