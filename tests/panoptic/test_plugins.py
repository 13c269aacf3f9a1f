"""The plug-ins against doubles of ODISE's and FC-CLIP's models that have their published signatures and arithmetic."""

import copy
import logging
import operator
import re
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from clipself_d2.clip import build_towers
from clipself_d2.clip.build import build_model
from clipself_d2.errors import InputError
from clipself_d2.panoptic import FCCLIPMaskClassifier, ODISEMaskClassifier
from tests.clip.conftest import randomize
from tests.panoptic.color_tower import ColorTower
from tests.second_device import CUDA, SecondDevice

DIRECTIONS = {"red": [1.0, 0, 0], "crimson": [0.9, 0.1, 0], "green": [0, 1, 0], "blue": [0, 0, 1], "azure": [0, 0.2, 1]}
TEST_LABELS = [("red", "crimson"), ("green",), ("blue", "azure")]
TRAIN_LABELS = [("rose",), ("crimson", "ruby"), ("green",)]  # so blue is novel


class WordTower(nn.Module):
    """A text tower that knows the words of colors."""

    embed_dim, fingerprint = 3, "words of colors"
    tokenizer = SimpleNamespace(context_length=77)

    def __init__(self, logit_scale=5.0):
        super().__init__()
        self.logit_scale = nn.Parameter(torch.tensor(float(logit_scale)).log())

    def is_cut(self, texts):
        return [False for _ in texts]

    def forward(self, texts):
        words = (text.removeprefix("a photo of a ").removesuffix(".") for text in texts)
        return torch.tensor([DIRECTIONS[word] for word in words])


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CLIPSELF_D2_CACHE", str(tmp_path))


