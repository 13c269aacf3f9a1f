"""Folders for transformers, loaded by transformers."""

import json

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing

from clipself_d2.cli.convert import main
from clipself_d2.clip import build_towers
from clipself_d2.errors import InputError

from .conftest import CONFIGS, randomize

WORDS = {"</s>": 0, "<unk>": 1, "a": 2, "red": 3, "car": 4, "cat": 5}
TEXTS = ["a photo of a red car", "two dogs, Éclair 12!"]


@pytest.mark.parametrize("name", ["tiny-vit", "tiny-vit-quickgelu"])
def test_transformers_gives_the_same_embeddings(configs, checkpoint, tmp_path, name):
    transformers = pytest.importorskip("transformers")
    source = checkpoint(name)
    assert main([str(source), str(tmp_path / "clip"), "--clip", configs[name], "--format", "transformers"]) == 0
    model, report = transformers.CLIPModel.from_pretrained(tmp_path / "clip", output_loading_info=True)
    assert not any(report.values())
    image, text = build_towers(configs[name], str(source))
    images, tokens = torch.randn(2, 3, 32, 32), text.tokenizer(TEXTS)
    with torch.no_grad():
        pooled = model.visual_projection(model.vision_model(images).pooler_output)
        torch.testing.assert_close(image.image_embeddings(images), pooled, atol=1e-5, rtol=1e-5)
        pooled = model.text_projection(model.text_model(tokens).pooler_output)
        torch.testing.assert_close(text(TEXTS), pooled, atol=1e-5, rtol=1e-5)
    assert torch.equal(model.logit_scale, text.logit_scale)


def test_tokenizer_and_image_processor(configs, checkpoint, tmp_path):
    transformers = pytest.importorskip("transformers")
    config = configs["tiny-vit"]
    main([str(checkpoint("tiny-vit")), str(tmp_path / "clip"), "--clip", config, "--format", "transformers"])
    processor = transformers.CLIPProcessor.from_pretrained(tmp_path / "clip")
    found = processor.tokenizer(TEXTS, padding="max_length", max_length=20, return_tensors="pt")["input_ids"]
    expected = build_towers(config, None)[1].tokenizer(TEXTS)
    ends = [row.index(49407) + 1 for row in expected.tolist()]  # what follows is padding
    assert [row[:n] for row, n in zip(found.tolist(), ends, strict=True)] == [
        row[:n] for row, n in zip(expected.tolist(), ends, strict=True)
    ]
    image = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8)
    tower, _ = build_towers(config, None)
    pixels = processor.image_processor(image, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(pixels, tower.normalize(image), atol=1e-5, rtol=1e-5)


def test_a_folder_is_read_again(configs, checkpoint, tmp_path):
    source = checkpoint("tiny-vit")
    main([str(source), str(tmp_path / "clip"), "--clip", configs["tiny-vit"], "--format", "transformers"])
    image, text = build_towers(configs["tiny-vit"], str(tmp_path / "clip/model.safetensors"))
    state = torch.load(source, weights_only=True)
    assert all(torch.equal(value, state[key]) for key, value in {**image.state_dict(), **text.state_dict()}.items())


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("tiny-eva", "its image tower is not open_clip's plain ViT"),
        ("tiny-coca", "its image tower is not open_clip's plain ViT"),
        ("tiny-resnet", "its image tower is not open_clip's plain ViT"),
        ("tiny-pe", "its image tower is not open_clip's plain ViT"),
        ("tiny-pooled", "its text tower is not SigLIP's"),
        ("tiny-clipa", "its image tower has no norm before its blocks"),
        ("tiny-vit-layerscale", "its image tower has no norm before its blocks"),
    ],
)
def test_other_towers_are_refused(configs, checkpoint, tmp_path, capsys, name, reason):
    arguments = [str(checkpoint(name)), str(tmp_path / "clip"), "--clip", configs[name]]
    assert main([*arguments, "--format", "transformers"]) == 2
    assert f"would compute something else: {reason}; use --format open_clip" in capsys.readouterr().err
    assert not (tmp_path / "clip").exists()


def test_a_text_tower_of_another_kind_is_refused(tmp_path, capsys):
    text = {**CONFIGS["tiny-vit"]["text_cfg"], "pool_type": "last"}
    (tmp_path / "tiny-last.json").write_text(json.dumps({**CONFIGS["tiny-vit"], "text_cfg": text}))
    image, tower = build_towers(str(tmp_path / "tiny-last.json"), None)
    torch.save({**image.state_dict(), **tower.state_dict()}, tmp_path / "last.pt")
    paths = [str(tmp_path / "last.pt"), str(tmp_path / "clip"), "--clip", str(tmp_path / "tiny-last.json")]
    assert main([*paths, "--format", "transformers"]) == 2
    assert "its text tower does not read the end token" in capsys.readouterr().err


