"""Every published format loads to the same embeddings; weights of another model never do."""

import json
import re

import open_clip
import pytest
import torch
import torch.nn.functional as F
from detectron2.checkpoint import DetectionCheckpointer
from open_clip.openai import load_openai_model
from safetensors.torch import save_file

from clipself_d2.clip import build_towers, load_checkpoint, read_checkpoint
from clipself_d2.clip.build import build_model
from clipself_d2.clip.formats import to_cat_seg, to_openai
from clipself_d2.errors import InputError

from .conftest import CONFIGS, FAMILIES, randomize


def answers(name, path):
    """Embeddings of the towers that a file gives."""
    image, text = build_towers(name, str(path))
    pixels = torch.linspace(-2, 2, 3 * 64 * 96).view(1, 3, 64, 96)
    with torch.no_grad():
        return image.dense_embeddings(pixels), image.image_embeddings(pixels), text(["a cat", "two dogs"])


def assert_same(one, other):
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-6)


def official_eva(state, width):
    """Our tiny EVA under the names of the official release, with its duplicated rotary buffers."""
    table = {
        "attn.norm.": "attn.inner_attn_ln.",
        "attn.q_proj.bias": "attn.q_bias",
        "attn.v_proj.bias": "attn.v_bias",
        "mlp.norm.": "mlp.ffn_ln.",
        "mlp.fc1_g.": "mlp.w1.",
        "mlp.fc1_x.": "mlp.w2.",
        "mlp.fc2.": "mlp.w3.",
        "visual.trunk.": "visual.",
    }
    out = {}
    for key, value in state.items():
        if key.startswith("visual."):
            for ours, theirs in table.items():
                key = key.replace(ours, theirs)
        out[key] = value
    for prefix in ["visual.rope", *(f"visual.blocks.{i}.attn.rope" for i in range(3))]:
        out[f"{prefix}.freqs_cos"] = torch.rand(16, width)
        out[f"{prefix}.freqs_sin"] = torch.rand(16, width)
    return out


@pytest.mark.parametrize("name", FAMILIES)
def test_open_clip_files_in_every_wrapping(name, configs, checkpoint, tmp_path):
    plain = checkpoint(name)
    state = torch.load(plain, weights_only=True)
    expected = answers(configs[name], plain)
    wrapped = {
        "state_dict.pt": {"epoch": 3, "name": "run", "state_dict": state, "optimizer": {"lr": 0.1}},
        "module.pt": {"state_dict": {f"module.{key}": value for key, value in state.items()}},
        "model.bin": {"model": state, "optimizer": None},
        "half.pt": {key: value.double() for key, value in state.items()},
    }
    for file, content in wrapped.items():
        torch.save(content, tmp_path / file)
        assert_same(answers(configs[name], tmp_path / file), expected)
    save_file({key: value.contiguous() for key, value in state.items()}, tmp_path / "plain.safetensors")
    assert_same(answers(configs[name], tmp_path / "plain.safetensors"), expected)


@pytest.mark.parametrize("wrapper", ["official EVA-CLIP", "official CLIPSelf"])
def test_official_eva_names(wrapper, configs, checkpoint, tmp_path):
    plain = checkpoint("tiny-eva")
    state = official_eva(torch.load(plain, weights_only=True), 64)
    assert "visual.blocks.0.attn.inner_attn_ln.weight" in state and "visual.blocks.2.mlp.w3.bias" in state
    content = {
        "epoch": 6,
        "name": "clipself",
        "state_dict": state,
        "optimizer": {"state": {}},
        "scaler": {"scale": 2.0},
    }
    torch.save(state if wrapper.endswith("EVA-CLIP") else content, tmp_path / "official.pt")
    assert_same(answers(configs["tiny-eva"], tmp_path / "official.pt"), answers(configs["tiny-eva"], plain))
    assert set(read_checkpoint(tmp_path / "official.pt")) == set(torch.load(plain, weights_only=True))


def test_text_names_move_to_where_the_model_has_them(configs, checkpoint, tmp_path):
    """A plain CLIP's file for a model with ``custom_text``, and back."""
    for name, rename in (
        ("tiny-vit-layerscale", lambda key: key.removeprefix("text.")),
        ("tiny-vit", lambda key: key if key.startswith(("visual.", "logit_scale")) else f"text.{key}"),
    ):
        plain = checkpoint(name)
        moved = {rename(key): value for key, value in torch.load(plain, weights_only=True).items()}
        torch.save(moved, tmp_path / "moved.pt")
        assert_same(answers(configs[name], tmp_path / "moved.pt"), answers(configs[name], plain))


