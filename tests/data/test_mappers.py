import numpy as np
import pytest
import torch
from panopticapi.utils import rgb2id
from PIL import Image

from clipself_d2.data import DistillationMapper, ImageError, PanopticRegionMapper, load_image_list, load_panoptic
from clipself_d2.data.distillation import image_key
from clipself_d2.errors import InputError
from clipself_d2.regions import GridRegions, ProposalRegions, sample_grid
from tests.data.make import panoptic, photographs


def test_distillation_sample(tmp_path):
    [record] = load_image_list(photographs(tmp_path / "photos", 1), tmp_path / "photos")
    sample = DistillationMapper(GridRegions())(record, np.random.default_rng([1, 5]))
    keys = {"image", "image_key", "file_name", "image_id", "height", "width", "regions", "crop_boxes", "crop_ids"}
    assert set(sample) == keys
    assert sample["image"].shape == (3, 16, 24) and (sample["height"], sample["width"]) == (16, 24)
    assert torch.equal(sample["regions"].tensor, sample_grid(16, 24, np.random.default_rng([1, 5])))
    assert torch.equal(sample["crop_boxes"].tensor, sample["regions"].tensor)


def test_every_crop_of_a_photograph(tmp_path):
    [record] = load_image_list(photographs(tmp_path / "photos", 1), tmp_path / "photos")
    mapper = DistillationMapper(GridRegions(max_split=2))
    sample, drawn = mapper.all_crops(record), mapper(record, np.random.default_rng(0))
    assert drawn.keys() - sample.keys() == {"regions"}
    crops, numbers = GridRegions(max_split=2).all_crops(0, 16, 24)
    assert torch.equal(sample["crop_boxes"].tensor, crops) and torch.equal(sample["crop_ids"], numbers)
    assert torch.equal(drawn["crop_boxes"].tensor, crops[drawn["crop_ids"]])
    assert sample["image_key"] == drawn["image_key"]


def test_the_key_of_a_photograph_is_its_contents(tmp_path):
    records = load_image_list(photographs(tmp_path / "photos", 2), tmp_path / "photos")
    mapper = DistillationMapper(GridRegions())
    first, second = (mapper(record, np.random.default_rng(0))["image_key"] for record in records)
    assert len(first) == 16 and first != second
    (tmp_path / "copy.png").write_bytes((tmp_path / "photos/0.png").read_bytes())
    copy = mapper({"file_name": str(tmp_path / "copy.png"), "image_id": 9}, np.random.default_rng(1))
    assert copy["image_key"] == first
    # The same file, decoded at another size, is another image.
    assert len({image_key(b"file", *size) for size in ((16, 24), (8, 12), (24, 16))}) == 3


def test_proposals_must_belong_to_the_data_set(tmp_path):
    records = load_image_list(photographs(tmp_path / "photos", 2), tmp_path / "photos")
    (tmp_path / "p.json").write_text('{"annotations": [{"image_id": 1, "bbox": [2, 2, 12, 10]}]}')
    mapper = DistillationMapper(ProposalRegions(tmp_path / "p.json"))
    mapper.check(records)
    with pytest.raises(InputError, match=r"p\.json"):
        mapper.check(records[:1])
    sample = mapper(records[1], np.random.default_rng(0))
    assert sample["regions"].tensor.tolist() == [[2, 2, 14, 12]]
    assert sample["crop_boxes"].tensor.tolist() == [[0, 0, 17, 14.5]]


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


def test_photograph_and_png_must_fit(tmp_path):
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
            assert len(rows) == info["area"]
            x, y, w, h = info["bbox"]
            box = [x, y, x + w, y + h] if info["isthing"] else [columns.min(), rows.min(), columns.max(), rows.max()]
            if not 64 <= (box[2] - box[0]) * (box[3] - box[1]) <= 1024**2:
                continue
            assert sample["boxes"].tensor[kept].tolist() == box
            assert sample["masks"][kept].sum() == info["area"]
            assert sample["classes"][kept] == info["category_id"]
            kept += 1
        assert kept == len(sample["boxes"]) == len(record["segments_info"]) - sample["skipped_segments"]
        regions += kept
    assert regions > 20


@pytest.mark.parametrize("suffix", ["jpg", "png"])
@pytest.mark.parametrize("student, teacher", [(100, 20), (100, 60), (300, 20), (3000, 20)])
def test_photographs_are_reduced_as_far_as_image_and_crops_allow(tmp_path, suffix, student, teacher):
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
