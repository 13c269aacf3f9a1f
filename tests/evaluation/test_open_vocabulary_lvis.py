import json

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.lvis import get_lvis_instances_meta, load_lvis_json
from lvis import LVIS, LVISEval, LVISResults
from pycocotools import mask as coco_mask

from clipself_d2.errors import InputError
from clipself_d2.evaluation import OpenVocabularyLVISEvaluator, open_vocabulary_lvis
from clipself_d2.evaluation.open_vocabulary_lvis import class_frequencies
from clipself_d2.miniature.world import THINGS, frequency
from tests.evaluation.worlds import evaluate, noisy_world, oracle, output, record, register

CLASSES = ["cat", "dog", "cup", "car", "bus", "key"]
FREQUENCY = ["f", "r", "c", "c", "r", "f"]
METRICS = ["AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf"]
BOX, OTHER, FAR = (10, 10, 50, 40), (60, 10, 100, 40), (0, 60, 30, 80)


pytestmark = pytest.mark.usefixtures("catalog")


def federated(records, seed, num_classes=6):
    """LVIS's labels (ids from 1): of each image some classes that it lacks, and some not labeled exhaustively.

    Some objects are crowds, which lvis ignores.
    """
    rng = np.random.default_rng(seed)
    for sample in records:
        for annotation in sample["annotations"]:
            annotation["iscrowd"] = int(rng.random() < 0.1)
        present = {a["category_id"] for a in sample["annotations"]}
        absent = [k for k in range(num_classes) if k not in present]
        sample["neg_category_ids"] = [k + 1 for k in absent if rng.random() < 0.6]
        sample["not_exhaustive_category_ids"] = [k + 1 for k in present if rng.random() < 0.4]
    return records


def official(records, answers, tasks, path, monkeypatch, max_dets=300):
    """The lvis package on the whole data set, from a file."""
    annotations, found = [], []
    for sample, answer in zip(records, answers, strict=True):
        for a in sample["annotations"]:
            x0, y0, x1, y1 = a["bbox"]
            rle = {**a["segmentation"], "counts": a["segmentation"]["counts"].decode()}
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": sample["image_id"],
                    "category_id": a["category_id"] + 1,
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "area": int(coco_mask.area(rle)),
                    "segmentation": rle,
                    "ignore": a["iscrowd"],
                }
            )
        rows = answer["instances"]
        for box, score, k, mask in zip(
            rows.pred_boxes.tensor.tolist(),
            rows.scores.tolist(),
            rows.pred_classes.tolist(),
            rows.pred_masks,
            strict=True,
        ):
            rle = coco_mask.encode(np.asfortranarray(mask.numpy().astype(np.uint8)))
            bbox = [box[0], box[1], box[2] - box[0], box[3] - box[1]]
            found.append(
                {
                    "image_id": sample["image_id"],
                    "category_id": k + 1,
                    "score": score,
                    "bbox": bbox,
                    "segmentation": rle,
                }
            )
    keys = ("height", "width", "neg_category_ids", "not_exhaustive_category_ids")
    content = {
        "images": [{"id": r["image_id"], **{key: r[key] for key in keys}} for r in records],
        "annotations": annotations,
        "categories": [{"id": k, "frequency": f} for k, f in enumerate(FREQUENCY, 1)],
    }
    path.write_text(json.dumps(content))
    results = {}
    with monkeypatch.context() as patch:
        patch.setattr(np, "float", float, raising=False)
        for task in tasks:
            # As Detectron2 does: without boxes the area of a detection is that of its mask.
            rows = [
                {k: v for k, v in row.items() if k != ("bbox" if task == "segm" else "segmentation")} for row in found
            ]
            truth = LVIS(str(path))
            lvis_eval = LVISEval(truth, LVISResults(truth, rows, max_dets), task)
            lvis_eval.run()
            results[task] = {m: 100 * lvis_eval.results[m] for m in METRICS if lvis_eval.results[m] > -1}
    return results


