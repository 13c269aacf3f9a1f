import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from detectron2.utils.events import EventStorage

from clipself_d2.clip import build_towers
from clipself_d2.miniature import MODEL, TEMPLATES, WEIGHTS, CLIPExport, ImageTextCLIP
from clipself_d2.miniature.captions import SceneCaptionMapper, caption_roles

CAPTIONS = ["a red star", "a photo of a green ring", "a lawn", "a blue moon and a red star", "a snow field"]
SHIPPED = Path(WEIGHTS)
needs_weights = pytest.mark.skipif(not SHIPPED.is_file(), reason="the miniature's CLIP has not been trained here")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Path of a tiny CLIP's config."""
    path = tmp_path_factory.mktemp("models") / "tiny.json"
    vision = {"image_size": 64, "patch_size": 16, "width": 32, "layers": 2, "head_width": 16}
    text = {"context_length": 20, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    path.write_text(json.dumps({"embed_dim": 12, "vision_cfg": vision, "text_cfg": text}))
    return str(path)


@pytest.fixture
def model(tiny):
    return ImageTextCLIP(tiny)


@pytest.fixture
def samples():
    images = torch.randint(0, 256, (len(CAPTIONS), 3, 64, 64), dtype=torch.uint8)
    return [{"image": image, "caption": caption} for image, caption in zip(images, CAPTIONS, strict=True)]


def expected_loss(model, samples, scale):
    """Symmetric cross-entropy, pair by pair."""
    with torch.no_grad():
        pixels = torch.stack([sample["image"] for sample in samples]).float() / 255
        pixels = (pixels - model.image_tower.pixel_mean) / model.image_tower.pixel_std
        images = model.image_tower.image_embeddings(pixels).double().numpy()
        texts = model.text_tower([sample["caption"] for sample in samples]).double().numpy()
    n = len(samples)
    logits = np.zeros((n, n))
    for i in range(n):
        for j in range(n):
            cosine = images[i] @ texts[j] / np.linalg.norm(images[i]) / np.linalg.norm(texts[j])
            logits[i, j] = scale * cosine
    of_images = [np.log(np.exp(logits[i]).sum()) - logits[i, i] for i in range(n)]
    of_texts = [np.log(np.exp(logits[:, i]).sum()) - logits[i, i] for i in range(n)]
    return (np.mean(of_images) + np.mean(of_texts)) / 2


@pytest.mark.parametrize("logarithm, scale", [(np.log(1 / 0.07), 1 / 0.07), (0.0, 1.0), (6.0, 100.0)])
def test_loss_is_the_symmetric_cross_entropy(model, samples, logarithm, scale):
    """The last case: CLIP's limit of the scale is 100."""
    model.text_tower.logit_scale.data.fill_(logarithm)
    loss = model(samples)
    assert set(loss) == {"loss_contrastive"}
    assert loss["loss_contrastive"].item() == pytest.approx(expected_loss(model, samples, scale), rel=1e-4)


def test_one_pair_alone_has_no_loss(model, samples):
    assert model(samples[:1])["loss_contrastive"].item() == pytest.approx(0, abs=1e-6)


def test_gradients_reach_every_parameter(model, samples):
    model(samples)["loss_contrastive"].backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    assert any(name.endswith("logit_scale") for name, _ in model.named_parameters())


def test_it_learns_a_batch_by_heart(model, samples):
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(40):
        loss = model(samples)["loss_contrastive"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 1 and losses[-1] < 0.1


def test_accuracy_and_scale_are_logged(model, samples):
    with EventStorage() as storage:
        model(samples)
        latest = storage.latest()
    assert latest["logit_scale"][0] == pytest.approx(1 / 0.07, rel=1e-4)
    assert latest["batch_accuracy"][0] * len(samples) == pytest.approx(
        round(latest["batch_accuracy"][0] * len(samples))
    )


def test_the_export_is_an_open_clip_checkpoint(tmp_path, samples):
    model = ImageTextCLIP(MODEL).eval()
    path = tmp_path / "clip.safetensors"
    CLIPExport(MODEL)(model, path, {"steps": 7})
    assert path.stat().st_size <= 12_000_000
    card = json.loads(path.with_suffix(".json").read_text())
    assert card["model"] == MODEL and card["steps"] == 7

    theirs = open_clip.create_model(MODEL, pretrained=str(path)).eval()
    pixels = torch.stack([sample["image"] for sample in samples])
    with torch.no_grad():
        ours = [model.image_tower.image_embeddings(model.image_tower.normalize(pixels)), model.text_tower(CAPTIONS)]
        normalized = model.image_tower.normalize(pixels)
        other = [theirs.encode_image(normalized), theirs.encode_text(open_clip.get_tokenizer(MODEL)(CAPTIONS))]
    for a, b in zip(ours, other, strict=True):
        assert a.shape == (len(CAPTIONS), 128)
        torch.testing.assert_close(a, b, rtol=0, atol=5e-3 * a.abs().max().item())
        assert not torch.equal(a, b)  # half precision was written
    assert theirs.logit_scale.item() == pytest.approx(model.text_tower.logit_scale.item(), rel=1e-3)


@needs_weights
def test_the_shipped_file_is_small_and_has_its_card():
    assert SHIPPED.stat().st_size <= 12_000_000
    card = json.loads(SHIPPED.with_suffix(".json").read_text())
    assert card["model"] == MODEL
    open_clip.create_model(MODEL, pretrained=WEIGHTS)


@needs_weights
def test_the_shipped_clip_knows_the_things_of_its_world():
    """Close views of all compounds, each against all 96: far beyond the 1 % of chance."""
    image_tower, text_tower = build_towers(MODEL, WEIGHTS)
    things = [role for role in caption_roles() if role["role"] == "thing"]
    views = [SceneCaptionMapper()(role, np.random.default_rng([9, role["category"]])) for role in things]
    names = [view["caption"].split(" on a ")[0].removeprefix("a ") for view in views]
    names = [name.removeprefix("photo of a ").removeprefix("picture of a ") for name in names]
    with torch.no_grad():
        pixels = image_tower.normalize(torch.stack([view["image"] for view in views]))
        images = torch.nn.functional.normalize(image_tower.image_embeddings(pixels), dim=-1)
        texts = torch.nn.functional.normalize(text_tower([TEMPLATES[0].format(name) for name in names]), dim=-1)
    assert len(set(names)) == 96
    assert ((images @ texts.T).argmax(1) == torch.arange(96)).float().mean() > 0.6
