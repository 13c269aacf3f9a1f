import json
import multiprocessing
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image
from pycocotools.coco import COCO

from clipself_d2.data import PanopticRegionMapper, get_dataset
from clipself_d2.errors import InputError
from clipself_d2.miniature import dataset, registration
from clipself_d2.miniature.dataset import categories, ensure_ov_shapes, scene_of, write_split
from clipself_d2.miniature.render import render
from clipself_d2.miniature.world import CLASSES, STUFF, THINGS, frequency, is_novel

SCENES = 8
KINDS = ("", "_images", "_captions", "_panoptic_regions", "_panoptic", "_semantic")
FOLDER = f"ov_shapes_{dataset.VERSION}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawn")
    write_split(folder, "val", SCENES)
    return folder


@pytest.fixture(scope="module")
def coco(folder):
    return COCO(str(folder / "annotations/instances_val.json"))


@pytest.fixture(scope="module")
def panoptic(folder):
    return json.loads((folder / "annotations/panoptic_val.json").read_text())


def ids_of(folder, name):
    """Panoptic ids of every pixel, as panopticapi's rgb2id decodes them."""
    color = np.array(Image.open(folder / "panoptic_val" / name)).astype(np.int64)
    return color[..., 0] + 256 * color[..., 1] + 256 * 256 * color[..., 2]


def tight_box(mask):
    rows, columns = np.nonzero(mask)
    x, y = columns.min(), rows.min()
    return [x, y, columns.max() - x + 1, rows.max() - y + 1]


def test_the_folder_holds_images_labels_and_annotations(folder):
    names = {f"{index:06d}.png" for index in range(SCENES)}
    assert {path.name for path in folder.iterdir()} == {"val", "panoptic_val", "annotations"}
    assert {path.name for path in (folder / "val").iterdir()} == names
    assert {path.name for path in (folder / "panoptic_val").iterdir()} == names
    kinds = {f"{kind}_val.json" for kind in ("instances", "panoptic", "captions")}
    assert {path.name for path in (folder / "annotations").iterdir()} == kinds


def test_images_are_the_scenes_of_the_split(folder):
    for index in range(SCENES):
        drawn = np.array(Image.open(folder / f"val/{index:06d}.png"))
        assert drawn.shape == (128, 128, 3)
        assert np.array_equal(drawn, render(scene_of("val", index), 128)[0])


def test_categories_are_cocos_with_split_and_frequency():
    listed = categories()
    assert [c["id"] for c in listed] == list(range(1, 105))
    assert tuple(c["name"] for c in listed) == CLASSES
    assert [c["isthing"] for c in listed] == [1] * 96 + [0] * 8
    for i, category in enumerate(listed[:96]):
        assert category["split"] == ("novel" if is_novel(i) else "base")
        assert category["frequency"] == frequency(i)


def test_instances_agree_with_their_masks_and_the_png(folder, coco):
    assert len(coco.imgs) == SCENES and sorted(coco.cats) == list(range(1, 97))
    assert sorted(coco.anns) == list(range(1, len(coco.anns) + 1))
    for image in coco.imgs.values():
        assert (image["height"], image["width"]) == (128, 128)
        ids = ids_of(folder, image["file_name"])
        instances = coco.loadAnns(coco.getAnnIds(image["id"]))
        assert instances
        for instance in instances:
            mask = coco.annToMask(instance).astype(bool)
            assert instance["bbox"] == tight_box(mask)
            assert instance["area"] == mask.sum() >= 24
            assert instance["iscrowd"] == 0
            (segment,) = np.unique(ids[mask])
            assert np.array_equal(ids == segment, mask)