# ---- SigLIP ----


@pytest.fixture(params=["gelu_pytorch_tanh", "gelu"])
def siglip(tmp_path, request):
    """A `SiglipModel` with random weights, MLPs of odd widths and a text tower of another width, and its folder."""
    transformers = pytest.importorskip("transformers")
    both = {"num_hidden_layers": 2, "hidden_act": request.param}
    text = {"hidden_size": 32, "intermediate_size": 53, "num_attention_heads": 2, "projection_size": 48}
    vision = {"hidden_size": 48, "intermediate_size": 75, "num_attention_heads": 4, "image_size": 32, "patch_size": 8}
    config = transformers.SiglipConfig(
        text_config={**both, **text, "vocab_size": len(WORDS), "max_position_embeddings": 6},
        vision_config={**both, **vision},
    )
    model = transformers.SiglipModel(config).eval()
    randomize(model)
    model.save_pretrained(tmp_path / "siglip")
    tokenizer = Tokenizer(WordLevel(WORDS, "<unk>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.post_processor = TemplateProcessing("$A </s>", None, [("</s>", 0)])
    special = {"eos_token": "</s>", "pad_token": "</s>", "unk_token": "<unk>"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(tmp_path / "siglip")
    return model, tmp_path / "siglip"


def siglip_embeddings(model, images, tokens):
    with torch.no_grad():
        features = model.get_image_features(images), model.get_text_features(tokens)
    return [getattr(each, "pooler_output", each) for each in features]  # a tensor before transformers 5


def test_a_siglip_of_transformers_is_a_model(siglip):
    model, folder = siglip
    image, text = build_towers(f"local-dir:{folder}", None)
    images, tokens = torch.randn(2, 3, 32, 32), text.tokenizer(["A red, car!", "cat"])
    assert tokens.tolist() == [[2, 3, 4, 0, 0, 0], [5, 0, 0, 0, 0, 0]]
    expected = siglip_embeddings(model, images, tokens)
    torch.testing.assert_close(image.image_embeddings(images), expected[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(text(["A red, car!", "cat"]), expected[1], atol=1e-5, rtol=1e-5)
    assert image.dense_embeddings(images).shape == (2, 48, 4, 4)
    assert image.pixel_mean.flatten().tolist() == [0.5, 0.5, 0.5]
    assert text.logit_scale == model.logit_scale.item()


def test_a_siglip_becomes_one_of_transformers(siglip, tmp_path):
    transformers = pytest.importorskip("transformers")
    _, source = siglip
    (source / "preprocessor_config.json").write_text('{"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}')
    folder, model = tmp_path / "written", f"local-dir:{source}"
    assert main([str(source / "model.safetensors"), str(folder), "--clip", model, "--format", "transformers"]) == 0
    read, report = transformers.SiglipModel.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values())
    image, text = build_towers(model, None)
    images, texts = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8), ["A red,  CAR!", "cat_a"]
    processor = transformers.SiglipProcessor.from_pretrained(folder)
    inputs = processor(text=texts, images=images, padding="max_length", return_tensors="pt")
    assert torch.equal(inputs["input_ids"], text.tokenizer(texts)) and "attention_mask" not in inputs
    torch.testing.assert_close(inputs["pixel_values"], image.normalize(images), atol=1e-5, rtol=1e-5)
    found = siglip_embeddings(read, inputs["pixel_values"], inputs["input_ids"])
    torch.testing.assert_close(found[0], image.image_embeddings(image.normalize(images)), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found[1], text(texts), atol=1e-5, rtol=1e-5)
    again = build_towers(f"local-dir:{folder}", None)
    for tower, expected in zip(again, (image, text), strict=True):
        state = tower.state_dict()
        assert all(torch.equal(state[key], value) for key, value in expected.state_dict().items())
    assert torch.equal(again[0].pixel_std, image.pixel_std)


@pytest.mark.parametrize(
    "change",
    [{"model_type": "siglip2"}, {"vision_config": {"vision_use_head": False}}, {"text_config": {"hidden_act": "relu"}}],
)
def test_other_siglips_are_refused(tmp_path, change):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "siglip", **change}))
    with pytest.raises(InputError, match=r"not one of open_clip or of transformers' CLIP or SigLIP"):
        build_towers(f"local-dir:{tmp_path}", None)


def test_a_siglip_without_its_tokenizer(siglip):
    _, folder = siglip
    for file in folder.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(InputError, match="its text tower needs the tokenizer of"):
        build_towers(f"local-dir:{folder}", None)
