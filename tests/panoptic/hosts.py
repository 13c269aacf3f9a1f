"""Doubles of ODISE's and FC-CLIP's models, with their published signatures and arithmetic, and what they are given."""

import operator
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import nn

from clipself_d2.panoptic import FCCLIPMaskClassifier, ODISEMaskClassifier
from tests.panoptic.color_tower import ColorTower

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


class BackboneDouble(nn.Module):
    """FC-CLIP's backbone: its `encode_text` was written for the sequence-first transformer of open_clip 2."""

    def __init__(self, clip):
        super().__init__()
        self.clip_model = clip

    def forward(self, x):
        visual = self.clip_model.visual
        if hasattr(visual, "trunk"):
            return {"clip_vis_dense": visual.trunk.stages(visual.trunk.stem(x))}
        return {"clip_vis_dense": visual.layer4(visual.layer3(visual.layer2(visual.layer1(visual.stem(x)))))}

    def tokenize_text(self, texts):
        return torch.tensor([[49406, *map(ord, text[:70]), 49407] + [0] * (75 - len(text[:70])) for text in texts])

    def encode_text(self, text, normalize=False):
        x = self.clip_model.token_embedding(text) + self.clip_model.positional_embedding
        x = self.clip_model.transformer(x.permute(1, 0, 2), attn_mask=self.clip_model.attn_mask).permute(1, 0, 2)
        return self.clip_model.ln_final(x)[range(len(x)), text.argmax(-1)] @ self.clip_model.text_projection


class PixelBackbone(nn.Module):
    """A backbone of pixels, which embeds images and texts as its CLIP does."""

    def __init__(self):
        super().__init__()
        self.clip_model = nn.Module()
        self.clip_model.visual = SimpleNamespace(image_size=8, attnpool=lambda dense: dense.mean(dim=(2, 3)))
        self.clip_model.encode_image = self.clip_model.visual.attnpool
        self.clip_model.encode_text = self.encode_text
        self.weight = nn.Parameter(torch.ones(1), requires_grad=False)

    def tokenize_text(self, texts):
        return torch.ones(len(texts), 3)

    def encode_text(self, tokens, normalize=False):
        return tokens

    def forward(self, x):
        return {"clip_vis_dense": x}


class FCCLIPDouble(nn.Module):
    """FC-CLIP's model after its mask decoder, whose answer is given; its own classifier sees nothing but noise."""

    def __init__(self, masks, logits):
        super().__init__()
        self.backbone, self.sem_seg_head = PixelBackbone(), _Head(masks, logits)
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
