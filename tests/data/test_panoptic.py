import json
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from clipself_d2.data import ImageError, PanopticMapper, get_dataset, load_panoptic, register_panoptic
from clipself_d2.data.builtin import register_builtin
from clipself_d2.data.labels import load_semantic
from clipself_d2.data.panoptic import segment_indices
from clipself_d2.errors import InputError
from tests.data.make import CATEGORIES, panoptic

SEGMENTS = [
    ({"id": 70000, "category_id": 9, "bbox": [0, 0, 80, 60]}, 0, 60, 0, 60),  # grass
    ({"id": 300, "category_id": 5, "bbox": [10, 10, 20, 20], "iscrowd": 1}, 10, 30, 10, 30),  # cats
    ({"id": 2, "category_id": 2, "bbox": [30, 40, 10, 10]}, 40, 50, 30, 40),  # dog
]


@pytest.fixture
def catalog(monkeypatch):
    monkeypatch.setattr(DatasetCatalog, "data", {})
    monkeypatch.setattr(MetadataCatalog, "data", {})


@pytest.fixture
def record(tmp_path):
    json_file, pngs, photos, ids = panoptic(tmp_path, SEGMENTS)
    return load_panoptic(json_file, pngs, photos)[0][0], ids


def test_masks_are_the_segments(record):
    record, ids = record
    sample = PanopticMapper()(record)
    assert sample["image"].shape == (3, 60, 80) and sample["image"].dtype == torch.uint8
    assert (sample["height"], sample["width"], sample["image_id"]) == (60, 80, 7)
    assert sample["classes"].tolist() == [2, 1, 0]  # grass, cat, dog in the order of category ids
    assert sample["isthing"].tolist() == [False, True, True]
    assert sample["iscrowd"].tolist() == [False, True, False]
    assert sample["masks"].dtype == torch.bool
    for (info, *_), mask in zip(SEGMENTS, sample["masks"], strict=True):
        assert (mask.numpy() == (ids == info["id"])).all()
    expected = np.full((60, 80), 255)
    for (info, *_), number in zip(SEGMENTS, [2, 1, 0], strict=True):
        expected[ids == info["id"]] = number
    assert (sample["sem_seg"].numpy() == expected).all()


def test_own_semantic_labels_win(record, tmp_path):
    record, _ = record
    labels = np.random.default_rng(0).integers(0, 3, (60, 80)).astype(np.uint8)
    Image.fromarray(labels).save(tmp_path / "own.png")
    sample = PanopticMapper()({**record, "sem_seg_file_name": str(tmp_path / "own.png")})
    assert (sample["sem_seg"].numpy() == labels).all()
    assert len(sample["masks"]) == 3


def test_no_segment_at_all(tmp_path):
    json_file, pngs, photos, _ = panoptic(tmp_path, [])
    [record], _ = load_panoptic(json_file, pngs, photos)
    sample = PanopticMapper()(record)
    assert sample["masks"].shape == (0, 60, 80)
    assert len(sample["classes"]) == len(sample["isthing"]) == len(sample["iscrowd"]) == 0
    assert (sample["sem_seg"] == 255).all()


def semantic_files(folder, labels, name="a.png", ignore_label=255):
    (folder / "photos").mkdir()
    (folder / "labels").mkdir()
    height, width = labels.shape[:2]
    Image.new("RGB", (width, height)).save(folder / "photos/a.jpg")
    Image.new("RGB", (width, height)).save(folder / "photos/unlabeled.jpg")
    Image.fromarray(labels).save(folder / "labels" / name)
    return load_semantic(folder / "photos", folder / "labels", ignore_label)


def test_semantic_labels_alone(tmp_path):
    labels = np.array([[0, 7, 7], [255, 7, 2]], dtype=np.uint8)
    [record] = semantic_files(tmp_path, labels)
    assert record["file_name"].endswith("a.jpg") and record["image_id"] == 0
    sample = PanopticMapper()(record)
    assert sample["classes"].tolist() == [0, 2, 7]
    assert (sample["masks"].numpy() == np.stack([labels == k for k in (0, 2, 7)])).all()
    assert not sample["isthing"].any() and not sample["iscrowd"].any()


def test_semantic_labels_of_16_bits(tmp_path):
    labels = np.array([[0, 846, 65535], [300, 846, 255]], dtype=np.uint16)
    [record] = semantic_files(tmp_path, labels, "a.tif", 65535)
    sample = PanopticMapper()(record)
    assert (sample["sem_seg"].numpy() == labels).all()
    assert sample["classes"].tolist() == [0, 255, 300, 846]


def test_labels_of_another_size_are_refused(record, tmp_path):
    record, _ = record
    for field in ("pan_seg_file_name", "sem_seg_file_name"):
        Image.new("RGB" if field[0] == "p" else "L", (79, 60)).save(tmp_path / "small.png")
        with pytest.raises(InputError, match=r"small.png: is 79 x 60 pixels, its image 80 x 60"):
            PanopticMapper()({**record, field: str(tmp_path / "small.png")})


