"""Names, tags, paths and configs, right and wrong."""

import json
import re
import time

import open_clip
import pytest
import torch

from clipself_d2.clip import build as module
from clipself_d2.clip import build_image_tower, build_text_tower, build_towers
from clipself_d2.clip.attention_pool import CoCaTower, TimmPoolTower
from clipself_d2.clip.build import image_tower_shape
from clipself_d2.clip.resnet import ResNetTower
from clipself_d2.clip.timm_vit import TimmTower
from clipself_d2.clip.vit import ViTTower
from clipself_d2.errors import InputError

from .conftest import CONFIGS


def test_one_tower_alone_is_the_same_tower(configs, checkpoint):
    path = str(checkpoint("tiny-vit"))
    image, text = build_towers(configs["tiny-vit"], path)
    alone = (
        build_image_tower(configs["tiny-vit"], path).state_dict(),
        build_text_tower(configs["tiny-vit"], path).state_dict(),
    )
    for state, expected in zip(alone, (image.state_dict(), text.state_dict()), strict=True):
        assert state.keys() == expected.keys()
        assert all(torch.equal(state[key], expected[key]) for key in state)
    assert not any("visual" in key for key in text.state_dict())
    assert not image.training and not text.training


def test_random_weights_are_drawn_from_the_seed(configs):
    states = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        states.append(build_image_tower(configs["tiny-vit"], None).state_dict()["visual.proj"])
    assert torch.equal(states[0], states[1]) and not torch.equal(states[0], states[2])


@pytest.mark.parametrize(
    "name, kind, stride, dim, size, blocks",
    [
        ("EVA02-B-16", TimmTower, 16, 512, 224, 12),
        ("EVA02-L-14-336", TimmTower, 14, 768, 336, 24),
        ("ViT-B-16-quickgelu", ViTTower, 16, 512, 224, 12),
        ("ViT-L-14-336-quickgelu", ViTTower, 14, 768, 336, 24),
        ("RN50x4-quickgelu", ResNetTower, 32, 640, 288, 4),
        ("RN50x64-quickgelu", ResNetTower, 32, 1024, 448, 4),
        ("ViT-bigG-14-CLIPA-336", ViTTower, 14, 1280, 336, 48),
        ("EVA01-g-14-plus", TimmTower, 14, 1024, 224, 40),
        ("EVA02-E-14-plus", TimmTower, 14, 1024, 224, 64),
        ("MobileCLIP2-B", TimmTower, 16, 512, 224, 12),
        ("MobileCLIP2-L-14", TimmTower, 14, 768, 224, 24),
        ("ViTamin-XL-384", TimmTower, 16, 1152, 384, 32),
        ("vit_medium_patch16_gap_256", TimmTower, 16, 512, 256, 12),
        ("ViT-gopt-16-SigLIP2-384", TimmPoolTower, 16, 1536, 384, 40),
        ("PE-Core-bigG-14-448", TimmPoolTower, 14, 1280, 448, 50),
        ("coca_ViT-L-14", CoCaTower, 14, 768, 224, 24),
    ],
)
def test_published_models(name, kind, stride, dim, size, blocks):
    tower = image_tower_shape(name)
    assert isinstance(tower, kind)
    assert (tower.stride, tower.embed_dim, tower.native_size, tower.num_blocks) == (stride, dim, size, blocks)


def test_unknown_names_and_tags_name_the_nearest():
    with pytest.raises(InputError, match=r"'EVA02-CLIP-B-16' is unknown.*EVA02-B-16"):
        build_towers("EVA02-CLIP-B-16", None)
    with pytest.raises(InputError, match=r"'vit-b-16' is unknown.*ViT-B-16"):
        build_towers("vit-b-16", None)
    with pytest.raises(InputError, match=r"'opnai' is neither a file nor a tag.*openai.*laion2b_s34b_b88k.*null"):
        build_towers("ViT-B-16", "opnai")
    with pytest.raises(InputError, match=r"'random' is neither .* null \(None in Python\) stands for random weights"):
        build_towers("EVA02-B-16", "random")
    with pytest.raises(
        InputError, match=r"'missing\.pt' is neither a file nor a tag: the tags of 'EVA02-B-16' are merged2b"
    ):
        build_towers("EVA02-B-16", "missing.pt")


def test_every_name_of_open_clip_is_taken_or_refused_in_a_second_before_it_is_built(monkeypatch):
    monkeypatch.setattr(torch.nn.Module, "load_state_dict", None)
    refused, seconds = {}, {}
    for name in sorted(module._SHIPPED):
        start = time.process_time()
        try:
            tower = image_tower_shape(name)
        except InputError as error:
            refused[name] = str(error)
        else:
            assert all(value.is_meta for value in tower.visual.parameters())
            assert tower.native_size == tower.native_grid[0] * tower.stride
        seconds[name] = time.process_time() - start
    assert max(seconds.values()) <= 1, sorted(seconds.items(), key=lambda item: item[1])[-5:]
    assert len(refused) == 19
    for name, line in refused.items():
        assert name.startswith(("convnext", "MobileCLIP-S", "MobileCLIP2-S", "swin", "vit_relpos"))
        assert re.match(rf"model '{name}': its image tower, \w+, has no dense map: use a ViT", line)
        assert "\n" not in line


@pytest.mark.parametrize("build", [build_towers, build_image_tower])
def test_a_refused_tower_is_not_built(monkeypatch, build):
    monkeypatch.setattr(open_clip, "create_model", None)
    with pytest.raises(InputError, match="'convnext_xxlarge': its image tower, ConvNeXt, has no dense map"):
        build("convnext_xxlarge", "laion2b_s34b_b82k_augreg")


@pytest.mark.parametrize(
    "field, reason", [({"pool_type": "none"}, "pool_type is 'none'"), ({"qk_norm": True}, "custom attention blocks")]
)
def test_vits_of_another_build_are_refused(tmp_path, field, reason):
    config = {**CONFIGS["tiny-vit"], "vision_cfg": {**CONFIGS["tiny-vit"]["vision_cfg"], **field}}
    (tmp_path / "tiny-other.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=reason):
        build_image_tower(str(tmp_path / "tiny-other.json"), None)


@pytest.mark.parametrize(
    "content, reason",
    [
        (None, "cannot read"),
        ("{", "not JSON"),
        ("[]", "lacks every field"),
        ('{"embed_dim": 8}', "lacks text_cfg, vision_cfg"),
        ('{"embed_dim": 8, "vision_cfg": {"widht": 64}, "text_cfg": {}}', "widht"),
    ],
)
def test_bad_configs(tmp_path, content, reason):
    path = tmp_path / "tiny-bad.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=reason):
        build_towers(str(path), None)


def test_a_config_may_not_take_the_name_of_open_clips_own(tmp_path):
    path = tmp_path / "ViT-B-16.json"
    path.write_text(json.dumps(CONFIGS["tiny-vit"]))
    with pytest.raises(InputError, match="rename the file"):
        build_towers(str(path), None)


def test_building_says_nothing(configs, caplog):
    build_towers(configs["tiny-vit"], None)
    assert not caplog.records
