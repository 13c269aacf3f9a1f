"""From a model's forward to attention there are few frames of ours: a reader follows a forward in one sitting."""

import inspect

import pytest
import torch

from clipself_d2.clip import transformer
from clipself_d2.panoptic import MaskPredictions, OpenVocabularyPanoptic
from clipself_d2.semantic import ZeroShotSegmenter
from tests.detection.tiny import build_detector, build_tower
from tests.distillation import tiny
from tests.semantic.tiny import WORDS, build, words

MOST = 6
"""Frames from a model's forward, included, to `attend`, not included."""


@pytest.fixture
def depths(monkeypatch):
    """The number of the package's frames below each call of `attend`."""
    found, attend = [], transformer.attend

    def spy(*args):
        frames = [frame.frame.f_globals.get("__name__", "") for frame in inspect.stack()[1:]]
        found.append(sum(name.startswith("clipself_d2.") for name in frames))
        return attend(*args)

    monkeypatch.setattr(transformer, "attend", spy)
    return found


def samples():
    return [{"image": torch.randint(0, 256, (3, *size), dtype=torch.uint8)} for size in ((48, 60), (64, 40))]


def clipself(folder):
    model = tiny.build(tiny.write_model(folder)).train()
    model([tiny.sample(0, 3), tiny.sample(1, 2)])


def fvit(folder):
    build_detector(build_tower(folder)).eval()(samples())


def panoptic(folder):
    scores = torch.zeros(2, len(WORDS) + 1).log_softmax(dim=1)
    masks = [MaskPredictions(torch.ones(2, *size), scores) for size in ((12, 15), (16, 10))]
    model = OpenVocabularyPanoptic(
        lambda inputs, vocabulary: masks, build_tower(folder), words(), [True] * len(WORDS), 64
    )
    model(samples())


def zero_shot(folder):
    ZeroShotSegmenter(build_tower(folder), words(), 64)(samples())


def cat_seg(folder):
    tower = build_tower(folder)
    build(tower).eval()(samples())
    build(tower, window=24, image_size=40).eval()(samples())


@pytest.mark.parametrize("run", [clipself, fvit, panoptic, zero_shot, cat_seg])
def test_few_frames_lie_between_a_forward_and_attention(run, depths, tmp_path):
    run(tmp_path)
    assert depths and max(depths) <= MOST
