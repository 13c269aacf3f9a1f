import json
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.data.datasets import load_coco_json
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.ndimage import label as connected

from clipself_d2.data import PanopticMapper, get_dataset
from clipself_d2.data.builtin import register_builtin
from clipself_d2.data.classes import ADE20K_CATEGORIES, ADE20K_STUFF, ADE20K_THINGS
from clipself_d2.errors import InputError
from clipself_d2.evaluation import OpenVocabularyPanopticEvaluator
from clipself_d2.vocabulary import class_names, label_set
from tests.evaluation.scenes import all_100, outputs_of
from tests.tools.loading import load_tool

ROOT = Path(__file__).parents[2]
tool = load_tool("prepare_ade20k", "datasets")
WALL, SKY, BED, CAR = 0, 2, 7, 20  # of the 150; in the instance release a bed is 1 and a car 9
BED_NUMBER, CAR_NUMBER = 1, 9


def test_things_are_those_of_the_instance_challenge():
    # Pairs of its number and that in Scene Parsing, both from 1, as ADE20K's authors list them.
    for number, scene in [(1, 8), (5, 15), (9, 21), (29, 50), (57, 89), (85, 131), (94, 143), (100, 150)]:
        assert ADE20K_THINGS[number - 1] == scene - 1
    assert len(ADE20K_THINGS) == 100 and len(ADE20K_STUFF) == 50 and {*ADE20K_THINGS, *ADE20K_STUFF} == set(range(150))
    categories = ADE20K_CATEGORIES
    assert [c["id"] for c in categories if c["isthing"]] == list(ADE20K_THINGS)
    assert (categories[WALL]["name"], categories[BED]["name"], categories[CAR]["name"]) == ("wall", "bed", "car")


def test_semantic_labels_count_from_0():
    official = np.array([[0, 1, 150]], dtype=np.int64)
    assert tool.semantic_labels(official, "x").tolist() == [[255, 0, 149]]
    with pytest.raises(InputError, match=r"x.png: has label 151"):
        tool.semantic_labels(official + 1, "x.png")


def pictures(seed, height=12, width=15):
    """Random semantic labels and instances."""
    rng = np.random.default_rng(seed)
    semantic = np.array([WALL, SKY, BED, CAR, 255], dtype=np.uint8)[rng.integers(0, 5, (height, width))]
    instances = np.zeros((height, width, 2), dtype=np.uint8)
    for instance in range(1, rng.integers(1, 6)):
        number = [BED_NUMBER, CAR_NUMBER][rng.integers(0, 2)]
        y, x = rng.integers(0, height), rng.integers(0, width)
        instances[y : y + 4, x : x + 4] = number, instance
    return semantic, instances


@settings(max_examples=30)
@given(st.integers(0, 1000))
def test_panoptic_segments_equal_a_loop(seed):
    semantic, instances = pictures(seed)
    ids, segments = tool.panoptic_labels(semantic, instances, "x")
    assert sorted(set(ids.ravel()) - {0}) == [s["id"] for s in segments]
    by_id = {s["id"]: s for s in segments}
    things = {}
    for y, x in np.ndindex(semantic.shape):
        number, instance = (int(v) for v in instances[y, x])
        if instance:
            assert by_id[ids[y, x]]["category_id"] == {BED_NUMBER: BED, CAR_NUMBER: CAR}[number]
            assert things.setdefault(instance, ids[y, x]) == ids[y, x]
        elif semantic[y, x] in (WALL, SKY):
            assert by_id[ids[y, x]]["category_id"] == semantic[y, x]
        else:
            assert ids[y, x] == 0
    assert len(set(things.values())) == len(things)
    for segment in segments:
        rows, columns = np.nonzero(ids == segment["id"])
        assert segment["area"] == len(rows)
        x, y = columns.min(), rows.min()
        assert segment["bbox"] == [x, y, columns.max() - x + 1, rows.max() - y + 1]
    found = tool.instance_annotations(ids, segments)
    assert [a["category_id"] for a in found] == [s["category_id"] for s in segments if s["category_id"] in (BED, CAR)]


def test_instances_that_do_not_fit_are_refused():
    semantic, instances = pictures(0)
    with pytest.raises(InputError, match="several classes"):
        both = instances.copy()
        both[0, 0], both[0, 1] = (BED_NUMBER, 9), (CAR_NUMBER, 9)
        tool.panoptic_labels(semantic, both, "x")
    for wrong in (0, 101):
        other = instances.copy()
        other[0, 0] = wrong, 9
        with pytest.raises(InputError, match=r"outside 1..100"):
            tool.panoptic_labels(semantic, other, "x")
    with pytest.raises(InputError, match="15 x 11 pixels"):
        tool.panoptic_labels(semantic, instances[1:], "x")