def test_logit_scale_of_one_element(configs, checkpoint, tmp_path):
    plain = checkpoint("tiny-vit")
    state = torch.load(plain, weights_only=True)
    torch.save({**state, "logit_scale": state["logit_scale"].reshape(1)}, tmp_path / "one.pt")
    assert_same(answers(configs["tiny-vit"], tmp_path / "one.pt"), answers(configs["tiny-vit"], plain))


@pytest.mark.parametrize(
    "prefix",
    [
        lambda key: f"module.module.{key}",
        lambda key: f"_orig_mod.{key}",
        lambda key: f"module._orig_mod.model.module.model.{key}",
        lambda key: key.replace("visual.", "visual._orig_mod."),
        lambda key: key.replace("transformer.resblocks.", "transformer.module.resblocks."),
    ],
)
def test_prefixes_are_removed_wherever_and_however_often_they_are(prefix, checkpoint, tmp_path):
    state = torch.load(checkpoint("tiny-vit"), weights_only=True)
    torch.save({prefix(key): value for key, value in state.items()}, tmp_path / "a.pt")
    read = read_checkpoint(tmp_path / "a.pt")
    assert read.keys() == state.keys() and all(torch.equal(read[key], state[key]) for key in state)


def test_two_models_in_one_dictionary(tmp_path):
    torch.save({"module.visual.proj": torch.ones(2), "visual.proj": torch.zeros(2)}, tmp_path / "a.pt")
    with pytest.raises(InputError, match=r"a\.pt: it holds two models"):
        read_checkpoint(tmp_path / "a.pt")


# ---- transformers ----


@pytest.fixture
def transformers_model(tmp_path):
    """A CLIPModel with random weights, of the size of "tiny-vit-quickgelu", and the file that it writes."""
    transformers = pytest.importorskip("transformers")
    text = {"vocab_size": 49408, "hidden_size": 64, "intermediate_size": 256, "max_position_embeddings": 20}
    vision = {"hidden_size": 128, "intermediate_size": 512, "image_size": 32, "patch_size": 8}
    config = transformers.CLIPConfig(
        text_config={**text, "num_hidden_layers": 1, "num_attention_heads": 1, "hidden_act": "quick_gelu"},
        vision_config={**vision, "num_hidden_layers": 3, "num_attention_heads": 2, "hidden_act": "quick_gelu"},
        projection_dim=24,
    )
    model = transformers.CLIPModel(config).eval()
    randomize(model)
    model.save_pretrained(tmp_path / "transformers")
    return model, tmp_path / "transformers" / "model.safetensors"


def test_transformers_clip_gives_the_same_embeddings(transformers_model, configs):
    theirs, path = transformers_model
    image, text = build_towers(configs["tiny-vit-quickgelu"], str(path))
    pixels, texts = torch.randn(2, 3, 32, 32), ["a cat", "two dogs"]
    with torch.no_grad():
        images = theirs.visual_projection(theirs.vision_model(pixels).pooler_output)
        torch.testing.assert_close(image.image_embeddings(pixels), images, atol=1e-4, rtol=1e-4)
        states = theirs.text_model(text.tokenizer(texts)).last_hidden_state
        ends = text.tokenizer(texts).argmax(dim=-1)
        texts_expected = theirs.text_projection(states[torch.arange(2), ends])
        torch.testing.assert_close(text(texts), texts_expected, atol=1e-4, rtol=1e-4)
    assert text.logit_scale == theirs.logit_scale


def test_old_transformers_files_have_position_numbers(transformers_model, tmp_path):
    theirs, path = transformers_model
    numbers = {f"{x}_model.embeddings.position_ids": torch.arange(5)[None] for x in ("vision", "text")}
    torch.save({**theirs.state_dict(), **numbers}, tmp_path / "pytorch_model.bin")
    read, expected = read_checkpoint(tmp_path / "pytorch_model.bin"), read_checkpoint(path)
    assert read.keys() == expected.keys() and all(torch.equal(read[key], expected[key]) for key in read)


# ---- positions of another size ----


@pytest.mark.parametrize(
    "name, key", [("tiny-vit", "visual.positional_embedding"), ("tiny-eva", "visual.trunk.pos_embed")]
)
def test_positions_of_another_size(name, key, configs, checkpoint, tmp_path):
    """Explained, and resampled only when asked for: bicubic, without antialias, the class token's row kept."""
    state = torch.load(checkpoint(name), weights_only=True)
    shape = state[key].shape
    table = torch.randn(1 + 9, shape[-1])
    torch.save({**state, key: table.reshape(*shape[:-2], *table.shape)}, tmp_path / "other.pt")
    with pytest.raises(InputError, match=r"other\.pt: its positions are those of a map of 3 x 3, the model's of 4 x 4"):
        build_towers(configs[name], str(tmp_path / "other.pt"))
    model, _, _ = build_model(configs[name], str(tmp_path / "other.pt"), resize_positions=True)
    grid = table[1:].T.reshape(1, -1, 3, 3)
    expected = F.interpolate(grid, (4, 4), mode="bicubic", align_corners=False)[0].flatten(1).T
    resized = model.state_dict()[key].reshape(-1, shape[-1])
    assert torch.equal(resized[0], table[0])
    torch.testing.assert_close(resized[1:], expected)


