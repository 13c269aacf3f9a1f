"""The miniature's configs: that they build, train and evaluate, and that their tables tell their values."""

import ast
import json
import logging
import re
from pathlib import Path

import open_clip
import pytest
from detectron2.config import instantiate

from clipself_d2.distillation import CLIPSelf
from clipself_d2.engine.config import load_config
from clipself_d2.engine.main import main
from clipself_d2.miniature import MODEL, TEMPLATES, WEIGHTS, CLIPExport, ImageTextCLIP

FOLDER = Path(__file__).parents[2] / "configs/miniature"
FILES = sorted(FOLDER.glob("*.py"))
PATCHES = FOLDER / "clipself_patches.py"
SHIPPED = ("detector", "panoptic_segmenter", "semantic_segmenter")


@pytest.fixture(autouse=True)
def _quiet():
    yield
    for name in ("clipself_d2", "detectron2", "fvcore"):  # a run's handlers would stay
        logger = logging.getLogger(name)
        for handler in list(logger.handlers):
            logger.removeHandler(handler)


def table(path):
    """First to last cell of each row of the docstring's table."""
    lines = [line for line in ast.get_docstring(ast.parse(path.read_text())).splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert len({len(row) for row in rows}) == 1
    return {row[0]: row[-1] for row in rows}


def numbers(cell):
    return [float(number) for number in re.findall(r"(?<![\w.])\d+(?:\.\d+)?(?:e-?\d+)?", cell)]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_it_has_a_table_and_its_mapper_builds(path, tmp_path):
    cfg = load_config(path)
    if path.stem == "region_text":  # regions that a tool writes
        regions, box = tmp_path / "regions.json", {"image_id": 1, "bbox": [0, 0, 9, 9], "category_id": 1}
        regions.write_text(json.dumps({"annotations": [box], "categories": [{"id": 1, "name": "red star"}]}))
        cfg.dataloader.train.mapper.regions.json_file = str(regions)
    assert path.stem in SHIPPED or table(path)  # their values are those of the recipes that they import
    assert "train" not in cfg.dataloader or instantiate(cfg.dataloader.train.mapper)


def test_clips_table_tells_its_values():
    cfg, rows = load_config(FOLDER / "clip.py"), table(FOLDER / "clip.py")
    assert (
        numbers(rows["batch"])[0]
        == cfg.dataloader.train.total_batch_size
        == len(instantiate(cfg.dataloader.train.dataset))
    )
    rate, *betas, decay, norm = numbers(rows["AdamW"])
    assert (rate, betas, norm) == (cfg.optimizer.lr, list(cfg.optimizer.betas), cfg.train.clip_grad_norm)
    assert decay == cfg.optimizer.params.weight_decay
    assert numbers(rows["schedule"])[0] == cfg.lr_multiplier.warmup_iters
    model = open_clip.get_model_config(MODEL)
    vision, text = model["vision_cfg"], model["text_cfg"]
    sizes = [vision["layers"], vision["width"], vision["patch_size"], vision["image_size"]]
    assert numbers(rows["image tower"])[:4] == sizes
    assert numbers(rows["text tower"])[:3] == [text["layers"], text["width"], text["context_length"]]


def test_the_patches_table_tells_its_values():
    cfg, rows = load_config(PATCHES), table(PATCHES)
    model = open_clip.get_model_config(MODEL)
    assert numbers(rows["student / teacher size"]) == [cfg.model.student_size, model["vision_cfg"]["image_size"]]
    assert numbers(rows["batch, steps"])[:2] == [cfg.dataloader.train.total_batch_size, cfg.train.max_iter]
    assert numbers(rows["lr, weight decay"])[:2] == [cfg.optimizer.lr, cfg.optimizer.params.weight_decay]
    assert numbers(rows["alpha"])[0] == cfg.model.alpha
    assert cfg.clip.pretrained == WEIGHTS
    assert list(cfg.dataloader.evaluator.text.templates) == list(TEMPLATES)
    assert not {"trainable_blocks", "teacher_size"} & set(cfg.model)  # all blocks, the tower's native size


def test_both_models_build():
    cfg = load_config(FOLDER / "clip.py")
    assert isinstance(instantiate(cfg.model), ImageTextCLIP)
    assert isinstance(instantiate(cfg.export), CLIPExport)
    model = instantiate(load_config(PATCHES, ["clip.pretrained=null"]).model)
    assert isinstance(model, CLIPSelf)
    trained = {
        name.split("resblocks.")[1].split(".")[0]
        for name, p in model.named_parameters()
        if p.requires_grad and "resblocks" in name
    }
    assert trained == set("012345")


def run(path, output, *overrides):
    options = ["train.max_iter=2", "lr_multiplier.warmup_iters=1", "train.device=cpu", "train.log_period=1"]
    options += ["dataloader.train.num_workers=0", f"train.output_dir={output}", *overrides]
    assert main(["--config-file", str(path), *options]) == 0
    return [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]


def test_clip_trains_and_exports_what_open_clip_reads(tmp_path):
    lines = run(FOLDER / "clip.py", tmp_path / "out", "dataloader.train.total_batch_size=8")
    assert all(line["loss_contrastive"] > 0 for line in lines if "loss_contrastive" in line)
    open_clip.create_model(MODEL, pretrained=str(tmp_path / "out/tower.safetensors"))


@pytest.mark.parametrize("name", ["clipself_patches", "image_text"])
def test_it_trains_and_is_evaluated(name, small_world, tmp_path, monkeypatch):
    monkeypatch.setenv("CLIPSELF_D2_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "out"
    run(FOLDER / f"{name}.py", out, "clip.pretrained=null", "dataloader.train.total_batch_size=2")
    results = json.loads((out / "results.json").read_text())
    assert set(results) == {"boxes", "thing_masks", "stuff_masks", "crops"}
    for metrics in results.values():
        assert 0 <= metrics["top1"] <= metrics["top5"] <= 100
    open_clip.create_model(MODEL, pretrained=str(out / "tower.safetensors"))
