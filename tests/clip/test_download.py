"""Published weights, from a stand-in for the hub: the first use, the cache, and what can go wrong."""

import json
import shutil
import time

import open_clip
import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from clipself_d2.cli.convert import main as convert
from clipself_d2.clip import build_image_tower, build_towers, read_checkpoint
from clipself_d2.clip import download as module
from clipself_d2.clip.build import build_model
from clipself_d2.clip.formats import to_openai
from clipself_d2.errors import InputError

from .conftest import CONFIGS
from .files import as_module, official_eva
from .hub import point_at, serve

FILE = "open_clip_model.safetensors"


@pytest.fixture
def hub(tmp_path):
    (tmp_path / "served").mkdir()
    with serve(tmp_path / "served", tmp_path / "cache") as hub:
        yield hub


@pytest.fixture
def published(hub, configs, checkpoint, monkeypatch):
    """A tag "openai" of "tiny-vit": a repository of timm's, and OpenAI's own server."""
    build_model(configs["tiny-vit"], None)  # registers the config
    build_model(configs["tiny-vit-quickgelu"], None)
    path = checkpoint("tiny-vit-quickgelu")
    state = torch.load(path, weights_only=True)
    folder = hub.folder / "timm/tiny.openai"
    folder.mkdir(parents=True)
    save_file(state, folder / FILE)
    tag = {
        "hf_hub": "timm/tiny.openai/",
        "mean": (0.5, 0.4, 0.3),
        "std": (0.1, 0.2, 0.3),
        "quick_gelu": True,
    }
    monkeypatch.setattr(module, "get_pretrained_cfg", lambda name, wanted: tag if wanted == "openai" else {})
    return tag, folder, path


def assert_same(state, expected):
    assert state.keys() == expected.keys() and all(torch.equal(state[key], expected[key]) for key in state)


def message(*arguments):
    with pytest.raises(InputError) as caught:
        build_image_tower(*arguments)
    line = str(caught.value)
    assert "\n" not in line and len(line) < 500
    return line


def test_a_tag_is_downloaded_once_with_progress(hub, published, configs, capfd, monkeypatch):
    """A tag brings its statistics and its activation."""
    monkeypatch.setenv("TQDM_POSITION", "-1")  # huggingface_hub's bar, although the output is no terminal
    tower = build_image_tower("tiny-vit", "openai")
    assert f"{FILE}: 100%" in capfd.readouterr().err
    assert tower.pixel_mean.flatten().tolist() == pytest.approx([0.5, 0.4, 0.3])
    assert tower.pixel_std.flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])
    images = torch.randn(1, 3, 32, 32)
    expected = build_image_tower(configs["tiny-vit-quickgelu"], str(published[2])).image_embeddings(images)
    torch.testing.assert_close(tower.image_embeddings(images), expected)
    build_image_tower("tiny-vit", "openai")
    assert sum(request.startswith("GET /timm") for request in hub.requests) == 1


def test_a_broken_download_goes_on_where_it_broke(hub, published, monkeypatch):
    hub.breaks = 1
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 2**20)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    path = module.find_weights("tiny-vit", "openai").path
    ranges = [request.rpartition("bytes=")[2] for request in hub.requests if "bytes=" in request]
    size = (published[1] / FILE).stat().st_size
    assert len(ranges) == 1 and 0 < int(ranges[0].rstrip("-")) <= size // 2
    assert_same(read_checkpoint(path), torch.load(published[2], weights_only=True))


def test_a_wrong_hash(hub, published):
    hub.changed = True
    assert "arrived damaged, its SHA-256 is not that of the hub: start again" in message("tiny-vit", "openai")
    hub.changed = False
    build_image_tower("tiny-vit", "openai")


def test_the_cache_serves_without_the_network(hub, published, monkeypatch):
    build_image_tower("tiny-vit", "openai")
    requests = len(hub.requests)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.delattr(module, "_check_hash")  # that is done after the download
    build_image_tower("tiny-vit", "openai")
    assert len(hub.requests) == requests