def test_panoptic_segments_agree_with_the_png(folder, panoptic):
    assert len(panoptic["images"]) == len(panoptic["annotations"]) == SCENES
    assert panoptic["categories"] == categories()
    for annotation in panoptic["annotations"]:
        ids = ids_of(folder, annotation["file_name"])
        found = {int(i): int(n) for i, n in zip(*np.unique(ids, return_counts=True), strict=True)}
        unlabelled = found.pop(0, 0)
        infos = annotation["segments_info"]
        assert {info["id"]: info["area"] for info in infos} == found
        scene = scene_of("val", annotation["image_id"] - 1)
        assert unlabelled < 24 * (len(scene.grounds) + len(scene.things))
        for info in infos:
            assert info["bbox"] == tight_box(ids == info["id"])
            # Segments are numbered from 1: grounds, then things in the order of drawing.
            number = info["id"] - 1
            if number < len(scene.grounds):
                name = STUFF[scene.grounds[number].category]
            else:
                name = THINGS[scene.things[number - len(scene.grounds)].category]
            assert CLASSES[info["category_id"] - 1] == name


def test_panoptic_things_are_the_instances(coco, panoptic):
    for annotation in panoptic["annotations"]:
        things = [info for info in annotation["segments_info"] if info["category_id"] <= 96]
        instances = coco.loadAnns(coco.getAnnIds(annotation["image_id"]))
        keys = ("category_id", "bbox", "area")
        assert [[x[k] for k in keys] for x in things] == [[x[k] for k in keys] for x in instances]


def test_captions_name_every_segment(folder, panoptic):
    captions = json.loads((folder / "annotations/captions_val.json").read_text())
    assert [c["id"] for c in captions["annotations"]] == list(range(1, SCENES + 1))
    for caption, annotation in zip(captions["annotations"], panoptic["annotations"], strict=True):
        assert caption["image_id"] == annotation["image_id"]
        names = [CLASSES[info["category_id"] - 1] for info in annotation["segments_info"]]
        assert caption["caption"] == ", ".join(f"a {name}" for name in names)


def test_registering_draws_nothing(small_world):
    names = {f"ov_shapes_{split}{kind}" for split in ("train", "val") for kind in KINDS}
    assert set(DatasetCatalog.list()) == names | {"ov_shapes_train_base"}
    assert not small_world.exists()


def test_names_load_and_draw_once(small_world, monkeypatch):
    records = {name: get_dataset(name) for name in DatasetCatalog.list()}
    assert [path.name for path in small_world.iterdir()] == [FOLDER]
    assert all(
        len(records[f"ov_shapes_train{kind}"]) == 4 and len(records[f"ov_shapes_val{kind}"]) == 3 for kind in KINDS
    )
    for listed in records.values():
        assert all(Path(record["file_name"]).is_file() and record["height"] == 128 for record in listed)
    boxes = [x["bbox"] for x in records["ov_shapes_val"][0]["annotations"]]
    regions = [x["bbox"] for x in records["ov_shapes_val_panoptic_regions"][0]["segments_info"] if x["isthing"]]
    assert boxes == regions

    assert len(records["ov_shapes_train_base"]) <= 4

    monkeypatch.setattr(dataset, "write_split", None)  # drawing again would fail
    assert get_dataset("ov_shapes_val_images") == records["ov_shapes_val_images"]


def test_metadata_names_the_classes(small_world):
    get_dataset("ov_shapes_val")
    meta = MetadataCatalog.get("ov_shapes_val")
    assert meta.thing_classes == list(THINGS)
    assert meta.thing_dataset_id_to_contiguous_id == {i + 1: i for i in range(96)}
    assert meta.novel_classes == [name for i, name in enumerate(THINGS) if is_novel(i)]
    regions = MetadataCatalog.get("ov_shapes_train_panoptic_regions")
    assert regions.region_classes == list(CLASSES)
    assert regions.region_isthing == [True] * 96 + [False] * 8


def test_base_has_the_base_instances_and_their_scenes_alone(small_world):
    base = [i for i in range(96) if not is_novel(i)]
    expected = {}
    for record in get_dataset("ov_shapes_train"):
        boxes = [(x["category_id"], tuple(x["bbox"])) for x in record["annotations"] if x["category_id"] in base]
        if boxes:
            expected[record["image_id"]] = boxes
    found = get_dataset("ov_shapes_train_base")
    assert {r["image_id"]: [(x["category_id"], tuple(x["bbox"])) for x in r["annotations"]] for r in found} == expected
    meta, other = MetadataCatalog.get("ov_shapes_train_base"), MetadataCatalog.get("ov_shapes_train")
    assert meta.thing_classes == other.thing_classes and meta.novel_classes == other.novel_classes


