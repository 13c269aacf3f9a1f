import json
import logging
import os
from pathlib import Path

import numpy as np
import pytest

from clipself_d2.data import (
    CaptionMapper,
    build_train_loader,
    get_dataset,
    load_captioned_images,
    load_captions,
    register_captions,
)
from clipself_d2.data.builtin import register_builtin
from clipself_d2.errors import InputError
from tests.data.make import write_images


def captioned(folder, captions, count=3):
    """Photographs 0, 1, ... and a json of captions, a list of (image id, caption)."""
    images = json.loads(write_images(folder / "photos", count).read_text())["images"]
    annotations = [{"id": k, "image_id": image_id, "caption": text} for k, (image_id, text) in enumerate(captions)]
    (folder / "captions.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    return folder / "captions.json"


def test_captions_by_image(tmp_path):
    json_file = captioned(tmp_path, [(2, "a cat\n"), (0, "a dog"), (2, " two cats")])
    assert load_captions(json_file) == {2: ["a cat", "two cats"], 0: ["a dog"]}


@pytest.mark.parametrize(
    "content, reason",
    [
        ("{", "is no json"),
        ([], "expected object, got array"),
        ({"images": []}, "has no 'annotations'"),
        ({"annotations": {}}, "annotations: expected array"),
        ({"annotations": []}, "'annotations' is empty"),
        ({"annotations": ["a cat"]}, r"'annotations\[0\]' is 'a cat'"),
        ({"annotations": [{"caption": "a cat"}]}, "has no 'image_id'"),
        ({"annotations": [{"image_id": 3, "bbox": []}]}, "has no 'caption'"),
        ({"annotations": [{"image_id": 3.5, "caption": "a cat"}]}, "'image_id' is 3.5"),
        ({"annotations": [{"image_id": [3], "caption": "a cat"}]}, r"'image_id' is \[3\]: expected int \| str"),
        ({"annotations": [{"image_id": 3, "caption": ["a cat"]}]}, r"\(image_id 3\): 'caption' is \['a cat'\]"),
        ({"annotations": [{"image_id": 3, "caption": " \n"}]}, "of image 3 is no text"),
    ],
)
def test_a_malformed_file_is_one_error(tmp_path, content, reason):
    path = tmp_path / "captions.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(InputError, match=reason) as caught:
        load_captions(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_file_says_where_to_get_it(tmp_path):
    with pytest.raises(InputError, match=r"captions\.json: cannot be read .*datasets/README\.md"):
        load_captions(tmp_path / "captions.json")


def test_images_without_captions_are_left_out_and_counted(tmp_path, caplog):
    json_file = captioned(tmp_path, [(2, "a cat"), (2, "two cats")])
    with caplog.at_level(logging.WARNING):
        records = load_captioned_images(json_file, tmp_path / "photos")
    name = str(tmp_path / "photos/2.png")
    assert records == [{"file_name": name, "image_id": 2, "height": 16, "width": 24, "captions": ["a cat", "two cats"]}]
    assert [r.message for r in caplog.records] == [f"{json_file}: left out 2 of 3 images, without captions"]


def test_no_warning_when_all_have_captions(tmp_path, caplog):
    load_captioned_images(captioned(tmp_path, [(0, "a"), (1, "b"), (2, "c")]), tmp_path / "photos")
    assert not caplog.records


def test_a_caption_of_no_image(tmp_path):
    json_file = captioned(tmp_path, [(0, "a cat"), (9, "a dog"), (8, "a dog")])
    with pytest.raises(InputError, match="unknown image id 9"):
        load_captioned_images(json_file, tmp_path / "photos")


def test_registered(fresh_catalog, tmp_path):
    register_captions("mine", captioned(tmp_path, [(1, "a cat")]), tmp_path / "photos")
    (record,) = get_dataset("mine")
    assert record["captions"] == ["a cat"]


def test_coco_is_registered(fresh_catalog, tmp_path):
    register_builtin(tmp_path)
    for split in ("train", "val"):
        with pytest.raises(InputError, match=f"{split}2017.* no such folder"):
            get_dataset(f"coco_2017_{split}_captions")
        (tmp_path / f"coco/{split}2017").mkdir(parents=True)
        with pytest.raises(InputError, match=rf"coco/annotations/captions_{split}2017\.json: cannot be read"):
            get_dataset(f"coco_2017_{split}_captions")


def test_the_generator_draws_the_caption(tmp_path):
    texts = ["a cat", "two cats", "three cats"]
    (record,) = load_captioned_images(captioned(tmp_path, [(1, text) for text in texts]), tmp_path / "photos")
    mapper, rng = CaptionMapper(), np.random.default_rng(0)
    samples = [mapper(record, rng) for _ in range(300)]
    counts = [sum(sample["caption"] == text for sample in samples) for text in texts]
    assert sum(counts) == 300 and min(counts) > 60
    assert mapper(record, np.random.default_rng(7))["caption"] == mapper(record, np.random.default_rng(7))["caption"]
    image = samples[0].pop("image")
    assert image.shape == (3, 16, 24) and (image == 1).all() and str(image.dtype) == "torch.uint8"
    rest = {"file_name": str(tmp_path / "photos/1.png"), "image_id": 1, "height": 16, "width": 24}
    assert {k: v for k, v in samples[0].items() if k != "caption"} == rest


def test_a_data_set_without_captions_is_refused_before_training(tmp_path):
    records = load_captioned_images(captioned(tmp_path, [(1, "a cat")]), tmp_path / "photos")
    for bare in ({**records[0], "captions": []}, {"file_name": "photos/5.png", "image_id": 5}):
        with pytest.raises(InputError, match=r"\.png: has no captions"):
            build_train_loader([*records, bare], CaptionMapper(), 1, 0, 0)
    (sample,) = next(iter(build_train_loader(records, CaptionMapper(), 1, 0, 0)))
    assert sample["caption"] == "a cat"


@pytest.mark.skipif("CLIPSELF_D2_ASSETS" not in os.environ, reason="needs images: set CLIPSELF_D2_ASSETS")
def test_official_captions():
    coco = Path(os.environ["CLIPSELF_D2_ASSETS"]) / "data/coco"
    if not coco.is_dir():
        pytest.skip(f"{coco} is absent")
    records = load_captioned_images(coco / "annotations/captions_val2017.json", coco / "val2017")
    captions = {record["image_id"]: record["captions"] for record in records}
    assert len(captions) == 846 and sum(map(len, captions.values())) == 4232
    assert "A small closed toilet in a cramped space." in captions[331352]