def test_without_the_network_and_without_the_cache(hub, published, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        line = message("tiny-vit", "openai")
        assert line.startswith("tag 'openai' of 'tiny-vit': HF_HUB_OFFLINE is set and it is not in ")
    point_at(monkeypatch, "http://127.0.0.1:9")  # nobody answers
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # between the trials of huggingface_hub
    assert "http://127.0.0.1:9 (HF_ENDPOINT) cannot be reached" in message("tiny-vit", "openai")


def test_a_gated_repository(hub, published):
    hub.gated.add("timm/tiny.openai")
    line = message("tiny-vit", "openai")
    assert f"gated: accept its terms at {hub.url}/timm/tiny.openai and run 'hf auth login'" in line


def test_openais_server_where_the_hub_cannot_be_reached(hub, published, monkeypatch):
    """Its file is a TorchScript archive, and its folder is named after its hash."""
    tag, folder, _ = published
    model, _, _ = build_model("tiny-vit-quickgelu", str(published[2]))
    archive = hub.folder / "archive.pt"
    torch.jit.save(torch.jit.script(as_module(to_openai(model))), archive)
    place = f"openaipublic/clip/models/{hub.hash(archive)}/tiny.pt"
    (hub.folder / place).parent.mkdir(parents=True)
    shutil.move(archive, hub.folder / place)
    shutil.rmtree(folder)
    monkeypatch.setitem(tag, "url", f"{hub.url}/{place}")
    expected = {key: value for key, value in model.state_dict().items() if key.startswith("visual.")}
    hub.changed = True
    line = message("tiny-vit", "openai")
    assert "the hub has no public timm/tiny.openai" in line and "nor can it be downloaded from http://127.0" in line
    hub.changed = False
    assert_same(build_image_tower("tiny-vit", "openai").state_dict(), expected)
    requests = len([request for request in hub.requests if "openaipublic" in request])
    build_image_tower("tiny-vit", "openai")
    assert len([request for request in hub.requests if "openaipublic" in request]) == requests


# ---- hf-hub:OWNER/NAME ----


def test_a_repository_of_open_clip(hub, configs, checkpoint):
    folder = hub.folder / "someone/finetuned"
    folder.mkdir(parents=True)
    state = torch.load(checkpoint("tiny-eva"), weights_only=True)
    torch.save(state, folder / "open_clip_pytorch_model.bin")
    images = {"mean": [0.1, 0.2, 0.3], "std": [0.5, 0.5, 0.5], "size": 32}
    config = {"model_cfg": CONFIGS["tiny-eva"], "preprocess_cfg": images}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    image, text = build_towers(configs["tiny-eva"], "hf-hub:someone/finetuned")
    assert_same({**image.state_dict(), **text.state_dict()}, state)
    assert image.pixel_mean.flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])
    (folder / "open_clip_config.json").write_text("[]")
    shutil.rmtree(constants.HF_HUB_CACHE)
    hub.hashes.clear()
    assert "not one of open_clip or of transformers" in message(configs["tiny-eva"], "hf-hub:someone/finetuned")


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_a_repository_of_transformers(hub, configs, tmp_path, activation):
    """The config tells the activation, and a model of the other one is refused."""
    transformers = pytest.importorskip("transformers")
    text = {"hidden_size": 64, "intermediate_size": 256, "max_position_embeddings": 20, "num_attention_heads": 1}
    vision = {"hidden_size": 128, "intermediate_size": 512, "image_size": 32, "patch_size": 8, "num_attention_heads": 2}
    config = transformers.CLIPConfig(
        text_config={**text, "vocab_size": 49408, "num_hidden_layers": 1, "hidden_act": activation},
        vision_config={**vision, "num_hidden_layers": 3, "hidden_act": activation},
        projection_dim=24,
    )
    model = transformers.CLIPModel(config).eval()
    model.save_pretrained(hub.folder / "someone/clip")
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        expected = model.visual_projection(model.vision_model(images).pooler_output)
        found = build_image_tower(configs["tiny-vit"], "hf-hub:someone/clip").image_embeddings(images)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    if activation == "gelu":
        line = message(configs["tiny-vit-quickgelu"], "hf-hub:someone/clip")
        assert "has no QuickGELU: choose the model's name without '-quickgelu'" in line


def test_repositories_that_are_none(hub, configs):
    (hub.folder / "someone/empty").mkdir(parents=True)
    assert "someone/empty has no file open_clip_model.safetensors or" in message(
        configs["tiny-vit"], "hf-hub:someone/empty"
    )
    assert "the hub has no public nobody/nothing" in message(configs["tiny-vit"], "hf-hub:nobody/nothing")
    for name in ("hf-hub:", "hf-hub:a/b/c", "hf-hub:../x"):
        assert message(configs["tiny-vit"], name).startswith(f"'{name}': ")


def test_a_tag_at_its_real_size(hub):
    """A tag of OpenAI's at its real size, in the half precision of its release: 300 MB."""
    state = {key: value.half() for key, value in open_clip.create_model("ViT-B-16-quickgelu").state_dict().items()}
    folder = hub.folder / "timm/vit_base_patch16_clip_224.openai"
    folder.mkdir(parents=True)
    save_file(state, folder / FILE)
    tower = build_image_tower("ViT-B-16-quickgelu", "openai")
    assert tower.state_dict()["visual.proj"].dtype == torch.float32
    assert_same({key: value.half() for key, value in tower.state_dict().items()},
                {key: value for key, value in state.items() if key.startswith("visual.")})  # fmt: skip


def test_the_authors_checkpoint_of_clipself(configs, checkpoint, tmp_path):
    """EVA-CLIP's names in a training checkpoint, under DistributedDataParallel's prefix."""
    state = torch.load(checkpoint("tiny-eva"), weights_only=True)
    official = {f"module.{key}": value for key, value in official_eva(state, 64).items()}
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.AdamW([weight])
    weight.sum().backward()
    optimizer.step()
    content = {"epoch": 6, "name": "eva_vitb16", "state_dict": official, "optimizer": optimizer.state_dict()}
    torch.save({**content, "scaler": {"scale": 65536.0}}, tmp_path / "eva_vitb16_coco_clipself_patches.pt")
    image, text = build_towers(configs["tiny-eva"], str(tmp_path / "eva_vitb16_coco_clipself_patches.pt"))
    assert_same({**image.state_dict(), **text.state_dict()}, state)


