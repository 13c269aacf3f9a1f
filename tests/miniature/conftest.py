import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from clipself_d2.miniature import dataset, registration


@pytest.fixture
def small_world(tmp_path, monkeypatch):
    """OV-Shapes with 4 and 3 scenes, registered below a fresh folder, for this test."""
    monkeypatch.setattr(DatasetCatalog, "data", {})
    monkeypatch.setattr(MetadataCatalog, "data", {})
    monkeypatch.setattr(dataset, "SPLITS", {"train": 4, "val": 3})
    root = tmp_path / "datasets"
    registration.register_ov_shapes(root)
    return root
