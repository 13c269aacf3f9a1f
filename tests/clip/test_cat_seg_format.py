"""CAT-Seg's checkpoints: our exports are what its own model writes, and both are read."""

import json

import pytest
import torch
import torch.nn.functional as F
from detectron2.checkpoint import DetectionCheckpointer

from clipself_d2.clip import build_towers, read_checkpoint
from clipself_d2.clip.build import build_model
from clipself_d2.clip.formats import to_cat_seg
from clipself_d2.errors import InputError

from .conftest import CONFIGS
from .files import as_module


@pytest.fixture
def cat_seg_file(configs, checkpoint, tmp_path):
    """What CAT-Seg's checkpointer would write after training with our CLIP, and the CLIP."""
    model, _, _ = build_model(configs["tiny-vit-quickgelu"], str(checkpoint("tiny-vit-quickgelu")))
    content = to_cat_seg(model)
    content["model"]["sem_seg_head.predictor.transformer.conv1.weight"] = torch.zeros(3)
    content["model"]["upsample1.weight"] = torch.zeros(3)
    torch.save({**content, "iteration": 5}, tmp_path / "cat_seg.pth")
    return tmp_path / "cat_seg.pth", model


def test_cat_seg_export_comes_back_to_the_bit(cat_seg_file, configs):
    path, model = cat_seg_file
    expected, state = model.state_dict(), read_checkpoint(path)
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[key], value) for key, value in expected.items())
    image, text = build_towers(configs["tiny-vit-quickgelu"], str(path))
    assert all(torch.equal(value, expected[key]) for key, value in {**image.state_dict(), **text.state_dict()}.items())


def test_cat_seg_names_are_its_models(cat_seg_file):
    """As its attention is built: by OpenAI's names, with queries, keys and values in three matrices and one bias."""
    path, model = cat_seg_file
    exported = {
        key.removeprefix("sem_seg_head.predictor.clip_model.")
        for key in torch.load(path, weights_only=True)["model"]
        if ".clip_model." in key
    }
    expected = set()
    for key in model.state_dict():
        names = [f"{x}_proj_weight" for x in "qkv"] if key.endswith("in_proj_weight") else ["in_proj_weight"]
        expected |= {key.replace("in_proj_weight", name) for name in names}
    assert exported == expected
    assert "visual.transformer.resblocks.2.attn.v_proj_weight" in exported
    assert "transformer.resblocks.0.attn.in_proj_bias" in exported


def test_cat_seg_attention_is_the_same(cat_seg_file):
    path, model = cat_seg_file
    state = torch.load(path, weights_only=True)["model"]
    for tower, heads in (("visual.", 2), ("", 1)):
        prefix = f"{tower}transformer.resblocks.0.attn."
        weights = {name: state[f"sem_seg_head.predictor.clip_model.{prefix}{name}"] for name in (
            "q_proj_weight", "k_proj_weight", "v_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias",
        )}  # fmt: skip
        width = len(weights["out_proj.bias"])
        tokens = torch.randn(5, 2, width)
        theirs, _ = F.multi_head_attention_forward(
            tokens, tokens, tokens, width, heads, None, weights["in_proj_bias"], None, None, False, 0.0,
            weights["out_proj.weight"], weights["out_proj.bias"], use_separate_proj_weight=True,
            **{name: weights[name] for name in ("q_proj_weight", "k_proj_weight", "v_proj_weight")},
        )  # fmt: skip
        ours = model.get_submodule(prefix[:-1])(tokens.transpose(0, 1), tokens.transpose(0, 1), tokens.transpose(0, 1))
        torch.testing.assert_close(ours[0].transpose(0, 1), theirs, atol=1e-5, rtol=1e-5)


def test_detectron2_reads_the_cat_seg_export(cat_seg_file):
    path, _ = cat_seg_file
    names = torch.load(path, weights_only=True)["model"]
    network = as_module({key: torch.zeros_like(value) for key, value in names.items()})
    DetectionCheckpointer(network).load(str(path))
    assert all(torch.equal(network.state_dict()[key], value) for key, value in names.items())


def test_cat_seg_weights_need_quick_gelu(cat_seg_file, configs):
    with pytest.raises(InputError, match=r"cat_seg\.pth: OpenAI's weights need QuickGELU"):
        build_towers(configs["tiny-vit"], str(cat_seg_file[0]))


def test_a_gap_in_a_cat_seg_file_is_an_error(cat_seg_file, configs, tmp_path):
    content = torch.load(cat_seg_file[0], weights_only=True)
    del content["model"]["sem_seg_head.predictor.clip_model.visual.transformer.resblocks.1.attn.k_proj_weight"]
    torch.save(content, tmp_path / "gap.pth")
    with pytest.raises(InputError, match=r"1 missing: visual\.transformer\.resblocks\.1\.attn\.in_proj_weight"):
        build_towers(configs["tiny-vit-quickgelu"], str(tmp_path / "gap.pth"))


@pytest.mark.parametrize(
    "name, reason", [("tiny-vit", "QuickGELU"), ("tiny-resnet", "ResNet"), ("tiny-eva", "EVA-02's rotary positions")]
)
def test_models_that_have_no_cat_seg_format(name, reason, tmp_path):
    path = tmp_path / f"{name}-cat-seg.json"
    path.write_text(json.dumps({**CONFIGS[name], "quick_gelu": name != "tiny-vit"}))
    with pytest.raises(InputError, match=reason):
        to_cat_seg(build_model(str(path), None)[0])
