"""Every published format loads to the same embeddings; weights of another model never do."""

import re

import open_clip
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from clipself_d2.clip import build_towers, load_checkpoint, read_checkpoint
from clipself_d2.clip.build import build_model
from clipself_d2.errors import InputError

from .conftest import CONFIGS, FAMILIES, randomize
from .files import answers, assert_same, official_eva


@pytest.mark.parametrize("name", FAMILIES)
def test_open_clip_files_in_every_wrapping(name, configs, checkpoint, tmp_path):
    plain = checkpoint(name)
    state = torch.load(plain, weights_only=True)
    expected, read = answers(configs[name], plain), read_checkpoint(plain)
    wrapped = {
        "state_dict.pt": {"epoch": 3, "name": "run", "state_dict": state, "optimizer": {"lr": 0.1}},
        "module.pt": {"state_dict": {f"module.{key}": value for key, value in state.items()}},
        "model.bin": {"model": state, "optimizer": None},
        "double.pt": {key: value.double() for key, value in state.items()},
    }
    for file, content in wrapped.items():
        torch.save(content, tmp_path / file)
        found = read_checkpoint(tmp_path / file)
        assert found.keys() == read.keys() and all(
            torch.equal(found[key].to(read[key].dtype), read[key]) for key in read
        )
    save_file({key: value.contiguous() for key, value in state.items()}, tmp_path / "plain.safetensors")
    for file in ("double.pt", "plain.safetensors"):
        assert_same(answers(configs[name], tmp_path / file), expected)


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
