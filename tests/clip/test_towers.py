"""What every family of image tower promises."""

import copy

import open_clip
import pytest
import torch
import torch.nn.functional as F
from torch._dynamo.testing import CompileCounter

from clipself_d2.clip import build_image_tower, build_towers
from clipself_d2.clip.dense_modes import DENSE_MODES
from clipself_d2.errors import InputError

from .conftest import FAMILIES, TRANSFORMERS, randomize
from .guide import MeanColors


@pytest.fixture(params=FAMILIES)
def tower(request, towers):
    found = towers(request.param)[0]
    if "proxyclip" in found.dense_modes:
        found.hold_frozen("guide", MeanColors(found.stride))
    return found


def images_for(tower, height: int = 3, width: int = 2, batch: int = 2):
    return torch.randn(batch, 3, height * tower.stride, width * tower.stride)


@pytest.mark.parametrize("mode", ["no_attn", "full"])
def test_features_have_the_promised_shapes_and_norms(tower, mode):
    if mode not in tower.dense_modes:
        pytest.skip("CoCa has no such mode")
    blocks = [tower.num_blocks - 1, 0]
    dense, maps = tower.features(images_for(tower), blocks, mode)
    assert dense.shape == (2, tower.embed_dim, 3, 2)
    assert dense.dtype == torch.float32
    torch.testing.assert_close(dense.norm(dim=1), torch.ones(2, 3, 2))
    assert maps[0].shape == (2, tower.block_dim, 3, 2)
    assert len(maps) == 2 and len(maps[1]) == 2


def test_maps_and_blocks_do_not_depend_on_what_else_is_asked_for(tower):
    images = images_for(tower)
    dense, maps = tower.features(images, [0, tower.num_blocks - 1])
    torch.testing.assert_close(tower.dense_embeddings(images), dense, atol=1e-6, rtol=0)
    for block, together in zip((0, tower.num_blocks - 1), maps, strict=True):
        [alone] = tower.features(images, [block]).blocks
        torch.testing.assert_close(alone, together, atol=1e-5, rtol=1e-5)


def test_images_of_a_batch_do_not_meet(tower):
    images = images_for(tower, batch=3)
    together = tower.dense_embeddings(images)
    for n in range(3):
        torch.testing.assert_close(tower.dense_embeddings(images[n : n + 1])[0], together[n], atol=1e-5, rtol=0)


def test_a_class_token_that_sees_everything_is_the_image_embedding(tower):
    images = images_for(tower)
    masks = [torch.ones(2, 3, 2, dtype=torch.bool), torch.ones(0, 3, 2, dtype=torch.bool)]
    everything, nothing = tower.masked_embeddings(images, masks)
    assert nothing.shape == (0, tower.embed_dim)
    expected = tower.image_embeddings(images)[:1].expand(2, -1)
    torch.testing.assert_close(everything, expected, atol=1e-4, rtol=1e-4)


def test_masked_embeddings_of_no_region(tower):
    none = [torch.ones(0, 3, 2, dtype=torch.bool)] * 2
    assert [rows.shape for rows in tower.masked_embeddings(images_for(tower), none)] == [(0, tower.embed_dim)] * 2


def test_masked_embedding_ignores_what_is_masked_in_the_last_stage(towers):
    """Of a ResNet, where nothing but the pool mixes far locations: changing a hidden location changes nothing else."""
    tower, _ = towers("tiny-resnet")
    tokens = torch.randn(1, 7, tower.block_dim)
    seen = torch.tensor([[[True, True, False, True, True, True, True]]])
    other = tokens.clone()
    other[:, 2] += 1
    with torch.no_grad():
        assert torch.allclose(tower._attend(tokens[:, :1], tokens, seen), tower._attend(tokens[:, :1], other, seen))
        assert not torch.allclose(tower._attend(tokens[:, :1], tokens), tower._attend(tokens[:, :1], other))


@pytest.mark.parametrize("name", FAMILIES)
def test_image_embeddings_are_open_clips(configs, name):
    tower, _ = build_towers(configs[name], None)
    randomize(tower)
    model = open_clip.create_model(name).eval()
    model.load_state_dict(tower.state_dict(), strict=False)
    images = torch.randn(2, 3, tower.native_size, tower.native_size)
    with torch.no_grad():
        torch.testing.assert_close(tower.image_embeddings(images), model.encode_image(images), atol=1e-5, rtol=1e-5)


def test_state_dict_is_open_clips_visual(tower):
    state = tower.state_dict()
    assert all(key.startswith("visual.") for key in state)
    assert set(state) == {f"visual.{key}" for key in tower.visual.state_dict()}


def test_normalize_is_the_published_statistics(tower):
    images = torch.randint(0, 256, (2, 3, 4, 5), dtype=torch.uint8)
    mean, std = (torch.tensor(s).view(3, 1, 1) for s in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD))
    torch.testing.assert_close(tower.normalize(images), (images / 255.0 - mean) / std)
    torch.testing.assert_close(tower.normalize(images.float()), tower.normalize(images))


