"""The command line, from a real config to the exported CLIP, on a tiny tower and drawn images."""

import json
import multiprocessing
import signal
import time
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog

from clipself_d2.clip import build_image_tower
from clipself_d2.data import register_image_list
from clipself_d2.data.by_path import images_at
from clipself_d2.engine.main import main
from clipself_d2.regions import RegionClassifier
from tests.distillation.tiny import write_model, write_photographs
from tests.engine.workers import run_train_net

ROOT = Path(__file__).parents[2]
CONFIG = str(ROOT / "configs/distillation/clipself_openai_b16_coco_patches.py")
STEPS = 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    write_photographs(folder)
    register_image_list("tiny_photographs", None, folder / "coco/unlabeled2017")
    write_model(folder)
    yield folder
    DatasetCatalog.pop("tiny_photographs")  # a worker may come back to this file
    MetadataCatalog.pop("tiny_photographs")


def by_path(folder) -> str:
    """The data set's name for other processes, which register it themselves."""
    return f"dataloader.train.dataset={images_at(folder / 'coco/unlabeled2017')}"


def arguments(folder, name, *more) -> list[str]:
    return [
        "--config-file", CONFIG, *[word for word in more if word.startswith("-")],
        f"clip.name={folder}/tiny-student.json", "clip.pretrained=null",
        "model.student_size=64", "model.teacher_size=32", "model.trainable_blocks=3",
        "dataloader.train.dataset=tiny_photographs", "dataloader.train.total_batch_size=2",
        "dataloader.train.num_workers=0",
        "dataloader.evaluator=null", "optimizer.lr=1e-2", "lr_multiplier.warmup_iters=2", "train.device=cpu",
        "train.precision=fp32", f"train.max_iter={STEPS}", "train.log_period=5", "train.checkpointer.period=5",
        f"train.output_dir={folder}/{name}", *[word for word in more if not word.startswith("-")],
    ]  # fmt: skip


@pytest.fixture(scope="module")
def whole(folder):
    assert main(arguments(folder, "whole")) == 0
    return folder / "whole"


def final(output, steps=STEPS):
    return torch.load(output / f"checkpoint_{steps:07d}.pth", weights_only=True)


def cosines(output) -> list[float]:
    return [json.loads(line)["cosine"] for line in (output / "metrics.json").read_text().splitlines()]


def test_it_learns(whole):
    first, *_, last = cosines(whole)
    assert 1 - last < 0.6 * (1 - first)


def test_the_exported_clip_is_open_clips(folder, whole):
    card = json.loads((whole / "tower.json").read_text())
    assert card["model"] == "tower_model.json" and str(folder) not in json.dumps(card)
    assert (card["alpha"], card["steps"], card["data"]) == (0.7, STEPS, "tiny_photographs")
    assert (card["student_size"], card["teacher_size"], card["trainable_blocks"]) == (64, 32, 3)
    assert RegionClassifier.from_pretrained(whole / "tower.safetensors", ["cat"]).embedder.size == 64
    build_image_tower(f"{folder}/tiny-student.json", None)  # registers the model's config with open_clip
    model = open_clip.create_model("tiny-student", pretrained=str(whole / "tower.safetensors"))
    student = final(whole)["model"]
    torch.manual_seed(0)  # the run's seed: the teacher
    teacher = build_image_tower(f"{folder}/tiny-student.json", None).state_dict()
    for name, value in model.state_dict().items():
        if name.startswith("visual."):
            torch.testing.assert_close(value, 0.7 * student[f"tower.{name}"] + 0.3 * teacher[name])


def test_a_killed_run_resumes_to_the_same_bits(folder, whole):
    out = folder / "killed"
    training = (arguments(folder, "killed", by_path(folder)), f"{out}.txt")
    process = multiprocessing.get_context("forkserver").Process(target=run_train_net, args=training)
    process.start()
    try:
        for _ in range(6000):
            if not process.is_alive() or (out / "last_checkpoint").exists():
                break
            time.sleep(0.01)
    finally:
        process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL, Path(f"{out}.txt").read_text()
    assert not (out / f"checkpoint_{STEPS:07d}.pth").exists()

    assert main(arguments(folder, "killed", "--resume")) == 0
    ours, expected = final(out), final(whole)
    assert all(torch.equal(ours["model"][name], value) for name, value in expected["model"].items())
    moments = expected["optimizer"]["state"]
    for i, values in moments.items():
        assert all(torch.equal(ours["optimizer"]["state"][i][name], value) for name, value in values.items())
    lines = [json.loads(line)["iteration"] for line in (out / "metrics.json").read_text().splitlines()]
    assert lines == sorted(set(lines))


