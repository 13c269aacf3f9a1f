"""The plug-in for ODISE in a double of its model: the fusion, the base classes, the path."""

import logging
import sys
from types import ModuleType

import pytest
import torch

from clipself_d2.clip import build_towers
from clipself_d2.errors import InputError
from clipself_d2.panoptic import ODISEMaskClassifier
from tests.panoptic.color_tower import ColorTower
from tests.panoptic.hosts import (
    LOGITS,
    ODISE,
    TEST_LABELS,
    TRAIN_LABELS,
    VOID,
    ODISEDouble,
    OpenPanopticInferenceDouble,
    WordTower,
    by_hand,
    clip_probabilities,
    halves,
    odise_head,
    picture,
)

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.mark.parametrize(("alpha", "beta"), [(0.35, 0.65), (0.3, 0.7)])
def test_odise_gets_its_fusion_from_the_dense_map(alpha, beta):
    head = odise_head(alpha=alpha, beta=beta)
    wrapper = OpenPanopticInferenceDouble(ODISEDouble(head, halves(), LOGITS, VOID), TEST_LABELS).eval()
    found = wrapper(picture()[None])
    wanted = by_hand(LOGITS[0, :2].softmax(-1), clip_probabilities(), alpha, beta)
    torch.testing.assert_close(found[0, :2, :3], wanted * (1 - VOID[0, :2]), atol=1e-4, rtol=0)
    torch.testing.assert_close(found[..., 3:], VOID)
    assert head.test_labels is None  # given back


def test_odise_keeps_its_own_scores_of_a_mask_that_vanished():
    wrapper = OpenPanopticInferenceDouble(ODISEDouble(odise_head(), halves(), LOGITS, VOID), TEST_LABELS)
    torch.testing.assert_close(wrapper(picture()[None])[0, 2, :3], LOGITS[0, 2].softmax(-1) * 0.9)


def test_odise_clip_only_and_predicted_only():
    for weight, wanted in ((0.0, LOGITS[0, :2].softmax(-1)), (1.0, clip_probabilities())):
        model = ODISEDouble(odise_head(alpha=weight, beta=weight), halves(), LOGITS, VOID)
        found = OpenPanopticInferenceDouble(model, TEST_LABELS)(picture()[None])
        torch.testing.assert_close(found[0, :2, :3], wanted * (1 - VOID[0, :2]), atol=1e-4, rtol=0)


def test_odise_hands_over_images_without_the_padding_of_its_masks():
    """Its masks are of 64 x 128 pixels, its image of 40 x 80: both are brought to one frame."""
    masks = halves(16, 32, content=20)
    masks[..., 10:, :] = -9
    head = ODISEMaskClassifier(ColorTower(), WordTower(), 128, train_labels=TRAIN_LABELS)
    head.test_labels = TEST_LABELS
    outputs = {
        "images": picture(40, 80)[None] / 255,
        "pred_masks": masks,
        "pred_open_logits": LOGITS.clone(),
    }
    found = head(outputs)["pred_open_logits"].softmax(-1)
    wanted = by_hand(LOGITS[0, :2].softmax(-1), clip_probabilities())
    torch.testing.assert_close(found[0, :2], wanted, atol=1e-3, rtol=0)


def test_odise_labels_may_repeat_names():
    head = odise_head()
    head.test_labels = [("red", "red", "crimson"), ("green",), ("blue", "azure", "blue")]
    outputs = {"images": picture()[None] / 255, "pred_masks": halves(), "pred_open_logits": LOGITS.clone()}
    found = head(outputs)
    assert set(found) == {"pred_open_logits"}
    torch.testing.assert_close(
        found["pred_open_logits"][0, :2].softmax(-1),
        by_hand(LOGITS[0, :2].softmax(-1), clip_probabilities()),
        atol=1e-4,
        rtol=0,
    )


def test_odise_trained_on_its_own_list_of_coco_by_default(monkeypatch):
    """What the documented `L(get_openseg_labels)(dataset="coco_panoptic", prompt_engineered=True)` gives."""
    modules = [ModuleType(name) for name in ("odise", "odise.data", "odise.data.build")]
    for module in modules:
        monkeypatch.setitem(sys.modules, module.__name__, module)
    asked = {("coco_panoptic", True): [["person", "people"], ["lamp", "bulb"]]}
    modules[-1].get_openseg_labels = lambda dataset, prompt_engineered=False: asked[dataset, prompt_engineered]
    head = ODISEMaskClassifier(ColorTower(), WordTower(), 64)
    assert head.seen_classes([["people"], ["light"], ["bulb"], ["plate"]]) == [True, False, True, False]


