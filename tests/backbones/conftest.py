from tests.detection.conftest import _built, storage, tower  # noqa: F401  (fixtures)
