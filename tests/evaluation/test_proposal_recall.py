import json

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.data.datasets import load_coco_json

from clipself_d2.errors import InputError
from clipself_d2.evaluation import ProposalEvaluator
from tests.evaluation.worlds import evaluate, noisy_world, oracle, output, record, register

CLASSES = ["cat", "dog", "cup", "car", "bus", "key"]
NOVEL = ["dog", "bus"]
BOX, OTHER = (10, 10, 50, 40), (60, 10, 100, 40)


def iou(a, b):
    width, height = (min(a[i + 2], b[i + 2]) - max(a[i], b[i]) for i in (0, 1))
    shared = max(width, 0.0) * max(height, 0.0)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def recall_by_loop(records, detections, limit, classes):
    """Each proposal, best first, takes the free box that it overlaps most."""
    recalls = []
    for threshold in np.linspace(0.5, 0.95, 10):
        found = total = 0
        for sample, rows in zip(records, detections, strict=True):
            free = [a["bbox"] for a in sample["annotations"] if a["category_id"] in classes]
            total += len(free)
            for _, box, _ in sorted(rows, key=lambda row: -np.float32(row[2]))[:limit]:
                best = max(free, key=lambda x: iou(x, box), default=None)
                if best is not None and iou(best, box) >= threshold:
                    free.remove(best)
                    found += 1
        recalls.append(found / total)
    return 100 * np.mean(recalls)


@pytest.mark.parametrize("seed", range(5))
def test_equals_a_loop(catalog, seed):
    records, detections = noisy_world(seed, num_detections=30)
    register("noisy", records, CLASSES, novel_classes=NOVEL)
    evaluator = ProposalEvaluator("noisy", limits=(5, 100))
    results = evaluate(evaluator, records, [output(r, d) for r, d in zip(records, detections, strict=True)])
    novel = {CLASSES.index(name) for name in NOVEL}
    groups = {"": set(range(6)), "_base": set(range(6)) - novel, "_novel": novel}
    assert results["proposals"] == {
        f"AR@{limit}{suffix}": pytest.approx(recall_by_loop(records, detections, limit, group))
        for limit in (5, 100)
        for suffix, group in groups.items()
    }
    assert results["proposals"]["AR@5"] < results["proposals"]["AR@100"]


def test_the_limits_count_the_best(catalog):
    records = register("ranked", [record(1, [(0, BOX), (1, OTHER)])], CLASSES, novel_classes=NOVEL)
    junk = [(0, (0, 60, 30, 80), 0.5)] * 99
    answer = output(records[0], [(0, OTHER, 0.1), *junk, (0, BOX, 0.9), *junk])
    assert evaluate(ProposalEvaluator("ranked"), records, [answer])["proposals"] == {
        "AR@100": pytest.approx(50),
        "AR@100_base": pytest.approx(100),
        "AR@100_novel": 0,
        "AR@300": pytest.approx(100),
        "AR@300_base": pytest.approx(100),
        "AR@300_novel": pytest.approx(100),
    }


def test_a_proposal_finds_one_box(catalog):
    records = register("twins", [record(1, [(0, BOX), (1, BOX)])], CLASSES)
    assert evaluate(ProposalEvaluator("twins"), records, [output(records[0], [(0, BOX, 0.1)])]) == {
        "proposals": {"AR@100": pytest.approx(50), "AR@300": pytest.approx(50)}  # and no classes are novel
    }


def test_what_is_not_finite_does_not_count(catalog):
    records = register("junk", [record(1, [(0, BOX)])], CLASSES)
    junk = [(0, (float("nan"), 0, 1, 1), 0.9), (0, OTHER, float("inf"))]
    results = evaluate(ProposalEvaluator("junk", limits=(1,)), records, [output(records[0], [*junk, (0, BOX, 0.1)])])
    assert results == {"proposals": {"AR@1": pytest.approx(100)}}


def test_images_without_proposals_or_boxes(catalog):
    sample = record(3, [(0, BOX), (1, OTHER)])
    sample["annotations"][1]["iscrowd"] = 1
    records = register("sparse", [record(1, [(0, BOX)]), record(2, []), sample], CLASSES, novel_classes=NOVEL)
    answers = [output(records[0], []), output(records[1], [(0, BOX, 1.0)]), output(records[2], [(0, BOX, 1.0)])]
    results = evaluate(ProposalEvaluator("sparse"), records, answers)["proposals"]
    assert results == {f"AR@{limit}{s}": pytest.approx(50) for limit in (100, 300) for s in ("", "_base")}
    nothing = [output(r, []) for r in records]
    assert set(evaluate(ProposalEvaluator("sparse"), records, nothing)["proposals"].values()) == {0}
    with pytest.raises(InputError, match="needs 'proposals', but the model gives"):
        ProposalEvaluator("sparse").process(records[:1], [{"instances": None}])
    register("bare", [record(2, [])], CLASSES)
    with pytest.raises(InputError, match="no annotations"):
        ProposalEvaluator("bare")


def test_the_ground_truth_scores_100(ov_shapes):
    records = DatasetCatalog.get(ov_shapes)
    results = evaluate(ProposalEvaluator(ov_shapes), records, [oracle(r) for r in records])["proposals"]
    names = [f"AR@{limit}{suffix}" for limit in (100, 300) for suffix in ("", "_base", "_novel")]
    assert results == dict.fromkeys(names, pytest.approx(100))


def test_the_ground_truth_of_real_images_scores_100(catalog, assets):
    files = (str(assets / "data/coco/annotations/instances_val2017.json"), str(assets / "data/coco/val2017"))
    DatasetCatalog.register("real", lambda: load_coco_json(*files, "real"))
    records = DatasetCatalog.get("real")
    results = evaluate(ProposalEvaluator("real"), records, [oracle(r) for r in records])["proposals"]
    assert results == dict.fromkeys(("AR@100", "AR@300"), pytest.approx(100))


def _rank(rank, world, folder, records, answers):
    torch.set_num_threads(1)  # threads do not survive a fork
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    evaluator = ProposalEvaluator("noisy")
    (folder / f"{rank}.json").write_text(json.dumps(evaluate(evaluator, records[rank::world], answers[rank::world])))
    torch.distributed.destroy_process_group()


def test_the_main_process_has_the_results_of_all(catalog, tmp_path):
    records, detections = noisy_world(0)
    register("noisy", records, CLASSES, novel_classes=NOVEL)
    answers = [output(r, d) for r, d in zip(records, detections, strict=True)]
    alone = evaluate(ProposalEvaluator("noisy"), records, answers)
    # Forked, for importing everything anew would take many seconds.
    torch.multiprocessing.start_processes(_rank, (2, tmp_path, records, answers), nprocs=2, start_method="fork")
    assert [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)] == [alone, {}]
