import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.structures import Boxes, Instances
from PIL import Image
from torch import nn

from clipself_d2.clip import build_towers, save_checkpoint
from clipself_d2.regions import letterbox
from clipself_d2.visualization import compare_segmentations, draw_predictions
from clipself_d2.vocabulary import Vocabulary
from reproduction import figures
from reproduction.figures import FIGURES, build_tower, dense_maps
from reproduction.outcome import gather
from reproduction.plan import Planner
from reproduction.session import Session
from reproduction.tables import Row, Run, Table
from tests.distillation.tiny import write_model
from tests.reproduction.fake import FakeRunner, make_table, write_config


def test_curves(table, tmp_path):
    planner = Planner(tmp_path / "out")
    jobs = planner.jobs(table)
    Session(jobs, FakeRunner()).finish(jobs)
    png, svg = FIGURES["curves"](table, gather(table, planner)["rows"], planner, tmp_path)
    with Image.open(png) as image:
        colors = image.convert("RGB").getcolors(1 << 24)
    assert len(colors) > 10
    drawn = ElementTree.parse(svg).getroot()
    comments = svg.read_text()
    assert drawn.tag.endswith("svg")
    for word in ("before", "after", "level", "input size, pixels", "boxes top-1, %"):
        assert f"<!-- {word} -->" in comments


