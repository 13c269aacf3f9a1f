"""Drawn images, and CLIPSelf's teacher with a cache of their crops."""

import numpy as np

from clipself_d2.data import DistillationMapper
from clipself_d2.regions import GridRegions

MAPPER = DistillationMapper(GridRegions(max_split=3))
CROPS = sum(rows * columns for rows in (1, 2, 3) for columns in (1, 2, 3) if rows <= 2 * columns <= 4 * rows)


def draw(records, seed, mapper=MAPPER):
    return [mapper(record, np.random.default_rng([seed, i])) for i, record in enumerate(records)]


def count(batch):
    return sum(len(x["crop_ids"]) for x in batch)


def embed(model, batch):
    return model.embed_crops([x["image"] for x in batch], [x["crop_boxes"].tensor for x in batch], batch)


def fill(model, records, mapper=MAPPER) -> None:
    model.teacher_cache.fill(model.embed_crops, records, mapper, 0)
