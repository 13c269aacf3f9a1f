import sys

import pytest
import torch

from clipself_d2.errors import InputError
from clipself_d2.panoptic.transformers_masks import TransformersMasks
from clipself_d2.vocabulary import Vocabulary
from tests.panoptic.words import text, vocabulary
from tests.second_device import CUDA, SecondDevice


@pytest.fixture(scope="module", params=["mask2former", "maskformer"])
def folder(request, tmp_path_factory, transformers):
    """A segmenter of random weights, seven queries and three classes, saved as published ones are."""
    path = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(0)
    swin = transformers.SwinConfig(
        image_size=64,
        embed_dim=8,
        depths=[1, 1, 1, 1],
        num_heads=[1, 1, 1, 1],
        window_size=4,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    common = {
        "backbone_config": swin,
        "mask_feature_size": 32,
        "id2label": {0: "cat, kitten", 1: "dog", 2: "wall"},
        "label2id": {"cat, kitten": 0, "dog": 1, "wall": 2},
    }
    if request.param == "mask2former":
        sizes = {"encoder_feedforward_dim": 32, "dim_feedforward": 32, "encoder_layers": 1, "decoder_layers": 2}
        sizes |= {"feature_size": 32, "hidden_dim": 32, "num_attention_heads": 2, "num_queries": 7}
        model = transformers.Mask2FormerForUniversalSegmentation(transformers.Mask2FormerConfig(**sizes, **common))
    else:
        decoder = {"model_type": "detr", "d_model": 16, "num_queries": 7}
        for part in ("encoder", "decoder"):
            decoder |= {f"{part}_layers": 1, f"{part}_ffn_dim": 16, f"{part}_attention_heads": 2}
        config = transformers.MaskFormerConfig(decoder_config=decoder, fpn_feature_size=32, **common)
        model = transformers.MaskFormerForInstanceSegmentation(config)
    model.save_pretrained(path)
    return path


def build(folder, **kwargs):
    return TransformersMasks(folder, text, **{"short_side": 64, "long_side": 100, **kwargs})


def image(height, width):
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8)


def test_it_gives_what_the_library_computes(folder, transformers):
    """An image that needs no resizing: the library's own logits, its classes those of the vocabulary reversed."""
    generator, sample = build(folder), {"image": image(64, 96)}
    (found,) = generator([sample], vocabulary("wall", "dog", "cat"))
    model = transformers.AutoModelForUniversalSegmentation.from_pretrained(folder).eval()
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    pixels = (sample["image"].permute(1, 2, 0) / 255 - mean) / std
    with torch.no_grad():
        output = model(pixel_values=pixels.permute(2, 0, 1)[None])
    torch.testing.assert_close(found.masks, output.masks_queries_logits[0], rtol=1e-3, atol=1e-4)
    expected = output.class_queries_logits[0].log_softmax(dim=1)[:, [2, 1, 0, 3]]
    torch.testing.assert_close(found.log_scores, expected, rtol=1e-3, atol=1e-4)
    assert found.mask_iou is None


def test_masks_on_a_second_device(folder):
    generator, sample, words = build(folder), {"image": image(64, 96)}, vocabulary("wall", "dog")
    [expected] = generator([sample], words)
    with SecondDevice():
        [found] = generator.to("cuda")([sample], words.to("cuda"))
        assert found.masks.device == found.log_scores.device == CUDA
        torch.testing.assert_close(found.masks.cpu(), expected.masks)
        torch.testing.assert_close(found.log_scores.cpu(), expected.log_scores)


@pytest.mark.parametrize("size", [(64, 96), (50, 120), (333, 100), (7, 9)])
def test_masks_have_the_images_aspect(folder, size):
    generator = build(folder)
    (found,) = generator([{"image": image(*size)}], vocabulary("wolf", "sky"))
    found.check(*size, 2)
    assert len(found) == 7
    torch.testing.assert_close(found.log_scores.exp().sum(dim=1), torch.ones(7))
    height, width = (4 * side for side in found.masks.shape[1:])
    assert min(height, width) <= 66
    assert max(height, width) <= 102


def test_void_stays_void(folder):
    generator, sample = build(folder), {"image": image(64, 64)}
    one, other = (generator([sample], words)[0] for words in (vocabulary("cat", "dog", "wall"), vocabulary("sky")))
    torch.testing.assert_close(one.log_scores[:, -1], other.log_scores[:, -1])
    torch.testing.assert_close(other.log_scores[:, 0].exp(), 1 - one.log_scores[:, -1].exp())


def test_synonyms_of_the_classes_can_be_given(folder):
    generator, sample = build(folder, classes=[["kitten"], ["wolf"], ["sky"]]), {"image": image(64, 64)}
    renamed = generator([sample], vocabulary("kitten", "wolf", "sky"))[0]
    own = build(folder)([sample], vocabulary("cat", "dog", "wall"))[0]
    torch.testing.assert_close(renamed.log_scores, own.log_scores)
    with pytest.raises(InputError, match="3 classes, 2 are given"):
        build(folder, classes=["cat", "dog"])


def test_it_never_trains(folder):
    generator = build(folder).train()
    assert not generator.training
    assert not generator.model.training
    assert not any(p.requires_grad for p in generator.parameters())


def test_nothing_is_fetched_unasked(monkeypatch, transformers):
    asked = {}

    def refuse(name, **kwargs):
        asked.update(kwargs)
        raise OSError("not in the cache")

    monkeypatch.setattr(transformers.AutoModelForUniversalSegmentation, "from_pretrained", refuse)
    with pytest.raises(InputError, match="download=true"):
        TransformersMasks("nobody/nothing", text)
    assert asked == {"local_files_only": True, "use_safetensors": True}
    with pytest.raises(InputError, match="not in the cache"):
        TransformersMasks("nobody/nothing", text, download=True)
    assert not asked["local_files_only"]


class Other(torch.nn.Module):
    """A model of another architecture."""

    def __init__(self, config):
        super().__init__()
        self.config = config


def test_bad_input(folder, tmp_path, transformers, monkeypatch):
    with pytest.raises(InputError, match="cannot be loaded"):
        build(tmp_path)
    with pytest.raises(InputError, match="short_side"):
        build(folder, short_side=200)
    with pytest.raises(InputError, match="length 2"):
        build(folder)([{"image": image(64, 64)}], Vocabulary(["a"], torch.ones(1, 2)))
    detr = transformers.DetrConfig(num_labels=2)
    monkeypatch.setattr(transformers.AutoModelForUniversalSegmentation, "from_pretrained", lambda *_, **__: Other(detr))
    with pytest.raises(InputError, match="is a detr: use one of mask"):
        build(folder)
    monkeypatch.undo()
    transformers.SwinConfig().save_pretrained(tmp_path)
    with pytest.raises(InputError, match="cannot be loaded"):
        build(tmp_path)


def test_pickled_weights_are_refused(folder, tmp_path):
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(InputError, match="safetensors"):
        build(tmp_path)


def test_without_transformers(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(InputError, match="pip install"):
        build(tmp_path)
