"""Against the definition, Detectron2, COCOeval, and the ground truth itself."""

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOPanopticEvaluator, SemSegEvaluator, inference_on_dataset
from detectron2.structures import Instances
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from clipself_d2.data import PanopticMapper, build_test_loader, get_dataset
from clipself_d2.data.builtin import register_builtin
from clipself_d2.evaluation import OpenVocabularyPanopticEvaluator
from clipself_d2.miniature import dataset
from clipself_d2.miniature.registration import register_ov_shapes
from tests.evaluation.scenes import CATEGORIES, SYNONYMS, Oracle, all_100, evaluate, outputs_of

pytestmark = pytest.mark.usefixtures("catalog")


def pq_by_loop(inputs, outputs, classes):
    """Panoptic quality by its definition, void taken out of unions (Kirillov et al. 2019)."""
    per_class = {}
    for k in classes:
        ious, positives, negatives = [], 0, 0
        for sample, output in zip(inputs, outputs, strict=True):
            ids, segments = output["panoptic_seg"]
            void = ~sample["masks"].any(dim=0)
            found = [ids == s["id"] for s in segments if s["category_id"] == k]
            wanted = [m for m, c in zip(sample["masks"], sample["classes"].tolist(), strict=True) if c == k]
            matches = []
            for f in found:
                matched = [iou for w in wanted if (iou := float((f & w).sum() / ((f & ~void) | w).sum())) > 0.5]
                matches += matched
                positives += not matched and float((f & void).sum() / f.sum()) <= 0.5
            negatives += len(wanted) - len(matches)
            ious += matches
        if ious or positives or negatives:
            per_class[k] = 100 * sum(ious) / (len(ious) + positives / 2 + negatives / 2)
    return per_class


def test_ground_truth_is_perfect(data_set):
    loader = build_test_loader(data_set, PanopticMapper(), num_workers=0)
    results = inference_on_dataset(Oracle(5), loader, OpenVocabularyPanopticEvaluator(data_set))
    all_100(results)
    suffixes = {"", "_th", "_st", "_seen", "_novel", "_th_seen", "_th_novel", "_st_seen", "_st_novel"}
    assert {f"PQ{s}" for s in suffixes} < set(results["panoptic"])
    assert {"AP", "AP_seen", "AP_novel", "AP50", "AP75"} < set(results["segm"])
    assert not any("_th" in name for name in results["segm"])
    assert {"mIoU", "mIoU_seen", "mIoU_novel", "mACC", "fwIoU", "pACC"} < set(results["sem_seg"])


def test_panoptic_equals_the_definition_and_detectron2(predictions, tmp_path):
    inputs, outputs = predictions
    results = evaluate("scenes", inputs, outputs)["panoptic"]
    assert 0 < results["PQ"] < 90
    quality = pq_by_loop(inputs, outputs, range(5))
    for suffix, classes in [
        ("", [0, 1, 2, 3, 4]),
        ("_th", [1, 2, 4]),
        ("_st", [0, 3]),
        ("_seen", [0, 1, 4]),
        ("_novel", [2, 3]),
        ("_th_seen", [1, 4]),
        ("_th_novel", [2]),
    ]:
        assert results[f"PQ{suffix}"] == pytest.approx(np.mean([quality[k] for k in classes if k in quality]))
    reference = COCOPanopticEvaluator("scenes", str(tmp_path / "reference"))
    reference.reset()
    reference.process(
        inputs,
        [{"panoptic_seg": (i, [dict(s) for s in segments])} for i, segments in (o["panoptic_seg"] for o in outputs)],
    )
    expected = reference.evaluate()["panoptic_seg"]
    assert {name: results[name] for name in expected} == pytest.approx(expected)


