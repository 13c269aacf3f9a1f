import copy
import functools
from collections.abc import Callable

import pytest
from detectron2.utils.events import EventStorage

from clipself_d2.clip import ImageTower
from tests.detection.tiny import build_tower


@pytest.fixture(scope="session")
def _built(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, int], ImageTower]:
    return functools.cache(functools.partial(build_tower, tmp_path_factory.mktemp("towers")))


@pytest.fixture
def tower(_built: Callable[[str, int], ImageTower]) -> Callable[..., ImageTower]:
    """A tower of `tiny.CONFIGS` and a seed, the test's own copy."""
    return lambda name="tiny-vit-8", seed=0: copy.deepcopy(_built(name, seed))


@pytest.fixture
def storage():
    """What Detectron2's heads log into while they train."""
    with EventStorage() as storage:
        yield storage
