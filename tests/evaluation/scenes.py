"""Random panoptic scenes on disk, and predictions of them."""

import json

import numpy as np
import pytest
import torch
from detectron2.structures import Instances
from PIL import Image
from pycocotools import mask as coco_mask
from torch import nn

from clipself_d2.data import PanopticMapper, get_dataset, register_panoptic
from clipself_d2.evaluation import OpenVocabularyPanopticEvaluator
from tests.data.make import id_to_rgb

SYNONYMS = [["grass", "lawn"], ["cat"], ["dog"], ["sky"], ["cup"]]
CATEGORIES = [{"id": 10 * i + 3, "isthing": int(i in (1, 2, 4)), "name": s[0]} for i, s in enumerate(SYNONYMS)]
NOVEL = ["dog", "sky"]
HEIGHT, WIDTH, IMAGES = 40, 50, 6


def random_segments(rng):
    """Ids and segments of a random scene: bands of stuff, boxes of things in front, some of it void."""
    ids = np.zeros((HEIGHT, WIDTH), dtype=np.int64)
    drawn = [(0, slice(0, 20), slice(0, WIDTH)), (3, slice(20, 35), slice(0, WIDTH))]
    for _ in range(rng.integers(0, 5)):
        y, x = rng.integers(0, HEIGHT - 12), rng.integers(0, WIDTH - 12)
        drawn.append((int(rng.choice([1, 2])), slice(y, y + rng.integers(5, 13)), slice(x, x + rng.integers(5, 13))))
    for number, (_, rows, columns) in enumerate(drawn, 1):
        ids[rows, columns] = 257 * number
    segments = [
        {"id": 257 * n, "category": k, "area": int((ids == 257 * n).sum())}
        for n, (k, *_) in enumerate(drawn, 1)
        if (ids == 257 * n).any()
    ]
    return ids, segments


def write_scenes(folder):
    """A data set of random scenes on disk, in COCO's formats; class "cup" never occurs."""
    for name in ("photos", "pngs"):
        (folder / name).mkdir()
    rng = np.random.default_rng(0)
    images, panoptic, instances = [], [], []
    for i in range(IMAGES):
        ids, segments = random_segments(rng)
        Image.new("RGB", (WIDTH, HEIGHT)).save(folder / f"photos/{i}.jpg")
        Image.fromarray(id_to_rgb(ids)).save(folder / f"pngs/{i}.png")
        images.append({"id": i, "file_name": f"{i}.jpg", "height": HEIGHT, "width": WIDTH})
        infos = []
        for s in segments:
            rle = coco_mask.encode(np.asfortranarray(ids == s["id"]).astype(np.uint8))
            category = CATEGORIES[s["category"]]
            common = {
                "category_id": category["id"],
                "bbox": [float(v) for v in coco_mask.toBbox(rle)],
                "area": s["area"],
                "iscrowd": 0,
            }
            infos.append({"id": s["id"], **common})
            if category["isthing"]:
                rle["counts"] = rle["counts"].decode()
                instances.append({"id": len(instances) + 1, "image_id": i, "segmentation": rle, **common})
        panoptic.append({"image_id": i, "file_name": f"{i}.png", "segments_info": infos})
    for name, annotations in (("panoptic", panoptic), ("instances", instances)):
        things = [c for c in CATEGORIES if c["isthing"] or name == "panoptic"]
        content = {"images": images, "annotations": annotations, "categories": things}
        (folder / f"{name}.json").write_text(json.dumps(content))
    register_panoptic(
        "scenes",
        image_root=folder / "photos",
        panoptic_json=folder / "panoptic.json",
        panoptic_root=folder / "pngs",
        instances_json=folder / "instances.json",
        categories=CATEGORIES,
        synonyms=SYNONYMS,
        novel_classes=NOVEL,
    )
    return "scenes"


def samples(name):
    return [PanopticMapper()(record) for record in get_dataset(name)]


def outputs_of(sample, num_classes, classes=None, masks=None, scores=None):
    """Detectron2's outputs for masks that do not overlap."""
    masks = sample["masks"] if masks is None else masks
    classes = sample["classes"] if classes is None else classes
    isthing = sample["isthing"]
    ids = (masks * torch.arange(1, len(masks) + 1)[:, None, None]).amax(dim=0, keepdim=False)
    segments = [
        {"id": i + 1, "category_id": int(k), "isthing": bool(t)}
        for i, (k, t) in enumerate(zip(classes, isthing, strict=True))
        if (ids == i + 1).any()
    ]
    things = isthing & ~sample["iscrowd"]
    instances = Instances(masks.shape[1:])
    instances.pred_masks = masks[things]
    instances.pred_classes = classes[things]
    instances.scores = torch.ones(int(things.sum())) if scores is None else scores[things]
    sem_seg = torch.zeros(num_classes, *masks.shape[1:], dtype=torch.uint8)
    for k, mask in zip(classes, masks, strict=True):
        sem_seg[k] += mask
    return {"panoptic_seg": (ids, segments), "instances": instances, "sem_seg": sem_seg}


class Oracle(nn.Module):
    """Answers with the ground truth."""

    def __init__(self, num_classes):
        super().__init__()
        self.num_classes = num_classes

    def forward(self, inputs):
        return [outputs_of(sample, self.num_classes) for sample in inputs]


def all_100(results, tasks=("panoptic", "segm", "sem_seg")):
    assert set(results) == set(tasks)
    for metrics in results.values():
        assert metrics
        for name, value in metrics.items():
            assert type(value) is float
            assert value == pytest.approx(100), name


def noisy(sample, generator):
    """A prediction that is wrong in places: shifted masks, exchanged classes, a lost segment."""
    shift = int(torch.randint(0, 6, (), generator=generator))
    masks = sample["masks"].roll(shift, dims=2)
    classes = sample["classes"].clone()
    things = sample["isthing"].nonzero()[:, 0]
    if len(things):
        classes[things[0]] = 4 if shift == 1 else 3 - classes[things[0]]  # dog for cat, or a cup
    keep = torch.rand(len(masks), generator=generator) < 0.9
    part = {key: sample[key][keep] for key in ("isthing", "iscrowd")}
    scores = torch.rand(len(masks), generator=generator)[keep]
    return outputs_of({**sample, **part}, len(SYNONYMS), classes[keep], masks[keep], scores)


def evaluate(name, inputs, outputs, **kwargs):
    evaluator = OpenVocabularyPanopticEvaluator(name, **kwargs)
    for k in range(0, len(inputs), 2):
        evaluator.process(inputs[k : k + 2], outputs[k : k + 2])
    return evaluator.evaluate()
