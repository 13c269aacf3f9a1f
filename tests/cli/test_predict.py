"""`clipself predict`: what is written, what is skipped, and one line for what is wrong."""

import itertools
import json
import re
import shutil
import signal
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from detectron2.utils import comm
from matplotlib.colors import to_rgb
from PIL import Image
from torch import nn

import clipself_d2.miniature  # noqa: F401  (registers its data sets, which tests replace for a while)
from clipself_d2.cli import segment
from clipself_d2.cli.predict import main
from clipself_d2.visualization import media
from tests.cli.images import make_world

ROOT = Path(__file__).parents[2]
CONFIG = """
from detectron2.config import LazyCall as L
from clipself_d2.data.vocabulary import dataset_vocabulary
from tests.cli.test_predict import ColorDetector, color_text

model = L(ColorDetector)(vocabulary=L(dataset_vocabulary)(dataset="toy_colors", text=L(color_text)()))
dataloader = dict(train=dict(num_workers=0), test=dict(num_workers=0))
optimizer = dict()
lr_multiplier = dict()
train = dict(device="cpu", output_dir="run")
"""
COLORS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "background": (0, 0, 0)}


class ColorDetector(nn.Module):
    """Finds the box of the pixels of each word's color, by the contract of detectors."""

    def __init__(self, vocabulary):
        super().__init__()
        self.own = vocabulary
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, inputs):
        assert not self.training
        outputs = []
        for x in inputs:
            boxes, classes = [], []
            for label, row in enumerate(self.own.text_embeddings):
                there = ((x["image"].float() - 255 * row[:, None, None]).abs() < 60).all(dim=0).nonzero()
                if len(there):
                    (y0, x0), (y1, x1) = there.min(dim=0).values, there.max(dim=0).values + 1
                    boxes.append(torch.stack([x0, y0, x1, y1]).float())
                    classes.append(label)
            found = Instances((x["height"], x["width"]))
            found.pred_boxes = Boxes(torch.stack(boxes) if boxes else torch.zeros(0, 4))
            found.scores = torch.full((len(boxes),), 0.9)
            found.pred_classes = torch.tensor(classes, dtype=torch.long)
            outputs.append({"instances": found})
        return outputs


def color_text():
    def embed(classes):
        return torch.tensor([COLORS[names[0]] for names in classes], dtype=torch.float32)

    return embed