def test_positions_that_belong_to_no_map(configs, checkpoint, tmp_path):
    state = torch.load(checkpoint("tiny-vit"), weights_only=True)
    for table in (torch.zeros(12, 128), torch.zeros(10, 64), torch.zeros(128), torch.tensor(0.0)):
        torch.save({**state, "visual.positional_embedding": table}, tmp_path / "other.pt")
        with pytest.raises(InputError, match=r"1 of another shape: visual\.positional_embedding"):
            build_model(configs["tiny-vit"], str(tmp_path / "other.pt"), resize_positions=True)


# ---- OpenAI ----


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


def as_module(state):
    """Nested modules whose state dict has these names."""
    root = torch.nn.Module()
    for key, value in state.items():
        *parents, leaf = key.split(".")
        module = root
        for parent in parents:
            if not hasattr(module, parent):
                module.add_module(parent, torch.nn.Module())
            module = getattr(module, parent)
        module.register_buffer(leaf, value)
    return root


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


# ---- CAT-Seg ----


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


# ---- what does not fit ----


def test_wrong_model_is_one_line_that_lists_all_kinds(configs, checkpoint, tmp_path):
    state = torch.load(checkpoint("tiny-vit"), weights_only=True)
    del state["visual.proj"]
    state["ln_final.weight"] = torch.zeros(7)
    state["extra.weight"] = torch.zeros(1)
    torch.save(state, tmp_path / "other.pt")
    with pytest.raises(InputError) as caught:
        build_towers(configs["tiny-vit"], str(tmp_path / "other.pt"))
    line = str(caught.value)
    assert "\n" not in line and "other.pt" in line
    for part in ("1 missing: visual.proj", "1 unexpected: extra.weight", "ln_final.weight (7,) instead of (64,)"):
        assert part in line


@pytest.mark.parametrize(
    "name, other", [("tiny-vit", "tiny-eva"), ("tiny-eva", "tiny-vit"), ("tiny-resnet", "tiny-vit")]
)
def test_another_family_counts_and_cuts_its_lists(configs, checkpoint, name, other):
    with pytest.raises(InputError, match=r"\d+ missing: .*\.\.\.; \d+ unexpected: .*\.\.\.") as caught:
        build_towers(configs[name], str(checkpoint(other)))
    assert len(str(caught.value)) < 900


@pytest.mark.parametrize("key", ["ln_final.bias", "transformer.resblocks.0.ln_1.weight", "logit_scale"])
def test_a_gap_in_the_text_tower_alone_is_no_less_an_error(configs, checkpoint, tmp_path, key):
    state = torch.load(checkpoint("tiny-vit"), weights_only=True)
    del state[key]
    torch.save(state, tmp_path / "gap.pt")
    with pytest.raises(InputError, match=f"1 missing: {re.escape(key)}"):
        build_towers(configs["tiny-vit"], str(tmp_path / "gap.pt"))


def test_nothing_is_loaded_when_something_is_wrong(configs, checkpoint, tmp_path):
    model, _, _ = build_model(configs["tiny-vit"], None)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = torch.load(checkpoint("tiny-vit"), weights_only=True)
    del state["visual.proj"]
    torch.save(state, tmp_path / "gap.pt")
    with pytest.raises(InputError):
        load_checkpoint(model, tmp_path / "gap.pt")
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_registered_configs_are_open_clips(configs):
    build_towers(configs["tiny-vit"], None)
    assert open_clip.get_model_config("tiny-vit") == CONFIGS["tiny-vit"]


def test_openai_resnet_export(tmp_path):
    """OpenAI's loader rebuilds a ResNet from the weights' shapes; its text tower needs QuickGELU too."""
    path = tmp_path / "tiny-resnet-quickgelu.json"
    path.write_text(json.dumps({**CONFIGS["tiny-resnet"], "quick_gelu": True}))
    model, _, _ = build_model(str(path), None)
    torch.save(to_openai(model), tmp_path / "openai.pt")
    theirs = load_openai_model(str(tmp_path / "openai.pt"), precision="fp32", device="cpu")
    assert theirs.visual.image_size == 64
    build_towers(str(path), str(tmp_path / "openai.pt"))
