"""The tool at the command line, on the miniature's scenes, and training on what it writes."""

import json
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from pycocotools.coco import COCO

from clipself_d2.cli.region_text import main
from clipself_d2.data import get_dataset
from clipself_d2.data.labeled_regions import LabeledRegions
from clipself_d2.engine.main import main as train_net
from clipself_d2.miniature import MODEL, dataset, registration

ROOT = Path(__file__).parents[2]


@pytest.fixture
def world(tmp_path, monkeypatch):
    """OV-Shapes of 4 scenes, the boxes of its things as proposals; the folder."""
    monkeypatch.setattr(DatasetCatalog, "data", dict(DatasetCatalog.data))
    monkeypatch.setattr(MetadataCatalog, "data", dict(MetadataCatalog.data))
    monkeypatch.setattr(dataset, "SPLITS", {"train": 4, "val": 3})
    monkeypatch.setenv("CLIPSELF_D2_CACHE", str(tmp_path / "cache"))
    registration.register_ov_shapes(tmp_path)
    get_dataset("ov_shapes_train_images")
    content = json.loads((folder(tmp_path) / "instances_train.json").read_text())
    (tmp_path / "proposals.json").write_text(json.dumps({k: content[k] for k in ("images", "annotations")}))
    return tmp_path


def folder(world) -> Path:
    return world / f"ov_shapes_{dataset.VERSION}/annotations"


def run(world, *more, output="pairs.json") -> int:
    arguments = ["--proposals", str(world / "proposals.json"), "--dataset", "ov_shapes_train_images"]
    arguments += ["--clip", MODEL, "--pretrained", "null", "--output", str(world / output)]
    return main([*arguments, "--num-workers", "0", "--device", "cpu", *more])


def captions(world):
    return json.loads((folder(world) / "captions_train.json").read_text())


def test_pairs_are_of_the_images_own_captions(world, capsys):
    assert run(world) == 0
    coco = COCO(str(world / "pairs.json"))
    proposals = json.loads((world / "proposals.json").read_text())["annotations"]
    assert len(coco.anns) == len(proposals)
    for caption in captions(world)["annotations"]:
        image = caption["image_id"]
        pairs = coco.loadAnns(coco.getAnnIds(imgIds=[image]))
        assert [pair["bbox"] for pair in pairs] == [a["bbox"] for a in proposals if a["image_id"] == image]
        for pair in pairs:
            assert f"a {coco.cats[pair['category_id']]['name']}" in caption["caption"].split(", ")
            assert -1 <= pair["score"] <= 1
    named = {phrase for caption in captions(world)["annotations"] for phrase in caption["caption"].split(", ")}
    assert {f"a {c['name']}" for c in coco.cats.values()} == named
    out = capsys.readouterr().out
    assert f"wrote {len(proposals)} pairs of 4 images" in out
    assert f"of {len(named)} nouns are paired" in out and "left out" not in out


def test_training_on_them(world):
    assert run(world, "--top", "5") == 0
    options = ["clip.pretrained=null", f"dataloader.train.mapper.regions.json_file={world}/pairs.json"]
    options += ["dataloader.train.total_batch_size=2", "dataloader.train.num_workers=0", "train.max_iter=2"]
    options += [
        "lr_multiplier.warmup_iters=1",
        "train.device=cpu",
        "train.log_period=1",
        f"train.output_dir={world}/run",
    ]
    assert train_net(["--config-file", str(ROOT / "configs/miniature/region_text.py"), *options]) == 0
    lines = [json.loads(line) for line in (world / "run/metrics.json").read_text().splitlines()]
    assert all(line["loss_region_text"] > 0 for line in lines if "loss_region_text" in line)
    assert set(json.loads((world / "run/results.json").read_text())) == {"boxes", "thing_masks", "stuff_masks", "crops"}
    card = json.loads((world / "run/tower.json").read_text())
    assert (card["alpha"], card["student_size"], card["steps"]) == (0.95, 128, 2)


def test_images_that_lack_something_are_counted(world, capsys):
    content = captions(world)
    _, second, third, _ = content["annotations"]
    second["caption"] = "nothing to be seen"
    (world / "some.json").write_text(json.dumps({**content, "annotations": content["annotations"][1:]}))
    proposals = json.loads((world / "proposals.json").read_text())
    proposals["annotations"] = [a for a in proposals["annotations"] if a["image_id"] != third["image_id"]]
    (world / "proposals.json").write_text(json.dumps(proposals))
    assert run(world, "--captions", str(world / "some.json")) == 0
    out = capsys.readouterr().out
    for problem in ("have no captions", "have captions without a noun", "have no proposals"):
        assert f"1 images {problem} and are left out" in out
    regions = LabeledRegions(world / "pairs.json")
    kept = regions.select(get_dataset("ov_shapes_train_images"))
    assert [record["image_id"] for record in kept] == [content["annotations"][3]["image_id"]]


def test_nouns_may_be_given(world):
    shape = captions(world)["annotations"][0]["caption"].split(" ")[-1]
    assert run(world, "--nouns", f"{shape}, zebra", "--top", "1") == 0
    content = json.loads((world / "pairs.json").read_text())
    assert [c["name"] for c in content["categories"]] == [shape]
    assert len(content["annotations"]) == len(content["images"]) >= 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--dataset", "nothing"], "'nothing' is not registered"),
        (["--dataset", "ov_shapes_train_base"], "has no captions: name them by --captions"),
        (["--captions", "absent.json"], "absent.json: there is no such file"),
        (["--captions", "others.json"], "others.json: no caption is of an image of ov_shapes_train_images"),
        (["--captions", "wordless.json"], "wordless.json: no noun follows an article"),
        (
            ["--captions", "wordless.json", "--nouns", "objects"],
            "wordless.json: none of the captions of 1 images names",
        ),
        (["--nouns", "zebra"], "names a noun of the vocabulary (1 names)"),
        (["--proposals", "absent.json"], "absent.json: there is no such file"),
        (["--proposals", "foreign.json"], "foreign.json: proposals name 1 unknown image ids (999)"),
        (["--proposals", "none.json"], "none.json: no image of ov_shapes_train_images has both a noun and a proposal"),
        (["--output", "others.json"], "others.json: exists already"),
        (["--threshold", "1"], "images has a pair: lower --threshold"),
        (["--threshold", "3"], "--threshold 3.0: a cosine is within -1..1"),
        (["--top", "0"], "--top 0"),
        (["--clip", "no-such-clip"], "no-such-clip"),
        (["--pretrained", "absent.pt"], "absent.pt"),
        (["--templates", "a thing"], "templates"),
        (["--fast"], "unrecognized arguments"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(world, monkeypatch, capsys, change, message):
    monkeypatch.chdir(world)

    def write(name, **content):
        Path(name).write_text(json.dumps(content))

    write("others.json", annotations=[{"image_id": 999, "caption": "a cat"}])
    write("wordless.json", annotations=[{"image_id": 1, "caption": "behold!"}])
    write("foreign.json", annotations=[{"image_id": 999, "bbox": [0, 0, 9, 9]}])
    write("none.json", annotations=[])
    assert run(world, *change) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and message in lines[0]
    assert not (world / "pairs.json").exists()


def test_help_teaches(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "--dataset ov_shapes_train_images" in capsys.readouterr().out
