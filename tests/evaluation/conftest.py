import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from clipself_d2.miniature import dataset, registration


@pytest.fixture
def catalog(monkeypatch):
    """An empty catalog, for this test."""
    monkeypatch.setattr(DatasetCatalog, "data", {})
    monkeypatch.setattr(MetadataCatalog, "data", {})


@pytest.fixture
def ov_shapes(catalog, tmp_path, monkeypatch):
    """The name of OV-Shapes' validation set, of 12 scenes."""
    monkeypatch.setattr(dataset, "SPLITS", {"train": 1, "val": 12})
    registration.register_ov_shapes(tmp_path / "datasets")
    return "ov_shapes_val"
