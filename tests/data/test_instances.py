import json
import logging

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from detectron2.data.datasets.coco import load_coco_json
from detectron2.data.datasets.lvis import load_lvis_json
from detectron2.structures import BoxMode

from clipself_d2.data import get_dataset, register_instances
from clipself_d2.data.classes import (
    LVIS,
)
from clipself_d2.data.instances import fold, load_instances, match_classes
from clipself_d2.errors import InputError
from clipself_d2.schema import Category

CATEGORIES = [{"id": 7, "name": "dog"}, {"id": 3, "name": "wine glass"}, {"id": 5, "name": "cat"}]
CLASSES = [["cat"], ["Wine Glass", "wineglass"], ["dog", "hound"]]


def write(folder, annotations, categories=CATEGORIES, images=3):
    (folder / "photos").mkdir(exist_ok=True)
    content = {
        "images": [{"id": i, "file_name": f"{i}.jpg", "height": 20, "width": 30} for i in range(images)],
        "annotations": [{"id": i, "bbox": [1, 2, 3, 4], **a} for i, a in enumerate(annotations, 1)],
        "categories": categories,
    }
    (folder / "instances.json").write_text(json.dumps(content))
    return folder / "instances.json", folder / "photos"


def test_categories_are_found_by_name(tmp_path):
    polygon = [[0, 0, 9, 0, 9, 9]]
    files = write(
        tmp_path,
        [
            {"image_id": 1, "category_id": 7, "area": 5.5, "segmentation": [*polygon, [1, 2, 3, 4], [1, 2, 3]]},
            {"image_id": 1, "category_id": 3, "iscrowd": 1, "segmentation": {"size": [20, 30], "counts": [590, 10]}},
            {"image_id": 2, "category_id": 5, "segmentation": [[1, 2]]},
        ],
    )
    records, index, found = load_instances(*files, CLASSES)
    assert found == ["cat", "Wine Glass", "dog"] and index == {7: 2, 3: 1, 5: 0}
    assert [r["image_id"] for r in records] == [0, 1, 2]
    assert records[1]["file_name"] == str(tmp_path / "photos/1.jpg") and records[1]["height"] == 20
    common = {"bbox": [1, 2, 3, 4], "bbox_mode": BoxMode.XYWH_ABS}
    first, second = records[1]["annotations"]
    assert first == {**common, "category_id": 2, "iscrowd": 0, "area": 5.5, "segmentation": polygon}
    assert (second["category_id"], second["iscrowd"]) == (1, 1) and isinstance(second["segmentation"]["counts"], bytes)
    assert records[2]["annotations"] == [{**common, "category_id": 0, "iscrowd": 0}]


def test_without_classes_those_of_the_json_by_id(tmp_path):
    _, index, found = load_instances(*write(tmp_path, []))
    assert found == ["wine glass", "cat", "dog"] and index == {3: 0, 5: 1, 7: 2}


def test_training_leaves_out_images_without_objects(tmp_path, caplog):
    crowd = {"image_id": 0, "category_id": 7, "iscrowd": 1}
    files = write(tmp_path, [crowd, {"image_id": 2, "category_id": 7}, {**crowd, "image_id": 2}])
    with caplog.at_level(logging.INFO):
        records, *_ = load_instances(*files, CLASSES, training=True)
    assert [(r["image_id"], len(r["annotations"])) for r in records] == [(2, 2)]
    assert "left out 2 of 3 images" in caplog.text
    with pytest.raises(InputError, match=r"instances\.json.*none of its 3 images"):
        load_instances(*write(tmp_path, [crowd]), training=True)


def test_training_leaves_out_novel_objects(tmp_path):
    files = write(tmp_path, [{"image_id": i, "category_id": c} for i, c in ((0, 7), (0, 5), (1, 5), (2, 3))])
    kept = {
        training: {
            r["image_id"]: [x["category_id"] for x in r["annotations"]]
            for r in load_instances(*files, CLASSES, novel=["cat"], training=training)[0]
        }
        for training in (False, True)
    }
    assert kept == {False: {0: [2, 0], 1: [0], 2: [1]}, True: {0: [2], 2: [1]}}
    with pytest.raises(InputError, match="novel class 'fox'"):
        load_instances(*files, CLASSES, novel=["fox"])