def test_a_scene_of_novel_things_alone_is_left_out_of_base(small_world):
    get_dataset("ov_shapes_train")
    json_file = Path(MetadataCatalog.get("ov_shapes_train").json_file)
    content = json.loads(json_file.read_text())
    novel = next(i for i in range(96) if is_novel(i)) + 1
    for annotation in content["annotations"]:
        if annotation["image_id"] == 2:
            annotation["category_id"] = novel
    json_file.write_text(json.dumps(content))
    assert 2 not in {record["image_id"] for record in get_dataset("ov_shapes_train_base")}
    assert 2 in {record["image_id"] for record in get_dataset("ov_shapes_train_images")}


def test_the_region_mapper_reads_them(small_world):
    sample = PanopticRegionMapper()(get_dataset("ov_shapes_val_panoptic_regions")[1])
    scene = scene_of("val", 1)
    _, segments = render(scene, 128)
    assert sample["skipped_segments"] == 0
    for mask, kind, isthing in zip(sample["masks"].numpy(), sample["classes"], sample["isthing"], strict=True):
        (number,) = np.unique(segments[mask])
        assert np.array_equal(segments == number, mask)
        thing = number - len(scene.grounds)
        assert isthing == (thing >= 0)
        expected = scene.things[thing].category if thing >= 0 else 96 + scene.grounds[number].category
        assert kind == expected


def test_registering_again_moves_the_data_set(small_world, tmp_path):
    registration.register_ov_shapes(tmp_path / "elsewhere")
    assert Path(get_dataset("ov_shapes_val")[0]["file_name"]).is_relative_to(tmp_path / "elsewhere")
    assert not small_world.exists()


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_an_interrupted_draft_leaves_nothing(small_world, monkeypatch, error):
    write = dataset.write_split

    def interrupted(folder, split, count):
        write(folder, split, count)
        if split == "val":
            raise error

    monkeypatch.setattr(dataset, "write_split", interrupted)
    with pytest.raises(error):
        ensure_ov_shapes(small_world)
    assert list(small_world.iterdir()) == []

    monkeypatch.setattr(dataset, "write_split", write)
    assert len(list((ensure_ov_shapes(small_world) / "train").iterdir())) == 4


def test_a_killed_draft_is_not_taken_for_the_data_set(small_world):
    write_split(small_world / f".{FOLDER}.of-a-killed-process", "train", 1)
    assert len(get_dataset("ov_shapes_train")) == 4


def test_a_root_that_cannot_be_written_is_told_in_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="DETECTRON2_DATASETS") as caught:
        ensure_ov_shapes(tmp_path / "file")
    assert str(tmp_path / "file") in str(caught.value) and "\n" not in str(caught.value)


def draw_at_once(root, barrier, answers):
    """In a process of its own: both have drawn everything before either shows its folder."""
    write = dataset.write_split

    def in_step(folder, split, count):
        write(folder, split, count)
        barrier.wait(60)

    dataset.write_split = in_step
    answers.put(str(ensure_ov_shapes(root)))


def test_two_processes_may_draw_at_once(small_world):
    context = multiprocessing.get_context("fork")  # inherits the few scenes of `small_world`
    barrier, answers = context.Barrier(2), context.Queue()
    processes = [context.Process(target=draw_at_once, args=(small_world, barrier, answers)) for _ in range(2)]
    for process in processes:
        process.start()
    assert [answers.get(timeout=60) for _ in processes] == [str(small_world / FOLDER)] * 2
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert [path.name for path in small_world.iterdir()] == [FOLDER]
    assert len(get_dataset("ov_shapes_train")) == 4