def write(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def scene_parsing(root, count=3, instances=True):
    """The official folders with random labels."""
    for number in range(1, count + 1):
        semantic, things = pictures(number, 40, 50)
        name = f"validation/ADE_val_{number:08d}"
        write(root / f"images/{name}.jpg", np.zeros((40, 50, 3), dtype=np.uint8))
        write(root / f"annotations/{name}.png", semantic + np.uint8(1))
        if instances:
            padded = np.concatenate([things, np.zeros_like(things[..., :1])], axis=-1)
            write(root / f"annotations_instance/{name}.png", padded)


def judged(name, num_classes):
    evaluator = OpenVocabularyPanopticEvaluator(name)
    for record in get_dataset(name):
        sample = PanopticMapper()(record)
        output = outputs_of(sample, num_classes)
        if "pan_seg_file_name" not in record:
            output = {"sem_seg": output["sem_seg"]}
        else:  # things that no instance covers are in the semantic labels alone
            labels = sample["sem_seg"].clamp(max=num_classes)
            one_hot = torch.nn.functional.one_hot(labels.where(labels < num_classes, num_classes), num_classes + 1)
            output["sem_seg"] = one_hot[..., :num_classes].permute(2, 0, 1)
        evaluator.process([sample], [output])
    return evaluator.evaluate()


def test_scene_parsing_from_download_to_perfect_evaluation(tmp_path, fresh_catalog):
    scene_parsing(tmp_path / "ADEChallengeData2016")
    assert tool.prepare_scene_parsing(tmp_path / "ADEChallengeData2016", "val") == 3
    register_builtin(tmp_path)
    records = get_dataset("ade20k_val_panoptic_ov")
    assert [r["image_id"] for r in records] == [1, 2, 3]
    semantic, things = pictures(2, 40, 50)
    sample = PanopticMapper()(records[1])
    assert (sample["sem_seg"].numpy() == semantic).all()
    assert int(sample["isthing"].sum()) == len(set(things[..., 1].ravel()) - {0})
    all_100(judged("ade20k_val_panoptic_ov", 150))
    all_100(judged("ade20k_150_val_sem_seg", 150), ["sem_seg"])
    # Detectron2 itself reads the instances.
    meta = MetadataCatalog.get("ade20k_val_panoptic_ov")
    loaded = load_coco_json(meta.json_file, meta.image_root, "as_detectron2_reads_it")
    assert sum(len(r["annotations"]) for r in loaded) == sum(
        sum(s["isthing"] for s in r["segments_info"]) for r in records
    )


def test_without_the_instance_release_there_are_semantic_labels(tmp_path, fresh_catalog):
    scene_parsing(tmp_path / "ADEChallengeData2016", instances=False)
    tool.prepare_scene_parsing(tmp_path / "ADEChallengeData2016", "val")
    register_builtin(tmp_path)
    all_100(judged("ade20k_150_val_sem_seg", 150), ["sem_seg"])
    with pytest.raises(InputError, match="ade20k_panoptic_val"):
        get_dataset("ade20k_val_panoptic_ov")


def test_the_command(tmp_path, capsys):
    arguments = ["--root", str(tmp_path), "--splits", "val"]
    assert tool.main(arguments) == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path}: has none of ADEChallengeData2016")
    scene_parsing(tmp_path / "ADEChallengeData2016", 1)
    assert tool.main(arguments) == 0
    assert "ADEChallengeData2016 val: 1 images\n" in capsys.readouterr().out
    content = json.loads((tmp_path / "ADEChallengeData2016/ade20k_panoptic_val.json").read_text())
    assert len(content["categories"]) == 150 and len(content["images"]) == 1
    assert tool.main(["--splits", "test"]) == 2


def test_full_labels():
    index = json.loads((ROOT / "datasets/ade20k_847_index.json").read_text())
    colors = np.zeros((1, 4, 3), dtype=np.uint8)
    for column, name_ndx in enumerate([index[0], index[846], 1279]):  # 1279 is "housing", of none of the 847
        colors[0, column] = name_ndx // 256 * 10 + 7, name_ndx % 256, 99  # blue and red's last digit: the instance
    assert tool.full_labels(colors, "x").tolist() == [[0, 846, 65535, 65535]]
    with pytest.raises(InputError, match="no RGB"):
        tool.full_labels(colors[..., 0], "x")


