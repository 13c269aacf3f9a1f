"""Proposals on their way to the json of distillation."""

import json

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances, pairwise_iou
from hypothesis import given
from hypothesis import strategies as st
from pycocotools.coco import COCO
from torch import nn

from clipself_d2.detection.proposals import ProposalFilter, check_can_propose, from_json, to_json, write_proposals
from clipself_d2.errors import InputError
from clipself_d2.regions.proposals import ProposalRegions, load_proposals

HEIGHT, WIDTH = 60, 100


def proposals(boxes, logits, size=(HEIGHT, WIDTH)) -> Instances:
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    return Instances(size, proposal_boxes=Boxes(boxes), objectness_logits=torch.tensor(logits, dtype=torch.float32))


def sample(image_id, size=(HEIGHT, WIDTH)):
    return {"image_id": image_id, "file_name": f"/photos/{image_id}.jpg", "height": size[0], "width": size[1]}


def naive_filter(boxes, logits, top, iou, min_score):
    """Greedy suppression, box by box."""
    clipped = [
        [min(max(x, 0), WIDTH) if i % 2 == 0 else min(max(x, 0), HEIGHT) for i, x in enumerate(b)] for b in boxes
    ]
    kept = []
    for i in sorted(range(len(boxes)), key=lambda i: -logits[i]):
        box = clipped[i]
        if min(box[2] - box[0], box[3] - box[1]) < 1 or 1 / (1 + np.exp(-logits[i])) < min_score:
            continue
        others = Boxes(torch.tensor([clipped[k] for k in kept], dtype=torch.float32).reshape(-1, 4))
        if (pairwise_iou(Boxes(torch.tensor([box], dtype=torch.float32)), others) <= iou).all():
            kept.append(i)
    return [clipped[i] for i in kept[:top]], [logits[i] for i in kept[:top]]


corner = st.integers(-20, 120)
box = st.tuples(corner, corner, st.integers(0, 90), st.integers(0, 90)).map(
    lambda b: [b[0], b[1], b[0] + b[2], b[1] + b[3]]
)


@given(
    st.lists(box, max_size=12), st.integers(1, 8), st.sampled_from([0.0, 0.3, 0.7, 1.0]), st.sampled_from([0.0, 0.6])
)
def test_the_filter_is_greedy_suppression_of_clipped_boxes(boxes, top, iou, min_score):
    logits = [float(np.sin(7 * i) * 3) for i in range(len(boxes))]
    kept = ProposalFilter(top, iou, min_score)(proposals(boxes, logits))
    expected, order = naive_filter(boxes, logits, top, iou, min_score)
    np.testing.assert_allclose(kept.proposal_boxes.tensor.numpy(), np.array(expected).reshape(-1, 4), atol=1e-5)
    np.testing.assert_allclose(kept.objectness_logits.numpy(), order, rtol=1e-6)


def test_boxes_and_scores_that_are_no_numbers_are_left_out():
    nan = float("nan")
    kept = ProposalFilter()(proposals([[0, 0, 9, 9], [nan, 0, 9, 9], [40, 30, 80, 50]], [nan, 1.0, 0.0]))
    assert kept.proposal_boxes.tensor.tolist() == [[40, 30, 80, 50]]


@pytest.mark.parametrize("wrong", [{"top": 0}, {"nms": 1.5}, {"nms": -0.1}, {"min_score": 2.0}, {"nms": float("nan")}])
def test_wrong_filters(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        ProposalFilter(**wrong)


def test_the_file_is_what_distillation_and_coco_read(tmp_path, capsys):
    file = tmp_path / "new" / "p.json"
    first = proposals([[1, 2, 30.123, 40], [0, 0, 100, 60]], [2.0, 0.0])
    images = [(sample(7), first), (sample(3), proposals([], [])), (sample(9), proposals([[5, 5, 6, 7]], [-1.0]))]
    written = write_proposals(file, images, {"data": "mine"})
    assert (written.images, written.bare, written.boxes) == (3, 1, 3)
    loaded = load_proposals(file, {3, 7, 9})
    assert sorted(loaded) == [7, 9]
    np.testing.assert_allclose(loaded[7], [[1, 2, 30.12, 40], [0, 0, 100, 60]], atol=1e-4)
    coco = COCO(str(file))
    assert coco.dataset["info"] == {"data": "mine"}
    assert [a["score"] for a in coco.loadAnns(coco.getAnnIds(imgIds=[7]))] == [0.8808, 0.5]
    assert coco.imgs[3] == {"id": 3, "file_name": "3.jpg", "height": HEIGHT, "width": WIDTH}
    student, *_ = ProposalRegions(file)(3, HEIGHT, WIDTH, np.random.default_rng(0))  # its fallback
    assert student.tolist() == [[0, 0, WIDTH / 4, HEIGHT / 4]]
    assert [path.name for path in file.parent.iterdir()] == ["p.json"]


@given(st.lists(box, min_size=1, max_size=8), st.floats(0.1, 3))
def test_written_boxes_lie_inside_their_images(tmp_path_factory, boxes, factor):
    file = tmp_path_factory.mktemp("p") / "p.json"
    found = proposals([[x * factor for x in b] for b in boxes] + [[0, 0, 50.004, 59.996]], [1.0] * (len(boxes) + 1))
    write_proposals(file, [(sample(1), ProposalFilter(nms=1.0)(found))])
    for annotation in json.loads(file.read_text())["annotations"]:
        x, y, width, height = annotation["bbox"]
        assert min(x, y) >= 0 and width > 0 and height > 0
        assert x + width <= WIDTH + 1e-9 and y + height <= HEIGHT + 1e-9


def test_no_proposal_at_all_is_refused_and_an_older_file_stays(tmp_path):
    file = tmp_path / "p.json"
    file.write_text("older")
    with pytest.raises(InputError, match=r"none of 1 images has a proposal.*--min-score"):
        write_proposals(file, [(sample(1), proposals([], []))])
    assert file.read_text() == "older" and [path.name for path in tmp_path.iterdir()] == ["p.json"]


def test_an_error_on_the_way_leaves_nothing(tmp_path):
    def images():
        yield sample(1), proposals([[0, 0, 9, 9]], [0.0])
        raise InputError("100 images in a row cannot be read")

    with pytest.raises(InputError, match="in a row"):
        write_proposals(tmp_path / "p.json", images())
    assert not list(tmp_path.iterdir())


class Proposer(nn.Module):
    def propose(self, inputs):
        raise NotImplementedError


def test_a_json_keeps_proposals_exactly():
    found = proposals([[0.1, 0.2, 30.3, 40.7], [1, 2, 3, 4]], [0.123456789, -7.0])
    for each in (found, found[:0]):
        read = from_json(json.loads(json.dumps(to_json(each))), each.image_size)
        assert torch.equal(read.proposal_boxes.tensor, each.proposal_boxes.tensor)
        assert torch.equal(read.objectness_logits, each.objectness_logits) and read.image_size == each.image_size


def test_a_model_without_proposals_is_said():
    check_can_propose(Proposer)
    for model in (nn.Identity, nn.Identity()):
        with pytest.raises(InputError, match="Identity makes no region proposals"):
            check_can_propose(model)
