import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog

from clipself_d2.miniature import dataset, registration
from tests.evaluation.scenes import noisy, samples, write_scenes


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


@pytest.fixture
def data_set(catalog, tmp_path):
    """The name of a data set of random scenes."""
    return write_scenes(tmp_path)


@pytest.fixture
def predictions(data_set):
    """Its samples, and predictions that are wrong in places."""
    generator = torch.Generator().manual_seed(0)
    inputs = samples(data_set)
    return inputs, [noisy(sample, generator) for sample in inputs]
