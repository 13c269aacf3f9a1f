import pytest

from clipself_d2.benchmark import distill
from clipself_d2.miniature import MODEL, WEIGHTS


@pytest.fixture
def tiny_overrides(monkeypatch):
    """What makes `--model tiny` the miniature's tower, in place of a large one."""
    monkeypatch.setitem(distill.CONFIGS, "tiny", "distillation/clipself_openai_b16_coco_patches.py")
    towers = [f"clip.name={MODEL}", f"clip.pretrained={WEIGHTS}"]
    return [*towers, "model.teacher_size=64", "model.trainable_blocks=6"]
