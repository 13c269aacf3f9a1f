"""What several tests of the panoptic package share."""

import pytest


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    """An empty cache of text embeddings."""
    monkeypatch.setenv("CLIPSELF_D2_CACHE", str(tmp_path))