# ---- training ----


@pytest.mark.parametrize("mode", DENSE_MODES)
@pytest.mark.parametrize("n", [0, 1, 2])
def test_exactly_the_last_blocks_train_and_all_get_gradients(tower, n, mode):
    if mode not in tower.dense_modes:
        pytest.skip("a mode of other towers")
    tower.train()
    tower.set_trainable_blocks(n, mode)
    trainable = {name for name, p in tower.named_parameters() if p.requires_grad}
    prefixes = tuple(
        f"{name}." for name, m in tower.named_modules() if any(m is u for u in list(tower.trainable_units())[-n:] if n)
    )
    assert all(name.startswith(prefixes) for name in trainable) if n else not trainable
    if not n:
        return
    inside = {name for name, _ in tower.named_parameters() if name.startswith(prefixes)}
    frozen = inside - trainable
    assert all(
        any(part in name for part in (".q_proj", ".k_proj", ".mlp.", "norm2.", "ln_2.", "ls_2.", ".ls2."))
        for name in frozen
    )
    assert not frozen or mode != "full"
    dense = tower.dense_embeddings(images_for(tower), mode)
    (dense * torch.randn_like(dense)).sum().backward()
    assert not [name for name in trainable if tower.get_parameter(name).grad is None]


def test_wrong_numbers_of_blocks(tower):
    for n in (-1, tower.num_blocks + 1):
        with pytest.raises(InputError, match=rf"trainable_blocks is {n}: .*0\.\.{tower.num_blocks}"):
            tower.set_trainable_blocks(n)


def test_eva_value_mode_freezes_unused_queries_and_keys(towers):
    tower, _ = towers("tiny-eva")
    tower.set_trainable_blocks(2)
    frozen = {n for n, p in tower.named_parameters() if not p.requires_grad and ".blocks.2." in n}
    assert frozen == {f"visual.trunk.blocks.2.attn.{x}" for x in ("q_proj.weight", "q_proj.bias", "k_proj.weight")}
    tower.set_trainable_blocks(2, "full")
    assert all(p.requires_grad for n, p in tower.named_parameters() if ".blocks.2." in n)


def test_activation_checkpointing_changes_no_gradient(tower):
    images, weights = images_for(tower), torch.randn(2, tower.embed_dim, 3, 2)
    gradients = []
    for enabled in (False, True):
        tower.set_trainable_blocks(2)
        tower.set_activation_checkpointing(enabled)
        tower.zero_grad()
        (tower.dense_embeddings(images) * weights).sum().backward()
        gradients.append([p.grad.clone() for p in tower.parameters() if p.grad is not None])
    assert gradients[0]
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, recomputed)


def test_activation_checkpointing_recomputes_the_blocks(towers):
    tower, _ = towers("tiny-vit")
    calls = []
    tower.visual.transformer.resblocks[1].ln_1.register_forward_hook(lambda *_: calls.append(1))
    tower.set_activation_checkpointing(True)
    tower.dense_embeddings(images_for(tower)).sum().backward()
    assert len(calls) == 2


def test_resnet_statistics_stay_while_it_trains(towers):
    tower, _ = towers("tiny-resnet")
    before = {k: v.clone() for k, v in tower.state_dict().items() if "running" in k or "tracked" in k}
    tower.train()
    tower.dense_embeddings(images_for(tower))
    assert all(torch.equal(tower.state_dict()[k], v) for k, v in before.items())


def test_autocast_gives_nearly_the_same_embeddings(tower):
    images = images_for(tower)
    dense, whole = tower.dense_embeddings(images), tower.image_embeddings(images)
    with torch.autocast("cpu", torch.bfloat16):
        low_dense, low_whole = tower.dense_embeddings(images), tower.image_embeddings(images)
    assert low_dense.dtype == torch.float32
    torch.testing.assert_close(low_dense.norm(dim=1), torch.ones(2, 3, 2))
    assert F.cosine_similarity(low_dense, dense, dim=1).min() > 0.98
    assert F.cosine_similarity(low_whole.float(), whole, dim=1).min() > 0.98


# ---- cached tables ----


