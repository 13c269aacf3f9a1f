"""The benchmarks are scripts beside the package; their tests run them on towers that take no time."""

import json
import sys
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from clipself_d2 import miniature
from clipself_d2.miniature import dataset, registration
from tests.detection.tiny import CONFIGS

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

# By its path: ranks that are spawned do not know the name.
TINY_CONFIG = Path(miniature.__file__).parent / f"model_configs/{miniature.MODEL}.json"
TINY_STEP = ["--size", "64", f"clip.name={TINY_CONFIG}", "model.teacher_size=64", "model.trainable_blocks=6"]


@pytest.fixture(scope="module")
def few_scenes(tmp_path_factory):
    """OV-Shapes with 8 scenes per split, in a folder of its own."""
    with pytest.MonkeyPatch.context() as patch:
        for catalog in (DatasetCatalog, MetadataCatalog):
            patch.setattr(catalog, "data", dict(catalog.data))
        patch.setattr(dataset, "SPLITS", {"train": 8, "val": 8})
        root = tmp_path_factory.mktemp("datasets")
        patch.setenv("DETECTRON2_DATASETS", str(root))
        registration.register_ov_shapes(root)
        yield


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs a script's `main` on the CPU for one round and returns what it writes."""

    def run(script, *args):
        assert script.main(["--device", "cpu", "--rounds", "1", "--output", str(tmp_path), *map(str, args)]) == 0
        return json.loads((tmp_path / f"{script.__name__}-cpu.json").read_text())

    return run


@pytest.fixture
def tiny_detector(tmp_path):
    """Arguments that put a tiny tower into F-ViT's recipe."""
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps(CONFIGS["tiny-vit-8"]))
    shape = "shape.blocks=[0,1,1,2] shape.block_dim=32 shape.embed_dim=16 shape.strides=[2,4,8,16,32]"
    heads = "model.backbone.pyramid.channels=8 model.rpn.channels=8"
    last = "model.roi_heads.box_head.channels=8 model.rpn.post_nms_topk=[9,9]"
    return ["--size", "64", f"clip.name={path}", *f"{shape} {heads} {last}".split()]