def test_names_are_compared_without_case_and_blanks():
    same = ["Cabinet/shelf", "cabinet / shelf", " cabinet/ Shelf  ", "CABINET /  shelf"]
    assert len({fold(name) for name in same}) == 1
    assert fold("Formula 1 ") == fold("formula 1") and fold("tea pot") != fold("teapot")


def test_unknown_and_missing_classes_are_listed():
    wrong = [Category(id=1, name="cat"), Category(id=2, name="fox"), Category(id=3, name="owl")]
    with pytest.raises(InputError, match=r"a\.json.*'fox', 'owl'.*missing.*'Wine Glass', 'dog'") as caught:
        match_classes("a.json", wrong, CLASSES)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=r"'fox', 'owl'"):
        match_classes("a.json", wrong, CLASSES, partial=True)
    with pytest.raises(InputError, match="missing"):
        match_classes("a.json", wrong[:1], CLASSES)
    assert match_classes("a.json", wrong[:1], CLASSES, partial=True) == {1: 0}


@pytest.mark.parametrize(
    ("annotation", "say"),
    [
        ({"image_id": 9, "category_id": 7}, "annotation 1 has the unknown image_id 9"),
        ({"image_id": 1, "category_id": 8}, "annotation 1 has the unknown category_id 8"),
        ({"image_id": 1, "category_id": 7, "bbox": [1, 2, 3]}, "bbox"),
        ({"image_id": 1, "category_id": 7, "bbox": [1, 2, 3, "4"]}, "bbox"),
        ({"image_id": 1}, "'category_id'"),
    ],
)
def test_bad_annotations(tmp_path, annotation, say):
    with pytest.raises(InputError, match=say) as caught:
        load_instances(*write(tmp_path, [annotation]))
    assert "instances.json" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("annotation", "say"),
    [
        ({"bbox": [1, 2, 3, float("nan")]}, r"annotations\[0\] \(id 1\): 'bbox\[3\]' is 'NaN'"),
        ({"bbox": [1, 2, True, 4]}, r"'bbox\[2\]' is True: expected float"),
        ({"category_id": "7"}, "'category_id' is '7': expected int, got str"),
        ({"image_id": 776.7}, r"'image_id' is 776\.7"),
        ({"image_id": "1"}, "unknown image_id '1'"),
        ({"segmentation": [[0, 0, 1e9, 0, 9, 9]]}, r"'segmentation\[0\]\[2\]' is 1000000000\.0"),
        ({"segmentation": [[0, 0, 99, 0, 9, 9]]}, "annotation 1: 'segmentation' reaches from 0 to 99, far outside"),
        ({"segmentation": [[0, 0, 9, None, 9, 9]]}, r"'segmentation\[0\]\[3\]' is None"),
        ({"segmentation": [[0, 0, 30, 20] * 200]}, "outline that is longer than 5000 pixels"),
        ({"segmentation": [1, [0, 0, 9, 0, 9, 9]]}, "mixes numbers and polygons"),
        ({"segmentation": {"size": [10**6, 10**6], "counts": "1"}}, "size"),
        ({"segmentation": {"size": [30, 20], "counts": [600]}}, r"has the size \[30, 20\].*its image \[20, 30\]"),
        ({"segmentation": {"size": [20, 30], "counts": [599]}}, "counts of 599 pixels, its image 600"),
        ({"segmentation": {"size": [20, 30], "counts": "ooo"}}, "counts that are no run lengths"),
    ],
)
def test_masks_and_boxes_that_cannot_be(tmp_path, annotation, say):
    with pytest.raises(InputError, match=say) as caught:
        load_instances(*write(tmp_path, [{"image_id": 1, "category_id": 7, **annotation}]))
    assert "instances.json" in str(caught.value) and "\n" not in str(caught.value)


def test_a_mask_needs_the_size_of_its_image(tmp_path):
    polygon = {"image_id": 1, "category_id": 7, "segmentation": [[0, 0, 9, 0, 9, 9]]}
    json_file, images, *rest = write(tmp_path, [polygon])
    content = json.loads(json_file.read_text())
    del content["images"][1]["height"]
    json_file.write_text(json.dumps(content))
    with pytest.raises(InputError, match="annotation 1: 'segmentation' needs 'height' and 'width' of image 1"):
        load_instances(json_file, images, *rest)


