import numpy as np
import torch
from detectron2.structures import BoxMode
from PIL import Image
from pycocotools import mask as coco_mask

from clipself_d2.data import InstanceRegionMapper

POLYGON = [[2.0, 3.0, 12.0, 3.0, 12.0, 9.0, 2.0, 9.0]]


def annotation(box, category=0, iscrowd=0, **more):
    return {"bbox": box, "bbox_mode": BoxMode.XYWH_ABS, "category_id": category, "iscrowd": iscrowd, **more}


def record(folder, *annotations):
    Image.new("RGB", (30, 20), "red").save(folder / "a.png")
    return {"file_name": str(folder / "a.png"), "image_id": 5, "annotations": list(annotations)}


def test_objects_become_regions(tmp_path):
    run_length = coco_mask.encode(np.asfortranarray(np.pad(np.ones((6, 10), np.uint8), ((3, 11), (2, 18)))))
    objects = [
        annotation([2, 3, 10, 6], 4, segmentation=POLYGON),
        annotation([-2, 3, 10, 60], 1, segmentation=run_length),
        annotation([0, 0, 5, 5], 2, iscrowd=1),
        annotation([29, 19, 10, 10], 3, segmentation=POLYGON),
        annotation([30, 0, 10, 10], 3, segmentation=POLYGON),  # outside
    ]
    sample = InstanceRegionMapper()(record(tmp_path, *objects))
    assert sample["boxes"].tensor.tolist() == [[2, 3, 12, 9], [0, 3, 8, 20], [29, 19, 30, 20]]
    # half as large again about their centers, and clipped
    assert sample["crop_boxes"].tensor.tolist() == [[0, 1.5, 14.5, 10.5], [0, 0, 10, 20], [28.75, 18.75, 30, 20]]
    assert sample["classes"].tolist() == [4, 1, 3] and sample["isthing"].all()
    expected = torch.zeros(20, 30, dtype=torch.bool)
    expected[3:9, 2:12] = True
    assert all((mask == expected).all() for mask in sample["masks"])
    assert sample["image"].shape == (3, 20, 30) and "annotations" not in sample


def test_boxes_are_enough(tmp_path):
    sample = InstanceRegionMapper()(record(tmp_path, annotation([1, 1, 3, 3]), annotation([0, 0, 9, 9], 1)))
    assert "masks" not in sample and len(sample["boxes"]) == 2


def test_an_image_without_objects_has_no_regions(tmp_path):
    sample = InstanceRegionMapper()(record(tmp_path))
    assert sample["boxes"].tensor.shape == sample["crop_boxes"].tensor.shape == (0, 4)
    assert sample["classes"].dtype == torch.long and "masks" not in sample
