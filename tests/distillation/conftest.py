"""A tiny CLIP's file, and CLIPSelf with a teacher's cache."""

import pytest

from clipself_d2.data import load_image_list
from clipself_d2.distillation import TeacherCache
from tests.distillation.cached import MAPPER, draw
from tests.distillation.tiny import build, write_model, write_photographs


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def images(tmp_path):
    write_photographs(tmp_path, 5)
    return load_image_list(None, tmp_path / "coco/unlabeled2017")


@pytest.fixture
def batch(images):
    return draw(images, 0)


@pytest.fixture
def cached(model_file, tmp_path, images, monkeypatch):
    """Builds CLIPSelf with the cache of the test, open; `calls` lists how many crops its teacher was given."""

    def make(seed=0, folder="cache", mapper=MAPPER, opened=True, budget_gb=50.0, **kwargs):
        model = build(model_file, seed, teacher_cache=TeacherCache(tmp_path / folder, budget_gb), **kwargs)
        if opened:
            model.teacher_cache.open(images, mapper)
        return spy(model, monkeypatch)

    return make


def spy(model, monkeypatch):
    model.calls = []
    forward = model.teacher.image_embeddings

    def count(pixels):
        model.calls.append(len(pixels))
        return forward(pixels)

    monkeypatch.setattr(model.teacher, "image_embeddings", count)
    return model