@pytest.fixture
def tiny(tmp_path, images, monkeypatch):
    """A table of a tiny CLIP whose trained tower is on disk, with three images."""
    torch.manual_seed(0)
    model = write_model(tmp_path)
    table = make_table(write_config(tmp_path, model))
    planner = Planner(tmp_path / "out")
    job = planner.job(table.rows[2].run)
    job.folder.mkdir(parents=True)
    image, text = build_towers(model, None)
    save_checkpoint({**image.state_dict(), **text.state_dict()}, job.folder / "tower.safetensors", {})
    rng = np.random.default_rng(0)
    for i in range(3):
        Image.fromarray(rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(images / f"{i}.png")
    records = [{"file_name": str(path)} for path in sorted(images.iterdir())]
    monkeypatch.setattr(figures, "get_dataset", lambda name: records if name == "fake_images" else None)
    return table, planner, image


def test_the_tower_is_the_one_that_the_numbers_are_of(tiny):
    table, planner, expected = tiny
    torch.testing.assert_close(build_tower(planner.job(table.rows[2].run)).state_dict(), expected.state_dict())
    torch.testing.assert_close(build_tower(planner.job(table.rows[3].run)).state_dict(), expected.state_dict())
    assert build_tower(planner.job(table.rows[0].run)).state_dict().keys() == expected.state_dict().keys()


def test_kmeans(tiny, tmp_path):
    table, planner, _ = tiny
    rows = Row("before", table.rows[0].run), Row("after", table.rows[2].run)
    [png] = FIGURES["kmeans"](Table("fig4", "paper", "", "", {"boxes": "boxes.top1"}, rows), [], planner, tmp_path)
    with Image.open(png) as image:
        width, height = image.size
    assert width >= 3 * 256  # image, before, after
    assert height >= 3 * 256 * 40 / 60  # one row per image


def test_dense_maps_end_where_the_image_ends(tiny):
    _, _, tower = tiny
    image = torch.randint(0, 256, (3, 40, 60), dtype=torch.uint8)
    [dense] = dense_maps(tower, [image], 64)
    alone = tower.dense_embeddings(tower.normalize(letterbox([image], 64)[0])[:, :, :48], padded_size=64)[0]
    assert dense.shape == (16, 6, 8)  # 40 x 60 becomes 42.7 x 64 pixels: 6 rows of 8 cells
    torch.testing.assert_close(dense, alone)


def test_coherence_is_taken_from_the_probe(table, tmp_path):
    """The figure is the probe's own, whichever rows show its numbers."""
    planner = Planner(tmp_path / "out")
    probed = table.rows[1].run.taken_by("probe_coherence", "--pretrained", "fake_images")
    job = planner.job(probed)
    job.folder.mkdir(parents=True)
    Image.new("RGB", (5, 4), "red").save(job.folder / "coherence.png")
    rows = Row("a", probed), Row("b", probed), Row("c", table.rows[0].run)
    paths = FIGURES["coherence"](Table("coherence", "paper", "", "", {"area": "auc.x.y"}, rows), [], planner, tmp_path)
    assert [path.name for path in paths] == ["coherence.png"]
    with Image.open(paths[0]) as image:
        assert image.size == (5, 4)


class Painter(nn.Module):
    """Finds in every pixel the class that its red channel says, plus a shift, of four."""

    def __init__(self, shift: int = 0):
        super().__init__()
        self.shift = nn.Parameter(torch.tensor(float(shift)))

    def forward(self, inputs):
        labels = (x["image"][0].long() // 60 + int(self.shift) for x in inputs)
        return [{"labels": (each % 4).int()} for each in labels]


SEGMENTATION = """
from detectron2.config import LazyCall as L
from clipself_d2.data import PanopticMapper
from clipself_d2.engine.config import on_device
from tests.reproduction.test_figures import Painter

model = L(on_device)(module=L(Painter)(shift=0), device="${train.device}")
dataloader = dict(train=dict(dataset="toy"), test=dict(dataset="toy_maps", mapper=L(PanopticMapper)()), evaluator=None)
optimizer = dict()
lr_multiplier = dict()
train = dict(device="auto", output_dir="run", max_iter=7)
"""


def test_segmentations(tmp_path, monkeypatch):
    """A column for an evaluated model and one for a trained checkpoint, none for what is evaluated on other images."""
    (tmp_path / "config.py").write_text(SEGMENTATION)
    labels = np.arange(40 * 60, dtype=np.uint8).reshape(40, 60) % 4
    labels[:10] = 9
    Image.fromarray(np.stack([np.minimum(labels, 3) * 60 + 5] * 3, axis=-1)).save(tmp_path / "a.png")
    Image.fromarray(labels).save(tmp_path / "labels.png")
    files = {"file_name": str(tmp_path / "a.png"), "sem_seg_file_name": str(tmp_path / "labels.png")}
    monkeypatch.setattr(figures, "get_dataset", lambda name: [{**files, "image_id": 0, "ignore_label": 9}])
    monkeypatch.setattr(MetadataCatalog, "data", dict(MetadataCatalog.data))
    MetadataCatalog.get("toy_maps").set(stuff_classes=["a", "b", "c", "d"])
    given = {}

    def spy(images, truths, found, names):
        given.update(truths=truths, found=found, names=names)
        return compare_segmentations(images, truths, found, names)

    monkeypatch.setattr(figures, "compare_segmentations", spy)

    config = str(tmp_path / "config.py")
    runs = {"untrained": Run(config, trains=False), "trained": Run(config)}
    runs["elsewhere"] = Run(config, ("dataloader.test.dataset=others",), trains=False)
    rows = tuple(Row(label, run) for label, run in runs.items())
    planner = Planner(tmp_path / "out")
    trained = planner.job(runs["trained"])
    trained.folder.mkdir(parents=True)
    torch.save({"model": Painter(1).state_dict()}, trained.folder / "checkpoint_0000007.pth")
    [path] = FIGURES["segmentations"](
        Table("5", "miniature", "", "", {"mIoU": "sem_seg.mIoU"}, rows), [], planner, tmp_path
    )
    assert path.is_file() and given["names"] == ["a", "b", "c", "d"]
    [truth] = given["truths"]
    assert truth.tolist() == np.where(labels == 9, -1, labels.astype(int)).tolist()
    assert list(given["found"]) == ["untrained", "trained"]
    known = truth >= 0
    assert torch.equal(given["found"]["untrained"][0][known], truth[known])
    assert torch.equal(given["found"]["trained"][0][known], (truth[known] + 1) % 4)


class Finder(nn.Module):
    """Finds a base class in the left half of every image and a novel one in the right half."""

    def __init__(self):
        super().__init__()
        self.vocabulary = Vocabulary(["cat", "dog"], torch.eye(2), novel=["dog"])
        self.score = nn.Parameter(torch.tensor(0.5))

    def forward(self, inputs):
        [(_, height, width)] = [x["image"].shape for x in inputs]
        boxes = Boxes(torch.tensor([[2.0, 2, width / 2, height - 2], [width / 2 + 2, 2, width - 2, height - 2]]))
        scores = torch.stack([self.score, torch.tensor(0.25)])
        return [
            {"instances": Instances((height, width), pred_boxes=boxes, scores=scores, pred_classes=torch.arange(2))}
        ]


def test_detections(tmp_path, monkeypatch):
    """A column per detector, with the names of its vocabulary."""
    config = SEGMENTATION.replace("Painter)(shift=0)", "Finder)()").replace("Painter", "Finder")
    (tmp_path / "config.py").write_text(config)
    Image.new("RGB", (60, 40)).save(tmp_path / "a.png")
    monkeypatch.setattr(figures, "get_dataset", lambda name: [{"file_name": str(tmp_path / "a.png")}])
    given = []

    def spy(image, output, names, is_base, threshold):
        given.append((output["instances"].scores.tolist(), list(names), is_base.tolist(), threshold))
        return draw_predictions(image, output, names, is_base, threshold)

    monkeypatch.setattr(figures, "draw_predictions", spy)
    runs = {"untrained": Run(str(tmp_path / "config.py"), trains=False), "trained": Run(str(tmp_path / "config.py"))}
    planner = Planner(tmp_path / "out")
    trained = planner.job(runs["trained"])
    trained.folder.mkdir(parents=True)
    torch.save({"model": {**Finder().state_dict(), "score": torch.tensor(0.75)}}, trained.product)
    rows = tuple(Row(label, run) for label, run in runs.items())
    [path] = FIGURES["detections"](Table("3a", "miniature", "", "", {"all": "bbox.AP50"}, rows), [], planner, tmp_path)
    names = ["cat", "dog"], [True, False], 0.5
    assert given == [([0.5, 0.25], *names), ([0.75, 0.25], *names)]
    with Image.open(path) as image:
        assert image.width > 2 * 480 > 2 * image.height
