"""Predictions as records of a COCO results file."""

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from pycocotools import mask as coco_mask

from clipself_d2.evaluation.json_results import semantic_segments, to_results, to_supervision
from clipself_d2.regions.packed_masks import PackedMasks

NAMES, IS_BASE = ["cat", "dog"], [True, False]


def instances(boxes, scores, classes):
    found = Instances((10, 20))
    found.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    found.scores, found.pred_classes = torch.tensor(scores), torch.tensor(classes, dtype=torch.long)
    return {"instances": found}


def test_boxes_are_cocos_best_first():
    found = instances([[1, 2, 4, 8], [0, 0, 3.125, 1]], [0.25, 0.75], [0, 1])
    assert to_results(found, NAMES, IS_BASE, 9) == [
        {"image_id": 9, "category_id": 1, "bbox": [0, 0, 3.12, 1], "score": 0.75, "name": "dog", "is_base": False},
        {"image_id": 9, "category_id": 0, "bbox": [1, 2, 3, 6], "score": 0.25, "name": "cat", "is_base": True},
    ]
    assert to_results(instances([], [], []), NAMES, IS_BASE, 9) == []


def test_segments_have_masks_largest_first():
    ids = torch.tensor([[0, 1, 1, 2], [2, 2, 0, 2]])
    segments = [
        {"id": 1, "category_id": 1, "isthing": True, "score": 0.12345},
        {"id": 2, "category_id": 0, "isthing": False, "score": 0.5},
    ]
    first, second = to_results({"panoptic_seg": (ids, segments)}, NAMES, IS_BASE, 3)
    assert (first["id"], first["area"], first["name"], first["is_base"], first["isthing"]) == (2, 4, "cat", True, False)
    assert (second["id"], second["area"], second["score"], second["image_id"]) == (1, 2, 0.1235, 3)
    assert np.array_equal(coco_mask.decode(first["segmentation"]), (ids == 2).numpy())


@pytest.mark.parametrize("background", [None, torch.tensor([[True, False, False]])])
def test_a_semantic_segmentation_has_one_segment_per_class(background):
    scores = torch.tensor([[[0.9, 0.2, 0.4]], [[0.1, 0.8, 0.45]], [[0.0, 0.0, 0.15]]])
    best, labels = scores.max(dim=0)
    ids, segments = semantic_segments(labels, best, 0.3, background)["panoptic_seg"]
    assert ids.tolist() == [[0 if background is not None else 1, 2, 2]]
    found = {s["category_id"]: s["score"] for s in segments}
    expected = {1: pytest.approx((0.8 + 0.45) / 2)} | ({} if background is not None else {0: pytest.approx(0.9)})
    assert found == expected and all(not s["isthing"] and s["id"] == s["category_id"] + 1 for s in segments)
    assert (semantic_segments(labels, best, 0.5)["panoptic_seg"][0] == torch.tensor([[1, 2, 0]])).all()


def test_supervision_gets_boxes_masks_scores_and_names():
    supervision = pytest.importorskip("supervision")
    output = instances([[1, 2, 4, 8], [0, 0, 3, 1]], [0.25, 0.75], [0, 1])
    found = to_supervision(output, NAMES)
    assert isinstance(found, supervision.Detections) and found.mask is None
    assert found.xyxy.tolist() == [[1, 2, 4, 8], [0, 0, 3, 1]] and found.confidence.tolist() == [0.25, 0.75]
    assert found.class_id.tolist() == [0, 1] and found.data["class_name"].tolist() == ["cat", "dog"]
    masks = torch.zeros(2, 10, 20, dtype=torch.bool)
    masks[0, 2:8, 1:4] = True
    output["instances"].pred_masks = PackedMasks(PackedMasks.pack(masks), 20)
    assert np.array_equal(to_supervision(output, NAMES).mask, masks.numpy())
    assert len(to_supervision(instances([], [], []), NAMES)) == 0


def test_supervision_gets_segments_as_masks():
    pytest.importorskip("supervision")
    ids = torch.tensor([[0, 1, 1, 2], [2, 2, 0, 2]])
    segments = [{"id": 2, "category_id": 0, "score": 0.5}, {"id": 1, "category_id": 1, "score": 0.1}]
    found = to_supervision({"panoptic_seg": (ids, segments)}, NAMES)
    assert np.array_equal(found.mask, np.stack([ids.numpy() == 2, ids.numpy() == 1]))
    assert found.data["class_name"].tolist() == NAMES and found.class_id.tolist() == [0, 1]
    assert found.xyxy.tolist() == [[0, 0, 3, 1], [1, 0, 2, 0]]  # supervision's: both ends are inside
    assert len(to_supervision({"panoptic_seg": (ids, [])}, NAMES)) == 0
