"""Samples for distillation: regions, crops, keys and reduced decoding."""

import numpy as np
import pytest
import torch
from PIL import Image

from clipself_d2.data import DistillationMapper, load_image_list
from clipself_d2.data.distillation import image_key
from clipself_d2.errors import InputError
from clipself_d2.regions import GridRegions, ProposalRegions
from tests.data.make import write_images


def test_distillation_sample(tmp_path):
    [record] = load_image_list(write_images(tmp_path / "photos", 1), tmp_path / "photos")
    sample = DistillationMapper(GridRegions())(record, np.random.default_rng([1, 5]))
    keys = {"image", "image_key", "file_name", "image_id", "height", "width", "regions", "crop_boxes", "crop_ids"}
    assert set(sample) == keys
    assert sample["image"].shape == (3, 16, 24) and (sample["height"], sample["width"]) == (16, 24)
    assert torch.equal(sample["regions"].tensor, GridRegions()(0, 16, 24, np.random.default_rng([1, 5]))[0])
    assert torch.equal(sample["crop_boxes"].tensor, sample["regions"].tensor)


def test_every_crop_of_a_image(tmp_path):
    [record] = load_image_list(write_images(tmp_path / "photos", 1), tmp_path / "photos")
    mapper = DistillationMapper(GridRegions(max_split=2))
    sample, drawn = mapper.all_crops(record), mapper(record, np.random.default_rng(0))
    assert drawn.keys() - sample.keys() == {"regions"}
    crops, numbers = GridRegions(max_split=2).all_crops(0, 16, 24)
    assert torch.equal(sample["crop_boxes"].tensor, crops) and torch.equal(sample["crop_ids"], numbers)
    assert torch.equal(drawn["crop_boxes"].tensor, crops[drawn["crop_ids"]])
    assert sample["image_key"] == drawn["image_key"]


def test_the_key_of_a_image_is_its_contents(tmp_path):
    records = load_image_list(write_images(tmp_path / "photos", 2), tmp_path / "photos")
    mapper = DistillationMapper(GridRegions())
    first, second = (mapper(record, np.random.default_rng(0))["image_key"] for record in records)
    assert len(first) == 16 and first != second
    (tmp_path / "copy.png").write_bytes((tmp_path / "photos/0.png").read_bytes())
    copy = mapper({"file_name": str(tmp_path / "copy.png"), "image_id": 9}, np.random.default_rng(1))
    assert copy["image_key"] == first
    # The same file, decoded at another size, is another image.
    assert len({image_key(b"file", *size) for size in ((16, 24), (8, 12), (24, 16))}) == 3


def test_proposals_must_belong_to_the_data_set(tmp_path):
    records = load_image_list(write_images(tmp_path / "photos", 2), tmp_path / "photos")
    (tmp_path / "p.json").write_text('{"annotations": [{"image_id": 1, "bbox": [2, 2, 12, 10]}]}')
    mapper = DistillationMapper(ProposalRegions(tmp_path / "p.json"))
    mapper.check(records)
    with pytest.raises(InputError, match=r"p\.json"):
        mapper.check(records[:1])
    sample = mapper(records[1], np.random.default_rng(0))
    assert sample["regions"].tensor.tolist() == [[2, 2, 14, 12]]
    assert sample["crop_boxes"].tensor.tolist() == [[0, 0, 17, 14.5]]


@pytest.mark.parametrize("suffix", ["jpg", "png"])
@pytest.mark.parametrize("student, teacher", [(100, 20), (100, 60), (300, 20), (3000, 20)])
def test_images_are_reduced_as_far_as_image_and_crops_allow(tmp_path, suffix, student, teacher):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (600, 801, 3), dtype=np.uint8)).save(path)
    record = {"file_name": str(path), "image_id": 1}
    whole, reduced = (
        DistillationMapper(GridRegions()),
        DistillationMapper(GridRegions(), min_decode_size=(student, teacher)),
    )
    for seed in range(12):
        before, after = (mapper(record, np.random.default_rng(seed)) for mapper in (whole, reduced))
        # All that may be drawn decide, so that every draw sees the same pixels.
        longest = [max(x1 - x0, y1 - y0) for x0, y0, x1, y1 in GridRegions().all_crops(1, 600, 801)[0].tolist()]
        divisor = max(
            s for s in (1, 2, 4, 8) if s == 1 or (801 / s >= student and all(x / s >= teacher - 1e-3 for x in longest))
        )
        divisor = divisor if suffix == "jpg" else 1
        height, width = -(-600 // divisor), -(-801 // divisor)
        assert after["image"].shape == (3, height, width)
        assert (after["height"], after["width"]) == (600, 801)
        for boxes in ("regions", "crop_boxes"):
            fractions = after[boxes].tensor / torch.tensor([width, height] * 2)
            assert torch.allclose(fractions, before[boxes].tensor / torch.tensor([801, 600] * 2), atol=1e-6)
