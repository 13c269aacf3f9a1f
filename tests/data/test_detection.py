import math

import numpy as np
import pytest
import torch
from detectron2.structures import BoxMode
from PIL import Image
from pycocotools import mask as coco_mask

from clipself_d2.data import DetectionMapper, ImageError, ImageMapper, build_train_loader
from clipself_d2.errors import InputError


def thing(x0, y0, x1, y1, category=0, **others):
    return {"bbox": [x0, y0, x1, y1], "bbox_mode": BoxMode.XYXY_ABS, "category_id": category, "iscrowd": 0, **others}


def rectangle(x0, y0, x1, y1, category=0):
    return thing(x0, y0, x1, y1, category, segmentation=[[x0, y0, x1, y0, x1, y1, x0, y1]])


def write_image(folder, width, height, annotations, paint=()):
    """A black image with white rectangles, and its record."""
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    for x0, y0, x1, y1 in paint:
        pixels[y0:y1, x0:x1] = 255
    path = folder / f"{width}x{height}.png"
    Image.fromarray(pixels).save(path)
    return {
        "file_name": str(path),
        "image_id": 5,
        "width": width,
        "height": height,
        "annotations": list(annotations),
    }


def draw(mapper, record, seed):
    return mapper(record, np.random.default_rng(seed))


def test_boxes_and_masks_lie_on_what_they_label(tmp_path):
    record = write_image(tmp_path, 80, 50, [rectangle(20, 10, 60, 40, 7)], paint=[(20, 10, 60, 40)])
    for masks in (False, True):
        mapper = DetectionMapper(64, (0.5, 2.0), masks=masks)
        for seed in range(30):
            sample = draw(mapper, record, seed)
            white = sample["image"][0] > 127
            [box] = sample["instances"].gt_boxes.tensor.tolist()
            rows, columns = np.nonzero(white.numpy())
            painted = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert np.abs(np.array(box) - painted).max() <= 1
            assert sample["instances"].gt_classes.tolist() == [7]
            if masks:
                [mask] = sample["instances"].gt_masks.tensor
                assert (mask != white).sum() <= 0.1 * white.sum() + 6
                np.testing.assert_array_equal(box, sample["instances"].gt_masks.get_bounding_boxes().tensor[0].tolist())


def test_run_lengths_give_the_same_masks_as_polygons(tmp_path):
    bitmap = np.zeros((50, 80), dtype=np.uint8)
    bitmap[10:40, 20:60] = 1
    run_length = coco_mask.encode(np.asfortranarray(bitmap))
    polygon = rectangle(20, 10, 60, 40)
    coded = {**polygon, "segmentation": run_length}
    mapper = DetectionMapper(64, (0.5, 2.0), masks=True)
    for seed in range(10):
        expected, seen = (
            draw(mapper, write_image(tmp_path, 80, 50, [x]), seed)["instances"].gt_masks.tensor
            for x in (polygon, coded)
        )
        assert (seen != expected).sum() <= 0.1 * expected.sum() + 6


def test_a_function_of_record_and_generator(tmp_path):
    record = write_image(tmp_path, 80, 50, [rectangle(0, 0, 80, 50)], paint=[(3, 4, 30, 40)])
    mapper = DetectionMapper(32)
    first, again = draw(mapper, record, 3), draw(mapper, record, 3)
    assert torch.equal(first["image"], again["image"])
    assert torch.equal(first["instances"].gt_boxes.tensor, again["instances"].gt_boxes.tensor)
    assert len({tuple(draw(mapper, record, seed)["image"].shape) for seed in range(20)}) > 5
    assert {key: first[key] for key in ("image_id", "height", "width")} == {"image_id": 5, "height": 50, "width": 80}
    assert len(record["annotations"]) == 1


def test_scales_are_uniform_in_the_range(tmp_path):
    record = write_image(tmp_path, 40, 20, [thing(0, 0, 40, 20)])
    mapper = DetectionMapper(100, (0.1, 0.9), flip=0.0)
    long = [draw(mapper, record, seed)["image"].shape[2] for seed in range(300)]
    assert 10 <= min(long) < 14 and 86 < max(long) <= 90
    assert abs(np.mean(long) - 50) < 4 * 80 / math.sqrt(12 * 300)