@pytest.mark.parametrize("seed", range(4))
def test_equals_lvis_on_the_whole(tmp_path, monkeypatch, seed):
    records, detections = noisy_world(seed, num_images=25, num_classes=6)
    records = federated(records, seed)
    register("noisy", records, CLASSES, class_frequency=FREQUENCY)
    answers = [output(r, d, masks=True) for r, d in zip(records, detections, strict=True)]
    for max_dets in (300, 4):
        evaluator = OpenVocabularyLVISEvaluator("noisy", output_dir=tmp_path / "out", max_dets=max_dets)
        results = evaluate(evaluator, records, answers)
        expected = official(records, answers, ("segm", "bbox"), tmp_path / "gt.json", monkeypatch, max_dets)
        assert {"APr", "APc", "APf", "APs", "APm"} < set(results["segm"])
        assert results == {
            task: {m: pytest.approx(x, abs=1e-6) for m, x in row.items()} for task, row in expected.items()
        }
    table = json.loads((tmp_path / "out/per_class.json").read_text())
    assert {name: row["group"][0] for name, row in table["segm"].items()} == dict(zip(CLASSES, FREQUENCY, strict=True))
    for task, result in results.items():
        assert np.mean([row["AP"] for row in table[task].values()]) == pytest.approx(result["AP"])


def test_a_few_classes_at_a_time_are_all_classes(monkeypatch):
    records, detections = noisy_world(1)
    register("noisy", federated(records, 1), CLASSES, class_frequency=FREQUENCY)
    answers = [output(r, d, masks=True) for r, d in zip(records, detections, strict=True)]
    whole = evaluate(OpenVocabularyLVISEvaluator("noisy"), records, answers)
    monkeypatch.setattr(open_vocabulary_lvis, "_PAIRS_AT_ONCE", 4 * len(records))
    assert evaluate(OpenVocabularyLVISEvaluator("noisy"), records, answers) == whole


def score(records, detections, tasks=("bbox",), **metadata):
    name = f"set {len(DatasetCatalog)}"
    register(name, records, CLASSES, class_frequency=FREQUENCY, **metadata)
    answers = [output(r, d, masks="segm" in tasks) for r, d in zip(records, detections, strict=True)]
    return evaluate(OpenVocabularyLVISEvaluator(name, tasks), records, answers)


def test_what_is_not_labeled_does_not_count():
    objects, found = [(0, BOX)], [(0, BOX, 0.5), (0, FAR, 0.9), (1, FAR, 0.9)]
    has_dog = record(2, [(1, BOX)], neg_category_ids=[], not_exhaustive_category_ids=[])
    right = [(1, BOX, 0.5)]

    def aps(**labels):
        result = score([record(1, objects, **labels), has_dog], [found, right])["bbox"]
        return {name: round(result[name]) for name in ("APf", "APr")}

    unknown, exhaustive = {"neg_category_ids": []}, {"not_exhaustive_category_ids": []}
    assert aps(**unknown, **exhaustive) == {"APf": 50, "APr": 100}  # no dog is counted, rightly or wrongly
    assert aps(neg_category_ids=[2], **exhaustive) == {"APf": 50, "APr": 50}
    assert aps(**unknown, not_exhaustive_category_ids=[1]) == {"APf": 100, "APr": 100}
    assert aps() == {"APf": 50, "APr": 50}  # no LVIS at all: everything is labeled


def test_labels_by_the_json_ids():
    records = [record(1, [(0, BOX)], neg_category_ids=[70], not_exhaustive_category_ids=[]), record(2, [(1, BOX)])]
    ids = {id: k for k, id in enumerate([50, 70, 71, 80, 90, 99])}
    detections = [[(1, FAR, 0.9)], [(1, BOX, 0.5)]]
    assert score(records, detections, thing_dataset_id_to_contiguous_id=ids)["bbox"]["APr"] == pytest.approx(50)


def test_hand_computed():
    records = [record(1, [(0, BOX), (0, OTHER), (2, FAR)])]
    results = score(records, [[(0, BOX, 0.9), (2, BOX, 0.8)]], tasks=("segm", "bbox"))
    for task in ("segm", "bbox"):
        assert results[task]["AP50"] == pytest.approx(100 * 51 / 101 / 2)
        assert results[task]["APf"] == pytest.approx(100 * 51 / 101)
        assert results[task]["APc"] == 0
        assert "APr" not in results[task]


def test_hundreds_of_masks():
    """More than 255 upset pycocotools on NumPy 2."""
    records = [record(1, [(0, BOX)])]
    results = score(records, [[(0, BOX, 0.9), *[(0, FAR, 0.5)] * 299]], tasks=("segm", "bbox"))
    assert results["segm"]["AP"] == results["bbox"]["AP"] == pytest.approx(100)


