"""F-ViT on a user's own data set, which has no novel classes."""

import json
from pathlib import Path

from detectron2.data import DatasetCatalog

from clipself_d2.data import register_instances
from clipself_d2.engine.main import main

CONFIG = Path(__file__).parents[2] / "configs/miniature/fvit.py"


def test_it_trains_and_evaluates_without_novel_classes(small_world, tmp_path):
    DatasetCatalog.get("ov_shapes_val")  # draws it
    [folder] = small_world.glob("ov_shapes_*")
    content = json.loads((folder / "annotations/instances_val.json").read_text())
    used = {a["category_id"] for a in content["annotations"]}
    content["categories"] = [{"id": 7 * c["id"], "name": c["name"]} for c in content["categories"] if c["id"] in used]
    for annotation in content["annotations"]:
        annotation["category_id"] *= 7
    (tmp_path / "mine.json").write_text(json.dumps(content))
    register_instances("mine", tmp_path / "mine.json", folder / "val")

    overrides = [
        "model.vocabulary.dataset=mine",
        "dataloader.train.dataset=mine",
        "dataloader.test.dataset=mine",
        "dataloader.train.total_batch_size=2",
        "dataloader.train.num_workers=0",
        "clip.pretrained=null",
        "train.device=cpu",
        "train.max_iter=2",
        "lr_multiplier.warmup_iters=1",
        f"train.output_dir={tmp_path / 'out'}",
    ]
    assert main(["--config-file", str(CONFIG), *overrides]) == 0
    results = json.loads((tmp_path / "out/results.json").read_text())["bbox"]
    assert set(results) == {"AP50_base", "AP50_all", "AP", "AP_base"}
    assert results["AP50_base"] == results["AP50_all"]