def test_mirroring(tmp_path):
    record = write_image(tmp_path, 40, 20, [thing(0, 0, 10, 20)], paint=[(0, 0, 10, 20)])
    for flip, x0 in ((0.0, 0), (1.0, 30)):
        sample = draw(DetectionMapper(40, (1.0, 1.0), flip=flip), record, 0)
        assert sample["instances"].gt_boxes.tensor.tolist() == [[x0, 0, x0 + 10, 20]]
        assert (sample["image"][0, :, x0 : x0 + 10] == 255).all()
        assert (sample["image"] == 255).sum() == 3 * 200
    mirrored = [
        draw(DetectionMapper(40, (1.0, 1.0)), record, seed)["instances"].gt_boxes.tensor[0, 0] > 0
        for seed in range(200)
    ]
    assert 70 < sum(mirrored) < 130


def test_crowds_and_slivers_are_dropped(tmp_path):
    objects = [
        thing(0, 0, 40, 20, 1),
        thing(0, 0, 40, 20, 2, iscrowd=1),
        thing(5, 5, 5.009, 20, 3),
        thing(5, 5, 5.011, 20, 4),
        thing(40, 0, 50, 20, 5),
    ]
    sample = draw(DetectionMapper(40, (1.0, 1.0), flip=0.0), write_image(tmp_path, 40, 20, objects), 0)
    assert sample["instances"].gt_classes.tolist() == [1, 4]


def test_masks_outside_the_crop_are_dropped_though_their_box_is_inside(tmp_path):
    corner = thing(0, 0, 40, 40, 1, segmentation=[[0, 0, 8, 0, 0, 8]])  # a small triangle with a far too large box
    record = write_image(tmp_path, 40, 40, [corner, rectangle(0, 0, 40, 40, 2)])
    mapper = DetectionMapper(40, (2.0, 2.0), flip=0.0, masks=True)
    found = {tuple(draw(mapper, record, seed)["instances"].gt_classes.tolist()) for seed in range(30)}
    assert found == {(2,), (1, 2)}
    without = write_image(tmp_path, 40, 40, [thing(0, 0, 40, 40, 1), rectangle(0, 0, 40, 40, 2)])
    assert draw(mapper, without, 0)["instances"].gt_classes.tolist() == [2]


def test_draws_again_until_an_object_is_in_it(tmp_path):
    record = write_image(tmp_path, 100, 100, [thing(0, 0, 30, 30)])
    sizes = set()
    for seed in range(60):
        sample = draw(DetectionMapper(50, (2.0, 2.0)), record, seed)
        assert len(sample["instances"]) == 1
        sizes.add(tuple(sample["image"].shape[1:]))
    assert sizes == {(50, 50)}


def test_takes_the_whole_image_when_no_draw_shows_an_object(tmp_path):
    record = write_image(tmp_path, 100, 50, [thing(0, 0, 2, 2)])
    sample = draw(DetectionMapper(20, (60.0, 60.0), flip=0.0), record, 0)
    assert sample["image"].shape == (3, 10, 20)
    np.testing.assert_allclose(sample["instances"].gt_boxes.tensor.tolist(), [[0, 0, 0.4, 0.4]], atol=1e-6)


@pytest.mark.parametrize("masks", [False, True])
def test_an_image_without_objects(tmp_path, masks):
    record = write_image(tmp_path, 40, 20, [thing(0, 0, 40, 20, iscrowd=1)])
    sample = draw(DetectionMapper(32, masks=masks), record, 0)
    assert len(sample["instances"]) == 0 and sample["instances"].gt_boxes.tensor.shape == (0, 4)
    assert sample["instances"].image_size == tuple(sample["image"].shape[1:])


