"""Folders for transformers, loaded by transformers."""

import json

import pytest
import torch

from clipself_d2.cli.convert import main
from clipself_d2.clip import build_towers

from .conftest import CONFIGS

TEXTS = ["a photo of a red car", "two dogs, Éclair 12!"]


@pytest.mark.parametrize("name", ["tiny-vit", "tiny-vit-quickgelu"])
def test_transformers_gives_the_same_embeddings(configs, checkpoint, tmp_path, name):
    transformers = pytest.importorskip("transformers")
    source = checkpoint(name)
    assert main([str(source), str(tmp_path / "clip"), "--model", configs[name], "--format", "transformers"]) == 0
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
    main([str(checkpoint("tiny-vit")), str(tmp_path / "clip"), "--model", config, "--format", "transformers"])
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
    main([str(source), str(tmp_path / "clip"), "--model", configs["tiny-vit"], "--format", "transformers"])
    image, text = build_towers(configs["tiny-vit"], str(tmp_path / "clip/model.safetensors"))
    state = torch.load(source, weights_only=True)
    assert all(torch.equal(value, state[key]) for key, value in {**image.state_dict(), **text.state_dict()}.items())


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("tiny-eva", "its image tower is not open_clip's plain ViT"),
        ("tiny-coca", "its image tower is not open_clip's plain ViT"),
        ("tiny-resnet", "its image tower is not open_clip's plain ViT"),
        ("tiny-clipa", "its image tower has no norm before its blocks"),
        ("tiny-vit-layerscale", "its image tower has no norm before its blocks"),
    ],
)
def test_other_towers_are_refused(configs, checkpoint, tmp_path, capsys, name, reason):
    arguments = [str(checkpoint(name)), str(tmp_path / "clip"), "--model", configs[name]]
    assert main([*arguments, "--format", "transformers"]) == 2
    assert f"would compute something else: {reason}; use --format open_clip" in capsys.readouterr().err
    assert not (tmp_path / "clip").exists()


def test_a_text_tower_of_another_kind_is_refused(tmp_path, capsys):
    text = {**CONFIGS["tiny-vit"]["text_cfg"], "pool_type": "last"}
    (tmp_path / "tiny-last.json").write_text(json.dumps({**CONFIGS["tiny-vit"], "text_cfg": text}))
    image, tower = build_towers(str(tmp_path / "tiny-last.json"), None)
    torch.save({**image.state_dict(), **tower.state_dict()}, tmp_path / "last.pt")
    paths = [str(tmp_path / "last.pt"), str(tmp_path / "clip"), "--model", str(tmp_path / "tiny-last.json")]
    assert main([*paths, "--format", "transformers"]) == 2
    assert "its text tower does not read the end token" in capsys.readouterr().err
