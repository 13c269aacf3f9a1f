import json

import pytest
from detectron2.data import MetadataCatalog

from clipself_d2.data import DetectionMapper, build_test_loader, build_train_loader, get_dataset
from clipself_d2.data.builtin import register_builtin
from clipself_d2.data.classes import LVIS, OV_COCO, OV_COCO_BASE, OV_COCO_NOVEL, names
from clipself_d2.data.detection import ImageMapper
from clipself_d2.errors import InputError
from tests.tools.loading import load_tool

tool = load_tool("prepare_splits", "datasets")

NAMES = [*OV_COCO_BASE, *OV_COCO_NOVEL, "wine glass"]
BASE, NOVEL, UNUSED = 1, 49, 66  # category ids: NAMES counted from 1


def coco(*annotations, images=5):
    return {
        "info": {"year": 2017},
        "images": [{"id": i, "file_name": f"{i}.jpg"} for i in range(images)],
        "annotations": [
            {"id": n, "image_id": i, "category_id": c, "bbox": [0, 0, 1, 1], "iscrowd": crowd}
            for n, (i, c, crowd) in enumerate(annotations, 1)
        ],
        "categories": [{"id": i, "name": name} for i, name in enumerate(NAMES, 1)],
    }


CONTENT = coco((0, BASE, 0), (0, NOVEL, 0), (1, NOVEL, 0), (2, UNUSED, 0), (3, BASE + 7, 1))


def test_ov_coco_train_has_base_annotations_and_their_images():
    made = tool.make_split("ov_coco_train", "a.json", CONTENT)
    assert [a["id"] for a in made["annotations"]] == [1, 5]  # a crowd counts, as in OVR-CNN's files
    assert [image["id"] for image in made["images"]] == [0, 3]
    assert [c["name"] for c in made["categories"]] == NAMES[:65] and made["info"] == {"year": 2017}


def test_ov_coco_val_has_all_but_the_unused():
    made = tool.make_split("ov_coco_val", "a.json", CONTENT)
    assert [a["id"] for a in made["annotations"]] == [1, 2, 3, 5]
    assert [image["id"] for image in made["images"]] == [0, 1, 3]
    assert len(made["categories"]) == 65


def lvis(*annotations):
    letters = ["r"] * 337 + ["c"] * 461 + ["f"] * 405
    return {
        "images": [{"id": i} for i in range(4)],
        "annotations": [
            {"id": n, "image_id": i, "category_id": c, "bbox": [0, 0, 9, 9]} for n, (i, c) in enumerate(annotations, 1)
        ],
        "categories": [{"id": i, "name": f"class {i}", "frequency": f} for i, f in enumerate(letters, 1)],
    }


def test_ov_lvis_loses_rare_annotations_and_nothing_else():
    content = lvis((0, 1), (0, 400), (1, 337), (2, 338), (2, 1203))
    made = tool.make_split("ov_lvis_train", "a.json", content)
    assert [a["id"] for a in made["annotations"]] == [2, 4, 5]
    assert made["images"] == content["images"] and made["categories"] == content["categories"]


@pytest.mark.parametrize("name", tool.SOURCES)
def test_the_whole_official_data_set_must_give_the_known_number(name, monkeypatch):
    content = lvis((0, 400)) if name == "ov_lvis_train" else CONTENT
    made = len(tool.make_split(name, "a.json", content)["images"])
    official = len(content["images"])
    monkeypatch.setitem(tool._IMAGES, name, (official, made))
    tool.make_split(name, "a.json", content)
    monkeypatch.setitem(tool._IMAGES, name, (official, made + 1))
    with pytest.raises(InputError, match=rf"a\.json: gives {made} images where {name} has {made + 1}"):
        tool.make_split(name, "a.json", content)
    monkeypatch.setitem(tool._IMAGES, name, (official + 1, made + 1))  # a part of it
    tool.make_split(name, "a.json", content)


def test_the_known_numbers():
    assert tool._IMAGES == {
        "ov_coco_train": (118287, 107761),
        "ov_coco_val": (5000, 4836),
        "ov_lvis_train": (100170, 100170),
    }


@pytest.mark.parametrize(
    ("name", "change", "say"),
    [
        ("ov_coco_train", lambda c: c.pop("annotations"), "'annotations'"),
        ("ov_coco_train", lambda c: c["annotations"][0].pop("category_id"), "'category_id'"),
        ("ov_coco_val", lambda c: c["categories"].pop(0), r"lack \['person'\]"),
        ("ov_lvis_train", lambda c: None, "frequency"),
    ],
)
def test_bad_sources(name, change, say):
    content = json.loads(json.dumps(CONTENT))
    change(content)
    with pytest.raises(InputError, match=rf"a\.json.*{say}") as caught:
        tool.make_split(name, "a.json", content)
    assert "\n" not in str(caught.value)


@pytest.fixture
def real(assets, tmp_path, fresh_catalog):
    """The splits of the real images at hand, registered."""
    for source, link in [
        ("coco/annotations", "coco/annotations"),
        ("coco/train2017", "coco/train2017"),
        ("coco/val2017", "coco/val2017"),
        ("lvis/lvis_v1_mapped_val_subset.json", "lvis/lvis_v1_train.json"),
    ]:
        (tmp_path / link).parent.mkdir(exist_ok=True)
        (tmp_path / link).symlink_to(assets / "data" / source)
    for name, source in tool.SOURCES.items():
        made = tool.make_split(name, source, json.loads((tmp_path / source).read_text()))
        (tmp_path / tool.OUTPUTS[name]).parent.mkdir(exist_ok=True)
        (tmp_path / tool.OUTPUTS[name]).write_text(json.dumps(made))
    register_builtin(tmp_path)
    return tmp_path


