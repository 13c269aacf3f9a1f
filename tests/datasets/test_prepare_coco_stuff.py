"""COCO-Stuff's pixel maps: their conversion to labels of 171 classes."""

import numpy as np
import pytest
from PIL import Image

from clipself_d2.errors import InputError
from clipself_d2.vocabulary import label_set
from tests.tools.loading import load_tool

tool = load_tool("prepare_coco_stuff", "datasets")


def test_pixel_maps_become_labels():
    """COCO's ids less one: person is 0, toothbrush 89, banner 91, wood 181; 11 is unused (street sign)."""
    labels = tool.stuff_labels(np.array([[0, 89, 91], [181, 255, 12]]), "a.png")
    assert labels.tolist() == [[0, 79, 80], [170, 255, 11]]
    assert len(tool.CLASS_IDS) == 171 == len(label_set("coco_stuff_171"))
    names = [synonyms[0] for synonyms in label_set("coco_stuff_171")]
    assert (names[0], names[79], names[80], names[170]) == ("person", "toothbrush", "banner", "wood")
    assert names[tool.CLASS_IDS.index(172)] == "concrete wall"
    things, stuff = label_set("coco_panoptic")[:80], {synonyms[0] for synonyms in label_set("coco_panoptic")[80:]}
    assert label_set("coco_stuff_171")[:80] == things and stuff <= set(names[80:])


@pytest.mark.parametrize("value", [11, 90, 182, 254, 300])
def test_an_id_that_is_no_class_is_refused(value):
    with pytest.raises(InputError, match=rf"b\.png: holds {value}, which is no class of COCO-Stuff"):
        tool.stuff_labels(np.array([[0, value]]), "b.png")


def test_coco_stuff_is_prepared_and_read(tmp_path):
    for folder in ("stuffthingmaps/val2017", "val2017"):
        (tmp_path / folder).mkdir(parents=True)
    Image.fromarray(np.array([[0, 181], [255, 91]], dtype=np.uint8)).save(tmp_path / "stuffthingmaps/val2017/1.png")
    Image.new("RGB", (2, 2)).save(tmp_path / "val2017/1.jpg")
    (tmp_path / "coco").symlink_to(tmp_path)
    assert tool.main(["--root", str(tmp_path), "--splits", "val"]) == 0
    written = Image.open(tmp_path / "stuffthingmaps_detectron2/val2017/1.png")
    assert np.asarray(written).tolist() == [[0, 170], [255, 80]]
    with pytest.raises(InputError, match="train2017"):
        tool.prepare_coco_stuff(tmp_path, "train")
    assert tool.main(["--root", str(tmp_path)]) == 2