def test_a_record_without_labels_is_refused(record):
    record, _ = record
    with pytest.raises(InputError, match=r"has no panoptic or semantic labels"):
        PanopticMapper()({"file_name": record["file_name"], "image_id": 1})


def test_suffixes_may_be_capitals(tmp_path):
    [record] = semantic_files(tmp_path, np.zeros((2, 3), dtype=np.uint8), "a.PNG")
    assert record["sem_seg_file_name"].endswith("a.PNG")


def test_colors_are_no_labels(record, tmp_path):
    record, _ = record
    with pytest.raises(InputError, match="3 channels"):
        PanopticMapper()({**record, "sem_seg_file_name": record["pan_seg_file_name"]})
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"broken.png"):
        PanopticMapper()({**record, "sem_seg_file_name": str(tmp_path / "broken.png")})


def test_segments_and_png_must_agree(record):
    record, _ = record
    listed = record["segments_info"]
    for segments, say in [
        ([*listed, {**listed[0], "id": 99}], r"7.png: lacks segment 99"),
        (listed[:-1], r"7.png: has segment 2 that the json lacks"),
        ([*listed, {**listed[0], "id": 0}], r"lacks segment 0"),
    ]:
        with pytest.raises(InputError, match=say):
            PanopticMapper()({**record, "segments_info": segments})


def test_indices_equal_a_loop():
    ids = torch.randint(0, 9, (20, 30), generator=torch.Generator().manual_seed(0)) * 1000
    listed = [3000, 1000, 8000, 2000, 5000, 4000, 7000, 6000]
    indices = segment_indices(ids, listed, "x.png")
    for y in range(20):
        for x in range(30):
            assert indices[y, x] == (listed.index(int(ids[y, x])) if ids[y, x] else -1)


def test_a_missing_category_is_refused(tmp_path, catalog):
    json_file, pngs, photos, _ = panoptic(tmp_path, SEGMENTS)
    register_panoptic(
        "lacking",
        image_root=photos,
        panoptic_json=json_file,
        panoptic_root=pngs,
        instances_json=tmp_path / "none.json",
        categories=[c for c in CATEGORIES if c["name"] != "grass"],
        synonyms=[["dog"], ["cat"]],
    )
    with pytest.raises(InputError, match="category_id 9"):
        get_dataset("lacking")


@pytest.mark.parametrize("lack", ["photos", "labels", "a.jpg", "a.png"])
def test_incomplete_semantic_data_sets(tmp_path, lack):
    semantic_files(tmp_path, np.zeros((2, 3), dtype=np.uint8))
    arguments = [tmp_path / "photos", tmp_path / "labels"]
    if lack in ("photos", "labels"):
        arguments = [path.parent / f"no_{path.name}" if path.name == lack else path for path in arguments]
    else:
        next(tmp_path.rglob(lack)).unlink()
    with pytest.raises(InputError, match=r"photos|labels") as caught:
        load_semantic(*arguments)
    assert "\n" not in str(caught.value)


def test_semantic_files_of_any_suffix_in_subfolders(tmp_path):
    for name in (
        "photos/x/a.tif",
        "photos/x/._a.tif",
        "photos/a.webp",
        "labels/x/a.png",
        "labels/a.png",
        "labels/.a.png",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    records = load_semantic(tmp_path / "photos", tmp_path / "labels")
    pairs = {(r["file_name"], r["sem_seg_file_name"], r["image_id"]) for r in records}
    stem = str(tmp_path)
    assert pairs == {
        (f"{stem}/photos/a.webp", f"{stem}/labels/a.png", 0),
        (f"{stem}/photos/x/a.tif", f"{stem}/labels/x/a.png", 1),
    }
    (tmp_path / "photos/a.jpg").touch()
    with pytest.raises(InputError, match=r"a\.jpg and .*a\.webp have one name"):
        load_semantic(tmp_path / "photos", tmp_path / "labels")


def test_real_panoptic_segments_fit(assets, catalog):
    register_builtin(assets / "data")
    records = get_dataset("coco_2017_val_panoptic_ov")
    assert len(records) == 100
    meta = MetadataCatalog.get("coco_2017_val_panoptic_ov")
    listed = {a["image_id"]: a for a in json.loads(Path(meta.panoptic_json).read_text())["annotations"]}
    ids = {**meta.thing_dataset_id_to_contiguous_id, **meta.stuff_dataset_id_to_contiguous_id}
    for record in records[::7]:
        sample = PanopticMapper()(record)
        official = listed[sample["image_id"]]["segments_info"]
        assert sample["masks"].sum(dim=(1, 2)).tolist() == [s["area"] for s in official]
        assert sample["classes"].tolist() == [ids[s["category_id"]] for s in official]
        assert set(sample["sem_seg"].unique().tolist()) - {255} == set(sample["classes"].tolist())