def test_a_flat_polygon_and_null_are_understood(tmp_path):
    flat = {"image_id": 1, "category_id": 7, "segmentation": [0, 0, 9, 0, 9, 9], "iscrowd": None, "area": None}
    records, *_ = load_instances(*write(tmp_path, [flat, {**flat, "segmentation": None}]))
    first, second = records[1]["annotations"]
    assert first["segmentation"] == [[0, 0, 9, 0, 9, 9]] and first["iscrowd"] == 0 and "area" not in first
    assert "segmentation" not in second


def test_boxes_without_area_or_outside_are_left_out_and_counted(tmp_path, caplog):
    boxes = [[10, 10, 0, -24], [30, 0, 5, 5], [-5, 0, 5, 5], [-5, 0, 6, 5], [29, 19, 50, 50]]
    records, *_ = load_instances(*write(tmp_path, [{"image_id": 1, "category_id": 7, "bbox": box} for box in boxes]))
    assert [x["bbox"] for x in records[1]["annotations"]] == boxes[3:]
    assert "left out 3 of 5 annotations" in caplog.text and "such as 1: [10.0, 10.0, 0.0, -24.0]" in caplog.text


def test_keys_that_others_refer_to_are_unique(tmp_path):
    json_file, photos = write(tmp_path, [])
    content = json.loads(json_file.read_text())
    for field, entry, say in [
        ("images", {"id": 1, "file_name": "b.jpg"}, r"image id 1 is given twice, to '1\.jpg' and 'b\.jpg'"),
        ("categories", {"id": 7, "name": "owl"}, "category id 7 is given twice, to 'dog' and 'owl'"),
        ("categories", {"id": 8, "name": "dog"}, "categories 7 and 8 are both called 'dog'"),
        ("categories", {"id": 8, "name": " Dog"}, r"categories 7 \('dog'\) and 8 \(' Dog'\) are both the class"),
        ("categories", {"id": 8, "name": 8}, r"categories\[3\] \(id 8\): 'name' is 8: expected str"),
    ]:
        json_file.write_text(json.dumps({**content, field: [*content[field], entry]}))
        with pytest.raises(InputError, match=say):
            load_instances(json_file, photos)


@pytest.mark.parametrize("name", ["/etc/passwd", "../1.jpg", "a\\..\\..\\1.jpg", "", "a/..", "1.jpg\n"])
def test_names_of_files_outside_the_folder_are_refused(tmp_path, name):
    json_file, photos = write(tmp_path, [])
    json_file.write_text(json_file.read_text().replace('"1.jpg"', json.dumps(name)))
    with pytest.raises(InputError, match=r"image 1 has .*'file_name'"):
        load_instances(json_file, photos)


def test_windows_separators_and_marks_are_understood(tmp_path):
    json_file, photos = write(tmp_path, [{"image_id": 1, "category_id": 7}])
    text = json_file.read_text().replace('"1.jpg"', '"a\\\\b\\\\1.jpg"')
    json_file.write_text(text, encoding="utf-8-sig")
    records, *_ = load_instances(json_file, photos)
    assert records[1]["file_name"] == str(photos / "a/b/1.jpg")
    json_file.write_text(text, encoding="utf-16")
    with pytest.raises(InputError, match=r"instances\.json: is no json in UTF-8"):
        load_instances(json_file, photos)


def test_the_supercategory_of_others_is_no_class(tmp_path, caplog):
    pets = [{**category, "supercategory": "pets"} for category in CATEGORIES]
    categories = [{"id": 0, "name": "pets", "supercategory": "none"}, *pets]
    _, index, found = load_instances(*write(tmp_path, [{"image_id": 1, "category_id": 7}], categories))
    assert found == ["wine glass", "cat", "dog"] and set(index) == {3, 5, 7} and "left out ['pets']" in caplog.text
    *_, found = load_instances(*write(tmp_path, [{"image_id": 1, "category_id": 0}], categories))
    assert found == ["pets", "wine glass", "cat", "dog"]
    *_, found = load_instances(*write(tmp_path, [], categories), [["Pets"], *CLASSES])
    assert found[0] == "Pets"


