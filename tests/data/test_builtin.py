"""The table of data sets: names, classes and metadata, without and with the real files."""

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

import clipself_d2.data  # noqa: F401  (registers the data sets)
from clipself_d2.data import get_dataset
from clipself_d2.data.builtin import register_builtin
from clipself_d2.data.classes import LVIS, LVIS_RARE, names
from clipself_d2.errors import InputError
from clipself_d2.vocabulary import LABEL_SETS

SPLITS = ("train", "val")
IMAGES = {"coco_2017_train_images", "coco_2017_unlabeled_images", "lvis_v1_train_images"}
OBJECTS = {
    "ov_coco_train": 65,
    "ov_coco_val": 65,
    "ov_lvis_train": 1203,
    "objects365_v1_val": 365,
    "objects365_v2_val": 365,
    "voc_2007_test": 20,
}
SEMANTIC = {
    "coco_stuff_171_{}_sem_seg": 171,
    "ade20k_150_{}_sem_seg": 150,
    "ade20k_847_{}_sem_seg": 847,
    "pascal_context_59_{}_sem_seg": 59,
    "pascal_context_459_{}_sem_seg": 459,
}
SEGMENTS = {"coco_2017_{}_panoptic_ov": (133, 80), "ade20k_{}_panoptic_ov": (150, 100)}
OTHERS = ("coco_2017_{}_captions", "coco_2017_{}_panoptic_regions")


@pytest.fixture
def elsewhere(tmp_path, fresh_catalog):
    register_builtin(tmp_path / "elsewhere")


def test_every_name_is_there_and_says_what_is_missing(elsewhere):
    expected = IMAGES | OBJECTS.keys()
    expected |= {name.format(split) for name in (*SEMANTIC, *SEGMENTS, *OTHERS) for split in SPLITS}
    assert set(DatasetCatalog) == expected
    for name in expected:
        with pytest.raises(InputError, match=r"elsewhere.*DETECTRON2_DATASETS") as caught:
            get_dataset(name)
        assert "\n" not in str(caught.value)


SPLIT_NAMES = [f"{x}_{y}" for x in ("instance", "panoptic", "full_sem_seg") for y in SPLITS]
# What `import cat_seg, mask2former, odise, fcclip` registers, as their own code of 2022 to 2024 does.
OTHER_PACKAGES = [
    *(f"coco_2017_{x}_stuff_{y}_sem_seg" for x in ("train", "test") for y in ("all", "10k")),
    *("ade20k_150_test_sem_seg", "ade20k_full_sem_seg_freq_val_all"),
    *(f"{x}_test_sem_seg" for x in ("context_59", "context_459", "voc_2012")),
    "voc_2012_test_background_sem_seg",
    *(f"ade20k_{x}" for x in SPLIT_NAMES),
    *(f"mapillary_vistas_{x}_{y}" for x in ("panoptic", "sem_seg") for y in SPLITS),
    *(f"coco_2017_{x}_panoptic{y}_with_sem_seg" for x in (*SPLITS, "val_100") for y in ("", "_caption")),
    *(f"{x}_sem_seg_{y}" for x in ("ctx59", "ctx459", "pascal21") for y in SPLITS),
    *(f"openvocab_ade20k_{x}" for x in (*SPLIT_NAMES, "sem_seg_train", "sem_seg_val")),
    *(f"openvocab_coco_2017_{x}{y}" for x in SPLITS for y in ("", "_panoptic_with_sem_seg")),
    *(f"openvocab_coco_2017_{x}_stuff_sem_seg" for x in ("train", "test")),
    *(f"openvocab_{x}_panoptic_{y}" for x in ("cityscapes_fine", "mapillary_vistas") for y in SPLITS),
    *(f"openvocab_pascal{x}_sem_seg_{y}" for x in ("20", "21", "_ctx59", "_ctx459") for y in SPLITS),
]


