import json

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json
from detectron2.structures import BoxMode
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from clipself_d2.errors import InputError
from clipself_d2.evaluation import OpenVocabularyCOCOEvaluator, TransferEvaluator
from clipself_d2.evaluation.ground_truth import GroundTruth
from tests.evaluation.worlds import evaluate, noisy_world, oracle, output, record, register

CLASSES = ["cat", "dog", "cup", "car", "bus", "key"]
NOVEL = ["dog", "bus"]
BOX, OTHER, FAR = (10, 10, 50, 40), (60, 10, 100, 40), (0, 60, 30, 80)


def pycocotools_on(records, detections, max_dets):
    """COCOeval on the whole data set at once."""
    truth, found = [], []
    for sample, rows in zip(records, detections, strict=True):
        for a in sample["annotations"]:
            x0, y0, x1, y1 = a["bbox"]
            truth.append((sample["image_id"], a["category_id"], [x0, y0, x1 - x0, y1 - y0], None))
        for category, (x0, y0, x1, y1), score in rows:
            found.append((sample["image_id"], category, [x0, y0, x1 - x0, y1 - y0], float(np.float32(score))))
    apis = []
    for rows in (truth, found):
        api = COCO()
        api.dataset = {
            "images": [{"id": sample["image_id"]} for sample in records],
            "categories": [{"id": i} for i in range(len(CLASSES))],
            "annotations": [
                {"id": i, "image_id": image, "category_id": k, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
                | ({} if score is None else {"score": score})
                for i, (image, k, box, score) in enumerate(rows, 1)
            ],
        }
        api.createIndex()
        apis.append(api)
    coco_eval = COCOeval(*apis, "bbox")
    coco_eval.params.maxDets = list(max_dets)
    coco_eval.evaluate()
    coco_eval.accumulate()
    coco_eval.summarize()
    return coco_eval


@pytest.mark.parametrize("seed", range(5))
def test_equals_pycocotools_on_the_whole(catalog, tmp_path, seed):
    records, detections = noisy_world(seed, num_classes=5)  # no key anywhere
    register("noisy", records, CLASSES, novel_classes=NOVEL)
    evaluator = OpenVocabularyCOCOEvaluator("noisy", tmp_path / "out")
    results = evaluate(evaluator, records, [output(r, d) for r, d in zip(records, detections, strict=True)])

    precision = pycocotools_on(records, detections, (100, 300, 1000)).eval["precision"]
    ap50 = {
        name: 100 * precision[0, :, k, 0, 2].mean() for k, name in enumerate(CLASSES) if precision[0, 0, k, 0, 2] > -1
    }
    assert "key" not in ap50
    mean = {
        "AP50_novel": np.mean([ap for name, ap in ap50.items() if name in NOVEL]),
        "AP50_base": np.mean([ap for name, ap in ap50.items() if name not in NOVEL]),
        "AP50_all": np.mean(list(ap50.values())),
        "AP": 100 * precision[..., 0, 0][precision[..., 0, 0] > -1].mean(),
    }
    assert {name: results["bbox"][name] for name in mean} == {name: pytest.approx(ap) for name, ap in mean.items()}
    assert all(type(value) is float for value in results["bbox"].values())
    table = json.loads((tmp_path / "out/per_class.json").read_text())["bbox"]
    assert {name: row["AP50"] for name, row in table.items()} == {k: pytest.approx(v) for k, v in ap50.items()}
    assert all(row["group"] == ("novel" if name in NOVEL else "base") for name, row in table.items())
    assert sum(row["instances"] for row in table.values()) == sum(len(r["annotations"]) for r in records)


@pytest.mark.parametrize("seed", range(3))
def test_transfer_equals_pycocotools_on_the_whole(catalog, seed):
    records, detections = noisy_world(seed)
    # More than 100 detections of one class in an image, of which only the last is right: a matter of protocol.
    records.append(record(999, [(0, BOX)]))
    detections.append([(0, FAR, 0.9)] * 150 + [(0, BOX, 0.1)])
    register("noisy", records, CLASSES)
    answers = [output(r, d) for r, d in zip(records, detections, strict=True)]
    columns = ("AP", "AP50", "AP75", "APs", "APm", "APl")
    results = {}
    for protocol, max_dets in (("released", (100, 300, 1000)), ("coco", (1, 10, 100))):
        results[protocol] = evaluate(TransferEvaluator("noisy", protocol=protocol), records, answers)["bbox"]
        stats = pycocotools_on(records, detections, max_dets).stats[:6]
        assert stats[5] == -1  # nothing is large
        expected = {name: pytest.approx(100 * x) for name, x in zip(columns, stats, strict=True) if x > -1}
        assert results[protocol] == expected
    assert results["released"]["AP"] == results["coco"]["AP"]
    assert results["released"]["AP50"] > results["coco"]["AP50"]


def ap50(catalog_name, detections, records, novel=("dog",)):
    register(catalog_name, records, CLASSES, novel_classes=list(novel))
    answers = [output(r, d) for r, d in zip(records, detections, strict=True)]
    return evaluate(OpenVocabularyCOCOEvaluator(catalog_name), records, answers)["bbox"]


def test_a_miss_costs_the_recall(catalog):
    results = ap50("miss", [[(0, BOX, 0.9)]], [record(1, [(0, BOX), (0, OTHER)])])
    assert results["AP50_all"] == pytest.approx(100 * 51 / 101)  # precision 1 at the recalls 0, .01, ..., .5


def test_a_false_positive_ranked_first_halves_the_precision(catalog):
    results = ap50("false", [[(0, FAR, 0.9), (0, BOX, 0.8)]], [record(1, [(0, BOX)])])
    assert results["AP50_all"] == pytest.approx(50)
    # ... and ranked last it costs nothing.
    assert ap50("last", [[(0, FAR, 0.7), (0, BOX, 0.8)]], [record(1, [(0, BOX)])])["AP50_all"] == pytest.approx(100)


def test_a_wrong_class_is_a_miss_here_and_a_false_positive_there(catalog):
    records = [record(1, [(0, BOX), (1, OTHER)])]
    results = ap50("wrong", [[(1, BOX, 0.9), (1, OTHER, 0.8)]], records)
    assert results["AP50_base"] == pytest.approx(0)  # the cat
    assert results["AP50_novel"] == pytest.approx(50)  # the dog, behind what was no dog
    assert results["AP50_all"] == pytest.approx(25)


def test_a_second_detection_of_the_same_object_is_false(catalog):
    results = ap50("twice", [[(0, BOX, 0.9), (0, BOX, 0.9), (0, OTHER, 0.5)]], [record(1, [(0, BOX), (0, OTHER)])])
    assert results["AP50_all"] == pytest.approx(100 * (51 + 50 * 2 / 3) / 101)


def test_a_crowd_neither_helps_nor_harms(catalog):
    sample = record(1, [(0, BOX), (0, OTHER)])
    sample["annotations"][1]["iscrowd"] = 1
    assert ap50("crowd", [[(0, OTHER, 0.9), (0, OTHER, 0.9), (0, BOX, 0.8)]], [sample])["AP50_all"] == pytest.approx(
        100
    )
    with pytest.raises(InputError, match="no annotations"):
        ap50("only crowds", [[]], [{**sample, "annotations": sample["annotations"][1:]}])


def test_no_detections_are_zeros(catalog):
    records = [record(1, [(0, BOX)]), record(2, [(1, BOX)]), record(3, [])]
    zero = {"AP50_novel": 0, "AP50_base": 0, "AP50_all": 0, "AP": 0, "AP_novel": 0, "AP_base": 0}
    assert ap50("blind", [[], [], []], records) == zero
    transfer = evaluate(TransferEvaluator("blind"), records, [output(r, []) for r in records])
    assert set(transfer["bbox"].values()) == {0}
    seen = evaluate(TransferEvaluator("blind"), records[:1], [output(records[0], [(0, BOX, 0.5)])])
    assert seen["bbox"]["AP50"] == pytest.approx(50)  # the image of the other class never came


def test_groups_without_ground_truth_are_left_out(catalog):
    results = ap50("no dogs", [[(0, BOX, 1.0)]], [record(1, [(0, BOX)])])
    assert results == {name: pytest.approx(100) for name in ("AP50_base", "AP50_all", "AP", "AP_base")}


def test_without_novel_classes_all_are_base(catalog, tmp_path):
    records, detections = noisy_world(0)
    answers = [output(r, d) for r, d in zip(records, detections, strict=True)]
    register("split", records, CLASSES, novel_classes=NOVEL)
    register("closed", records, CLASSES)
    split = evaluate(OpenVocabularyCOCOEvaluator("split"), records, answers)["bbox"]
    closed = evaluate(OpenVocabularyCOCOEvaluator("closed", tmp_path), records, answers)["bbox"]
    ap, ap50 = (pytest.approx(split[name]) for name in ("AP", "AP50_all"))
    assert closed == {"AP50_base": ap50, "AP50_all": ap50, "AP": ap, "AP_base": ap}
    table = json.loads((tmp_path / "per_class.json").read_text())["bbox"]
    assert {row["group"] for row in table.values()} == {"base"}


def test_what_is_not_finite_or_comes_twice_does_not_count(catalog):
    records = [record(1, [(0, BOX)]), record("two", [(1, BOX)])]
    nan, inf = float("nan"), float("inf")
    junk = [(0, (nan, 0, 1, 1), 0.9), (0, (0, 0, inf, inf), 0.9), (0, FAR, nan)]
    register("junk", records, CLASSES, novel_classes=["dog"])
    evaluator = OpenVocabularyCOCOEvaluator("junk")
    evaluator.process(records, [output(records[0], [*junk, (0, BOX, 0.5)]), output(records[1], [(1, BOX, 0.5)])])
    evaluator.process(records[:1], [output(records[0], [(0, FAR, 1.0)])])  # a sampler that filled up its last batch
    assert evaluator.evaluate()["bbox"]["AP50_all"] == pytest.approx(100)


def test_the_ground_truth_scores_100(ov_shapes, tmp_path):
    records = DatasetCatalog.get(ov_shapes)
    answers = [oracle(r) for r in records]
    results = evaluate(OpenVocabularyCOCOEvaluator(ov_shapes), records, answers)["bbox"]
    assert results == {
        name: pytest.approx(100) for name in ("AP50_novel", "AP50_base", "AP50_all", "AP", "AP_novel", "AP_base")
    }
    results = evaluate(TransferEvaluator(ov_shapes), records, answers)["bbox"]
    assert set(results) > {"AP", "AP50", "AP75"}
    assert results == {name: pytest.approx(100) for name in results}
    assert not list(tmp_path.glob("*.json"))


def test_the_ground_truth_of_real_images_scores_100(catalog, assets):
    files = (str(assets / "data/coco/annotations/instances_val2017.json"), str(assets / "data/coco/val2017"))
    DatasetCatalog.register("real", lambda: load_coco_json(*files, "real"))  # tells its classes when it is loaded
    MetadataCatalog.get("real").novel_classes = ["cat", "skateboard"]
    records = load_coco_json(*files, "real")
    answers = [oracle(r) for r in records]
    ours = evaluate(OpenVocabularyCOCOEvaluator("real"), records, answers)["bbox"]
    transfer = evaluate(TransferEvaluator("real"), records, answers)["bbox"]
    assert len(ours) == len(transfer) == 6
    assert {**ours, **transfer} == {name: pytest.approx(100) for name in {**ours, **transfer}}


def test_areas_are_cocos_own(catalog, assets):
    """Of records that have lost the json's areas."""
    file = assets / "data/coco/annotations/instances_val2017.json"
    register("areas", load_coco_json(str(file), "", "tmp"), MetadataCatalog.get("tmp").thing_classes)
    areas = sorted(a["area"] for a in json.loads(file.read_text())["annotations"] if not a["iscrowd"])
    found = [a["area"] for a in GroundTruth.load("areas").annotations if not a["iscrowd"]]
    np.testing.assert_allclose(sorted(found), areas, rtol=1e-9)


def test_area_of_the_annotation_its_mask_or_its_box(catalog):
    sample = record(1, [(0, BOX), (1, BOX), (0, OTHER), (1, OTHER)])
    first, _, third, fourth = sample["annotations"]
    first["area"] = 7
    third["segmentation"] = [[0, 0, 10, 0, 10, 10], [20, 20, 24, 20, 24, 24, 20, 24]]
    del fourth["segmentation"]
    fourth["bbox"], fourth["bbox_mode"] = [1.5, 2.5, 4.0, 0.1], BoxMode.XYWH_ABS
    register("areas", [sample], CLASSES)
    annotations = GroundTruth.load("areas").annotations
    assert [a["area"] for a in annotations] == [7, 40 * 30, 50 + 16, pytest.approx(0.4)]
    assert [a["bbox"] for a in annotations] == [[10, 10, 40, 30]] * 2 + [[60, 10, 40, 30], [1.5, 2.5, 4.0, 0.1]]
    assert [a["category_id"] for a in annotations] == [0, 1, 0, 1]


def test_wrong_input_is_said(catalog):
    records = register("ok", [record(1, [(0, BOX)])], CLASSES, novel_classes=["dog"])
    evaluator = OpenVocabularyCOCOEvaluator("ok")
    for wrong in (6, -1):
        with pytest.raises(InputError, match=rf"class {wrong}, but data set 'ok' has 6 classes"):
            evaluator.process(records, [output(records[0], [(wrong, BOX, 0.5), (0, BOX, 0.5)])])
    with pytest.raises(InputError, match="image 7 is not in data set 'ok'"):
        evaluator.process([{**records[0], "image_id": 7}], [output(records[0], [])])
    with pytest.raises(InputError, match=r"needs 'instances', but the model gives \['sem_seg'\]"):
        evaluator.process(records, [{"sem_seg": None}])
    with pytest.raises(InputError, match="not registered"):
        OpenVocabularyCOCOEvaluator("nowhere")
    register("empty", [], CLASSES, novel_classes=[])
    with pytest.raises(InputError, match="is empty"):
        TransferEvaluator("empty")
    register("bare", [record(1, [])], CLASSES, novel_classes=[])
    with pytest.raises(InputError, match="no annotations"):
        TransferEvaluator("bare")
    register("alien", [record(1, [(6, BOX)])], CLASSES, novel_classes=[])
    with pytest.raises(InputError, match="annotations of class 6"):
        TransferEvaluator("alien")
    register("typo", records, CLASSES, novel_classes=["dgo"])
    with pytest.raises(InputError, match="'dgo' is not among"):
        OpenVocabularyCOCOEvaluator("typo")
    DatasetCatalog.register("nameless", lambda: records)
    with pytest.raises(InputError, match="no thing_classes"):
        TransferEvaluator("nameless")
    with pytest.raises(InputError, match="released, coco"):
        TransferEvaluator("ok", protocol="voc")


def _rank(rank, world, folder, records, detections):
    torch.set_num_threads(1)  # threads do not survive a fork
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    answers = [output(r, d) for r, d in zip(records, detections, strict=True)]
    evaluator = OpenVocabularyCOCOEvaluator("noisy", folder / "out")
    (folder / f"{rank}.json").write_text(json.dumps(evaluate(evaluator, records[rank::world], answers[rank::world])))
    torch.distributed.destroy_process_group()


def test_the_main_process_has_the_results_of_all(catalog, tmp_path):
    records, detections = noisy_world(0)
    register("noisy", records, CLASSES, novel_classes=NOVEL)
    answers = [output(r, d) for r, d in zip(records, detections, strict=True)]
    alone = evaluate(OpenVocabularyCOCOEvaluator("noisy"), records, answers)
    # Forked, for importing everything anew would take many seconds.
    arguments = (2, tmp_path, records, detections)
    torch.multiprocessing.start_processes(_rank, arguments, nprocs=2, start_method="fork")
    assert [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)] == [alone, {}]
    assert (tmp_path / "out/per_class.json").is_file()
