"""The matching in C++ against pycocotools'."""

import contextlib
import io
import sys

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from clipself_d2.errors import InputError
from clipself_d2.evaluation import OpenVocabularyCOCOEvaluator, OpenVocabularyLVISEvaluator, ProposalEvaluator
from clipself_d2.evaluation.coco_eval import AREAS, match_detections
from tests.evaluation.worlds import noisy_world, register


def apis(seed):
    """A random world with crowds, and its detections."""
    records, detections = noisy_world(seed)
    truth, number = COCO(), 0
    truth.dataset = {"images": [], "annotations": [], "categories": [{"id": k} for k in range(6)]}
    results = []
    for record, found in zip(records, detections, strict=True):
        truth.dataset["images"].append({"id": record["image_id"]})
        for a in record["annotations"]:
            number += 1
            x0, y0, x1, y1 = a["bbox"]
            box = {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": 4 * (x1 - x0) * (y1 - y0), "iscrowd": number % 7 == 0}
            truth.dataset["annotations"].append(
                {"id": number, "image_id": record["image_id"], "category_id": a["category_id"], **box}
            )
        for category, (x0, y0, x1, y1), score in found:
            common = {"image_id": record["image_id"], "category_id": category, "score": score}
            results.append({**common, "bbox": [x0, y0, x1 - x0, y1 - y0]})
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        return truth, truth.loadRes(results)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("use_classes", [True, False])
@pytest.mark.parametrize("areas", [AREAS, ("all",), ("small", "large")])
def test_the_numbers_are_pycocotools(seed, use_classes, areas):
    truth, found = apis(seed)
    images = sorted(truth.imgs)[: -seed or None]
    with contextlib.redirect_stdout(io.StringIO()):
        theirs = COCOeval(truth, found, "bbox")
        theirs.params.maxDets, theirs.params.useCats, theirs.params.imgIds = [1, 3, 100], int(use_classes), images
        theirs.evaluate()
        theirs.accumulate()
    ours = match_detections(truth, found, max_dets=[1, 3, 100], areas=areas, image_ids=images, use_classes=use_classes)
    kept = [AREAS.index(area) for area in areas]
    np.testing.assert_allclose(ours["precision"], theirs.eval["precision"][:, :, :, kept], rtol=0, atol=1e-12)
    np.testing.assert_allclose(ours["recall"], theirs.eval["recall"][:, :, kept], rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "evaluator", [OpenVocabularyCOCOEvaluator, OpenVocabularyLVISEvaluator, ProposalEvaluator], ids=lambda e: e.__name__
)
def test_a_missing_package_is_said_when_the_evaluator_is_built(evaluator, catalog, monkeypatch):
    records, _ = noisy_world(0)
    register("noisy", records, list("abcdef"), class_frequency=list("fffrrr"))
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    with pytest.raises(InputError, match=r"pip install 'clipself_d2\[detection\]'"):
        evaluator("noisy")
