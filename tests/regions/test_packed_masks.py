import numpy as np
import pytest
import torch
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.structures import Boxes, Instances
from pycocotools import mask as coco_mask

from clipself_d2.regions import PackedMasks
from tests.second_device import SecondDevice


@pytest.mark.parametrize("shape", [(3, 5, 8), (2, 4, 13), (1, 1, 1), (0, 6, 10)])
def test_they_are_packed_and_unpacked(shape):
    masks = torch.rand(shape) > 0.5
    bits = PackedMasks.pack(masks)
    assert bits.shape == (*shape[:2], -(-shape[2] // 8))
    with SecondDevice():  # whose arithmetic is PyTorch's
        assert torch.equal(PackedMasks.pack(masks.to("cuda")).cpu(), bits)
    assert torch.equal(PackedMasks.pack(masks.transpose(1, 2).contiguous().transpose(1, 2)), bits)  # of any layout
    packed = PackedMasks(bits, shape[-1])
    assert torch.equal(packed.tensor, masks) and np.array_equal(np.asarray(packed), masks)
    assert packed.shape == shape and len(packed) == shape[0]


def test_instances_index_them_as_a_tensor():
    masks = torch.rand(4, 6, 11) > 0.5
    packed = PackedMasks(PackedMasks.pack(masks), 11)
    instances = Instances((6, 11), pred_masks=packed)
    chosen = torch.tensor([True, False, True, False])
    for item in (chosen, torch.tensor([3, 0]), slice(1, 3), [2]):
        assert torch.equal(instances[item].to("cpu").pred_masks.tensor, masks[item])
    assert torch.equal(packed[2], masks[2]) and packed[2].dtype == torch.bool
    assert [torch.equal(*pair) for pair in zip(packed, masks, strict=True)] == [True] * 4


def test_detectron2_encodes_them():
    masks = torch.rand(2, 6, 11) > 0.5
    instances = Instances((6, 11), pred_boxes=Boxes(torch.rand(2, 4)), scores=torch.rand(2), pred_classes=torch.ones(2))
    instances.pred_masks = PackedMasks(PackedMasks.pack(masks), 11)
    results = instances_to_coco_json(instances, 7)
    assert np.array_equal(np.stack([coco_mask.decode(r["segmentation"]) for r in results]), masks)
