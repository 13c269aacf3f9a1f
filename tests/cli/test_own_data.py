"""From a folder of images and two jsons to a distilled CLIP, its accuracy, a detector and predictions."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from clipself_d2 import miniature
from clipself_d2.cli import main
from clipself_d2.clip import build_towers
from clipself_d2.data import read_image
from clipself_d2.miniature.dataset import scene_of
from clipself_d2.miniature.render import render
from clipself_d2.miniature.world import CLASSES
from clipself_d2.regions import RegionClassifier
from clipself_d2.vocabulary import TextClassifier, Vocabulary

NAMES = ["red star", "blue heart", "green square"]
assert set(NAMES) <= set(CLASSES)
FAST = ["train.device=cpu", "dataloader.train.num_workers=0", "dataloader.train.total_batch_size=2", "train.max_iter=2"]
BOXES = {0: (8, 8, 40, 40), 1: (60, 10, 50, 60), 2: (20, 70, 30, 40), 3: (64, 64, 60, 60)}


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Scenes in a folder below the working directory; a json in which the last class is rarer, and one without it."""
    monkeypatch.chdir(tmp_path)
    Path("photos/more").mkdir(parents=True)
    names = ["more/0.png", "1.png", "2.png", "more/3.png"]
    for number, name in enumerate(names):
        Image.fromarray(render(scene_of("val", number), 128)[0]).save(f"photos/{name}")
    for file, classes in (("val.json", NAMES), ("train.json", NAMES[:2])):
        content = {
            "images": [{"id": i, "file_name": name, "height": 128, "width": 128} for i, name in enumerate(names)],
            "categories": [{"id": 10 + k, "name": name} for k, name in enumerate(classes)],
            "annotations": [
                {"id": i, "image_id": i, "category_id": 10 + i % len(classes), "bbox": list(box)}
                for i, box in BOXES.items()
            ],
        }
        Path(file).write_text(json.dumps(content))
    return tmp_path


def expected_accuracy(pretrained) -> float:
    """Mean over classes of the share of boxes that the classifier of README names right."""
    tower, text = build_towers(miniature.MODEL, pretrained)
    vocabulary = Vocabulary(NAMES, TextClassifier(text, list(miniature.TEMPLATES))(NAMES))
    classify = RegionClassifier(tower.eval(), vocabulary, size=128)
    hits = {name: [] for name in NAMES}
    for number, (x, y, w, h) in BOXES.items():
        [file] = Path("photos").rglob(f"{number}.png")
        [found] = classify.classify_boxes([read_image(file)], [torch.tensor([[x, y, x + w, y + h]]).float()])
        hits[NAMES[number % 3]].append(NAMES[int(found.argmax())] == NAMES[number % 3])
    return 100 * sum(sum(h) / len(h) for h in hits.values()) / len(hits)


def test_distill_eval_train_predict(data, capsys):
    small = ["--config-file", "miniature/clipself_patches"]
    assert main(["distill", "--images", "photos", *small, "--output", "out/distilled", *FAST]) == 0
    out = capsys.readouterr().out
    assert "4 images, 12 steps of 2" in out and out.endswith(
        "written to out/distilled: tower.safetensors is the CLIP\n"
    )
    card = json.loads(Path("out/distilled/tower.json").read_text())
    assert card["data"] == "photos" and card["steps"] == 2 and str(data) not in json.dumps(card)

    tower = "out/distilled/tower.safetensors"
    own = ["--images", "photos", "--boxes", "val.json", *small, "train.device=cpu", "train.precision=fp32"]
    assert main(["eval", *own, "--pretrained", tower, "--output", "out/measured"]) == 0
    results = json.loads(Path("out/measured/results.json").read_text())
    assert set(results) == {"boxes", "crops"} and results["boxes"]["top5"] == 100
    assert results["boxes"]["top1"] == pytest.approx(expected_accuracy(tower))
    *table, last = capsys.readouterr().out.splitlines()
    assert last == "written to out/measured" and max(map(len, table[-6:])) <= 80

    jsons = ["--images", "photos", "--train", "train.json", "--val", "val.json", "--novel", "green square"]
    small = ["--config-file", "miniature/fvit", "model.rpn.post_nms_topk=[20,20]"]
    assert main(["train", *jsons, *small, "--output", "out/detector", *FAST, f"clip.pretrained={tower}"]) == 0
    assert capsys.readouterr().out.endswith("written to out/detector\n")
    results = json.loads(Path("out/detector/results.json").read_text())
    assert {"AP", "AP50_novel", "AP50_base"} <= set(results["bbox"])

    words = [
        "--words",
        "red star, green square, lawn",
        "--config-file",
        "out/detector/config.yaml",
        "--output",
        "out/p",
    ]
    assert main(["predict", "photos", *words]) == 0
    records = [r for file in Path("out/p").rglob("*.json") for r in json.loads(file.read_text())]
    assert {(r["name"], r["is_base"]) for r in records} <= {
        ("red star", True),
        ("green square", False),
        ("lawn", False),
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["distill"], "the following arguments are required: --images"),
        (["distill", "--images", "empty"], "empty: holds no images"),
        (["distill", "--images", "absent"], "absent"),
        (["distill", "--images", "photos", "--clip", "ViT-B-16x", "--pretrained", "null"], "did you mean"),
        (["distill", "--images", "photos", "model.alhpa=1"], "did you mean 'alpha'?"),
        (["eval"], "name your own data by --images and --boxes"),
        (["eval", "--images", "photos"], "--images and --boxes belong together"),
        (["eval", "--images", "photos", "--boxes", "absent.json"], "absent.json"),
        (["train", "--images", "photos"], "--train and --val missing"),
        (["train"], "name them, or a config by --config-file"),
        (["train", "--config-file", "miniature/fvit", "--novel", "cat"], "--novel and --output belong to"),
        (
            ["train", "--images", "photos", "--train", "val.json", "--val", "train.json"],
            "unknown classes ['green square']",
        ),
        (
            ["train", "--images", "photos", "--train", "train.json", "--val", "val.json", "--novel", "cat"],
            "novel class 'cat' is not among the classes",
        ),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(data, capsys, arguments, message):
    Path("empty").mkdir()
    assert main(arguments) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and message in lines[0]
    assert not Path("output").exists()