def image_of(color, box=(10, 20, 60, 40)):
    pixels = np.zeros((48, 64, 3), dtype=np.uint8)
    pixels[box[1] : box[3], box[0] : box[2]] = COLORS[color]
    return Image.fromarray(pixels)


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A folder with a config and images, of a data set in which red is a base class and blue a novel one."""
    make_world(tmp_path, monkeypatch, CONFIG, "toy_colors", thing_classes=["red", "blue"], novel_classes=["blue"])
    (tmp_path / "images").mkdir()
    image_of("red").save("images/red.png")
    image_of("blue").save("images/0042.png")
    image_of("red").save("images/video.gif", save_all=True, append_images=[image_of("blue"), image_of("green")])
    return tmp_path


def run(*arguments, words="red, blue, green", sources=("images",), weights="null") -> int:
    fixed = ["--words", words, "--config-file", "config.py", "--weights", weights, "--output", "out"]
    return main([*sources, *fixed, *arguments])


def results(name):
    return json.loads(Path("out", f"{name}.json").read_text())


def has_box(name, color) -> bool:
    """Whether the left edge of the box (10, 20, 60, 40), ten times enlarged, has a color."""
    with Image.open(f"out/{name}") as image:
        edge = np.array(image.convert("RGB"), dtype=float)[250:350, 99]
    return bool(np.abs(edge - 255 * np.array(to_rgb(color))).max(axis=1).min() < 25)


def test_every_input_gets_an_image_and_a_json(world, capsys):
    assert run() == 0
    written = {"0042.jpg", "0042.json", "video.gif", "video.json", "red.jpg", "red.json"}
    assert {path.name for path in Path("out").iterdir()} == written
    box = [10, 20, 50, 20]
    red, blue = {"category_id": 0, "name": "red", "is_base": True}, {"category_id": 1, "name": "blue", "is_base": False}
    assert results("red") == [{"image_id": 1, "bbox": box, "score": 0.9, **red}]
    assert results("0042") == [{"image_id": 42, "bbox": box, "score": 0.9, **blue}]
    frames = [(r["image_id"], r["name"], r["is_base"]) for r in results("video")]
    assert frames == [(0, "red", True), (1, "blue", False), (2, "green", False)]
    with Image.open("out/video.gif") as video:
        assert video.n_frames == 3
    assert has_box("red.jpg", "red") and has_box("0042.jpg", "blue")
    *table, last = capsys.readouterr().out.splitlines()
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in table if "0.90" in line]
    assert rows == [["blue", "2", "2", "0.90"], ["red", "2", "2", "0.90"], ["green", "1", "1", "0.90"]]
    assert last == "written to out" and max(map(len, table)) <= 80


def test_novel_words_can_be_named(world):
    assert run("--novel", "red") == 0
    assert [r["is_base"] for r in results("red") + results("0042")] == [False, True]


def test_what_cannot_be_read_is_skipped_and_counted(world, capsys, caplog):
    Path("images/bad.jpg").write_text("no image")
    Path("images/bad.mp4").write_text("no video")
    Path("images/red.webp").write_bytes(Path("images/red.png").read_bytes())  # the same name once more
    assert run() == 0
    assert "2 of 6 inputs could not be read" in capsys.readouterr().out
    assert "bad.jpg" in caplog.text and "bad.mp4" in caplog.text
    names = {path.name for path in Path("out").iterdir()}
    assert {"red.png.jpg", "red.webp.jpg", "0042.jpg"} <= names and not any(name.startswith("bad") for name in names)


def test_results_of_several_folders_keep_the_folders(world, capsys):
    for folder in ("images/x", "images/y"):
        Path(folder).mkdir()
        image_of("red").save(f"{folder}/p.png")
    assert run(sources=("images/*/p.png",)) == 0
    written = {str(path) for path in Path("out").rglob("*") if path.is_file()}
    assert written == {"out/x/p.jpg", "out/x/p.json", "out/y/p.jpg", "out/y/p.json"}
    assert run("--output", "images", sources=("images/*/p.png",)) == 2
    assert "would be overwritten" in capsys.readouterr().err


def test_ranks_share_the_inputs(world, monkeypatch, capsys):
    """Rank 1, then rank 0, which finds what the other wrote."""

    def written():
        return {path.name: path.read_bytes() for path in Path("out").iterdir()}

    assert run() == 0
    expected, table = written(), capsys.readouterr().out
    shutil.rmtree("out")
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    monkeypatch.setattr(comm, "get_rank", lambda: 1)
    monkeypatch.setattr(comm, "all_gather", lambda failed: signal.raise_signal(signal.SIGINT))
    assert run() == 130 and set(written()) == {"red.jpg", "red.json"}
    assert capsys.readouterr().out == "3 classes: red, blue, green\n"
    monkeypatch.setattr(comm, "get_rank", lambda: 0)
    monkeypatch.setattr(comm, "all_gather", lambda failed: [failed, []])
    assert run() == 0
    assert written() == expected and capsys.readouterr().out == table


def test_a_stopped_command_goes_on(world):
    assert run() == 0
    Path("out/0042.json").unlink()
    Path("out/red.json").write_text("[]")
    assert run("--resume") == 0
    assert results("red") == [] and [r["name"] for r in results("0042")] == ["blue"]
    assert run() == 0
    assert [r["name"] for r in results("red")] == ["red"]


def test_what_is_not_there_is_said_before_a_config_is_read(world, monkeypatch, capfd):
    monkeypatch.setattr("clipself_d2.engine.config.load_config", None)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        closed = f"127.0.0.1:{listener.getsockname()[1]}"
    for source, reason in (
        ("0", "0: there is no such file or folder; a webcam is webcam:0"),
        ("webcam:93", "webcam:93: the stream cannot be opened"),
        (f"rtsp://me:secret@{closed}/live", f"rtsp://{closed}/live: the stream cannot be opened"),
        (f"http://{closed}/a.mp4", "the stream cannot be opened: check its address, and that it is on"),
    ):
        assert run(sources=("images/red.png", source)) == 2
        [line] = capfd.readouterr().err.splitlines()
        assert reason in line


def test_ctrl_c_ends_a_stream_and_keeps_its_results(world, monkeypatch, capsys):
    def watch(stream):
        def frames():
            for number in itertools.count():
                if number == 2:
                    signal.raise_signal(signal.SIGINT)
                yield torch.from_numpy(np.array(image_of("red"))).permute(2, 0, 1)

        return media.FrameSource(stream, frames(), 0, 25.0)

    with monkeypatch.context() as patch:
        patch.setattr(media, "_open_video", watch)
        assert run(sources=("rtsp://me:secret@cam/live?a=b",)) == 0
    [video] = Path("out").glob("cam_live_*.mp4")
    assert [record["image_id"] for record in results(video.stem)] == [0, 1, 2]
    assert len(list(media.open_frames(video).frames)) == 3
    assert capsys.readouterr().out.endswith("written to out\n")


def test_what_was_read_is_printed(world, capsys):
    assert run(words="red; blue, navy;", sources=("images/red.png",)) == 0
    assert "2 classes: red, blue/navy\n" in capsys.readouterr().out


def test_words_of_any_script_are_drawn(world, caplog, monkeypatch):
    monkeypatch.setitem(COLORS, "красный $x_{", COLORS["red"])
    monkeypatch.setitem(COLORS, "\N{CJK UNIFIED IDEOGRAPH-732B}", COLORS["green"])
    monkeypatch.setitem(COLORS, "\N{CAT FACE}", COLORS["blue"])
    assert run(words="красный $x_{\N{FULLWIDTH COMMA}\N{CJK UNIFIED IDEOGRAPH-732B}, \N{CAT FACE}") == 0
    assert results("red")[0]["name"] == "красный $x_{" and Path("out/video.gif").is_file()


def test_the_threshold_is_of_the_image_and_the_table_only(world, capsys):
    assert run("--threshold", "0.95") == 0
    printed = capsys.readouterr().out
    assert "0.90" not in printed and "found none of the words" in printed
    assert not has_box("red.jpg", "red") and len(results("red")) == 1


def test_overrides_may_stand_behind_the_inputs_and_the_newest_checkpoint_is_taken(world, capsys):
    Path("other").mkdir()
    torch.save({"model": {"weight": torch.ones(1)}, "iteration": 7}, "other/checkpoint_0000007.pth")
    fixed = ["--words", "red", "--config-file", "config.py", "--output", "out"]
    assert main([*fixed, "images/red.png", "train.output_dir=other"]) == 0
    assert main(["train.output_dir=other", "images/red.png", *fixed]) == 0
    assert main([*fixed, "images/red.png"]) == 2
    assert "run: holds no checkpoint" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--words", ""], "the vocabulary is empty"),
        (["--words", "red, red"], "given twice"),
        (["--words", "red, background"], "background"),
        (["--novel", "dog"], "novel class 'dog' is not among"),
        (["empty"], "empty: no image or video in this folder"),
        (["absent.jpg"], "absent.jpg: there is no such file"),
        (["bad.jpg"], "bad.jpg: is no image that Pillow knows"),
        (["bad.mp4"], "bad.mp4: "),
        (["--words", "absent.txt"], "absent.txt: there is no such file of classes"),
        (["--config-file", "miniature/fvti"], "did you mean miniature/fvit"),
        (["--clip", "ViT-B-16x", "--pretrained", "null"], "unknown config key"),
        (["--output", "images"], "would be overwritten"),
        (["--weights", "absent.pth"], "absent.pth"),
        (["--config-file", "absent.py"], "no such config file"),
        (["--config-file", str(ROOT / "configs/distillation/clipself_eva02_b16_coco_patches.py")], "no text tower"),
        (
            ["--config-file", str(ROOT / "configs/miniature/panoptic_masks.py")],
            "no text tower, data set or test loader",
        ),
        (["model.wieght=3"], "unknown config key"),
        (["--threshold", "high"], "--threshold"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(world, capsys, arguments, message):
    Path("empty").mkdir()
    Path("bad.jpg").write_text("no image")
    Path("bad.mp4").write_text("no video")
    sources = ["images"] if arguments[0].startswith("--") or "=" in arguments[0] else []
    assert run(*arguments, sources=sources) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and message in lines[0]
    assert not Path("out").exists() or not list(Path("out").iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["images"], "the following arguments are required: --words"),
        (["--words", "red"], "the following arguments are required: PATH"),
        (["--words", "red", "model.size=3"], "name an image, a video, or a folder of them"),
        (["images", "--words", "red", "--clip", "ViT-B-16"], "--clip and --pretrained belong together"),
    ],
)
def test_missing_arguments_are_named(world, capsys, arguments, message):
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


def test_yolos_labels_have_what_is_drawn(world):
    assert run("--save-txt", "--threshold", "0.5") == 0
    assert Path("out/red.txt").read_text() == "0 0.546875 0.625000 0.781250 0.416667\n"
    assert Path("out/video_1.txt").read_text().startswith("1 ") and Path("out/0042.txt").read_text().startswith("1 ")
    assert Path("out/classes.txt").read_text() == "red\nblue\ngreen\n"
    assert run("--save-txt", "--threshold", "0.95") == 0
    assert Path("out/red.txt").read_text() == ""


def test_images_for_papers_have_vectors(world):
    """The box's corners, ten times enlarged, and its name; what moves is no image for a paper."""
    assert run("--format", "pdf") == 0
    written = {path.name for path in Path("out").iterdir()}
    assert written == {"0042.pdf", "0042.json", "video.gif", "video.json", "red.pdf", "red.json"}
    assert Path("out/red.pdf").read_bytes().startswith(b"%PDF")
    assert run("--format", "svg") == 0
    drawn = Path("out/red.svg").read_text()
    assert drawn.startswith("<?xml") and re.search(r">\s*red 0\.90\s*</text>", drawn)
    [path] = re.findall(r'<path d="([^"]*)"[^>]*stroke: #ff0000', drawn)
    corners = np.array([float(number) for number in re.findall(r"[\d.]+", path)]).reshape(-1, 2)
    expected = 7.2 * np.array([[10, 20], [60, 40]])  # points of 1/72 inch; a pixel is 1/100
    np.testing.assert_allclose([corners.min(axis=0), corners.max(axis=0)], expected, atol=0.1)


def test_segments_need_no_config(world):
    arguments = ["--words", "red star, lawn", "--output", "out", "--save-txt", "train.device=cpu"]
    assert segment.main(["images/red.png", *arguments]) == 0
    assert sum(r["area"] for r in results("red")) == 48 * 64
    assert len(Path("out/red.txt").read_text().splitlines()) == len(results("red"))
    assert segment.main(["images/red.png", *arguments, "--format", "svg"]) == 0
    drawn = re.findall(r">\s*([\w ]+?)\s*</text>", Path("out/red.svg").read_text())
    assert set(drawn) == {record["name"] for record in results("red")}


def test_a_tiny_fvit_with_random_weights(world):
    fixed = ["--words", "red star, green square", "--weights", "null", "--output", "out", "train.device=cpu"]
    config = str(ROOT / "configs/miniature/fvit.py")
    assert main(["images/red.png", "--config-file", config, *fixed]) == 0
    assert {(r["name"], r["is_base"]) for r in results("red")} <= {("red star", False), ("green square", True)}


def test_help_teaches(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    out = capsys.readouterr().out
    assert "--words" in out and "panoptic/*" in out and "novel class" in out
