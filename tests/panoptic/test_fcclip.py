"""The plug-in for FC-CLIP in a double of its model."""

from types import SimpleNamespace

import pytest
import torch

from tests.panoptic.hosts import (
    FCCLIP_LOGITS,
    LOGITS,
    TEST_LABELS,
    FCCLIPDouble,
    by_hand,
    clip_probabilities,
    fcclip_head,
    halves,
    picture,
)

pytestmark = pytest.mark.usefixtures("own_cache")


def test_fcclip_gets_a_vit_without_a_change_of_its_code():
    model = fcclip_head().attach(FCCLIPDouble(halves(), FCCLIP_LOGITS)).eval()
    found = model(picture()[None])
    void = FCCLIP_LOGITS.softmax(-1)[..., -1:]
    wanted = by_hand(LOGITS[0, :2].softmax(-1), clip_probabilities(), 0.4, 0.8)
    torch.testing.assert_close(found[0, :2, :3], wanted * (1 - void[0, :2]), atol=1e-4, rtol=0)
    torch.testing.assert_close(found[..., 3:], void)
    # ENSEMBLE_ON_VALID_MASK
    torch.testing.assert_close(found[0, 2], FCCLIP_LOGITS[0, 2].softmax(-1))


def test_fcclip_may_change_its_test_set():
    model = fcclip_head(alpha=1, beta=1).attach(FCCLIPDouble(halves(), FCCLIP_LOGITS)).eval()
    before = model(picture()[None])
    model.set_metadata(SimpleNamespace(stuff_classes=["blue,azure", "green", "red, crimson"]))
    torch.testing.assert_close(model(picture()[None])[:, :2, [2, 1, 0, 3]], before[:, :2])


def test_fcclip_trains_as_before():
    torch.manual_seed(1)
    model = FCCLIPDouble(halves(), FCCLIP_LOGITS).train()
    head = fcclip_head()
    head.attach(model)
    torch.testing.assert_close(model.sem_seg_head({})["pred_logits"], FCCLIP_LOGITS)
    model(picture()[None])
    assert head.clip.embedder.tower.calls == []


def test_fcclip_state_dict_is_untouched():
    model = FCCLIPDouble(halves(), FCCLIP_LOGITS)
    before = set(model.state_dict())
    assert set(fcclip_head().attach(model).state_dict()) == before


def test_fcclip_scores_that_do_not_fit():
    with pytest.raises(ValueError, match="differ"):
        fcclip_head()(picture()[None], halves(), FCCLIP_LOGITS, TEST_LABELS[:2], torch.ones(2))
