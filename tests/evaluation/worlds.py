"""Small data sets in the catalog, and detections in them."""

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, BoxMode, Instances
from pycocotools import mask as coco_mask

HEIGHT, WIDTH = 80, 120


def register(name, records, classes, **metadata):
    DatasetCatalog.register(name, lambda: [{**r, "annotations": list(r["annotations"])} for r in records])
    MetadataCatalog.get(name).set(thing_classes=classes, **metadata)
    return records


def record(image_id, objects, **fields):
    """A record of objects `(class, (x0, y0, x1, y1))`, with box-shaped masks."""
    annotations = []
    for category, (x0, y0, x1, y1) in objects:
        mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8, order="F")
        mask[y0:y1, x0:x1] = 1
        annotations.append(
            {
                "bbox": [x0, y0, x1, y1],
                "bbox_mode": BoxMode.XYXY_ABS,
                "category_id": category,
                "segmentation": coco_mask.encode(mask),
            }
        )
    size = {"height": HEIGHT, "width": WIDTH}
    return {"file_name": f"{image_id}.jpg", "image_id": image_id, **size, "annotations": annotations, **fields}


def output(record, detections, masks=False):
    """Detectron2's answer of detections `(class, (x0, y0, x1, y1), score)`, as detections and as proposals."""
    size = (record["height"], record["width"])
    boxes = torch.tensor([box for _, box, _ in detections], dtype=torch.float32).reshape(-1, 4)
    scores = torch.tensor([score for _, _, score in detections], dtype=torch.float32)
    classes = torch.tensor([category for category, _, _ in detections], dtype=torch.long)
    instances = Instances(size, pred_boxes=Boxes(boxes), scores=scores, pred_classes=classes)
    if masks:
        instances.pred_masks = torch.zeros(len(boxes), *size, dtype=torch.bool)
        for mask, (x0, y0, x1, y1) in zip(instances.pred_masks, boxes.round().int().clamp(min=0).tolist(), strict=True):
            mask[y0:y1, x0:x1] = True
    proposals = Instances(size, proposal_boxes=Boxes(boxes), objectness_logits=scores)
    return {"instances": instances, "proposals": proposals}


def oracle(record, masks=False):
    """The ground truth as an answer."""
    size, annotations = (record["height"], record["width"]), record["annotations"]
    boxes = [BoxMode.convert(list(a["bbox"]), a["bbox_mode"], BoxMode.XYXY_ABS) for a in annotations]
    answer = output(record, [(a["category_id"], box, 1.0) for a, box in zip(annotations, boxes, strict=True)])
    if masks:
        decoded = [torch.from_numpy(_decode(a["segmentation"], size)).bool() for a in annotations]
        answer["instances"].pred_masks = torch.stack(decoded) if decoded else torch.zeros(0, *size, dtype=torch.bool)
    return answer


def _decode(segmentation, size):
    rles = coco_mask.frPyObjects(segmentation, *size) if isinstance(segmentation, list) else [segmentation]
    return coco_mask.decode(coco_mask.merge(rles))


def noisy_world(seed, num_images=12, num_classes=6, num_objects=5, num_detections=12):
    """Random records, and for each the detections: shifted objects, some of a wrong class, and some nowhere near."""
    rng = np.random.default_rng(seed)
    records, detections = [], []
    for image_id in range(100, 100 + num_images):
        objects = [(int(rng.integers(num_classes)), _box(rng)) for _ in range(rng.integers(0, num_objects + 1))]
        found = []
        for _ in range(rng.integers(0, num_detections + 1)):
            category, box = int(rng.integers(num_classes)), _box(rng)
            if objects and rng.random() < 0.7:
                category, near = objects[rng.integers(len(objects))]
                box = tuple(int(x) for x in np.array(near) + rng.integers(-3, 4, size=4))
                box = (box[0], box[1], max(box[2], box[0] + 1), max(box[3], box[1] + 1))
                category = int(rng.integers(num_classes)) if rng.random() < 0.2 else category
            found.append((category, box, round(float(rng.random()), 1)))  # with ties
        records.append(record(image_id, objects))
        detections.append(found)
    return records, detections


def _box(rng):
    x, y = int(rng.integers(0, WIDTH - 45)), int(rng.integers(0, HEIGHT - 45))
    return x, y, x + int(rng.integers(5, 45)), y + int(rng.integers(5, 45))


def evaluate(evaluator, records, answers):
    evaluator.reset()
    for sample, answer in zip(records, answers, strict=True):
        evaluator.process([sample], [answer])
    return evaluator.evaluate()
