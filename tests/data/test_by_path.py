import json

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from clipself_d2.data import get_dataset
from clipself_d2.data.by_path import images_at, objects_at
from clipself_d2.data.catalog import check_registered, metadata_of
from clipself_d2.errors import InputError

CATEGORIES = [{"id": 3, "name": "dog"}, {"id": 9, "name": "hot dog"}]


@pytest.fixture
def folder(tmp_path, fresh_catalog):
    """Two images in a folder whose name has all that separates, and jsons that number their categories differently."""
    images = tmp_path / "my photos & more?=%/sub"
    images.mkdir(parents=True)
    for name in ("a.png", "b.png"):
        Image.new("RGB", (30, 20)).save(images / name)
    for file, categories in (("val", CATEGORIES), ("train", [{"id": 1, "name": "Hot Dog"}, {"id": 2, "name": "dog"}])):
        content = {
            "images": [{"id": i, "file_name": f"sub/{name}.png"} for i, name in enumerate("ab")],
            "categories": categories,
            "annotations": [
                {"id": k, "image_id": k, "category_id": c["id"], "bbox": [1, 2, 3, 4]} for k, c in enumerate(categories)
            ],
        }
        (tmp_path / f"{file}.json").write_text(json.dumps(content))
    return images.parent


def test_a_folder_is_a_data_set(folder, monkeypatch):
    monkeypatch.chdir(folder)
    name = images_at("..")
    assert not DatasetCatalog.list()
    assert [r["file_name"] for r in get_dataset(name)] == [str(folder / f"sub/{x}.png") for x in "ab"]
    monkeypatch.chdir(folder / "sub")  # the name has the whole path
    assert len(get_dataset([name, name])) == 4


def test_a_json_is_a_data_set(folder):
    val = folder.parent / "val.json"
    name = objects_at(val, folder, novel=["hot dog"])
    check_registered(name)
    assert metadata_of(name, "thing_classes").thing_classes == ["dog", "hot dog"]
    metadata = MetadataCatalog.get(name)
    assert metadata.novel_classes == ["hot dog"] and metadata.region_classes == ["dog", "hot dog"]
    assert metadata.region_isthing == [True, True]


def test_training_takes_the_classes_of_another_json(folder):
    train, val = folder.parent / "train.json", folder.parent / "val.json"
    name = objects_at(train, folder, classes_of=val, novel=["hot dog"], training=True)
    [record] = get_dataset(name)  # the image with the novel class alone is left out
    assert record["file_name"].endswith("b.png") and [a["category_id"] for a in record["annotations"]] == [0]
    assert MetadataCatalog.get(name).thing_classes == ["dog", "hot dog"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("images:/nowhere", "/nowhere"),
        ("objects:/nowhere.json?images=/tmp", "/nowhere.json"),
        ("objects:/nowhere.json", "is not registered"),
        ("nothing", "is not registered"),
    ],
)
def test_what_is_not_there_is_said(fresh_catalog, name, message):
    with pytest.raises(InputError, match=message):
        get_dataset(name)