def test_instances_equal_cocoeval(predictions, data_set):
    inputs, outputs = predictions
    results = evaluate(data_set, inputs, outputs)["segm"]
    truth = COCO(MetadataCatalog.get(data_set).json_file)
    found = []
    for sample, output in zip(inputs, outputs, strict=True):
        instances = output["instances"]
        for mask, k, score in zip(instances.pred_masks, instances.pred_classes, instances.scores, strict=True):
            if k not in (0, 3):
                rle = coco_mask.encode(np.asfortranarray(mask.numpy()).astype(np.uint8))
                found.append(
                    {
                        "image_id": sample["image_id"],
                        "category_id": CATEGORIES[k]["id"],
                        "segmentation": rle,
                        "score": float(score),
                    }
                )
    for suffix, classes in [("", [1, 2, 4]), ("_seen", [1, 4]), ("_novel", [2])]:
        coco_eval = COCOeval(truth, truth.loadRes([dict(f) for f in found]), "segm")
        coco_eval.params.catIds = [CATEGORIES[k]["id"] for k in classes]
        coco_eval.evaluate()
        coco_eval.accumulate()
        coco_eval.summarize()
        for name, value in zip(("AP", "AP50", "AP75", "APs", "APm", "APl"), coco_eval.stats[:6], strict=True):
            if value >= 0:
                assert results[name + suffix] == pytest.approx(100 * value)
            else:
                assert name + suffix not in results
    assert 0 < results["AP"] < 90


def test_semantics_equal_detectron2(predictions, data_set, monkeypatch, tmp_path):
    inputs, outputs = predictions
    results = evaluate(data_set, inputs, outputs)["sem_seg"]
    for sample in inputs:
        sample["sem_seg_file_name"] = str(tmp_path / f"{sample['image_id']}_semantic.png")
        Image.fromarray(sample["sem_seg"].numpy().astype(np.uint8)).save(sample["sem_seg_file_name"])
    DatasetCatalog.register("semantic", lambda: inputs)
    MetadataCatalog.get("semantic").set(stuff_classes=[s[0] for s in SYNONYMS], ignore_label=255)
    monkeypatch.setattr("detectron2.evaluation.sem_seg_evaluation._CV2_IMPORTED", False)
    reference = SemSegEvaluator(
        "semantic", distributed=False, sem_seg_loading_fn=lambda f, dtype: np.array(Image.open(f)).astype(dtype)
    )
    reference.reset()
    reference.process(inputs, outputs)
    expected = reference.evaluate()["sem_seg"]
    for name in ("mIoU", "fwIoU", "mACC", "pACC"):
        assert results[name] == pytest.approx(expected[name])
    for suffix, classes in [("_seen", [0, 1]), ("_novel", [2, 3]), ("_th", [1, 2]), ("_st_novel", [3])]:  # no cup
        assert results[f"mIoU{suffix}"] == pytest.approx(np.mean([expected[f"IoU-{SYNONYMS[k][0]}"] for k in classes]))
    assert 0 < results["mIoU"] < 95


def test_ov_shapes_ground_truth_is_perfect(tmp_path, monkeypatch):
    monkeypatch.setattr(dataset, "SPLITS", {"train": 1, "val": 8})
    register_ov_shapes(tmp_path / "datasets")
    name = "ov_shapes_val_panoptic"
    loader = build_test_loader(name, PanopticMapper(), num_workers=0)
    results = inference_on_dataset(Oracle(104), loader, OpenVocabularyPanopticEvaluator(name))
    all_100(results)
    assert "PQ_th_novel" in results["panoptic"] and "AP_novel" in results["segm"]


def test_real_ground_truth_is_perfect(assets):
    """Segments and semantics of COCO's panoptic labels; its instances are annotated apart, so they come from there."""
    register_builtin(assets / "data")
    name = "coco_2017_val_panoptic_ov"
    truth = COCO(MetadataCatalog.get(name).json_file)
    contiguous = MetadataCatalog.get(name).thing_dataset_id_to_contiguous_id
    evaluator = OpenVocabularyPanopticEvaluator(name)
    records = [record for record in get_dataset(name) if record["image_id"] in truth.imgs]
    assert len(records) == 8
    for record in records[::2]:
        sample = PanopticMapper()(record)
        annotations = [a for a in truth.imgToAnns[sample["image_id"]] if not a["iscrowd"]]
        instances = Instances((sample["height"], sample["width"]))
        masks = [torch.from_numpy(truth.annToMask(a)).bool() for a in annotations]
        instances.pred_masks = torch.stack(masks) if masks else torch.zeros(0, *instances.image_size)
        instances.pred_classes = torch.tensor([contiguous[a["category_id"]] for a in annotations], dtype=torch.long)
        instances.scores = torch.ones(len(annotations))
        evaluator.process([sample], [{**outputs_of(sample, 133), "instances": instances}])
    all_100(evaluator.evaluate())
