"""The classes of the data sets, and the names by which annotation files call them."""

import json
import random

import pytest
from detectron2.data import MetadataCatalog
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from detectron2.data.datasets.pascal_voc import CLASS_NAMES

from clipself_d2.data import get_dataset
from clipself_d2.data.builtin import register_builtin
from clipself_d2.data.classes import (
    LVIS,
    LVIS_RARE,
    OBJECTS365_V1,
    OBJECTS365_V2,
    OV_COCO,
    OV_COCO_BASE,
    OV_COCO_NOVEL,
    VOC,
    names,
)
from clipself_d2.data.instances import fold
from clipself_d2.errors import InputError

CATEGORIES = [{"id": 7, "name": "dog"}, {"id": 3, "name": "wine glass"}, {"id": 5, "name": "cat"}]
CLASSES = [["cat"], ["Wine Glass", "wineglass"], ["dog", "hound"]]


def test_class_lists():
    coco = [c["name"] for c in COCO_CATEGORIES if c["isthing"]]
    unused = {"traffic light", "fire hydrant", "stop sign", "parking meter", "sports ball", "baseball bat"}
    unused |= {"baseball glove", "tennis racket", "wine glass", "hot dog", "potted plant", "dining table"}
    unused |= {"cell phone", "teddy bear", "hair drier"}
    assert (len(OV_COCO_BASE), len(OV_COCO_NOVEL), len(OV_COCO)) == (48, 17, 65)
    assert set(OV_COCO_BASE).isdisjoint(OV_COCO_NOVEL)
    assert names(OV_COCO) == [name for name in coco if name not in unused]
    assert len(LVIS) == 1203 and len(LVIS_RARE) == 337 and set(LVIS_RARE) < set(names(LVIS))
    assert len(VOC) == 20 and [fold(c[-1]) for c in VOC] == list(CLASS_NAMES)
    assert len(OBJECTS365_V1) == len(OBJECTS365_V2) == 365
    for classes in (OV_COCO, LVIS, VOC, OBJECTS365_V1, OBJECTS365_V2):
        spellings = [fold(name) for class_ in classes for name in class_]
        assert len(set(spellings)) == len(spellings)


# Category names as the published files have them, with blanks and mistakes, and the class that each is.
OFFICIAL = {
    "v1": {
        "tissue ": "tissue",
        "hamimelon": "hami melon",
        "cabinet/shelf": "cabinet / shelf",
        "trash bin/can": "trash bin / can",
        "CD": "CD",
    },
    "v2": {
        "Moniter/TV": "Monitor / TV",
        "Bakset": "Basket",
        "Ballon": "Balloon",
        "Dinning Table": "Dining Table",
        "Tea pot": "Teapot",
        "Extention Cord": "Extension Cord",
        "Hotair ballon": "Hot air balloon",
        "Hamimelon": "Hami melon",
        "Mushroon": "Mushroom",
        "Tape Measur/ Ruler": "Tape Measure / Ruler",
        "Tape Measure/ Ruler": "Tape Measure / Ruler",
        "Campel": "Camel",
        "Meat ball": "Meatball",
        "Buttefly": "Butterfly",
        "Table Teniis paddle": "Table Tennis paddle",
        "Formula 1 ": "Formula 1",
        "Table Tennis ": "Table Tennis",
        "Cigar/Cigarette ": "Cigar / Cigarette",
        "Billards": "Billiards",
        "Washing Machine/Drying Machine": "Washing Machine / Drying Machine",
    },
}


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_objects365_in_any_order_and_spelling(tmp_path, fresh_catalog, version):
    register_builtin(tmp_path)
    name = f"objects365_{version}_val"
    meta = MetadataCatalog.get(name)
    published = {**{c: c for c in meta.thing_classes}, **{right: wrong for wrong, right in OFFICIAL[version].items()}}
    categories = [{"id": i, "name": published[c]} for i, c in enumerate(meta.thing_classes, 1)]
    random.Random(0).shuffle(categories)
    for number, category in enumerate(categories):  # v1's ids are in another order than its classes
        category["id"] = number + 1
    annotations = [{"id": i, "image_id": 1, "category_id": i, "bbox": [0, 0, i, 1]} for i in range(1, 366)]
    image = {"id": 1, "file_name": "images/v1/patch0/a.jpg", "height": 9, "width": 9}
    for path in (meta.json_file, meta.image_root):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / meta.image_root).mkdir()
    content = {"images": [image], "annotations": annotations, "categories": categories}
    (tmp_path / meta.json_file).write_text(json.dumps(content))
    [record] = get_dataset(name)
    assert record["file_name"] == f"{meta.image_root}/images/v1/patch0/a.jpg"
    for annotation in record["annotations"]:
        written = categories[int(annotation["bbox"][2]) - 1]["name"]
        assert meta.thing_classes[annotation["category_id"]] == OFFICIAL[version].get(written, written)

    content["categories"][0]["name"] = "unicorn"
    (tmp_path / meta.json_file).write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"unknown classes \['unicorn'\] and missing classes \["):
        get_dataset(name)