@pytest.mark.parametrize("ours_first", [True, False])
def test_other_packages_may_be_imported_before_or_after(tmp_path, fresh_catalog, ours_first):
    """Detectron2 refuses a name that is taken; a data set that was replaced would be read in another way."""

    def register_theirs():
        for name in OTHER_PACKAGES:
            DatasetCatalog.register(name, lambda name=name: [{"file_name": name}])
            MetadataCatalog.get(name).set(evaluator_type="theirs")

    steps = [lambda: register_builtin(tmp_path), register_theirs]
    for step in steps if ours_first else reversed(steps):
        step()
    assert {DatasetCatalog.get(name)[0]["file_name"] for name in OTHER_PACKAGES} == set(OTHER_PACKAGES)
    assert {MetadataCatalog.get(name).evaluator_type for name in OTHER_PACKAGES} == {"theirs"}
    assert {name.format("val") for name in SEMANTIC} < set(DatasetCatalog)


def test_classes_of_objects(elsewhere):
    assert {name: len(MetadataCatalog.get(name).thing_classes) for name in OBJECTS} == OBJECTS
    novel = {n: len(MetadataCatalog.get(n).novel_classes) for n in ("ov_coco_train", "ov_coco_val", "ov_lvis_train")}
    assert novel == {"ov_coco_train": 17, "ov_coco_val": 17, "ov_lvis_train": 337}
    for name in OBJECTS:
        assert set(MetadataCatalog.get(name).get("novel_classes", ())) <= set(MetadataCatalog.get(name).thing_classes)
        assert MetadataCatalog.get(name).evaluator_type == ("lvis" if name == "ov_lvis_train" else "coco")


def test_classes_of_regions(elsewhere):
    meta = MetadataCatalog.get("coco_2017_val_panoptic_regions")
    assert len(meta.region_classes) == 133
    assert meta.region_isthing == [True] * 80 + [False] * 53


@pytest.mark.parametrize("split", SPLITS)
def test_classes_of_segments(elsewhere, split):
    for name, (classes, things) in SEGMENTS.items():
        meta = MetadataCatalog.get(name.format(split))
        assert len(meta.stuff_classes) == len(meta.thing_classes) == len(meta.class_synonyms) == classes
        maps = [*meta.thing_dataset_id_to_contiguous_id.values(), *meta.stuff_dataset_id_to_contiguous_id.values()]
        assert sorted(maps) == list(range(classes))
        assert len(meta.thing_dataset_id_to_contiguous_id) == things
        assert meta.evaluator_type == "coco_panoptic_seg"
    coco = MetadataCatalog.get(f"coco_2017_{split}_panoptic_ov")
    assert coco.thing_dataset_id_to_contiguous_id[90] == 79 and coco.stuff_dataset_id_to_contiguous_id[200] == 132
    assert coco.novel_classes == []
    ade = MetadataCatalog.get(f"ade20k_{split}_panoptic_ov")
    assert "chandelier" in ade.novel_classes and "wall" not in ade.novel_classes


@pytest.mark.parametrize("split", SPLITS)
def test_classes_of_semantic_labels(elsewhere, split):
    for name, classes in SEMANTIC.items():
        meta = MetadataCatalog.get(name.format(split))
        assert len(meta.stuff_classes) == classes in LABEL_SETS.values()
        assert meta.ignore_label == (255 if classes < 255 else 65535)
        assert set(meta.novel_classes) < set(meta.stuff_classes)
        assert meta.evaluator_type == "sem_seg"
    root = MetadataCatalog.get(f"coco_stuff_171_{split}_sem_seg").sem_seg_root
    assert root.endswith(f"stuffthingmaps_detectron2/{split}2017")


def test_detectron2s_lvis_keeps_its_metadata():
    meta = MetadataCatalog.get("lvis_v1_val")
    assert meta.evaluator_type == "lvis" and meta.thing_classes == names(LVIS)
    assert meta.novel_classes == LVIS_RARE and meta.image_root.endswith("/")
    images = [c["image_count"] for c in sorted(meta.class_image_count, key=lambda c: c["id"])]
    assert meta.class_frequency == ["r" if n <= 10 else "c" if n <= 100 else "f" for n in images]


def test_real_data_is_read(assets, fresh_catalog):
    register_builtin(assets / "data")
    assert len(get_dataset("coco_2017_val_panoptic_regions")) == 100
    assert len(get_dataset("coco_2017_train_images")) == 470
    assert len(get_dataset("coco_2017_unlabeled_images")) == 2209
