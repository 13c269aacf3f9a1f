"""Panoptic segments as labeled regions, by the rules of the released code."""

import numpy as np
import pytest
from panopticapi.utils import rgb2id
from PIL import Image

from clipself_d2.data import ImageError, PanopticRegionMapper, load_panoptic
from clipself_d2.errors import InputError
from tests.data.make import panoptic


def segment(number, category, bbox, **more):
    return {"id": number, "category_id": category, "bbox": bbox, "iscrowd": 0, **more}


def evaluation_sample(tmp_path, segments, **arguments):
    json_file, pngs, photos, ids = panoptic(tmp_path, segments)
    [record], _ = load_panoptic(json_file, pngs, photos)
    return PanopticRegionMapper(**arguments)(record), ids


def test_things_and_stuff(tmp_path):
    sample, ids = evaluation_sample(
        tmp_path,
        [
            (segment(70000, 9, [0, 0, 80, 60]), 0, 60, 0, 80),  # grass
            (segment(300, 5, [10, 10, 20, 10]), 10, 20, 10, 30),  # cat
            (segment(5, 2, [60, 40, 20, 20], iscrowd=1), 40, 60, 60, 80),  # a crowd of dogs, at the border
        ],
    )
    assert sample["classes"].tolist() == [2, 1, 0] and sample["isthing"].tolist() == [False, True, True]
    np.testing.assert_array_equal(sample["masks"].numpy(), ids[None] == np.array([70000, 300, 5])[:, None, None])
    # Stuff: edges are the first and last pixel. Things: the json's.
    assert sample["boxes"].tensor.tolist() == [[0, 0, 79, 59], [10, 10, 30, 20], [60, 40, 80, 60]]
    assert sample["crop_boxes"].tensor.tolist() == [[0, 0, 79, 59], [5, 7.5, 35, 22.5], [55, 35, 80, 60]]
    assert sample["skipped_segments"] == 0 and sample["image_id"] == 7
    assert sample["image"].shape == (3, 60, 80)


def test_without_boxes_they_are_those_of_the_masks(tmp_path):
    segments = [{"id": 1, "category_id": 9}, {"id": 2, "category_id": 5}]
    sample, _ = evaluation_sample(tmp_path, [(segments[0], 0, 60, 0, 80), (segments[1], 10, 20, 10, 30)])
    assert sample["boxes"].tensor.tolist() == [[0, 0, 79, 59], [10, 10, 30, 20]]


def test_what_is_left_out_is_counted(tmp_path):
    sample, _ = evaluation_sample(
        tmp_path,
        [
            (segment(1, 9, [0, 0, 80, 60]), 0, 60, 0, 80),
            (segment(2, 5, [10, 10, 7, 9]), 10, 19, 10, 17),  # 63 pixels
            (segment(3, 5, [30, 10, 8, 8]), 10, 18, 30, 38),  # 64 pixels
            (segment(4, 2, [0, 0, 20, 20]), 0, 0, 0, 0),  # no pixel in the PNG
            (segment(5, 9, [0, 50, 30, 1]), 50, 51, 0, 30),  # stuff one pixel high: its box has no area
            (segment(6, 2, [70, 50, 50, 50]), 50, 60, 70, 80),  # reaches out of the image
        ],
    )
    assert sample["boxes"].tensor.tolist() == [[0, 0, 79, 59], [30, 10, 38, 18], [70, 50, 80, 60]]
    assert sample["skipped_segments"] == 3


def test_limits_are_arguments(tmp_path):
    segments = [(segment(n, 5, [n * 10, 0, 10, 10 + n]), 0, 10 + n, n * 10, n * 10 + 10) for n in range(1, 5)]
    sample, _ = evaluation_sample(tmp_path, segments, max_segments=3, min_size=11**0.5 * 10**0.5, max_size=120**0.5)
    assert sample["boxes"].tensor[:, 0].tolist() == [10, 20]
    assert sample["skipped_segments"] == 2


def test_no_segments(tmp_path):
    sample, _ = evaluation_sample(tmp_path, [])
    assert len(sample["boxes"]) == len(sample["crop_boxes"]) == 0
    assert sample["masks"].shape == (0, 60, 80) and sample["classes"].shape == (0,)


def test_image_and_png_must_fit(tmp_path):
    json_file, pngs, photos, _ = panoptic(tmp_path, [])
    [record], _ = load_panoptic(json_file, pngs, photos)
    Image.new("RGB", (30, 30)).save(pngs / "7.png")
    with pytest.raises(InputError, match=r"7\.png.*30 x 30.*80 x 60"):
        PanopticRegionMapper()(record)
    (pngs / "7.png").unlink()
    with pytest.raises(ImageError, match=r"7\.png"):
        PanopticRegionMapper()(record)


def test_real_panoptic_segments(assets):
    coco = assets / "data/coco"
    records, categories = load_panoptic(
        coco / "annotations/panoptic_val2017.json", coco / "annotations/panoptic_val2017", coco / "val2017"
    )
    assert len(categories) == 133
    regions = 0
    for record in records[::20]:
        sample = PanopticRegionMapper()(record)
        ids = rgb2id(np.asarray(Image.open(record["pan_seg_file_name"]).convert("RGB")))
        kept = 0
        for info in record["segments_info"]:
            rows, columns = np.nonzero(ids == info["id"])
            x, y, w, h = info["bbox"]
            box = [x, y, x + w, y + h] if info["isthing"] else [columns.min(), rows.min(), columns.max(), rows.max()]
            if not 64 <= (box[2] - box[0]) * (box[3] - box[1]) <= 1024**2:
                continue
            assert sample["boxes"].tensor[kept].tolist() == box
            assert sample["masks"][kept].sum() == len(rows)
            assert sample["classes"][kept] == info["category_id"]
            kept += 1
        assert kept == len(sample["boxes"]) == len(record["segments_info"]) - sample["skipped_segments"]
        regions += kept
    assert regions > 20