# ---- repositories as the name of a model ----


@pytest.fixture
def repository(hub, checkpoint):
    folder = hub.folder / "someone/distilled"
    folder.mkdir(parents=True)
    save_file(torch.load(checkpoint("tiny-eva"), weights_only=True), folder / FILE)
    images = {"mean": [0.1, 0.2, 0.3], "std": [0.5, 0.5, 0.5]}
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": CONFIGS["tiny-eva"], "preprocess_cfg": images})
    )
    return folder


@pytest.mark.parametrize("kind", ["hf-hub:someone/distilled", "local-dir:{folder}"])
def test_a_repository_is_a_model_with_its_weights(repository, kind):
    source = kind.format(folder=repository)
    image, text = build_towers(source, None)
    assert_same({**image.state_dict(), **text.state_dict()}, load_file(repository / FILE))
    assert image.pixel_mean.flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert text(["a cat"]).shape == (1, 24)


def test_other_weights_for_the_model_of_a_repository(repository, tmp_path):
    state = {key: value + 1 for key, value in load_file(repository / FILE).items()}
    save_file(state, tmp_path / "distilled.safetensors")
    tower = build_image_tower(f"local-dir:{repository}", str(tmp_path / "distilled.safetensors"))
    assert torch.equal(tower.state_dict()["visual.trunk.cls_token"], state["visual.trunk.cls_token"])


def test_a_folder_of_transformers_is_a_model(configs, checkpoint, tmp_path):
    source = str(checkpoint("tiny-vit-quickgelu"))
    folder = tmp_path / "my_clip"
    assert convert([source, str(folder), "--clip", configs["tiny-vit-quickgelu"], "--format", "transformers"]) == 0
    image, text = build_towers(f"local-dir:{folder}", None)
    expected = build_towers(configs["tiny-vit-quickgelu"], source)
    images = torch.randn(1, 3, 32, 32)
    assert torch.equal(image.image_embeddings(images), expected[0].image_embeddings(images))
    assert torch.equal(text(["a cat"]), expected[1](["a cat"]))


def test_repositories_that_are_no_models(hub, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    assert "no such folder" in message(f"local-dir:{tmp_path}/none", None)
    assert "the folder has no file open_clip_config.json or config.json" in message(f"local-dir:{tmp_path}/empty", None)
    (tmp_path / "empty/config.json").write_text('{"model_type": "bert"}')
    assert "not one of open_clip or of transformers' CLIP" in message(f"local-dir:{tmp_path}/empty", None)
    assert "the hub has no public nobody/nothing" in message("hf-hub:nobody/nothing", None)
    hub.gated.add("someone/gated")
    assert "gated: accept its terms" in message("hf-hub:someone/gated", None)
    point_at(monkeypatch, "http://127.0.0.1:9")  # nobody answers
    start = time.monotonic()
    assert "cannot be reached" in message("hf-hub:someone/else", None)
    assert time.monotonic() - start < 5


def test_a_tokenizer_of_the_hub_that_cannot_be_reached(hub, tmp_path, monkeypatch):
    pytest.importorskip("transformers")
    config = {**CONFIGS["tiny-vit"], "text_cfg": {**CONFIGS["tiny-vit"]["text_cfg"], "hf_tokenizer_name": "a/bert"}}
    (tmp_path / "tiny-bert.json").write_text(json.dumps(config))
    point_at(monkeypatch, "http://127.0.0.1:9")
    start = time.monotonic()
    with pytest.raises(InputError, match=r"tiny-bert.json': its text tower needs 'a/bert' of the hub, which is not in"):
        build_towers(str(tmp_path / "tiny-bert.json"), None)
    assert time.monotonic() - start < 10


@pytest.mark.parametrize(
    ("name", "mean"),
    [
        ("ViT-B-16-SigLIP", (0.5, 0.5, 0.5)),
        ("MobileCLIP-B", (0.0, 0.0, 0.0)),
        ("ViT-L-14", open_clip.OPENAI_DATASET_MEAN),  # its tags differ
        ("tiny.json", open_clip.OPENAI_DATASET_MEAN),
    ],
)
def test_statistics_of_a_file_are_those_that_all_tags_share(name, mean):
    assert module.default_statistics(name)[0] == mean


def test_statistics_of_a_file_for_a_repository_are_the_repositorys(repository, tmp_path):
    shutil.copy(repository / FILE, tmp_path / "distilled.safetensors")
    tower = build_image_tower(f"local-dir:{repository}", str(tmp_path / "distilled.safetensors"))
    assert tower.pixel_mean.flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])
