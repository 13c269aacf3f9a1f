import pytest
import torch
import torch.nn.functional as F
from detectron2.structures import Boxes

from clipself_d2.errors import InputError
from clipself_d2.regions import RegionEmbedder, crop_and_resize, letterbox, letterbox_masks, pool_boxes, pool_masks
from tests.regions.fake_tower import ColorTower


def halves(height=32, width=64):
    """Left half red, right half blue; the boxes and masks of the halves."""
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    image[0, :, : width // 2] = 255
    image[2, :, width // 2 :] = 255
    boxes = torch.tensor([[0.0, 0, width / 2, height], [width / 2, 0, width, height]])
    masks = torch.zeros(2, height, width, dtype=torch.bool)
    masks[0, :, : width // 2] = masks[1, :, width // 2 :] = True
    return {"image": image, "boxes": Boxes(boxes), "masks": masks, "crop_boxes": Boxes(boxes)}


RED = F.normalize(torch.tensor([1.1, 0.1, 0.1]), dim=0)
BLUE = F.normalize(torch.tensor([0.1, 0.1, 1.1]), dim=0)


@pytest.mark.parametrize("mode", ["no_attn", "masked"])
@pytest.mark.parametrize("mask_resize", ["area", "bicubic"])
def test_regions_have_their_colours(mode, mask_resize):
    sample = halves()
    # Two cells inward, away from the bicubic overshoot at the border of the colors.
    sample["boxes"] = Boxes(torch.tensor([[0.0, 0, 16, 32], [48, 0, 64, 32]]))
    sample["masks"][:, :, 16:48] = False
    [output] = RegionEmbedder(ColorTower(), 64, dense_mode=mode, mask_resize=mask_resize)([sample])
    assert set(output) == {"boxes", "masks", "crops"}
    torch.testing.assert_close(output["boxes"], torch.stack([RED, BLUE]), atol=1e-4, rtol=0)
    if mask_resize == "area":
        torch.testing.assert_close(output["masks"], torch.stack([RED, BLUE]), atol=1e-4, rtol=0)
    else:
        assert (output["masks"].argmax(dim=1) == torch.tensor([0, 2])).all()


@pytest.mark.parametrize(("skip_padding", "forwards"), [(False, 1), (True, 3)])
def test_batch_equals_images_alone(skip_padding, forwards):
    tower, samples = ColorTower(), [halves(32, 64), halves(50, 30), halves(17, 90)]
    samples[1]["boxes"] = Boxes(torch.tensor([[3.0, 4, 20, 30], [1, 1, 30, 50], [0, 40, 9, 50]]))
    embedder = RegionEmbedder(tower, 32, skip_padding=skip_padding)
    together = embedder(samples)
    # one forward for all images of one shape
    assert [name for name, _ in tower.calls] == ["no_attn"] * forwards + ["image"]
    for output, sample in zip(together, samples, strict=True):
        [alone] = embedder([sample])
        for field in ("boxes", "masks", "crops"):
            torch.testing.assert_close(output[field], alone[field])


def test_parts_follow_the_functions():
    tower, sample = ColorTower(), halves(50, 30)
    [output] = RegionEmbedder(tower, 40, crop_size=24, mask_resize="bicubic", skip_padding=False)([sample])
    pixels, [scale] = letterbox([sample["image"]], 40)
    dense = tower.dense_embeddings(tower.normalize(pixels))
    torch.testing.assert_close(output["boxes"], pool_boxes(dense, [sample["boxes"].tensor * scale], 8))
    torch.testing.assert_close(output["masks"], pool_masks(dense[0], letterbox_masks(sample["masks"], 5, "bicubic")))
    crops = tower.image_embeddings(tower.normalize(crop_and_resize(sample["image"], sample["crop_boxes"].tensor, 24)))
    torch.testing.assert_close(output["crops"], F.normalize(crops, dim=1))


@pytest.mark.parametrize("fields", [["boxes"], ["masks"], ["crop_boxes"], []])
def test_only_what_is_asked_for(fields):
    tower = ColorTower()
    sample = {"image": halves()["image"], **{f: halves()[f] for f in fields}}
    [output] = RegionEmbedder(tower, 32)([sample])
    assert list(output) == ["crops" if f == "crop_boxes" else f for f in fields]
    assert len(tower.calls) == len(fields)


def test_many_crops_go_through_in_parts():
    tower, boxes = ColorTower(), Boxes(torch.rand(130, 4).sort().values * 32)
    sample = {"image": halves()["image"], "crop_boxes": boxes}
    [output] = RegionEmbedder(tower, 32)([sample])
    assert output["crops"].shape == (130, 3)
    assert [count for _, count in tower.calls] == [64, 64, 2]


def test_no_regions_and_no_images():
    none = {"boxes": Boxes(torch.zeros(0, 4)), "masks": torch.zeros(0, 32, 64), "crop_boxes": Boxes(torch.zeros(0, 4))}
    for mode in ("no_attn", "masked"):
        embedder = RegionEmbedder(ColorTower(), 32, dense_mode=mode)
        assert embedder([]) == []
        [output] = embedder([{"image": halves()["image"], **none}])
        assert {name: tuple(e.shape) for name, e in output.items()} == dict.fromkeys(
            ("boxes", "masks", "crops"), (0, 3)
        )


def test_masked_mode_rounds_boxes_down_as_released():
    """A box within a cell is empty: its token sees the class token alone."""
    boxes = torch.tensor([[1.0, 1, 7, 30], [7, 0, 17, 32], [8, 8, 24, 16], [60, 20, 64, 32], [0, 0, 64, 32]])
    tower, asked = ColorTower(), []
    tower.masked_embeddings = lambda images, masks: asked.extend(masks) or [torch.ones(len(mask), 3) for mask in masks]
    [output] = RegionEmbedder(tower, 64, dense_mode="masked")([{"image": halves()["image"], "boxes": Boxes(boxes)}])
    assert torch.isfinite(output["boxes"]).all()
    [masks] = asked
    expected = torch.zeros(len(boxes), 8, 8, dtype=torch.bool)
    for mask, box in zip(expected, boxes.tolist(), strict=True):
        x0, y0, x1, y1 = (int(edge / 8) for edge in box)
        mask[y0:y1, x0:x1] = True
    assert torch.equal(masks[: len(boxes)], expected)
    assert expected.flatten(1).sum(dim=1).tolist() == [0, 8, 2, 2, 32]


@pytest.mark.parametrize("arguments", [{"size": 30}, {"size": 0}, {"size": 32, "mask_resize": "x"}])
def test_wrong_arguments(arguments):
    with pytest.raises(InputError):
        RegionEmbedder(ColorTower(), **arguments)
