"""The documented recipes for a user's own data run as they are written, on the miniature's tower and small files."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog
from PIL import Image

from clipself_d2.data import get_dataset
from clipself_d2.engine.main import main
from tests.data.make import id_to_rgb

ROOT = Path(__file__).parents[2]
CATEGORIES = [{"id": 1, "name": "cat", "isthing": 1}, {"id": 2, "name": "monitor"}, {"id": 3, "name": "zebra"}]


def code_after(page, heading):
    section = (ROOT / page).read_text().split(f"\n## {heading}\n")[1]
    return re.findall(r"```python\n(.*?)```", section.split("\n## ")[0], flags=re.DOTALL)


@pytest.fixture
def files(tmp_path, monkeypatch, fresh_catalog):
    """What the recipes name, and the working folder."""
    monkeypatch.chdir(tmp_path)
    for folder in ("photos", "path/to/folder", "pngs", "labels"):
        Path(folder).mkdir(parents=True)
    ids = np.repeat([1, 2], 32)[:, None].repeat(64, axis=1)
    for number in range(4):
        for folder in ("photos", "path/to/folder"):
            Image.fromarray(np.random.default_rng(number).integers(0, 256, (64, 64, 3), np.uint8)).save(
                f"{folder}/{number}.jpg"
            )
        Image.fromarray(id_to_rgb(ids)).save(f"pngs/{number}.png")
        Image.fromarray((ids - 1).astype(np.uint8)).save(f"labels/{number}.png")
    images = [{"id": number, "file_name": f"{number}.jpg", "height": 64, "width": 64} for number in range(4)]
    boxes = [{"id": n, "image_id": n, "category_id": 1 + n % 3, "bbox": [8, 8, 40, 40]} for n in range(4)]
    segments = [{"id": 1, "category_id": 1, "bbox": [0, 0, 64, 32]}, {"id": 2, "category_id": 2}]
    panoptic = [{"image_id": n, "file_name": f"{n}.png", "segments_info": segments} for n in range(4)]
    kinds = [{"isthing": 0, **category} for category in CATEGORIES[:2]]
    for name, content in {
        "path/to/images.json": {},
        "captions.json": {"annotations": [{"image_id": n, "caption": "a cat"} for n in range(4)]},
        "panoptic.json": {"annotations": panoptic, "categories": kinds},
        "train.json": {"annotations": boxes, "categories": CATEGORIES},
        "val.json": {"annotations": boxes, "categories": CATEGORIES},
    }.items():
        Path(name).write_text(json.dumps({"images": images, **content}))
    return tmp_path


def test_own_images_are_trained_on(files):
    (code,) = code_after("docs/distillation.md", "Your own images")
    for theirs, here in [
        ("clipself_eva02_b16_coco_patches", "clipself_patches"),
        ("/data/images", str(files / "path")),
        ("10_000", "2"),
    ]:
        assert theirs in code
        code = code.replace(theirs, here)
    shutil.copytree(ROOT / "configs", "configs")
    config = Path("configs/miniature/mine.py")
    config.write_text(f"{code}\ndel dataloader.test, dataloader.evaluator\n")  # as the page says
    arguments = ["dataloader.train.total_batch_size=2", "dataloader.train.num_workers=0", "train.device=cpu"]
    assert main(["--config-file", str(config), *arguments, "lr_multiplier.warmup_iters=1"]) == 0
    assert Path("output/mine/tower.safetensors").is_file()


def test_own_data_sets_are_read(files):
    for code in code_after("datasets/README.md", "Your own"):
        for _ in range(2):  # a process may read a config twice
            exec(code, {})
    lengths = {name: len(get_dataset(name)) for name in DatasetCatalog.list()}
    everything = ["my_photos", "my_list", "my_captions", "my_regions", "my_train", "my_val", "my_panoptic", "my_labels"]
    assert lengths == {
        name: 3 if name == "my_train" else 4 for name in everything
    }  # one image has a zebra, which is novel
