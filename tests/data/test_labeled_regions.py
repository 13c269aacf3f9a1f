"""Regions with names: which are read, of which images, and what is wrong with a file."""

import json

import numpy as np
import pytest
from PIL import Image

from clipself_d2.data import build_train_loader
from clipself_d2.data.labeled_regions import LabeledRegionMapper, LabeledRegions, load_category_names
from clipself_d2.errors import InputError

CATEGORIES = [{"id": 9, "name": "dog"}, {"id": 4, "name": "cat"}]


def pair(image, box, category=9):
    return {"image_id": image, "bbox": box, "category_id": category}


def write(path, annotations, categories=CATEGORIES):
    path.write_text(json.dumps({"annotations": annotations, "categories": categories}))
    return path


def test_the_first_annotations_in_their_order(tmp_path):
    annotations = [pair(1, [0, 0, 5 + i, 5], (9, 4)[i % 2]) for i in range(6)] + [pair(2, [1, 2, 3, 4], 4)]
    file = write(tmp_path / "p.json", annotations)
    regions = LabeledRegions(file, max_regions=4)
    assert regions.names == load_category_names(file) == ["cat", "dog"]  # by id
    boxes, classes = regions(1, 100, 100)
    assert boxes.tolist() == [[0, 0, 5 + i, 5] for i in range(4)]
    assert classes.tolist() == [1, 0, 1, 0]
    boxes, classes = regions(2, 100, 100)
    assert (boxes.tolist(), classes.tolist()) == ([[1, 2, 4, 6]], [0])


def test_crowds_are_no_regions(tmp_path):
    annotations = [{**pair(1, [0, 0, 5, 5]), "iscrowd": 1}, {**pair(1, [1, 1, 5, 5]), "iscrowd": 0}]
    assert LabeledRegions(write(tmp_path / "p.json", annotations))(1, 20, 30)[0].tolist() == [[1, 1, 6, 6]]


def test_boxes_are_clipped_and_those_outside_left_out(tmp_path):
    annotations = [
        pair(1, [-5, -5, 10, 10]),
        pair(1, [50, 50, 9, 9], 4),
        pair(1, [5, 5, 0, 3]),
        pair(1, [8, 0, 90, 90], 4),
    ]
    boxes, classes = LabeledRegions(write(tmp_path / "p.json", annotations))(1, 20, 30)
    assert boxes.tolist() == [[0, 0, 5, 5], [8, 0, 30, 20]]
    assert classes.tolist() == [1, 0]


def test_training_sees_annotated_images_alone(tmp_path):
    records = []
    for number in range(4):
        file = tmp_path / f"{number}.png"
        Image.fromarray(np.full((10, 12, 3), number, np.uint8)).save(file)
        records.append({"file_name": str(file), "image_id": number})
    mapper = LabeledRegionMapper(
        LabeledRegions(write(tmp_path / "p.json", [pair(1, [0, 0, 5, 5]), pair(3, [1, 1, 9, 8], 4)]))
    )
    loader = iter(build_train_loader(records, mapper, total_batch_size=2, seed=0, num_workers=0))
    for _ in range(3):
        batch = sorted(next(loader), key=lambda x: x["image_id"])
        assert [x["image_id"] for x in batch] == [1, 3]
        assert [x["classes"].tolist() for x in batch] == [[1], [0]]
        assert batch[1]["regions"].tensor.tolist() == [[1, 1, 10, 9]]
        assert batch[1]["image"].shape == (3, 10, 12) and (batch[1]["height"], batch[1]["width"]) == (10, 12)


def test_pairs_of_another_data_set_are_refused(tmp_path):
    regions = LabeledRegions(write(tmp_path / "p.json", [pair(1, [0, 0, 5, 5]), pair(77, [0, 0, 5, 5])]))
    with pytest.raises(InputError, match=r"p\.json: annotates 1 unknown image ids \(77"):
        regions.select([{"image_id": 1}])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "expected object"),
        ("{", "is no json"),
        ({"annotations": []}, "has no 'categories'"),
        ({"annotations": [], "categories": []}, "'categories' is empty"),
        ({"annotations": [], "categories": CATEGORIES}, "nothing to train on"),
        ({"annotations": [], "categories": [*CATEGORIES, CATEGORIES[0]]}, "category id 9 is given twice"),
        ({"annotations": [pair(1, [0, 0, 1, 1], 5)], "categories": CATEGORIES}, "unknown category_id 5"),
        ({"annotations": [pair(1, [0, 0, 1])], "categories": CATEGORIES}, "'bbox'"),
        ({"annotations": [{"image_id": 1, "bbox": [0, 0, 1, 1]}], "categories": CATEGORIES}, "no 'category_id'"),
    ],
)
def test_a_wrong_file_is_said_in_one_line(tmp_path, content, message):
    file = tmp_path / "p.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(InputError, match=message) as caught:
        LabeledRegions(file)
    assert str(file) in str(caught.value) and "\n" not in str(caught.value)


def test_no_regions_at_all_are_refused(tmp_path):
    with pytest.raises(InputError, match="max_regions"):
        LabeledRegions(write(tmp_path / "p.json", [pair(1, [0, 0, 5, 5])]), max_regions=0)
