import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from tests.reproduction.fake import make_table, write_config


@pytest.fixture
def images(tmp_path):
    """The data set `fake_images`; returns its folder."""
    folder = tmp_path / "images"
    folder.mkdir()
    DatasetCatalog.register("fake_images", list)
    MetadataCatalog.get("fake_images").set(image_root=str(folder))
    yield folder
    DatasetCatalog.remove("fake_images")
    MetadataCatalog.remove("fake_images")


@pytest.fixture
def table(tmp_path, images):
    return make_table(write_config(tmp_path))