def picture(height=32, width=64):
    """0..255: left half red, right half blue."""
    image = torch.zeros(3, height, width)
    image[0, :, : width // 2] = 255
    image[2, :, width // 2 :] = 255
    return image


def halves(height=8, width=16, content=16):
    masks = torch.full((1, 3, height, width), -9.0)
    masks[0, 0, :, : content // 2] = 9
    masks[0, 1, :, content // 2 : content] = 9
    return masks  # the third is empty


def clip_probabilities(scale=5.0):
    """Of the red and of the blue mask: the best synonym of each class."""
    words = {word: F.normalize(torch.tensor(v, dtype=torch.float32), dim=0) for word, v in DIRECTIONS.items()}
    rows = torch.tensor(
        [
            [max(float(words[word] @ color) for word in synonyms) for synonyms in TEST_LABELS]
            for color in torch.eye(3)[[0, 2]]
        ]
    )
    return (scale * rows).softmax(1)


def by_hand(predicted, clip, alpha=0.35, beta=0.65):
    """Probabilities without void; red and green are seen."""
    weight = torch.tensor([alpha, alpha, beta])
    fused = predicted ** (1 - weight) * clip**weight
    return fused / fused.sum(-1, keepdim=True)


# ODISE


class ODISEDouble(nn.Module):
    """The part of ODISE's caption model after its mask generator, whose answer is given."""

    def __init__(self, clip_head, masks, logits, void):
        super().__init__()
        self.clip_head = clip_head
        self.metadata, self.given = None, (masks, logits, void)

    def open_state_dict(self):
        state = {"metadata": self.metadata}
        for name, module in self.named_modules():
            if module is not self and hasattr(module, "open_state_dict"):
                module.open_state_dict(state, f"{name}.")
        return state

    def load_open_state_dict(self, state):
        for key, value in state.items():
            owner, _, name = key.rpartition(".")
            setattr(operator.attrgetter(owner)(self) if owner else self, name, value)

    def forward(self, images):
        masks, logits, void = self.given
        outputs = {"images": images / 255, "pred_masks": masks, "pred_open_logits": logits, "labels": ["training"]}
        outputs.update(self.clip_head(outputs))
        classes = outputs["pred_open_logits"].softmax(-1)
        return torch.cat([classes * (1 - void), void], dim=-1)


class OpenPanopticInferenceDouble(nn.Module):
    """ODISE's wrapper, which lends the model the labels of a test set."""

    def __init__(self, model, labels):
        super().__init__()
        self.model = model
        self.state = {k: labels if k.endswith("test_labels") else "test" for k in model.open_state_dict()}

    def forward(self, images):
        before = self.model.open_state_dict()
        self.model.load_open_state_dict(self.state)
        result = self.model(images)
        self.model.load_open_state_dict(before)
        return result


LOGITS = torch.tensor([[[0.5, 2.0, 0.1], [0.3, 1.0, 0.2], [3.0, 0.0, 0.0]]])
VOID = torch.tensor([[[0.25], [0.5], [0.1]]])


ODISE = {"train_labels": TRAIN_LABELS, "size_divisibility": 32}


def odise_head(**kwargs):
    return ODISEMaskClassifier(ColorTower(), WordTower(), 64, **{**ODISE, **kwargs})


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


def test_one_dense_forward_a_call():
    head = odise_head()
    head.test_labels = TEST_LABELS
    for _ in range(2):
        head({"images": picture()[None] / 255, "pred_masks": halves(), "pred_open_logits": LOGITS})
    assert head.clip.embedder.tower.calls == [("no_attn", 1, 3, 32, 64)] * 2


# The hosts


class ClipAdapterDouble(nn.Module):
    """How ODISE embeds images: tokens in the order sequence, batch, as the transformer of open_clip 2 takes them."""

    image_size = (32, 32)

    def __init__(self, clip):
        super().__init__()
        self.clip = clip

    def clip_preprocess(self, image):
        return 4 * image - 2

    def embed_image(self, image):
        visual = self.clip.visual
        tokens = visual.conv1(self.clip_preprocess(image)).flatten(2).transpose(1, 2)
        tokens = torch.cat([visual.class_embedding.expand(len(tokens), 1, -1), tokens], dim=1)
        tokens = visual.ln_pre(tokens + visual.positional_embedding)
        tokens = visual.transformer(tokens.permute(1, 0, 2)).permute(1, 0, 2)
        return SimpleNamespace(image_embed=F.normalize(visual.ln_post(tokens)[:, 0] @ visual.proj, dim=-1))


@pytest.fixture
def tiny_clip(tmp_path):
    """A whole open_clip model."""
    config = tmp_path / "tiny.json"
    config.write_text(
        '{"embed_dim": 16,'
        ' "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 64, "layers": 2, "head_width": 16},'
        ' "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}}'
    )
    model, _, _ = build_model(str(config), None)
    randomize(model)
    return model


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


class BackboneDouble(nn.Module):
    """FC-CLIP's backbone: its `encode_text` was written for the sequence-first transformer of open_clip 2."""

    def __init__(self, clip):
        super().__init__()
        self.clip_model = clip

    def forward(self, x):
        return x

    def tokenize_text(self, texts):
        return torch.tensor([[49406, *map(ord, text[:70]), 49407] + [0] * (75 - len(text[:70])) for text in texts])

    def encode_text(self, text, normalize=False):
        x = self.clip_model.token_embedding(text) + self.clip_model.positional_embedding
        x = self.clip_model.transformer(x.permute(1, 0, 2), attn_mask=self.clip_model.attn_mask).permute(1, 0, 2)
        return self.clip_model.ln_final(x)[range(len(x)), text.argmax(-1)] @ self.clip_model.text_projection


def test_fcclip_gets_an_encode_text_that_fits_open_clip(tiny_clip, caplog):
    model = FCCLIPDouble(halves(), FCCLIP_LOGITS)
    model.backbone = BackboneDouble(tiny_clip)
    tokens = model.backbone.tokenize_text(["red", "a photo of the sky"])
    with pytest.raises(RuntimeError):
        model.backbone.encode_text(tokens)
    with caplog.at_level(logging.WARNING):
        fcclip_head().attach(model)
    assert "using CLIP's own encode_text" in caplog.text
    torch.testing.assert_close(model.backbone.encode_text(tokens, normalize=False), tiny_clip.encode_text(tokens))


# FC-CLIP


class OwnTextBackbone(nn.Module):
    """A backbone that embeds texts as its CLIP does."""

    def __init__(self):
        super().__init__()
        self.clip_model = nn.Module()
        self.clip_model.encode_text = self.encode_text
        self.weight = nn.Parameter(torch.ones(1), requires_grad=False)

    def tokenize_text(self, texts):
        return torch.ones(len(texts), 3)

    def encode_text(self, tokens, normalize=False):
        return tokens

    def forward(self, x):
        return x


class FCCLIPDouble(nn.Module):
    """FC-CLIP's model after its mask decoder, whose answer is given; its own classifier sees nothing but noise."""

    def __init__(self, masks, logits):
        super().__init__()
        self.backbone, self.sem_seg_head = OwnTextBackbone(), _Head(masks, logits)
        self.register_buffer("pixel_mean", torch.tensor([122.77, 116.75, 104.09]).view(3, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor([68.5, 66.63, 70.32]).view(3, 1, 1), False)
        self.geometric_ensemble_alpha, self.geometric_ensemble_beta = 0.4, 0.8
        self.set_metadata(SimpleNamespace(stuff_classes=["red,crimson", "green", "blue, azure"]))

    def set_metadata(self, metadata):
        self.test_metadata = metadata
        self.category_overlapping_mask = torch.tensor([int("blue" not in name) for name in metadata.stuff_classes])

    def forward(self, images):
        features = self.backbone((images - self.pixel_mean) / self.pixel_std)
        outputs = self.sem_seg_head({"features": features})
        predicted = outputs["pred_logits"][..., :-1].softmax(-1)
        other = torch.rand(predicted.shape).softmax(-1)
        overlap = self.category_overlapping_mask
        alpha, beta = self.geometric_ensemble_alpha, self.geometric_ensemble_beta
        seen = (predicted ** (1 - alpha) * other**alpha).log() * overlap
        unseen = (predicted ** (1 - beta) * other**beta).log() * (1 - overlap)
        void = outputs["pred_logits"].softmax(-1)[..., -1:]
        return torch.cat([(seen + unseen).softmax(-1) * (1 - void), void], dim=-1)


class _Head(nn.Module):
    def __init__(self, masks, logits):
        super().__init__()
        self.given = {"pred_masks": masks, "pred_logits": logits}

    def forward(self, features):
        return dict(self.given)


FCCLIP_LOGITS = torch.cat([LOGITS, torch.tensor([[[1.0], [0.5], [-1.0]]])], dim=-1)


def fcclip_head(**kwargs):
    return FCCLIPMaskClassifier(ColorTower(), WordTower(), 64, templates="photo", **kwargs)


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


def test_attaching_to_another_model_is_refused():
    with pytest.raises(ValueError, match=r"Linear has no backbone\.clip_model: attach to a model of FC-CLIP"):
        fcclip_head().attach(nn.Linear(1, 1))
    model = FCCLIPDouble(halves(), FCCLIP_LOGITS)
    model.backbone = nn.Identity()
    with pytest.raises(ValueError, match=r"FCCLIPDouble has no backbone\.clip_model"):
        fcclip_head().attach(model)


def test_fcclip_scores_that_do_not_fit():
    with pytest.raises(ValueError, match="differ"):
        fcclip_head()(picture()[None], halves(), FCCLIP_LOGITS, TEST_LABELS[:2], torch.ones(2))
