"""What several tests of the panoptic package share."""

import pytest


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    """An empty cache of text embeddings."""
    monkeypatch.setenv("CLIPSELF_D2_CACHE", str(tmp_path))


@pytest.fixture(scope="session")
def transformers():
    """The library, whose segmenters are mask generators."""
    return pytest.importorskip("transformers")
