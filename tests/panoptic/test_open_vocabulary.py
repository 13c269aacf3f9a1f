"""Worked out by hand on a tower that sees colors, and on real images with random weights."""

import pytest
import torch

from clipself_d2.errors import InputError
from clipself_d2.panoptic import GroundTruthMasks, MaskPredictions, OpenVocabularyPanoptic
from clipself_d2.vocabulary import Vocabulary
from tests.panoptic.color_tower import ColorTower
from tests.second_device import CUDA, SecondDevice

COLORS = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]])


class Given:
    """A generator that answers what it was given."""

    def __init__(self, *predictions):
        self.predictions = list(predictions)

    def __call__(self, inputs, vocabulary):
        return self.predictions[: len(inputs)]


def vocabulary(novel=("blue",), embeddings=COLORS, **kwargs):
    return Vocabulary(["red", "green", "blue"], embeddings, novel=novel, **kwargs)


def picture(height=32, width=64):
    """Left half red, right half blue."""
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    image[0, :, : width // 2] = 255
    image[2, :, width // 2 :] = 255
    return {"image": image, "height": height, "width": width}


def halves(size=(8, 16)):
    masks = torch.full((2, *size), -20.0)
    masks[0, :, : size[1] // 2] = 20
    masks[1, :, size[1] // 2 :] = 20
    return masks


# The generator is sure that both halves are green, and a little void.
PREDICTED = torch.tensor([[0.1, 0.6, 0.1, 0.2], [0.05, 0.8, 0.05, 0.1]])


def model(generator=None, isthing=(True, True, False), **kwargs):
    generator = generator or Given(MaskPredictions(halves(), PREDICTED.log()))
    kwargs = {"vocabulary": vocabulary(), "size": 64, **kwargs}
    return OpenVocabularyPanoptic(generator, ColorTower(), isthing=isthing, **kwargs)


def scores(model, inputs, **kwargs):
    """The fused scores, read off the semantic map in the middle of each half; and void, what is left of 1."""
    result = model(inputs, **kwargs)[0]["sem_seg"]
    height, width = result.shape[1:]
    classes = torch.stack([result[:, height // 2, width // 4], result[:, height // 2, 3 * width // 4]])
    return torch.cat([classes, 1 - classes.sum(dim=1, keepdim=True)], dim=1)


def by_hand(alpha, beta, temperature=5.0):
    cosine = torch.tensor([[1.0, 0, 0], [0, 0, 1]])
    clip = torch.exp(temperature * cosine)
    clip, head = clip / clip.sum(1, keepdim=True), PREDICTED[:, :3] / PREDICTED[:, :3].sum(1, keepdim=True)
    weight = torch.tensor([alpha, alpha, beta])
    fused = head ** (1 - weight) * clip**weight
    fused = fused / fused.sum(1, keepdim=True) * (1 - PREDICTED[:, 3:])
    return torch.cat([fused, PREDICTED[:, 3:]], dim=1)


@pytest.mark.parametrize("fusion", ["odise", "fcclip"])
@pytest.mark.parametrize(("alpha", "beta"), [(0.35, 0.65), (0.4, 0.8), (0.3, 0.7)])
def test_fuses_the_generator_with_the_dense_map(fusion, alpha, beta):
    found = scores(model(fusion=fusion, alpha=alpha, beta=beta, temperature=5.0), [picture()])
    torch.testing.assert_close(found, by_hand(alpha, beta), atol=1e-5, rtol=0)


def test_predicted_only_and_clip_only_are_settings():
    predicted = scores(model(alpha=0, beta=0), [picture()])
    torch.testing.assert_close(predicted, PREDICTED, atol=1e-6, rtol=0)
    clip = scores(model(alpha=1, beta=1), [picture()])
    torch.testing.assert_close(clip, torch.tensor([[0.8, 0, 0, 0.2], [0, 0, 0.9, 0.1]]), atol=1e-6, rtol=0)


def test_the_results_are_those_of_detectron2():
    result = model(alpha=1, beta=1)([picture()])[0]
    ids, segments = result["panoptic_seg"]
    assert ids.shape == (32, 64)
    assert [(s["category_id"], s["isthing"]) for s in segments] == [(0, True), (2, False)]
    assert (ids == 1).sum() == (ids == 2).sum() == 32 * 32
    instances = result["instances"]
    assert set(instances.pred_classes.tolist()) <= {0, 1}  # the things
    assert instances.pred_classes[0] == 0
    assert instances.pred_boxes.tensor[0].tolist() == [0, 0, 32, 32]
    assert float(instances.scores[0]) == pytest.approx(0.8, abs=1e-3)
    assert result["sem_seg"].argmax(0).unique().tolist() == [0, 2]


@pytest.mark.parametrize("skip_padding", [True, False])
def test_dense_forwards_of_a_batch_of_several_shapes(skip_padding):
    generator = Given(*[MaskPredictions(halves(s), PREDICTED.log()) for s in ((8, 16), (16, 8), (8, 8))])
    net = model(generator, size=40, skip_padding=skip_padding)
    inputs = [picture(32, 64), picture(64, 32), picture(30, 30)]
    results = net(inputs)
    tight = [("no_attn", 1, 3, 24, 40), ("no_attn", 1, 3, 40, 24), ("no_attn", 1, 3, 40, 40)]
    assert net.embedder.tower.calls == ([("no_attn", 3, 3, 40, 40)] if not skip_padding else tight)
    for result, sample in zip(results, inputs, strict=True):
        assert result["panoptic_seg"][0].shape == sample["image"].shape[1:]
        assert result["sem_seg"].shape == (3, *sample["image"].shape[1:])
    assert net([]) == []


@pytest.mark.parametrize("own_vocabulary", [True, False])
def test_all_tasks_run_on_a_gpu(own_vocabulary):
    """On a simulated one; the generator's masks may be on the CPU, as saved masks are."""
    words = {} if own_vocabulary else {"vocabulary": vocabulary(), "isthing": [True, True, False]}
    net = model()
    expected = net([picture()], **words)[0]
    with SecondDevice():
        found = net.to("cuda")([picture()], **words)[0]
        assert found["sem_seg"].device == found["panoptic_seg"][0].device == CUDA
        assert torch.equal(found["sem_seg"].cpu(), expected["sem_seg"])
        assert torch.equal(found["panoptic_seg"][0].cpu(), expected["panoptic_seg"][0])
        boxes = found["instances"].pred_boxes.tensor
        assert boxes.device == found["instances"].scores.device == CUDA
        assert torch.equal(boxes.cpu(), expected["instances"].pred_boxes.tensor)


def test_results_come_in_the_frame_that_is_asked_for():
    sample = {**picture(32, 64), "height": 100, "width": 200}
    result = model()([sample])[0]
    assert result["panoptic_seg"][0].shape == (100, 200)
    assert result["instances"].image_size == (100, 200)


@pytest.mark.parametrize("mask_resize", ["bilinear", "area", "bicubic"])
def test_masks_of_any_resolution_reach_the_same_cells(mask_resize):
    for size in ((4, 8), (8, 16), (32, 64), (64, 128)):
        net = model(Given(MaskPredictions(halves(size), PREDICTED.log())), mask_resize=mask_resize, temperature=5.0)
        torch.testing.assert_close(scores(net, [picture()]), by_hand(0.4, 0.8), atol=1e-2, rtol=0)


def test_a_mask_that_vanishes_keeps_the_generators_scores():
    """A mask of one pixel falls between the samples; CLIP says nothing about it, unless every part of a cell counts."""
    masks = torch.full((1, 32, 64), -20.0)
    masks[0, 8, 40] = 20
    generator = Given(MaskPredictions(masks, PREDICTED[:1].log()))
    for mask_resize, expected in (("bilinear", [0.1, 0.6, 0.1]), ("area", [0, 0, 0.8])):
        result = model(generator, alpha=1, beta=1, mask_resize=mask_resize)([picture()])[0]["sem_seg"]
        assert result[:, 8, 40].tolist() == pytest.approx(expected, abs=1e-5)


def test_a_mask_that_is_empty_from_the_start_does_nothing():
    masks = torch.cat([halves(), torch.full((1, 8, 16), -20.0)])
    log_scores = torch.cat([PREDICTED, torch.tensor([[0.9, 0.05, 0.05, 0]])]).log()
    result = model(Given(MaskPredictions(masks, log_scores)))([picture()])[0]
    assert len(result["panoptic_seg"][1]) == 2
    assert all(torch.isfinite(r).all() for r in (result["sem_seg"], result["instances"].scores))


def test_without_masks_everything_is_void():
    result = model(Given(MaskPredictions(torch.zeros(0, 8, 16), torch.zeros(0, 4))))([picture()])[0]
    ids, segments = result["panoptic_seg"]
    assert not ids.any()
    assert segments == []
    assert len(result["instances"]) == 0
    assert result["instances"].pred_masks.shape == (0, 32, 64)
    assert not result["sem_seg"].any()


def test_quality_multiplies_the_scores():
    plain = Given(MaskPredictions(halves(), PREDICTED.log()))
    judged = Given(MaskPredictions(halves(), PREDICTED.log(), torch.tensor([0.5, 1.0])))
    before, after = (model(generator)([picture()])[0]["sem_seg"] for generator in (plain, judged))
    torch.testing.assert_close(after[:, 16, 10], before[:, 16, 10] * 0.5)
    torch.testing.assert_close(after[:, 16, 50], before[:, 16, 50])


def test_the_vocabulary_is_an_argument_of_the_call():
    generator = Given(MaskPredictions(halves(), torch.tensor([[0.4, 0.4, 0.2]] * 2).log()))
    net = model(generator, alpha=1, beta=1)
    words = Vocabulary([("azure", "blue"), ("scarlet", "red")], COLORS[[1, 2, 0, 1]])
    segments = net([picture()], words)[0]["panoptic_seg"][1]
    assert [(s["category_id"], s["isthing"]) for s in segments] == [(1, True), (0, True)]
    segments = net([picture()], words, isthing=[False, True])[0]["panoptic_seg"][1]
    assert [(s["category_id"], s["isthing"]) for s in segments] == [(1, True), (0, False)]


def test_a_vocabulary_without_any_seen_class_takes_beta_for_all():
    unseen = vocabulary(novel=("red", "green", "blue"))
    one, other = (scores(model(vocabulary=unseen, alpha=a, beta=0.7), [picture()]) for a in (0.0, 1.0))
    torch.testing.assert_close(one, other)
    all_seen = scores(model(vocabulary=vocabulary(novel=()), alpha=0.7, beta=0), [picture()])
    torch.testing.assert_close(one, all_seen)


def test_a_background_in_the_vocabulary_does_not_change_the_fusion():
    grey = vocabulary(background=torch.ones(3))
    torch.testing.assert_close(scores(model(vocabulary=grey), [picture()]), scores(model(), [picture()]))


def test_only_the_tasks_that_are_asked_for_are_done():
    assert set(model(tasks=["sem_seg"])([picture()])[0]) == {"sem_seg"}


def test_the_frozen_tower_moves_yet_is_not_saved():
    net = model()
    assert list(net.state_dict()) == []
    assert list(net.parameters()) == []
    tower = net.embedder.tower
    assert not any(p.requires_grad for p in tower.parameters())
    net.train()
    assert not tower.training
    net.double()
    assert tower.weight.dtype == torch.float64


def test_a_generator_with_weights_is_saved():
    generator = torch.nn.Linear(2, 1)
    assert set(model(generator).state_dict()) == {"generator.weight", "generator.bias"}


@pytest.mark.parametrize(
    ("masks", "log_scores", "mask_iou", "message"),
    [
        (halves((16, 8)), PREDICTED.log(), None, "aspect"),
        (halves((32, 80)), PREDICTED.log(), None, "aspect"),
        (halves() > 0, PREDICTED.log(), None, "float logits"),
        (halves(), PREDICTED[:, :3].log(), None, "void"),
        (halves(), PREDICTED[:1].log(), None, "log_scores"),
        (halves(), PREDICTED.log(), torch.ones(3), "mask_iou"),
    ],
)
def test_predictions_that_do_not_fit_are_refused(masks, log_scores, mask_iou, message):
    with pytest.raises(InputError, match=message):
        model(Given(MaskPredictions(masks, log_scores, mask_iou)))([picture()])


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"size": 60}, "stride"),
        ({"temperature": 0}, "temperature"),
        ({"tasks": ["panoptic"]}, "tasks"),
        ({"mask_resize": "nearest"}, "mask_resize"),
        ({"isthing": [True]}, "isthing"),
        ({"vocabulary": vocabulary(embeddings=torch.eye(3, 5))}, "same CLIP"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(kwargs, message):
    with pytest.raises(InputError, match=message):
        model(**kwargs)


def test_weights_out_of_range_are_refused():
    with pytest.raises(InputError, match="alpha"):
        model(alpha=1.5)([picture()])


def truth():
    sample = picture()
    masks = torch.zeros(2, 32, 64, dtype=torch.bool)
    masks[0, :, :32], masks[1, :, 32:] = True, True
    return {**sample, "masks": masks, "classes": torch.tensor([1, 2])}


def test_ground_truth_as_the_prediction_is_the_ground_truth():
    result = model(GroundTruthMasks(), alpha=0, beta=0)([truth()])[0]
    ids, segments = result["panoptic_seg"]
    assert [s["category_id"] for s in segments] == [1, 2]
    assert torch.equal(ids == 1, truth()["masks"][0])
    assert torch.equal(ids == 2, truth()["masks"][1])
    assert torch.equal(result["sem_seg"].argmax(0), torch.where(truth()["masks"][0], 1, 2))


def test_ground_truth_masks_named_by_clip():
    segments = model(GroundTruthMasks(), alpha=1, beta=1)([truth()])[0]["panoptic_seg"][1]
    assert [s["category_id"] for s in segments] == [0, 2]


def test_ground_truth_masks_without_classes_leave_the_word_to_clip():
    sample = {k: v for k, v in truth().items() if k != "classes"}
    segments = model(GroundTruthMasks(), alpha=0.5, beta=0.5)([sample])[0]["panoptic_seg"][1]
    assert [s["category_id"] for s in segments] == [0, 2]


@pytest.mark.parametrize(
    ("change", "message"),
    [({"masks": None}, "no ground-truth"), ({"classes": [1, 7]}, "class 7"), ({"classes": [1]}, "2 masks and 1")],
)
def test_a_sample_that_is_no_ground_truth_is_refused(change, message):
    sample = {**truth(), **{k: v if v is None else torch.tensor(v) for k, v in change.items()}}
    sample = {k: v for k, v in sample.items() if v is not None}
    with pytest.raises(InputError, match=message):
        GroundTruthMasks()([sample], vocabulary())


def test_boxes_of_masks_are_proposals_in_the_frame_that_is_asked_for():
    """Two rectangles, one void at 0.4 and of IoU 0.5, and an empty mask that has no box."""
    logits = torch.full((3, 8, 16), -20.0)
    logits[0, 2:5, 4:8] = logits[1, 0:8, 0:6] = 20.0
    scores = torch.tensor([[0.2, 0.2, 0.2, 0.4], [0.3, 0.3, 0.3, 0.1], [0.3, 0.3, 0.3, 0.1]]).log()
    found = MaskPredictions(logits, scores, torch.tensor([0.5, 1.0, 1.0]))
    sample = {**picture(), "height": 64, "width": 128}
    [proposals] = model(lambda inputs, vocabulary: [found]).propose([sample])
    assert proposals.image_size == (64, 128)
    assert proposals.proposal_boxes.tensor.tolist() == [[0, 0, 48, 64], [32, 16, 64, 40]]
    torch.testing.assert_close(proposals.objectness_logits.sigmoid(), torch.tensor([0.9, 0.3]))