@pytest.mark.parametrize("split", ["train", "val"])
def test_real_ov_coco_equals_a_loop(real, split):
    content = json.loads((real / f"coco/annotations/instances_{split}2017.json").read_text())
    wanted = OV_COCO_BASE if split == "train" else OV_COCO_BASE + OV_COCO_NOVEL
    called = {c["id"]: c["name"] for c in content["categories"]}
    expected = {}
    for image in content["images"]:
        boxes = []
        for annotation in content["annotations"]:
            name = called[annotation["category_id"]]
            if annotation["image_id"] == image["id"] and name in wanted:
                boxes.append((name, annotation["bbox"], annotation["iscrowd"]))
        if boxes and (split == "val" or not all(crowd for *_, crowd in boxes)):
            expected[image["id"]] = boxes
    records = get_dataset(f"ov_coco_{split}")
    classes = MetadataCatalog.get(f"ov_coco_{split}").thing_classes
    assert {
        r["image_id"]: [(classes[x["category_id"]], x["bbox"], x["iscrowd"]) for x in r["annotations"]] for r in records
    } == expected
    assert len(records) == {"train": 435, "val": 663}[split]


def test_real_ov_lvis(real):
    content = json.loads((real / "lvis/lvis_v1_train.json").read_text())
    rare = {c["id"] for c in content["categories"] if c["frequency"] == "r"}
    count = sum(a["category_id"] not in rare for a in content["annotations"])
    records = get_dataset("ov_lvis_train")
    assert sum(len(r["annotations"]) for r in records) == count > 600
    assert MetadataCatalog.get("ov_lvis_train").thing_dataset_id_to_contiguous_id == {i: i - 1 for i in range(1, 1204)}
    assert MetadataCatalog.get("ov_lvis_train").thing_classes[:2] == [LVIS[0][0], LVIS[1][0]]


@pytest.mark.parametrize(("name", "masks"), [("ov_coco_train", False), ("ov_lvis_train", True)])
def test_real_images_make_samples(real, name, masks):
    loader = build_train_loader(name, DetectionMapper(160, masks=masks), 16, 0, 0)
    batch = next(iter(loader))
    assert len(batch) == 16 and loader.num_unreadable == 0
    novel = MetadataCatalog.get(name).novel_classes
    classes = MetadataCatalog.get(name).thing_classes
    for sample in batch:
        found = sample["instances"]
        assert len(found) and max(sample["image"].shape[1:]) <= 160
        assert not {classes[i] for i in found.gt_classes} & set(novel)
        if masks:
            boxes = found.gt_masks.get_bounding_boxes().tensor
            assert (boxes == found.gt_boxes.tensor).all()


def test_real_images_are_read_for_evaluation(real):
    [[sample]] = [batch for batch, _ in zip(build_test_loader("ov_coco_val", ImageMapper(), 0), range(1), strict=False)]
    assert sample["image"].shape[1:] == (sample["height"], sample["width"]) and "annotations" not in sample


def write_coco(root, split="train"):
    content = {
        "info": {"description": "é"},
        "licenses": [],
        "images": [{"id": 1, "file_name": "1.jpg"}, {"id": 2, "file_name": "2.jpg"}],
        "annotations": [{"id": 4, "image_id": 2, "category_id": 1, "bbox": [0.1, 2.33, 3, 1e-3]}],
        "categories": [{"id": i, "name": name} for i, name in enumerate(names(OV_COCO), 1)],
    }
    path = root / tool.SOURCES[f"ov_coco_{split}"]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return content


def test_writes_what_is_possible_and_tells_the_counts(tmp_path, capsys):
    content = write_coco(tmp_path)
    assert tool.main(["--root", str(tmp_path)]) == 0
    written = json.loads((tmp_path / tool.OUTPUTS["ov_coco_train"]).read_text())
    assert written == {**content, "images": content["images"][1:]}
    assert [p.name for p in (tmp_path / "coco/zero-shot").iterdir()] == ["instances_train2017_seen_2_65_cat.json"]
    said = capsys.readouterr()
    assert "1 of 2 images" in said.out and "1 of 1 annotations" in said.out and not said.err


def test_takes_the_folder_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    write_coco(tmp_path, "val")
    assert tool.main(["ov_coco_val"]) == 0
    assert (tmp_path / tool.OUTPUTS["ov_coco_val"]).is_file()


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
    assert tool.main([*arguments, "--root", str(tmp_path)]) == 2
    said = capsys.readouterr()
    assert say in said.err and said.err.count("\n") == 1 and not said.out


@pytest.mark.parametrize("content", ["{", "[]", '{"images": []}'])
def test_damaged_files_leave_nothing(tmp_path, capsys, content):
    write_coco(tmp_path)
    (tmp_path / tool.SOURCES["ov_coco_train"]).write_text(content)
    assert tool.main(["ov_coco_train", "--root", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "instances_train2017.json" in said and said.count("\n") == 1
    assert not (tmp_path / "coco/zero-shot").exists()


def test_a_folder_that_cannot_be_written(tmp_path, capsys):
    write_coco(tmp_path)
    (tmp_path / "coco/zero-shot").touch()
    assert tool.main(["ov_coco_train", "--root", str(tmp_path)]) == 2
    assert "zero-shot" in capsys.readouterr().err


def test_help_names_the_files(capsys):
    with pytest.raises(SystemExit) as caught:
        tool.main(["--help"])
    assert caught.value.code == 0
    said = capsys.readouterr().out
    assert all(path in said for path in [*tool.SOURCES.values(), *tool.OUTPUTS.values()])