@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (10_000, 30), (30, 10_000), (1, 500)])
def test_odd_sizes(tmp_path, size, masks):
    record = write_image(tmp_path, *size, [rectangle(0, 0, *size)])
    for seed in range(8):
        sample = draw(DetectionMapper(64, masks=masks), record, seed)
        height, width = sample["image"].shape[1:]
        assert 1 <= height <= 64 and 1 <= width <= 64
        boxes = sample["instances"].gt_boxes.tensor
        assert torch.isfinite(boxes).all() and (boxes >= 0).all()
        assert (boxes <= torch.tensor([width, height, width, height])).all()
        assert len(boxes) == 1


def test_xywh_boxes(tmp_path):
    record = write_image(tmp_path, 40, 20, [{"bbox": [4, 2, 10, 6], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 3}])
    sample = draw(DetectionMapper(40, (1.0, 1.0), flip=0.0), record, 0)
    assert sample["instances"].gt_boxes.tensor.tolist() == [[4, 2, 14, 8]]


@pytest.mark.parametrize("mapper", [lambda record: draw(DetectionMapper(32), record, 0), ImageMapper()])
def test_images_that_do_not_fit_their_record(tmp_path, mapper):
    record = write_image(tmp_path, 40, 20, [thing(0, 0, 4, 4)])
    with pytest.raises(ImageError, match=r"40x20\.png.*40 x 20.*41 x 20"):
        mapper({**record, "width": 41})
    with pytest.raises(ImageError, match=r"no\.png"):
        mapper({**record, "file_name": str(tmp_path / "no.png")})


def test_image_mapper_keeps_the_record(tmp_path):
    record = write_image(tmp_path, 40, 20, [thing(0, 0, 4, 4)], paint=[(0, 0, 3, 3)])
    sample = ImageMapper()({**record, "neg_category_ids": [3]})
    assert sample["image"].shape == (3, 20, 40) and sample["image"].sum() == 27 * 255
    del sample["image"]
    assert sample == {**{k: v for k, v in record.items() if k != "annotations"}, "neg_category_ids": [3]}


def test_image_mapper_tells_the_size_of_the_image_that_it_reduces(tmp_path):
    Image.new("RGB", (401, 300), (9, 9, 9)).save(tmp_path / "a.jpg")
    record = {"file_name": str(tmp_path / "a.jpg"), "image_id": 1, "height": 300, "width": 401}
    sample = ImageMapper(min_decode_size=100)(record)
    assert sample["image"].shape == (3, 75, 101) and (sample["height"], sample["width"]) == (300, 401)
    with pytest.raises(ImageError, match=r"a\.jpg.*401 x 300.*400 x 300"):
        ImageMapper(min_decode_size=100)({**record, "width": 400})


@pytest.mark.parametrize("scale_range", [(0.0, 1.0), (2.0, 1.0)])
def test_refuses_values_out_of_range(scale_range):
    with pytest.raises(InputError, match="scale_range"):
        DetectionMapper(32, scale_range)
    with pytest.raises(InputError, match=r"flip 1\.5"):
        DetectionMapper(32, flip=1.5)


def test_refuses_data_sets_without_objects_or_masks(tmp_path):
    with pytest.raises(InputError, match="no boxes"):
        build_train_loader([{"file_name": "a.jpg", "image_id": 1}], DetectionMapper(32), 1, 0, 0)
    boxes_alone = [write_image(tmp_path, 40, 20, [thing(0, 0, 4, 4)])]
    with pytest.raises(InputError, match="segmentation"):
        build_train_loader(boxes_alone, DetectionMapper(32, masks=True), 1, 0, 0)
    loader = build_train_loader(boxes_alone, DetectionMapper(32), 2, 0, 0)
    assert [len(sample["instances"]) for sample in next(iter(loader))] == [1, 1]


def test_objects_without_a_mask_are_counted(caplog):
    objects = [{"segmentation": [[0, 0, 9, 0, 9, 9]]}, {}, {"iscrowd": 1}, {}]
    DetectionMapper(32, masks=True).check([{"annotations": objects}])
    assert "2 of 3 objects" in caplog.text
    caplog.clear()
    DetectionMapper(32).check([{"annotations": objects}])
    assert not caplog.records