def test_two_cpu_ranks_match_one(folder):
    assert main(arguments(folder, "two", "--num-gpus=2", "train.max_iter=4", by_path(folder))) == 0
    assert main(arguments(folder, "one", "train.max_iter=4")) == 0
    two, one = final(folder / "two", 4)["model"], final(folder / "one", 4)["model"]
    for name, value in one.items():
        # AdamW divides a small gradient by its own size, which makes much of rounding.
        torch.testing.assert_close(two[name], value, rtol=1e-3, atol=1e-3)


def test_regions_of_real_photographs_are_classified(folder, assets):
    data = assets / "data/coco"
    from clipself_d2.data import register_panoptic_regions

    content = json.loads((data / "annotations/panoptic_val2017.json").read_text())
    content["annotations"] = content["annotations"][:25]
    annotations = folder / "panoptic_val2017.json"
    annotations.write_text(json.dumps(content))
    register_panoptic_regions("real_regions", annotations, data / "annotations/panoptic_val2017", data / "val2017")
    text = "{_target_: clipself_d2.vocabulary.TextClassifier, tower: {_target_: clipself_d2.clip.build_text_tower,"
    text += f" name: {folder}/tiny-student.json, pretrained: null}}, templates: photo, cache_dir: {folder}/cache}}"
    evaluator = "{_target_: clipself_d2.evaluation.RegionClassificationEvaluator, dataset_name: real_regions, "
    more = [f"dataloader.evaluator={evaluator}text: {text}}}", "dataloader.test.dataset=real_regions"]
    assert main(arguments(folder, "eval", "--eval-only", *more, "dataloader.test.num_workers=0")) == 0
    results = json.loads((folder / "eval/results.json").read_text())
    assert results.keys() == {"boxes", "thing_masks", "stuff_masks", "crops"}
    for metrics in results.values():
        assert 0 <= metrics["top1"] <= metrics["top5"] < 40  # an untrained tower


def test_a_cache_of_the_teacher_changes_nothing_but_the_work(folder, whole):
    cache = f"model.teacher_cache.folder={folder}/teacher"
    assert main(arguments(folder, "filled", "--fill-teacher-cache", cache)) == 0
    checks = (folder / "teacher/checks").read_bytes()
    assert main(arguments(folder, "cached", cache)) == 0
    assert (folder / "teacher/checks").read_bytes() == checks  # nothing was missing
    assert cosines(folder / "cached") == pytest.approx(cosines(whole), abs=2e-3)


def test_a_run_fills_the_cache_as_it_goes_and_an_interrupted_one_too(folder, monkeypatch):
    cache = f"model.teacher_cache.folder={folder}/as_it_goes"
    few = [cache, "train.max_iter=6"]
    with monkeypatch.context() as patch:
        steps = iter(range(100))
        patch.setattr("clipself_d2.engine.trainer.Trainer._update", lambda *_: 1 / (3 - next(steps)))
        with pytest.raises(ZeroDivisionError):
            main(arguments(folder, "interrupted", *few))
    first = np.fromfile(folder / "as_it_goes/checks", np.uint64)
    assert main(arguments(folder, "fills", *few)) == 0
    second = np.fromfile(folder / "as_it_goes/checks", np.uint64)
    assert 0 < np.count_nonzero(first) < np.count_nonzero(second)
    assert (second[first != 0] == first[first != 0]).all()


def test_there_must_be_a_cache_to_fill(folder, capsys):
    assert main(arguments(folder, "nothing", "--fill-teacher-cache")) == 2
    error = capsys.readouterr().err
    assert error == "error: --fill-teacher-cache: this model has no cache; pass model.teacher_cache.folder=FOLDER\n"
