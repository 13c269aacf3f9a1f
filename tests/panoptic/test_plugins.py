"""Attaching a plug-in: another model is refused, and so is a host that uses its open_clip wrongly."""

import copy
import logging
import re

import open_clip
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.clip.conftest import randomize
from tests.panoptic.hosts import (
    FCCLIP_LOGITS,
    LOGITS,
    TEST_LABELS,
    VOID,
    BackboneDouble,
    ClipAdapterDouble,
    FCCLIPDouble,
    ODISEDouble,
    fcclip_head,
    halves,
    odise_head,
    picture,
)
from tests.second_device import CUDA, SecondDevice

pytestmark = pytest.mark.usefixtures("own_cache")


TEXT = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
VIT = {"image_size": 32, "patch_size": 8, "width": 64, "layers": 2, "head_width": 16}
RESNET = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16}
CONVNEXT = {"image_size": 64, "timm_model_name": "convnext_atto", "timm_pool": "", "timm_proj": "linear"}


def random_clip(vision):
    """A whole open_clip model."""
    model = open_clip.CLIP(16, vision, TEXT).eval()
    randomize(model)
    return model


@pytest.fixture
def tiny_clip():
    return random_clip(VIT)


def odise_model(clip):
    model = ODISEDouble(None, halves(), LOGITS, VOID)
    model.sem_seg_head, model.backbone, model.category_head = nn.Linear(1, 1), nn.Module(), nn.Module()
    model.backbone.captioner = ClipAdapterDouble(clip)
    model.category_head.adapter = ClipAdapterDouble(copy.deepcopy(clip))
    return model


def test_odise_is_refused_on_an_open_clip_whose_transformer_is_batch_first(tiny_clip):
    with pytest.raises(ValueError, match="unlike its CLIP") as error:
        odise_head().attach(odise_model(tiny_clip))
    assert "\n" not in str(error.value)


def test_the_fix_that_the_refusal_names_makes_odise_embed_images_rightly(tiny_clip):
    model, head = odise_model(tiny_clip), odise_head()
    image = torch.rand(2, 3, 32, 32)
    adapters = model.backbone.captioner, model.category_head.adapter
    wanted = F.normalize(tiny_clip.encode_image(model.backbone.captioner.clip_preprocess(image)), dim=-1)
    with pytest.raises(ValueError, match="wrap its CLIP: ") as error:
        head.attach(model)
    exec(re.search("wrap its CLIP: (.*)", str(error.value))[1], {"model": model})
    assert head.attach(model).clip_head is head
    for adapter in adapters:
        torch.testing.assert_close(adapter.embed_image(image).image_embed, wanted)
    assert "forward" in vars(tiny_clip.visual.transformer)  # the check leaves the wrap where it is


def test_attaching_to_another_model_than_odise_is_refused():
    with pytest.raises(ValueError, match="Linear has no clip_head: attach to a model of ODISE"):
        odise_head().attach(nn.Linear(1, 1))


def fcclip_model(clip):
    model = FCCLIPDouble(halves(), FCCLIP_LOGITS)
    model.backbone = BackboneDouble(clip)
    return model


@pytest.mark.parametrize("vision", [RESNET, CONVNEXT], ids=["resnet", "convnext"])
def test_fcclip_is_refused_on_an_image_tower_that_it_does_not_go_through(vision):
    clip = random_clip(vision)
    fcclip_head().attach(fcclip_model(clip))
    # A layer that FC-CLIP knows nothing of, as another open_clip or timm may have one.
    clip.visual.register_forward_hook(lambda module, images, embeddings: embeddings.roll(1, dims=1))
    with pytest.raises(ValueError, match=r"install open_clip_torch 2\.23\.0 and timm 0\.9\.12") as error:
        fcclip_head().attach(fcclip_model(clip))
    assert "\n" not in str(error.value)


def test_fcclip_gets_an_encode_text_that_fits_open_clip(caplog):
    clip = random_clip(RESNET)
    model = fcclip_model(clip)
    tokens = model.backbone.tokenize_text(["red", "a photo of the sky"])
    with pytest.raises(RuntimeError):
        model.backbone.encode_text(tokens)
    with caplog.at_level(logging.WARNING):
        fcclip_head().attach(model)
    assert "using CLIP's own encode_text" in caplog.text
    torch.testing.assert_close(model.backbone.encode_text(tokens, normalize=False), clip.encode_text(tokens))


def test_attaching_to_another_model_is_refused():
    with pytest.raises(ValueError, match=r"Linear has no backbone\.clip_model\.visual: attach to a model of FC-CLIP"):
        fcclip_head().attach(nn.Linear(1, 1))
    model = FCCLIPDouble(halves(), FCCLIP_LOGITS)
    model.backbone = nn.Identity()
    with pytest.raises(ValueError, match=r"FCCLIPDouble has no backbone\.clip_model"):
        fcclip_head().attach(model)


def test_plug_ins_run_on_a_gpu():
    """On a simulated one."""
    odise, fcclip = odise_head(), fcclip_head()
    odise.test_labels = TEST_LABELS
    outputs = {"images": picture()[None] / 255, "pred_masks": halves(), "pred_open_logits": LOGITS}
    arguments = picture()[None], halves(), FCCLIP_LOGITS
    seen = torch.tensor([1, 1, 0])
    expected = odise(dict(outputs))["pred_open_logits"], fcclip(*arguments, TEST_LABELS, seen)
    with SecondDevice():
        there = {name: value.to("cuda") for name, value in outputs.items()}
        found = (
            odise.to("cuda")(there)["pred_open_logits"],
            fcclip.to("cuda")(*(value.to("cuda") for value in arguments), TEST_LABELS, seen.to("cuda")),
        )
        assert all(scores.device == CUDA for scores in found)
        assert all(torch.equal(a.cpu(), b) for a, b in zip(found, expected, strict=True))
