import copy
import functools

import pytest

from tests.detection.tiny import build_tower
from tests.semantic.tiny import TOWERS


@pytest.fixture(scope="session")
def _built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("towers")
    return functools.cache(lambda name: build_tower(folder, name))


@pytest.fixture(params=TOWERS)
def tower(request, _built):
    return copy.deepcopy(_built(request.param))


@pytest.fixture
def vit(_built):
    return copy.deepcopy(_built("tiny-vit-8"))