def test_missing_files(tmp_path):
    json_file, photos = write(tmp_path, [])
    for arguments in [(tmp_path / "no.json", photos), (json_file, tmp_path / "no")]:
        with pytest.raises(InputError, match=r"no.*DETECTRON2_DATASETS"):
            load_instances(*arguments)


def test_registered_in_one_line_and_read_when_used(tmp_path, fresh_catalog):
    register_instances("mine", tmp_path / "instances.json", tmp_path / "photos", ["cat", "wine glass", "dog"])
    register_instances("theirs", tmp_path / "instances.json", tmp_path / "photos", training=True, novel=["cat"])
    assert MetadataCatalog.get("mine").thing_classes == ["cat", "wine glass", "dog"]
    with pytest.raises(InputError):
        get_dataset("mine")
    write(tmp_path, [{"image_id": 1, "category_id": 7}])
    assert [len(get_dataset(name)) for name in ("mine", "theirs", "mine")] == [3, 1, 3]
    meta = MetadataCatalog.get("theirs")
    assert meta.thing_classes == ["wine glass", "cat", "dog"] and meta.novel_classes == ["cat"]
    assert meta.thing_dataset_id_to_contiguous_id == {3: 0, 5: 1, 7: 2}
    assert meta.evaluator_type == "coco" and meta.json_file == str(tmp_path / "instances.json")
    assert "novel_classes" not in MetadataCatalog.get("mine").as_dict()
    with pytest.raises(InputError, match="twice"):
        register_instances("twice", tmp_path / "instances.json", tmp_path / "photos", ["cat", "cat"])


def test_missing_files_of_detectron2s_own_data_sets(tmp_path, monkeypatch):
    load = lambda: load_lvis_json(str(tmp_path / "no.json"), "coco/", "lvis_v1_val")  # noqa: E731
    monkeypatch.setitem(DatasetCatalog.data, "lvis_v1_val", load)
    with pytest.raises(InputError, match=r"lvis_v1_val.*no\.json.*DETECTRON2_DATASETS"):
        get_dataset("lvis_v1_val")


def test_real_coco_equals_detectron2s(assets, fresh_catalog):
    json_file, images = assets / "data/coco/annotations/instances_val2017.json", assets / "data/coco/val2017"
    names80 = [c["name"] for c in COCO_CATEGORIES if c["isthing"]]
    records, index, _ = load_instances(json_file, images, [(name,) for name in names80])
    expected = load_coco_json(str(json_file), str(images), "test_coco_val")
    assert index == MetadataCatalog.get("test_coco_val").thing_dataset_id_to_contiguous_id
    assert len(records) == len(expected) == 681
    by_id = {r["image_id"]: r for r in records}
    keys = ("bbox", "bbox_mode", "category_id", "iscrowd", "segmentation")
    for record in expected:
        ours = by_id[record["image_id"]]
        assert ours["file_name"] == record["file_name"]
        assert [[x[k] for k in keys] for x in ours["annotations"]] == [
            [x[k] for k in keys] for x in record["annotations"]
        ]


def test_real_lvis_equals_detectron2s(assets, fresh_catalog):
    json_file, images = assets / "data/lvis/lvis_v1_mapped_val_subset.json", assets / "data/coco"
    records, _, found = load_instances(json_file, images, LVIS)
    expected = load_lvis_json(str(json_file), f"{images}/", "lvis_v1_test")
    assert found == MetadataCatalog.get("lvis_v1_test").thing_classes
    by_id = {r["image_id"]: r for r in records}
    keys = ("bbox", "bbox_mode", "category_id", "segmentation")
    assert len(records) == len(expected) == 65
    for record in expected:
        ours = by_id[record["image_id"]]
        for key in ("file_name", "height", "width", "neg_category_ids", "not_exhaustive_category_ids"):
            assert ours[key] == record[key]
        assert [[x[k] for k in keys] for x in ours["annotations"]] == [
            [x[k] for k in keys] for x in record["annotations"]
        ]