def test_cached_tables_notice_new_weights_and_survive_modes(tower):
    images = images_for(tower)
    tower.set_trainable_blocks(1)
    with torch.inference_mode():
        first = tower.dense_embeddings(images).clone()
    tower.dense_embeddings(images).sum().backward()  # the table made in inference mode is no hindrance
    torch.testing.assert_close(tower.dense_embeddings(images).detach(), first, atol=1e-6, rtol=0)

    twin = copy.deepcopy(tower)
    randomize(twin)
    expected = twin.dense_embeddings(images)
    tower.load_state_dict(twin.state_dict())
    torch.testing.assert_close(tower.dense_embeddings(images), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_positional_embedding_can_train(towers, name):
    tower, _ = towers(name)
    tower.dense_embeddings(images_for(tower)).square()[:, 0].sum().backward()
    parameters = dict(tower.named_parameters())
    (key,) = [key for key in parameters if "visual" in key and ("pos_embed" in key or "positional" in key)]
    assert parameters[key].grad.abs().sum() > 0


def test_tables_of_few_sizes_are_kept(towers):
    tower, _ = towers("tiny-eva")
    tower.set_trainable_blocks(0)
    for width in range(1, 20):
        tower.dense_embeddings(images_for(tower, 1, width, 1))
    assert len(tower.tables.tables) <= tower.tables.capacity


@pytest.mark.parametrize(("name", "autocast"), [("tiny-vit", False), ("tiny-eva", True), ("tiny-resnet", False)])
def test_blocks_compile_without_graph_breaks_and_give_the_same(towers, name, autocast):
    tower, _ = towers(name)
    images = images_for(tower)
    tower.set_trainable_blocks(1)
    graphs = CompileCounter()
    torch.compiler.reset()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        expected = (
            tower.features(images, (0,), "full").dense,
            tower.dense_embeddings(images),
            tower.image_embeddings(images),
        )
        tower.compile(backend=graphs, fullgraph=True)
        compiled = (
            tower.features(images, (0,), "full").dense,
            tower.dense_embeddings(images),
            tower.image_embeddings(images),
        )
    tolerance = {"atol": 0.05, "rtol": 0.05} if autocast else {"atol": 1e-5, "rtol": 1e-5}
    torch.testing.assert_close(compiled, expected, **tolerance)
    compiled[0].sum().backward()
    units = list(tower.trainable_units())
    assert all(p.grad is not None for p in units[-1].parameters() if p.requires_grad)
    # A transformer's blocks share a graph for each way through a block, and one more for the last, which has gradients.
    assert 0 < graphs.frame_count <= max(6, len(units))


@pytest.mark.parametrize("name", ["tiny-vit", "tiny-eva"])
def test_a_whole_tower_is_one_graph(towers, name):
    tower, _ = towers(name)
    tower.set_trainable_blocks(1)
    images = images_for(tower)
    for path in (tower.dense_embeddings, tower.image_embeddings):
        torch.compiler.reset()
        whole = torch.compile(path, backend="eager", fullgraph=True)
        torch.testing.assert_close(whole(images), path(images), atol=1e-5, rtol=1e-5)


def test_blocks_are_compiled_once_for_all_sizes(towers):
    tower, _ = towers("tiny-eva")
    tower.set_trainable_blocks(0)
    graphs = CompileCounter()
    torch.compiler.reset()
    tower.compile(backend=graphs)
    for columns in range(2, 9):
        tower.dense_embeddings(images_for(tower, 3, columns, 1))
    assert graphs.frame_count == 2  # of the ordinary block and of the last


def test_any_number_of_crops_shares_a_graph(towers):
    """A batch of crops has as many as its images' regions."""
    tower, _ = towers("tiny-eva")
    tower.set_trainable_blocks(0)
    graphs = CompileCounter()
    torch.compiler.reset()
    tower.compile(backend=graphs, fullgraph=True)
    for count in (25, 26, 3, 40):
        tower.image_embeddings(images_for(tower, batch=count))
    assert graphs.frame_count == 2


# ---- wrong input ----


def test_sizes_that_are_no_multiple_of_the_stride(tower):
    s = tower.stride
    with pytest.raises(InputError, match=f"image size {s} x {s + 1} .*stride {s}"):
        tower.dense_embeddings(torch.zeros(1, 3, s, s + 1))
    with pytest.raises(InputError, match="stride"):
        tower.image_embeddings(torch.zeros(1, 3, s + 3, s))


def test_unknown_modes_blocks_and_masks(tower):
    images = images_for(tower)
    with pytest.raises(InputError, match="mode 'vale' is unknown: use one of no_attn"):
        tower.dense_embeddings(images, "vale")
    with pytest.raises(InputError, match=r"blocks \[7\] do not exist: .*0\.\."):
        tower.features(images, [0, 7])
    with pytest.raises(InputError, match="1 sets of masks for 2 images"):
        tower.masked_embeddings(images, [torch.ones(1, 3, 2, dtype=torch.bool)])
    with pytest.raises(InputError, match="R x 3 x 2"):
        tower.masked_embeddings(images, [torch.ones(1, 2, 3, dtype=torch.bool)] * 2)


def test_a_resnet_has_no_class_residual(towers):
    tower, _ = towers("tiny-resnet")
    with pytest.raises(InputError, match=r"'class_residual' is unknown: use one of no_attn, full$"):
        tower.dense_embeddings(images_for(tower), "class_residual")


def test_real_eva_runs_in_bf16():
    tower = build_image_tower("EVA02-B-16", None)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        dense, blocks = tower.features(torch.randn(1, 3, 448, 640), [3, 5, 7, 11])
    assert dense.shape == (1, 512, 28, 40)
    assert dense.isfinite().all()
    assert [b.shape for b in blocks] == [(1, 768, 28, 40)] * 4
