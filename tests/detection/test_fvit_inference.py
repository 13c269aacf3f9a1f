"""F-ViT in evaluation: the letterbox, detections and proposals in pixels of the image."""

import pytest
import torch
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, Instances

from clipself_d2.detection import fvit
from tests.detection.tiny import build_detector, everything, random_image
from tests.second_device import HostWaits, SecondDevice

NAMES = ["tiny-vit-8", "tiny-eva-14"]


def tell(model, boxes):
    """Let the RPN propose these boxes (pixels of the square) for every image, and nothing else."""

    def propose(images, features, targets):
        return [
            Instances(size, proposal_boxes=Boxes(boxes.clone()), objectness_logits=torch.arange(len(boxes), 0, -1.0))
            for size in images.image_sizes
        ], {}

    model.rpn.forward = propose


@pytest.mark.parametrize("antialias", [False, True])
def test_a_large_image_in_evaluation(tower, antialias):
    """At a quarter of its size: without antialias, each pixel is the mean of the four in the middle of sixteen."""
    model = build_detector(tower()).eval()
    model.antialias = antialias
    image = torch.randint(0, 256, (3, 4 * model.size, 4 * model.size), dtype=torch.uint8)
    pixels = model._letterbox([{"image": image}]).tensor[0] * model.pixel_std + model.pixel_mean
    middle = image.float().unflatten(2, (-1, 4)).unflatten(1, (-1, 4))[:, :, 1:3, :, 1:3].mean(dim=(2, 4))
    assert torch.allclose(pixels, middle, atol=1e-3) != antialias


@pytest.mark.parametrize("name", NAMES)
def test_detections_have_detectron2s_format(tower, name):
    model = build_detector(tower(name), masks=True).eval()
    out = model([random_image(), random_image(96, 30, height=192, width=60)])
    assert [x["instances"].image_size for x in out] == [(48, 60), (192, 60)]
    for x in out:
        found = x["instances"]
        assert len(found) <= 100 and found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)
        assert found.pred_masks.shape == (len(found), *found.image_size)
        assert ((found.pred_classes >= 0) & (found.pred_classes < 5)).all()
        assert not found.scores.requires_grad


def test_the_host_waits_for_a_gpu_twice(tower):
    """For the numbers of proposals and of detections of all images; each suppression ends with a wait of its own."""
    for masks in (False, True):
        with SecondDevice():
            model = build_detector(tower("tiny-vit-8"), masks=masks, score_thresh=0.0).to("cuda").eval()
            inputs = [random_image(), random_image(30, 64), random_image()]
            model(inputs)  # makes tables
            with HostWaits() as waits:
                found = model(inputs)
        assert all(len(x["instances"]) > 9 for x in found)
        assert [line.partition(":")[0] for line in waits.lines] == ["nms", "tolist"] * 2, waits.lines


def test_packed_masks_are_those_that_detectron2_pastes(monkeypatch):
    monkeypatch.setattr(fvit, "_PASTED_PIXELS", 2 * 45 * 60)  # two at once
    corners = torch.tensor([[0.0, 0, 40, 30], [5, 5, 20.5, 9], [30, 10, 70, 29], [3, 2, 5, 4]])
    fields = {"pred_masks": torch.rand(4, 1, 28, 28), "scores": torch.rand(4)}
    raw = [Instances((30, 40), pred_boxes=Boxes(corners.clone()), **fields) for _ in range(2)]
    expected, found = detector_postprocess(raw[0], 45, 60), fvit._to_image(raw[1], (45, 60))
    assert torch.equal(found.scores, expected.scores)
    assert torch.equal(found.pred_masks.tensor, expected.pred_masks)
    assert torch.equal(found.pred_boxes.tensor, expected.pred_boxes.tensor)


@pytest.mark.parametrize(
    ("photo", "frame"),
    [
        ((96, 192), (96, 192)),
        ((192, 96), (192, 96)),
        ((100, 37), (100, 37)),
        ((20, 10), (20, 10)),
        ((30, 64), (300, 640)),
    ],
)
def test_boxes_are_in_pixels_of_the_image(tower, photo, frame):
    """Proposals at known places of the letterboxed square, against the plain factor between the two."""
    model = everything(build_detector(tower())).eval()
    factor = max(photo) / 64 * (frame[0] / photo[0])
    inside = torch.tensor([frame[1], frame[0]]).repeat(2) / factor
    boxes = torch.tensor([[0.0, 0, 1, 1], [0.1, 0.2, 0.6, 0.9], [0.5, 0.25, 0.75, 0.5]]) * inside
    tell(model, boxes)
    found = model([random_image(*photo, height=frame[0], width=frame[1])])[0]["instances"]
    assert len(found) == 15
    for box in boxes * factor:
        near = (found.pred_boxes.tensor - box).abs().amax(dim=1) < 1e-3 * max(frame)
        assert sorted(found.pred_classes[near].tolist()) == [0, 1, 2, 3, 4]