def test_no_detections_are_zeros():
    records = [record(1, [(k, BOX) for k in range(6)])]
    expected = {name: 0 for name in METRICS if name not in ("APs", "APl")}
    assert score(records, [[]], tasks=("segm", "bbox")) == {"segm": expected, "bbox": expected}


def test_the_ground_truth_scores_100(ov_shapes):
    MetadataCatalog.get(ov_shapes).class_frequency = [frequency(k) for k in range(len(THINGS))]
    records = DatasetCatalog.get(ov_shapes)
    results = evaluate(OpenVocabularyLVISEvaluator(ov_shapes), records, [oracle(r, masks=True) for r in records])
    assert {"AP", "APr", "APc", "APf"} < set(results["segm"])
    assert results == {task: {name: pytest.approx(100) for name in results[task]} for task in ("segm", "bbox")}


def test_the_ground_truth_of_real_images_scores_100(assets):
    file = str(assets / "data/lvis/lvis_v1_mapped_val_subset.json")
    MetadataCatalog.get("lvis_v1_part").set(**get_lvis_instances_meta("lvis_v1"))
    DatasetCatalog.register("lvis_v1_part", lambda: load_lvis_json(file, f"{assets}/data/coco/", "lvis_v1_part"))
    records = DatasetCatalog.get("lvis_v1_part")
    results = evaluate(OpenVocabularyLVISEvaluator("lvis_v1_part"), records, [oracle(r, masks=True) for r in records])
    expected = dict.fromkeys((m for m in METRICS if m != "APr"), pytest.approx(100))  # no rare class is there
    assert results == {"segm": expected, "bbox": expected}


def test_frequencies():
    MetadataCatalog.get("lvis").set(**get_lvis_instances_meta("lvis_v1"))
    frequencies = class_frequencies("lvis")
    assert [frequencies.count(f) for f in "rcf"] == [337, 461, 405]  # LVIS v1
    counts = [{"id": i, "image_count": n} for i, n in ((2, 100), (1, 10), (3, 101), (4, 11))]
    MetadataCatalog.get("four").set(thing_classes=list("abcd"), class_image_count=counts)
    assert class_frequencies("four") == ["r", "c", "f", "c"]
    for number, wrong in enumerate(({}, {"class_image_count": counts[:3]}, {"class_frequency": list("rrrx")})):
        MetadataCatalog.get(f"{number}").set(thing_classes=list("abcd"), **wrong)
        with pytest.raises(InputError, match="class_frequency"):
            class_frequencies(f"{number}")


def test_wrong_input_is_said():
    with pytest.raises(InputError, match="unknown task 'masks'"):
        OpenVocabularyLVISEvaluator("any", ("masks",))
    records = register("ok", [record(1, [(0, BOX)])], CLASSES, class_frequency=FREQUENCY)
    with pytest.raises(InputError, match="the model gives none"):
        OpenVocabularyLVISEvaluator("ok").process(records, [output(records[0], [])])
    answer = output(records[0], [(0, BOX, 0.5)], masks=True)
    answer["instances"].pred_masks = torch.zeros(1, 28, 28, dtype=torch.bool)
    with pytest.raises(InputError, match="paste them"):
        OpenVocabularyLVISEvaluator("ok").process(records, [answer])
    del records[0]["annotations"][0]["segmentation"]
    with pytest.raises(InputError, match="1 of 1 objects have no mask"):
        OpenVocabularyLVISEvaluator("ok")
    results = evaluate(OpenVocabularyLVISEvaluator("ok", ("bbox",)), records, [output(records[0], [])])
    assert results["bbox"]["AP"] == 0


def _rank(rank, world, folder, records, answers):
    torch.set_num_threads(1)  # threads do not survive a fork
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    evaluator = OpenVocabularyLVISEvaluator("noisy")
    results = evaluate(evaluator, records[rank::world], answers[rank::world])
    (folder / f"{rank}.json").write_text(json.dumps(results or {}))
    torch.distributed.destroy_process_group()


def test_the_main_process_has_the_results_of_all(tmp_path):
    records, detections = noisy_world(0)
    register("noisy", federated(records, 0), CLASSES, class_frequency=FREQUENCY)
    answers = [output(r, d, masks=True) for r, d in zip(records, detections, strict=True)]
    alone = evaluate(OpenVocabularyLVISEvaluator("noisy"), records, answers)
    # Forked, for importing everything anew would take many seconds.
    torch.multiprocessing.start_processes(_rank, (2, tmp_path, records, answers), nprocs=2, start_method="fork")
    assert [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)] == [alone, {}]
