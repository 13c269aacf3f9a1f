"""OpenAI's format: our exports are read by open_clip's loader, and its files by ours."""

import json

import open_clip
import pytest
import torch
from open_clip.openai import load_openai_model

from clipself_d2.clip import build_towers, read_checkpoint
from clipself_d2.clip.build import build_model
from clipself_d2.clip.formats import to_openai
from clipself_d2.errors import InputError

from .conftest import CONFIGS
from .files import answers, as_module, assert_same


@pytest.fixture
def openai_file(configs, checkpoint, tmp_path):
    model, _, _ = build_model(configs["tiny-vit-quickgelu"], str(checkpoint("tiny-vit-quickgelu")))
    torch.save(to_openai(model), tmp_path / "openai.pt")
    return tmp_path / "openai.pt", model


def test_openai_export_is_read_by_open_clips_loader(openai_file):
    path, model = openai_file
    theirs = load_openai_model(str(path), precision="fp32", device="cpu")
    images, tokens = torch.randn(2, 3, 32, 32), torch.randint(1, 999, (2, 20))
    with torch.no_grad():  # their loader rounds the weights to fp16
        for ours, other in (
            (model.encode_image(images), theirs.encode_image(images)),
            (model.encode_text(tokens), theirs.encode_text(tokens)),
        ):
            torch.testing.assert_close(ours, other, atol=0.02, rtol=0.02)


def test_openai_file_comes_back(openai_file, configs, tmp_path):
    path, model = openai_file
    torch.save(model.state_dict(), tmp_path / "same.pt")
    name = configs["tiny-vit-quickgelu"]
    assert_same(answers(name, path), answers(name, tmp_path / "same.pt"))
    state = torch.load(path, weights_only=True)
    assert (state["input_resolution"], state["context_length"], state["vocab_size"]) == (32, 20, 49408)
    assert not set(read_checkpoint(path)) & {"input_resolution", "context_length", "vocab_size"}


def test_openai_torchscript_archive(openai_file, configs, tmp_path):
    """OpenAI's download is a TorchScript archive whose parameters and three numbers are its state dict."""
    path, _ = openai_file
    archive = tmp_path / "archive.pt"
    torch.jit.save(torch.jit.script(as_module(torch.load(path, weights_only=True))), archive)
    assert_same(answers(configs["tiny-vit-quickgelu"], archive), answers(configs["tiny-vit-quickgelu"], path))


def test_openai_weights_need_quick_gelu(openai_file, configs):
    with pytest.raises(InputError, match=r"openai\.pt: OpenAI's weights need QuickGELU.*-quickgelu"):
        build_towers(configs["tiny-vit"], str(openai_file[0]))


@pytest.mark.parametrize(
    "name, reason", [("tiny-vit", "QuickGELU"), ("tiny-resnet", "QuickGELU"), ("tiny-eva", "EVA-02")]
)
def test_models_that_have_no_openai_format(configs, name, reason):
    with pytest.raises(InputError, match=reason):
        to_openai(build_model(configs[name], None)[0])


def test_openai_export_refuses_other_heads(tmp_path):
    config = {**CONFIGS["tiny-vit-quickgelu"]}
    config["vision_cfg"] = {**config["vision_cfg"], "head_width": 32}
    path = tmp_path / "tiny-narrow.json"
    path.write_text(json.dumps(config))
    with pytest.raises(InputError, match="heads of 64"):
        to_openai(build_model(str(path), None)[0])


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"ls_init_value": 0.5}, "layer scale"),
        ({"mlp_ratio": 2.0}, "four times as wide"),
        ({"no_ln_pre": True}, "no norm before"),
        ({"image_size": [32, 64]}, "32 x 64"),
        ({"pool_type": "avg"}, "pools by 'avg'"),
    ],
)
def test_openai_export_refuses_what_its_loader_would_build_otherwise(tmp_path, change, reason):
    config = {**CONFIGS["tiny-vit-quickgelu"]}
    config["vision_cfg"] = {**config["vision_cfg"], **change}
    path = tmp_path / "tiny-other.json"
    path.write_text(json.dumps(config))
    with pytest.raises(InputError, match=reason):
        to_openai(build_model(str(path), None)[0])


def test_openai_export_is_a_plain_open_clip_models_state(openai_file):
    path, model = openai_file
    plain = open_clip.create_model("tiny-vit-quickgelu")  # no name of ours is on the way
    state = torch.load(path, weights_only=True)
    plain.load_state_dict({key: value for key, value in state.items() if value.ndim or key == "logit_scale"})
    images, tokens = torch.randn(2, 3, 32, 32), torch.randint(1, 999, (2, 20))
    with torch.no_grad():
        assert torch.equal(plain.eval().encode_image(images), model.encode_image(images))
        assert torch.equal(plain.encode_text(tokens), model.encode_text(tokens))


def test_openai_resnet_export(tmp_path):
    """OpenAI's loader rebuilds a ResNet from the weights' shapes; its text tower needs QuickGELU too."""
    path = tmp_path / "tiny-resnet-quickgelu.json"
    path.write_text(json.dumps({**CONFIGS["tiny-resnet"], "quick_gelu": True}))
    model, _, _ = build_model(str(path), None)
    torch.save(to_openai(model), tmp_path / "openai.pt")
    theirs = load_openai_model(str(tmp_path / "openai.pt"), precision="fp32", device="cpu")
    assert theirs.visual.image_size == 64
    build_towers(str(path), str(tmp_path / "openai.pt"))
