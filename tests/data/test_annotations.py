"""Jsons in COCO's format: image lists and panoptic segments."""

import json
from pathlib import Path

import pytest

from clipself_d2.data import load_image_list, load_panoptic
from clipself_d2.errors import InputError
from tests.data.make import panoptic, write_images


def test_image_list(tmp_path):
    json_file = write_images(tmp_path / "photos", 3)
    records = load_image_list(json_file, tmp_path / "photos")
    assert records[2] == {"file_name": str(tmp_path / "photos/2.png"), "image_id": 2, "height": 16, "width": 24}


def test_folder_alone(tmp_path):
    write_images(tmp_path / "photos", 2)
    (tmp_path / "photos/notes.txt").touch()
    (tmp_path / "photos/x.JPG").touch()
    records = load_image_list(None, tmp_path / "photos")
    assert [(r["image_id"], r["file_name"][-5:]) for r in records] == [(0, "0.png"), (1, "1.png"), (2, "x.JPG")]


def test_lvis_names_come_from_the_address(tmp_path):
    image = {"id": 4, "coco_url": "http://images.cocodataset.org/train2017/000000000004.jpg", "height": 5, "width": 6}
    (tmp_path / "lvis.json").write_text(json.dumps({"images": [image], "annotations": []}))
    [record] = load_image_list(tmp_path / "lvis.json", tmp_path)
    assert record["file_name"] == str(tmp_path / "train2017/000000000004.jpg")


@pytest.mark.parametrize(
    ("content", "say"),
    [
        ('{"annotations": []}', "images"),
        ("[1]", "got array"),
        ("{", "json"),
        ('{"images": []}', "no images"),
        ('{"images": [{"id": 1}]}', "file_name"),
        ('{"images": [{"file_name": "1.jpg"}]}', "'id'"),
        ('{"images": ["1.jpg"]}', "'1.jpg'"),
    ],
)
def test_bad_image_lists(tmp_path, content, say):
    (tmp_path / "bad.json").write_text(content)
    with pytest.raises(InputError, match=say) as caught:
        load_image_list(tmp_path / "bad.json", tmp_path)
    assert "bad.json" in str(caught.value) and "\n" not in str(caught.value)


def test_missing_parts_say_where_to_get_them(tmp_path):
    for arguments in [
        (tmp_path / "no.json", tmp_path),
        (None, tmp_path / "no"),
        (tmp_path / "no.json", tmp_path / "no"),
    ]:
        with pytest.raises(InputError, match=r"no.*DETECTRON2_DATASETS"):
            load_image_list(*arguments)


SEGMENTS = [({"id": 1000, "category_id": 9, "bbox": [0, 0, 80, 60]}, 0, 60, 0, 80)]


def test_panoptic_classes_are_in_the_order_of_ids(tmp_path):
    json_file, pngs, photos, _ = panoptic(tmp_path, SEGMENTS)
    [record], categories = load_panoptic(json_file, pngs, photos)
    assert [c["name"] for c in categories] == ["dog", "cat", "grass"]
    assert record["image_id"] == 7 and record["pan_seg_file_name"] == str(pngs / "7.png")
    [segment] = record["segments_info"]
    assert segment["category_id"] == 2 and segment["isthing"] is False


@pytest.mark.parametrize(
    ("change", "say"),
    [
        (lambda c: c.pop("images"), "images"),
        (lambda c: c.pop("categories"), "categories"),
        (lambda c: c.update(annotations=[]), "empty"),
        (lambda c: c["annotations"][0].update(image_id=8), "8"),
        (lambda c: c["annotations"][0].pop("segments_info"), "'segments_info'"),
        (lambda c: c["annotations"][0]["segments_info"][0].update(id=0), "segment id 0 means unlabeled"),
        (
            lambda c: c["annotations"][0]["segments_info"].append({"id": 1000, "category_id": 9}),
            "segment id 1000 is given",
        ),
        (lambda c: c["annotations"].append(c["annotations"][0]), "image id 7 is annotated twice"),
        (lambda c: c["annotations"][0].update(file_name="../7.png"), r"'\.\./7\.png'"),
        (lambda c: c["categories"][0].pop("isthing"), "'isthing'"),
        (lambda c: c["annotations"][0]["segments_info"][0].update(category_id=77), "77"),
    ],
)
def test_bad_panoptic_jsons(tmp_path, change, say):
    json_file, pngs, photos, _ = panoptic(tmp_path, SEGMENTS)
    content = json.loads(json_file.read_text())
    change(content)
    json_file.write_text(json.dumps(content))
    with pytest.raises(InputError, match=say):
        load_panoptic(json_file, pngs, photos)


def test_hidden_files_are_left_out_and_subfolders_searched(tmp_path):
    for name in ("a/7.png", "a/._7.png", ".thumbs/1.png", "b/7.jpg", "b/3.HEIC", "b/x.tif", ".DS_Store", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    records = load_image_list(None, tmp_path)
    names = [str(Path(record["file_name"]).relative_to(tmp_path)) for record in records]
    assert names == ["a/7.png", "b/3.HEIC", "b/7.jpg", "b/x.tif"]
    # 7 is the number of two files: they and the one without a number follow the largest that belongs to one.
    assert [record["image_id"] for record in records] == [4, 3, 5, 6]


def test_an_image_is_given_twice(tmp_path):
    json_file, pngs, photos, _ = panoptic(tmp_path, SEGMENTS)
    content = json.loads(json_file.read_text())
    json_file.write_text(json.dumps({**content, "images": [*content["images"], {"id": 7, "file_name": "x.jpg"}]}))
    for load in (lambda: load_image_list(json_file, photos), lambda: load_panoptic(json_file, pngs, photos)):
        with pytest.raises(InputError, match=r"image id 7 is given twice, to '7\.jpg' and 'x\.jpg'"):
            load()


def test_images_without_an_annotation_are_counted(tmp_path, caplog):
    json_file, pngs, photos, _ = panoptic(tmp_path, SEGMENTS)
    content = json.loads(json_file.read_text())
    content["images"].append({**content["images"][0], "id": 8, "file_name": "8.jpg"})
    json_file.write_text(json.dumps(content))
    records, _ = load_panoptic(json_file, pngs, photos)
    assert [record["image_id"] for record in records] == [7]
    assert "1 of 2 images have no annotation" in caplog.text
