"""Registering: in one line, read when used, repeated, and as the documentation shows it."""

import re
import shutil
from functools import partial
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from clipself_d2.data import (
    get_dataset,
    load_image_list,
    register,
    register_image_list,
    register_instances,
    register_panoptic,
    register_panoptic_regions,
)
from clipself_d2.engine.main import main
from clipself_d2.errors import InputError
from tests.data.make import CATEGORIES, panoptic, write_images
from tests.distillation.tiny import write_model, write_photographs

ROOT = Path(__file__).parents[2]
SEGMENTS = [({"id": 1000, "category_id": 9, "bbox": [0, 0, 80, 60]}, 0, 60, 0, 80)]


def test_registered_in_one_line_and_read_when_used(tmp_path, fresh_catalog):
    register_image_list("test_images", tmp_path / "images.json", tmp_path / "photos")
    register_panoptic_regions("test_regions", tmp_path / "panoptic.json", tmp_path / "pngs", tmp_path / "photos")
    with pytest.raises(InputError):
        get_dataset("test_images")
    write_images(tmp_path / "photos", 3)
    panoptic(tmp_path, SEGMENTS)
    assert len(get_dataset("test_images")) == 3
    assert len(get_dataset(["test_images", "test_regions"])) == 4
    assert MetadataCatalog.get("test_regions").region_classes == ["dog", "cat", "grass"]
    assert MetadataCatalog.get("test_regions").region_isthing == [True, True, False]


def test_the_same_again_is_no_error_and_another_is(tmp_path, fresh_catalog):
    photos = write_images(tmp_path / "photos", 3).parent / "photos"
    for root in (photos, str(photos)):
        register_image_list("mine", None, root)
        assert len(get_dataset("mine")) == 3  # in between
    for again in (
        lambda: register_image_list("mine", tmp_path / "images.json", photos),
        lambda: register_image_list("mine", None, tmp_path),
        lambda: register_image_list("mine", None, photos, caption_nouns="phrases"),
        lambda: register_instances("mine", "a.json", photos),
        lambda: register("mine", lambda: []),
    ):
        with pytest.raises(InputError, match=r"data set 'mine' is already registered with other arguments") as caught:
            again()
        assert "\n" not in str(caught.value)
    assert len(get_dataset("mine")) == 3
    with pytest.raises(InputError, match="coco_2017_val"):
        DatasetCatalog.register("coco_2017_val", list)
        register_image_list("coco_2017_val", None, photos)


def test_classes_tell_registrations_apart(tmp_path, fresh_catalog):
    for classes in (["cat", ["dog", "hound"]], [("cat",), ("dog", "hound")]):
        register_instances("boxes", "a.json", tmp_path, classes, novel=["dog"])
    for classes, novel in ((["cat", "dog"], ["dog"]), (["cat", ["dog", "hound"]], ["cat"]), (None, ())):
        with pytest.raises(InputError, match="'boxes'"):
            register_instances("boxes", "a.json", tmp_path, classes, novel=novel)
    arguments = {
        "image_root": tmp_path,
        "panoptic_json": "a.json",
        "panoptic_root": tmp_path,
        "instances_json": "b.json",
        "categories": CATEGORIES,
        "synonyms": [["cat"], ["grass"], ["dog"]],
    }
    register_panoptic("segments", **arguments)
    register_panoptic("segments", **arguments, novel_classes=())
    with pytest.raises(InputError, match="'segments'"):
        register_panoptic("segments", **arguments, novel_classes=["dog"])


def test_a_loader_of_ones_own(tmp_path, fresh_catalog):
    json_file = write_images(tmp_path / "photos", 2)
    for _ in range(2):
        register("own", partial(load_image_list, json_file, tmp_path / "photos"), thing_classes=["cat"])
    assert len(get_dataset("own")) == 2 and MetadataCatalog.get("own").thing_classes == ["cat"]


def test_get_dataset_refuses():
    with pytest.raises(InputError, match="nothing_like_this"):
        get_dataset("nothing_like_this")
    with pytest.raises(InputError, match="empty"):
        get_dataset([])
    assert get_dataset([{"image_id": 1}]) == [{"image_id": 1}]


def snippets(page: str) -> list[str]:
    """The Python blocks of a page that register data sets."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), flags=re.DOTALL)
    return [block for block in blocks if re.search(r"^register_\w+\(", block, flags=re.MULTILINE)]


PAGES = ["datasets/README.md", "docs/distillation.md", "docs/region_classification.md"]
TRAIN = """
from .clipself_openai_b16_coco_patches import clip, dataloader, export, lr_multiplier, model, optimizer, train
"""


@pytest.mark.parametrize(("page", "number"), [(p, n) for p in PAGES for n in range(len(snippets(p)))])
def test_configs_that_register_as_documented_train(page, number, tmp_path, fresh_catalog, monkeypatch):
    """A run reads its config more than once; all of the documented lines stand in it."""
    write_photographs(tmp_path, 4)
    snippet = re.sub(r'"/data/\w+"', '"path/to/folder"', snippets(page)[number])
    (tmp_path / "path/to").mkdir(parents=True)
    (tmp_path / "coco/unlabeled2017").rename(tmp_path / "path/to/folder")
    if "from ." not in snippet:
        snippet = TRAIN + snippet + 'register_image_list("tiny", None, "path/to/folder")\n'
        snippet = f"from clipself_d2.data import register_image_list\n{snippet}dataloader.train.dataset = 'tiny'\n"
    snippet += "dataloader.evaluator = None\n"
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    config = tmp_path / "configs/distillation/mine.py"
    config.write_text(snippet)
    monkeypatch.chdir(tmp_path)
    arguments = [
        "--config-file", str(config), f"clip.name={write_model(tmp_path)}", "clip.pretrained=null",
        "model.student_size=64", "model.teacher_size=32", "model.trainable_blocks=1", "train.max_iter=1",
        "dataloader.train.total_batch_size=2", "dataloader.train.num_workers=0", "train.device=cpu",
        "train.precision=fp32", "train.output_dir=out",
    ]  # fmt: skip
    assert main(arguments) == 0
    assert (tmp_path / "out/tower.safetensors").is_file()
