"""Detectron2's own lazyconfig_train_net.py on our LazyConfigs, with the overrides that docs/detection.md names."""

import logging
import re
import runpy
from pathlib import Path

import detectron2
import pytest
import torch
from detectron2.engine import default_argument_parser

ROOT = Path(__file__).parents[2]
SCRIPT = Path(detectron2.__file__).parents[1] / "tools/lazyconfig_train_net.py"
PAGE = (ROOT / "docs/detection.md").read_text()


@pytest.mark.skipif(not SCRIPT.is_file(), reason="this Detectron2 comes without its tools")
def test_it_trains_and_evaluates(small_world, tmp_path):
    named = re.search(r"lazyconfig_train_net.py --config-file \S+ (.*)", PAGE)[1].split()
    assert {word.split("=")[0] for word in named} == {"train.output_dir", "train.device", "train.amp.enabled"}
    overrides = [f"train.output_dir={tmp_path}/run", "train.device=cpu", "train.amp.enabled=false", "train.max_iter=2"]
    overrides += ["dataloader.train.num_workers=0", "dataloader.train.total_batch_size=2"]
    arguments = ["--config-file", str(ROOT / "configs/miniature/fvit.py"), *overrides]
    runpy.run_path(str(SCRIPT))["main"](default_argument_parser().parse_args(arguments))
    for name in ("detectron2", "fvcore"):
        logging.getLogger(name).handlers.clear()
    weights = torch.load(tmp_path / "run/model_final.pth", weights_only=False)["model"]
    assert any(name.startswith("roi_heads.") for name in weights)
    assert "bbox/AP50_novel" in (tmp_path / "run/metrics.json").read_text()
