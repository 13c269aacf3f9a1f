import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog


@pytest.fixture
def fresh_catalog(monkeypatch):
    """Empty catalogues, for this test."""
    monkeypatch.setattr(DatasetCatalog, "data", {})
    monkeypatch.setattr(MetadataCatalog, "data", {})
