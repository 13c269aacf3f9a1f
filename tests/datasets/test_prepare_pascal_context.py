"""Pascal Context, from what is downloaded to a perfect evaluation of the ground truth."""

import numpy as np
import pytest
from scipy.io import savemat

from clipself_d2.data.builtin import register_builtin
from clipself_d2.errors import InputError
from clipself_d2.vocabulary import label_set
from tests.datasets.test_prepare_ade20k import judged, write
from tests.evaluation.scenes import all_100
from tests.tools.loading import load_tool

tool = load_tool("prepare_pascal_context", "datasets")


def test_pascal_context(tmp_path, fresh_catalog):
    label_map = np.array([[0, 1, 2, 459], [284, 420, 415, 427]], dtype=np.uint16)
    of_459, of_59 = tool.context_labels(label_map, "x")
    assert of_459.tolist() == [[65535, 0, 1, 458], [283, 419, 414, 426]]
    names = [None if k == 255 else label_set("pascal_context_59")[k][0] for k in of_59.ravel()]
    assert names == [None, None, "aeroplane", None, "person", "tree", "track", "tv monitor"]
    with pytest.raises(InputError, match=r"x: has label 460"):
        tool.context_labels(label_map + np.uint16(1), "x")

    root = tmp_path / "VOCdevkit/VOC2010"
    with pytest.raises(InputError, match=r"val.txt: there is no such list"):
        tool.prepare_pascal_context(root, "val")
    write(root / "JPEGImages/2008_000002.jpg", np.zeros((2, 4, 3), dtype=np.uint8))
    (root / "ImageSets/Main").mkdir(parents=True)
    (root / "ImageSets/Main/val.txt").write_text("2008_000001\n2008_000002\n")
    (root / "trainval").mkdir()
    with pytest.raises(InputError, match=r"no \.mat"):
        tool.prepare_pascal_context(root, "val")
    savemat(root / "trainval/2008_000002.mat", {"LabelMap": label_map})
    assert tool.prepare_pascal_context(root, "val") == 1
    register_builtin(tmp_path)
    all_100(judged("pascal_context_59_val_sem_seg", 59), ["sem_seg"])
    all_100(judged("pascal_context_459_val_sem_seg", 459), ["sem_seg"])
    savemat(root / "trainval/2008_000002.mat", {"Other": label_map})
    with pytest.raises(InputError, match="no LabelMap"):
        tool.prepare_pascal_context(root, "val")


def test_the_command(tmp_path, capsys):
    assert tool.main(["--root", str(tmp_path), "--splits", "val"]) == 2
    assert "val.txt: there is no such list" in capsys.readouterr().err
    assert tool.main(["--splits", "test"]) == 2
