import json
import runpy
from pathlib import Path

import pytest

from clipself_d2.data.classes import OV_COCO, names
from clipself_d2.data.splits import OUTPUTS, SOURCES

main = runpy.run_path(str(Path(__file__).parents[2] / "tools/make_splits.py"))["main"]


def write_coco(root, split="train"):
    content = {
        "info": {"description": "é"},
        "licenses": [],
        "images": [{"id": 1, "file_name": "1.jpg"}, {"id": 2, "file_name": "2.jpg"}],
        "annotations": [{"id": 4, "image_id": 2, "category_id": 1, "bbox": [0.1, 2.33, 3, 1e-3]}],
        "categories": [{"id": i, "name": name} for i, name in enumerate(names(OV_COCO), 1)],
    }
    path = root / SOURCES[f"ov_coco_{split}"]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return content


def test_writes_what_is_possible_and_tells_the_counts(tmp_path, capsys):
    content = write_coco(tmp_path)
    assert main(["--root", str(tmp_path)]) == 0
    written = json.loads((tmp_path / OUTPUTS["ov_coco_train"]).read_text())
    assert written == {**content, "images": content["images"][1:]}
    assert [p.name for p in (tmp_path / "coco/zero-shot").iterdir()] == ["instances_train2017_seen_2_65_cat.json"]
    said = capsys.readouterr()
    assert "1 of 2 images" in said.out and "1 of 1 annotations" in said.out and not said.err


def test_takes_the_folder_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    write_coco(tmp_path, "val")
    assert main(["ov_coco_val"]) == 0
    assert (tmp_path / OUTPUTS["ov_coco_val"]).is_file()


@pytest.mark.parametrize(
    ("arguments", "say"),
    [
        ([], "instances_train2017.json"),
        (["ov_lvis_train"], "lvis_v1_train.json"),
        (["lvis"], "unknown split 'lvis'"),
        (["--colour"], "--colour"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(tmp_path, capsys, arguments, say):
    assert main([*arguments, "--root", str(tmp_path)]) == 2
    said = capsys.readouterr()
    assert say in said.err and said.err.count("\n") == 1 and not said.out


@pytest.mark.parametrize("content", ["{", "[]", '{"images": []}'])
def test_damaged_files_leave_nothing(tmp_path, capsys, content):
    write_coco(tmp_path)
    (tmp_path / SOURCES["ov_coco_train"]).write_text(content)
    assert main(["ov_coco_train", "--root", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "instances_train2017.json" in said and said.count("\n") == 1
    assert not (tmp_path / "coco/zero-shot").exists()


def test_a_folder_that_cannot_be_written(tmp_path, capsys):
    write_coco(tmp_path)
    (tmp_path / "coco/zero-shot").touch()
    assert main(["ov_coco_train", "--root", str(tmp_path)]) == 2
    assert "zero-shot" in capsys.readouterr().err


def test_help_names_the_files(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    said = capsys.readouterr().out
    assert all(path in said for path in [*SOURCES.values(), *OUTPUTS.values()])