def test_proposals_are_in_pixels_of_the_image_best_first(tower):
    model = build_detector(tower()).eval()
    boxes = torch.tensor([[0.0, 0, 64, 32], [8, 4, 24, 20], [0, 32, 64, 64]])  # the last lies in the padding
    tell(model, boxes)
    (found,) = model.propose([random_image(96, 192)])
    torch.testing.assert_close(found.proposal_boxes.tensor[:2], boxes[:2] * 3)
    assert found.image_size == (96, 192) and found.objectness_logits.tolist()[:2] == [3.0, 2.0]
    (real,) = build_detector(tower()).eval().propose([random_image(96, 192)])
    corners = real.proposal_boxes.tensor
    assert 0 < len(real) <= 30 and (corners >= 0).all() and (corners <= torch.tensor([192, 96]).repeat(2)).all()
    assert real.objectness_logits.tolist() == sorted(real.objectness_logits.tolist(), reverse=True)


@pytest.mark.parametrize("name", NAMES)
def test_tight_reads_no_more_than_the_batch_needs(tower, name):
    model = build_detector(tower(name)).eval()
    square = model._letterbox([random_image(24, 64), random_image(40, 64)])
    model.skip_padding = True
    tight = model._letterbox([random_image(24, 64), random_image(40, 64)])
    step = 2 * model.backbone.tower.stride
    needed = 40 / 64 * model.size
    height, width = tight.tensor.shape[-2:]
    assert width == model.size and height % step == 0 and needed <= height < needed + step
    assert tight.image_sizes == square.image_sizes
    seen = []
    forward = model.backbone.tower.features
    model.backbone.tower.features = lambda *args: seen.append((args[0].shape[-2:], args[3])) or forward(*args)
    outputs = model([random_image(24, 64), random_image(40, 64)])
    del model.backbone.tower.features
    assert seen == [((height, width), model.size)]
    assert [len(x["instances"]) for x in outputs] != [0, 0]


def test_tight_is_square_for_a_square_image(tower):
    model = build_detector(tower(NAMES[0])).eval()
    sample = random_image(64, 64)
    [square] = model([sample])
    model.skip_padding = True
    [tight] = model([sample])
    assert torch.equal(square["instances"].scores, tight["instances"].scores)


def test_the_letterbox(tower):
    """The image, bilinear, in the upper left, zeros elsewhere, sizes not rounded; nothing moves at scale 1."""
    model = build_detector(tower())
    images = model._letterbox([random_image(50, 100), random_image(64, 33), {"image": torch.full((3, 9, 90), 200.0)}])
    assert images.image_sizes[0] == (32.0, 64.0) and images.image_sizes[1] == (64.0, 33.0)
    assert images.image_sizes[2] == pytest.approx((6.4, 64.0))
    assert not images.tensor[0, :, 32:].any() and not images.tensor[1, :, :, 33:].any()
    grey = (torch.tensor([200.0] * 3) - model.pixel_mean.flatten()) / model.pixel_std.flatten()
    torch.testing.assert_close(images.tensor[2, :, :6], grey[:, None, None].expand(3, 6, 64))
    assert not images.tensor[2, :, 6:].any()
    same = random_image(64, 33)
    torch.testing.assert_close(model._letterbox([same]).tensor, model._pad([same["image"]]).tensor)


@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (30, 10_000), (10_000, 30), (1, 300), (64, 64)])
def test_images_of_extreme_sizes(tower, size, masks):
    model = build_detector(tower(), masks=masks).eval()
    height, width = size
    found = model([random_image(*size)])[0]["instances"]
    corners = found.pred_boxes.tensor
    assert found.image_size == size and torch.isfinite(corners).all() and torch.isfinite(found.scores).all()
    assert (corners >= 0).all() and (corners <= torch.tensor([width, height]).repeat(2)).all()
    (proposed,) = model.propose([random_image(*size)])
    assert proposed.image_size == size and len(proposed) > 0


def test_no_proposals(tower):
    model = build_detector(tower(), masks=True).eval()
    model.rpn.post_nms_topk[False] = 0
    assert [len(x["instances"]) for x in model([random_image(), random_image()])] == [0, 0]
    assert [len(x) for x in model.propose([random_image()])] == [0]


def test_a_batch_gives_what_its_images_give(tower):
    model = build_detector(tower()).eval()
    photos = [random_image(48, 60), random_image(60, 30)]
    together = model(photos)
    for photo, both in zip(photos, together, strict=True):
        alone = model([photo])[0]["instances"]
        assert alone.pred_classes.tolist() == both["instances"].pred_classes.tolist()
        torch.testing.assert_close(alone.pred_boxes.tensor, both["instances"].pred_boxes.tensor, atol=1e-3, rtol=1e-4)
        torch.testing.assert_close(alone.scores, both["instances"].scores, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize(("alpha", "beta"), [(0.0, 0.0), (1.0, 1.0)])
def test_the_ends_of_the_fusion(tower, alpha, beta):
    """0: the head alone, so that CLIP's temperature changes nothing; 1: CLIP alone, so that the head's does not."""
    model = everything(build_detector(tower(), alpha=alpha, beta=beta)).eval()
    photo = [random_image()]
    before = model(photo)[0]["instances"].scores
    with torch.no_grad():
        model.roi_heads.clip_temperature, untouched = (33.0, True) if alpha == 0 else (75.0, True)
        if alpha == 1:
            model.roi_heads.classifier.temperature.fill_(5.0)
    assert torch.equal(model(photo)[0]["instances"].scores, before) is untouched
    model.roi_heads.alpha = model.roi_heads.beta = 0.5
    assert not torch.allclose(model(photo)[0]["instances"].scores, before)
