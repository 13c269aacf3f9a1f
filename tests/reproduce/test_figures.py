import io
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from clipself_d2.clip import build_towers, save_checkpoint
from clipself_d2.regions import letterbox
from clipself_d2.reproduce import figures
from clipself_d2.reproduce.figures import FIGURES, build_tower, dense_maps
from clipself_d2.reproduce.plan import Planner
from clipself_d2.reproduce.suite import reproduce
from clipself_d2.reproduce.table import Row, Table
from tests.distillation.tiny import write_model
from tests.reproduce.fake import FakeRunner, make_table, write_config


def test_curves(table, tmp_path):
    planner = Planner(tmp_path / "out")
    outcome = reproduce(table, planner, FakeRunner(), Console(file=io.StringIO()))
    png, svg = FIGURES["curves"](table, outcome, planner, tmp_path)
    with Image.open(png) as image:
        colours = image.convert("RGB").getcolors(1 << 24)
    assert len(colours) > 10
    drawn = ElementTree.parse(svg).getroot()
    comments = svg.read_text()
    assert drawn.tag.endswith("svg")
    for word in ("before", "after", "level", "input size, pixels", "boxes top-1, %"):
        assert f"<!-- {word} -->" in comments


@pytest.fixture
def tiny(tmp_path, photographs, monkeypatch):
    """A table of a tiny CLIP whose trained tower is on disk, with three photographs."""
    torch.manual_seed(0)
    model = write_model(tmp_path)
    table = make_table(write_config(tmp_path, model))
    planner = Planner(tmp_path / "out")
    job = planner.job(table.rows[2].run)
    job.folder.mkdir(parents=True)
    image, text = build_towers(model, "random")
    save_checkpoint({**image.state_dict(), **text.state_dict()}, job.folder / "tower.safetensors", {})
    rng = np.random.default_rng(0)
    for i in range(3):
        Image.fromarray(rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(photographs / f"{i}.png")
    records = [{"file_name": str(path)} for path in sorted(photographs.iterdir())]
    monkeypatch.setattr(figures, "get_dataset", lambda name: records if name == "fake_images" else None)
    return table, planner, image


def test_the_tower_is_the_one_that_the_numbers_are_of(tiny):
    table, planner, expected = tiny
    torch.testing.assert_close(build_tower(planner.job(table.rows[2].run)).state_dict(), expected.state_dict())
    torch.testing.assert_close(build_tower(planner.job(table.rows[3].run)).state_dict(), expected.state_dict())
    assert build_tower(planner.job(table.rows[0].run)).state_dict().keys() == expected.state_dict().keys()


def test_kmeans(tiny, tmp_path):
    table, planner, _ = tiny
    rows = (Row("before", table.rows[0].run, ("boxes.top1",)), Row("after", table.rows[2].run, ("boxes.top1",)))
    [png] = FIGURES["kmeans"](Table("fig4", "paper", "", "", ("boxes",), rows), {}, planner, tmp_path)
    with Image.open(png) as image:
        width, height = image.size
    assert width >= 3 * 256  # photograph, before, after
    assert height >= 3 * 256 * 40 / 60  # one row a photograph


def test_dense_maps_end_where_the_photograph_ends(tiny):
    _, _, tower = tiny
    image = torch.randint(0, 256, (3, 40, 60), dtype=torch.uint8)
    [dense] = dense_maps(tower, [image], 64)
    whole = tower.dense_embeddings(tower.normalize(letterbox([image], 64)[0]))[0]
    assert dense.shape == (16, 6, 8)  # 40 x 60 becomes 42.7 x 64 pixels: 6 rows of 8 cells
    torch.testing.assert_close(dense, whole[:, :6, :8])


def test_coherence_is_taken_from_the_probe(table, tmp_path):
    """The picture is the probe's own, whichever rows show its numbers."""
    planner = Planner(tmp_path / "out")
    probed = table.rows[1].run.probed("fake_images")
    job = planner.job(probed)
    job.folder.mkdir(parents=True)
    Image.new("RGB", (5, 4), "red").save(job.folder / "coherence.png")
    rows = (Row("a", probed, ("auc.x.y",)), Row("b", probed, ("auc.x.z",)), Row("c", table.rows[0].run, ("",)))
    paths = FIGURES["coherence"](Table("A2", "paper", "", "", ("area",), rows), {}, planner, tmp_path)
    assert [path.name for path in paths] == ["coherence.png"]
    with Image.open(paths[0]) as image:
        assert image.size == (5, 4)