def test_without_odise_its_classes_are_matched_by_synonyms_and_the_lacking_are_named(caplog):
    head = ODISEMaskClassifier(ColorTower(), WordTower(), 64)
    assert len(head.train_labels) == 133
    with caplog.at_level(logging.WARNING):
        assert head.seen_classes([["lamp", "bulb"], ["orange fruit"], ["plate"]]) == [True, True, False]
    message = caplog.records[0].getMessage()
    assert message.startswith("131 of ODISE's 133 trained classes have no partner among the test labels: person, ")
    assert ", light," not in message and ", orange," not in message


def test_the_logit_scale_is_clamped():
    head = ODISEMaskClassifier(ColorTower(), WordTower(1000.0), 64, 1, 1, **ODISE)
    head.test_labels = TEST_LABELS
    outputs = {"images": picture()[None] / 255, "pred_masks": halves(), "pred_open_logits": LOGITS.clone()}
    found = head(outputs)["pred_open_logits"].softmax(-1)
    torch.testing.assert_close(found[0, :2], clip_probabilities(100), atol=1e-3, rtol=0)


def test_odise_needs_test_labels_that_fit():
    head = odise_head()
    outputs = {"images": picture()[None] / 255, "pred_masks": halves(), "pred_open_logits": LOGITS}
    with pytest.raises(ValueError, match="test_labels"):
        head(dict(outputs))
    head.test_labels = TEST_LABELS[:2]
    with pytest.raises(ValueError, match="2 classes"):
        head(dict(outputs))


def test_towers_of_different_clips_are_refused():
    words = WordTower()
    words.embed_dim = 5
    with pytest.raises(InputError, match="one CLIP"):
        ODISEMaskClassifier(ColorTower(), words, 64)


def test_the_towers_move_yet_are_not_saved():
    head = odise_head()
    assert list(head.state_dict()) == []
    assert list(head.parameters()) == []
    head.double()
    assert head.clip.embedder.tower.weight.dtype == head.clip.text_tower.logit_scale.dtype == torch.float64


# The path


def test_the_dense_path_is_used_and_never_the_token_path(tmp_path):
    """CLIPSelf leaves the last block's attention untrained: what it attends to must not matter."""
    config = tmp_path / "tiny.json"
    config.write_text(
        '{"embed_dim": 16,'
        ' "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 32, "layers": 2, "head_width": 16},'
        ' "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}}'
    )
    tower, text = build_towers(str(config), None)

    def forbidden(*args, **kwargs):
        raise AssertionError("the path of class or mask tokens")

    tower.image_embeddings = tower.masked_embeddings = forbidden
    head = ODISEMaskClassifier(tower, text, 64, 1, 1, train_labels=TRAIN_LABELS)
    head.test_labels = TEST_LABELS
    outputs = {"images": torch.rand(1, 3, 64, 64), "pred_masks": torch.randn(1, 3, 16, 16)}
    before = head({**outputs, "pred_open_logits": LOGITS})["pred_open_logits"]

    attention = tower.visual.transformer.resblocks[-1].attn
    width = attention.embed_dim
    with torch.no_grad():  # queries and keys
        attention.in_proj_weight[: 2 * width] += torch.randn(2 * width, width)
    assert torch.equal(head({**outputs, "pred_open_logits": LOGITS})["pred_open_logits"], before)
    with torch.no_grad():  # values
        attention.in_proj_weight[2 * width :] += torch.randn(width, width)
    assert not torch.allclose(head({**outputs, "pred_open_logits": LOGITS})["pred_open_logits"], before)


def test_one_dense_forward_a_call():
    head = odise_head()
    head.test_labels = TEST_LABELS
    for _ in range(2):
        head({"images": picture()[None] / 255, "pred_masks": halves(), "pred_open_logits": LOGITS})
    assert head.clip.embedder.tower.calls == [("no_attn", 1, 3, 32, 64)] * 2
