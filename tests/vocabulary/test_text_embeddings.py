"""Classifier rows from files, ours and the published ones."""

import json

import numpy as np
import pytest
import torch

from clipself_d2.errors import InputError
from clipself_d2.vocabulary import load_text_embeddings, save_text_embeddings

NAMES = ["cat", "hot_dog", "tv"]


@pytest.mark.parametrize("suffix", [".npy", ".pt"])
def test_what_is_saved_is_read(tmp_path, suffix):
    rows = torch.nn.functional.normalize(torch.randn(3, 8), dim=1)
    save_text_embeddings(rows, NAMES, tmp_path / f"rows{suffix}")
    torch.testing.assert_close(load_text_embeddings(tmp_path / f"rows{suffix}", NAMES, 8), rows)


def test_rows_are_normalised_and_chosen_by_name(tmp_path):
    rows = torch.randn(3, 8) * 9
    torch.save(dict(zip(NAMES, rows.double(), strict=True)), tmp_path / "rows.pt")
    chosen = load_text_embeddings(tmp_path / "rows.pt", ["tv", "cat"], 8)
    torch.testing.assert_close(chosen, torch.stack([rows[2] / rows[2].norm(), rows[0] / rows[0].norm()]))


def files(folder):
    np.save(folder / "rows.npy", np.zeros((3, 8), dtype=np.float32))
    np.save(folder / "flat.npy", np.zeros(3, dtype=np.float32))
    np.save(folder / "nan.npy", np.full((3, 8), np.nan, dtype=np.float32))
    np.save(folder / "object.npy", np.array([{}] * 3), allow_pickle=True)
    (folder / "broken.pt").write_bytes(b"no")
    torch.save({"cat": torch.zeros(8), "hot dog": torch.zeros(8), "tv": torch.zeros(7)}, folder / "names.pt")


@pytest.mark.parametrize(
    "file, names, dim, reason",
    [
        ("rows.npy", ["a"], 8, "3 rows for 1 classes"),
        ("rows.npy", NAMES, 512, "length 8, the image tower's 512"),
        ("flat.npy", NAMES, 8, "length"),
        ("nan.npy", NAMES, 8, "not finite"),
        ("object.npy", NAMES, 8, "not a readable file"),
        ("broken.pt", NAMES, 8, "not a readable file"),
        ("absent.pt", NAMES, 8, "no such file"),
        ("rows.txt", NAMES, 8, r"\.npy"),
        ("names.pt", ["cat", "hot_dog", "cow"], 8, "2 of 3 classes are absent, first 'hot_dog'; near ones are hot dog"),
        ("names.pt", ["cat", "tv"], 8, "one length"),
    ],
)
def test_wrong_files(tmp_path, file, names, dim, reason):
    files(tmp_path)
    with pytest.raises(InputError, match=reason):
        load_text_embeddings(tmp_path / file, names, dim)


def test_writing_another_kind(tmp_path):
    with pytest.raises(InputError, match=r"rows\.txt"):
        save_text_embeddings(torch.zeros(1, 2), ["a"], tmp_path / "rows.txt")


# ---- the published embeddings ----


@pytest.fixture
def published(assets):
    folder = assets / "text_embeddings"
    if not folder.is_dir():
        pytest.skip("CLIPSELF_D2_ASSETS has no folder text_embeddings/")
    return folder


def test_published_rows_of_the_panoptic_classes_agree_with_the_boxes(published, assets):
    """The 80 thing rows of the panoptic matrix are the rows by name of the detector's dictionary."""
    categories = json.loads((assets / "data/coco/annotations/panoptic_val2017.json").read_text())["categories"]
    names = [c["name"] for c in sorted(categories, key=lambda c: c["id"])]
    rows = load_text_embeddings(published / "CLIPSelf__coco_panoptic_clip_hand_craft_EVACLIP_ViTB16.npy", names, 512)
    things = [c["name"] for c in sorted(categories, key=lambda c: c["id"]) if c["isthing"]]
    assert len(things) == 80
    by_name = load_text_embeddings(published / "CLIPSelf__coco_with_background_evaclip_vitb_16.pt", things, 512)
    torch.testing.assert_close(rows[[names.index(name) for name in things]], by_name, atol=1e-3, rtol=0)


@pytest.mark.parametrize("file, count", [("CLIPSelf__lvis_with_background_evaclip_vitb_16.pt", 1204)])
def test_published_dictionary_is_read_by_the_names_it_has(published, file, count):
    names = list(torch.load(published / file, weights_only=True))
    rows = load_text_embeddings(published / file, names, 512)
    assert rows.shape == (count, 512)
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(count))


def test_rows_that_are_not_unit_vectors_become_so(published):
    rows = load_text_embeddings(published / "Detic__coco_clip_a+cname.npy", [str(i) for i in range(80)], 512)
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(80))