def test_full_images_are_resized_as_labels_are(tmp_path, fresh_catalog):
    rng = np.random.default_rng(0)
    wall = np.array([2978 // 256 * 10, 2978 % 256, 0], dtype=np.uint8)
    for name, height, width in [("ADE_val_00000001", 700, 560), ("ADE_val_00000002", 40, 30)]:
        colors = rng.integers(0, 2, (height, width, 1), dtype=np.uint8) * wall
        write(tmp_path / f"ADE20K_2021_17_01/images/ADE/validation/a/b/{name}_seg.png", colors)
        write(tmp_path / f"ADE20K_2021_17_01/images/ADE/validation/a/b/{name}.jpg", colors)
    assert tool.prepare_full(tmp_path / "ADE20K_2021_17_01", "val") == 2
    register_builtin(tmp_path)
    large, small = (PanopticMapper()(r) for r in get_dataset("ade20k_847_val_sem_seg"))
    assert large["image"].shape == (3, 640, 512) and small["image"].shape == (3, 40, 30)
    assert large["sem_seg"].unique().tolist() == [0, 65535]
    all_100(judged("ade20k_847_val_sem_seg", 847), ["sem_seg"])


def test_wrong_downloads_are_refused(tmp_path):
    with pytest.raises(InputError, match="no images"):
        tool.prepare_scene_parsing(tmp_path, "val")
    with pytest.raises(InputError, match="no images"):
        tool.prepare_full(tmp_path, "val")
    scene_parsing(tmp_path, 1)
    [label] = (tmp_path / "annotations").rglob("*.png")
    write(label, np.full((40, 50), 151, dtype=np.uint8))
    with pytest.raises(InputError, match="has label 151"):
        tool.prepare_scene_parsing(tmp_path, "val")
    write(tmp_path / "images/ADE/training/x.jpg", np.zeros((4, 5, 3), dtype=np.uint8))
    write(tmp_path / "images/ADE/training/x_seg.png", np.zeros((4, 4, 3), dtype=np.uint8))
    with pytest.raises(InputError, match=r"x_seg.png: is of another size"):
        tool.prepare_full(tmp_path, "train")


def test_real_scene_parsing(assets, tmp_path, fresh_catalog):
    """Real images and labels; the instance release is not there, so connected pixels make its instances."""
    root = tmp_path / "ADEChallengeData2016"
    root.mkdir()
    for folder in ("images", "annotations"):
        (root / folder).symlink_to(assets / "data/ade20k" / folder)
    for file in (root / "annotations/validation").iterdir():
        official = np.asarray(Image.open(file))
        instances = np.zeros((*official.shape, 3), dtype=np.uint8)
        count = 0
        for number, thing in enumerate(ADE20K_THINGS, 1):
            parts, found = connected(official == thing + 1)
            for part in range(1, min(found, 5) + 1):
                count += 1
                instances[parts == part] = number, count, 0
        write(root / "annotations_instance/validation" / file.name, instances)
    assert tool.prepare_scene_parsing(root, "val") == 3
    register_builtin(tmp_path)
    results = judged("ade20k_val_panoptic_ov", 150)
    all_100(results)
    assert {"PQ_novel", "PQ_th_seen"} < set(results["panoptic"])
    sample = PanopticMapper()(get_dataset("ade20k_150_val_sem_seg")[0])
    names = class_names(label_set("ade20k_150"))
    assert [names[k] for k in sample["classes"]] == ["wall", "building", "sky", "tree", "road", "grass", "plant"]


def test_real_full_annotations(assets, tmp_path, fresh_catalog):
    folder = tmp_path / "ADE20K_2021_17_01/images/ADE/training/some"
    folder.mkdir(parents=True)
    [file, *_] = sorted((assets / "data/ade20k/full_2021_samples").glob("*.jpg"))
    for source in (file, file.with_name(f"{file.stem}_seg.png")):
        (folder / source.name).symlink_to(source)
    assert tool.prepare_full(tmp_path / "ADE20K_2021_17_01", "train") == 1
    register_builtin(tmp_path)
    sample = PanopticMapper()(get_dataset("ade20k_847_train_sem_seg")[0])
    assert sample["image"].shape == (3, 512, 683)
    listed = {
        thing["name"]
        for thing in json.loads(file.with_suffix(".json").read_text(errors="replace"))["annotation"]["object"]
        if thing["parts"]["part_level"] == 0
    }
    classes = label_set("ade20k_847")
    assert {", ".join(classes[k]) for k in sample["classes"]} <= listed
    assert (sample["sem_seg"] != 65535).float().mean() > 0.8
    all_100(judged("ade20k_847_train_sem_seg", 847), ["sem_seg"])
