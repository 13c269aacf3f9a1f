"""Pascal VOC against Detectron2's loader, and what is wrong with its files."""

import pytest
from detectron2.data import MetadataCatalog
from detectron2.data.datasets.pascal_voc import CLASS_NAMES, load_voc_instances

from clipself_d2.data import get_dataset
from clipself_d2.data.builtin import register_builtin
from clipself_d2.data.classes import (
    VOC,
)
from clipself_d2.data.instances import load_voc
from clipself_d2.errors import InputError

VOC_XML = """<annotation><filename>{name}.jpg</filename>
<size><width>50</width><height>40</height><depth>3</depth></size>
<object><name>diningtable</name><difficult>0</difficult>
  <bndbox><xmin>1</xmin><ymin>2</ymin><xmax>30</xmax><ymax>40</ymax></bndbox>
  <part><name>head</name><bndbox><xmin>9</xmin><ymin>9</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></part></object>
<object><bndbox><xmax>20</xmax><xmin>10</xmin><ymax>22</ymax><ymin>12</ymin></bndbox>
  <name>tvmonitor</name><difficult>1</difficult></object></annotation>"""


def write_voc(folder, numbers=("000012",)):
    for part in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    (folder / "ImageSets/Main/test.txt").write_text("".join(f"{name}\n" for name in numbers))
    for name in numbers:
        (folder / f"Annotations/{name}.xml").write_text(VOC_XML.format(name=name))


def test_voc_equals_detectron2s_and_tells_the_difficult(tmp_path):
    write_voc(tmp_path, ["000012", "000034"])
    records = load_voc(tmp_path, "test", VOC)
    assert [r["image_id"] for r in records] == [12, 34]
    for record, expected in zip(records, load_voc_instances(str(tmp_path), "test", CLASS_NAMES), strict=True):
        assert all(record[key] == expected[key] for key in ("file_name", "height", "width"))
        assert [x.pop("iscrowd") for x in record["annotations"]] == [0, 1]
        assert record["annotations"] == expected["annotations"]
        assert record["annotations"][0]["bbox"] == [0, 1, 30, 40]


@pytest.mark.parametrize(
    ("old", "new", "say"),
    [("tvmonitor", "tv", "class 'tv'"), ("</annotation>", "", "Pascal VOC"), ("<xmin>10</xmin>", "", "Pascal VOC")],
)
def test_bad_voc(tmp_path, old, new, say):
    write_voc(tmp_path)
    path = tmp_path / "Annotations/000012.xml"
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(InputError, match=rf"000012\.xml.*{say}") as caught:
        load_voc(tmp_path, "test", VOC)
    assert "\n" not in str(caught.value)


def test_voc_without_its_parts(tmp_path):
    with pytest.raises(InputError, match="DETECTRON2_DATASETS"):
        load_voc(tmp_path / "no", "test", VOC)
    write_voc(tmp_path)
    with pytest.raises(InputError, match=r"train\.txt"):
        load_voc(tmp_path, "train", VOC)
    (tmp_path / "Annotations/000012.xml").unlink()
    with pytest.raises(InputError, match=r"000012\.xml"):
        load_voc(tmp_path, "test", VOC)


def test_voc_registered(tmp_path, fresh_catalog):
    write_voc(tmp_path / "VOC2007")
    register_builtin(tmp_path)
    [record] = get_dataset("voc_2007_test")
    classes = MetadataCatalog.get("voc_2007_test").thing_classes
    assert [classes[x["category_id"]] for x in record["annotations"]] == ["dining table", "tv monitor"]
