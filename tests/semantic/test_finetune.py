"""Compare what may change element by element, after steps of an optimizer that decays all its parameters."""

import copy

import pytest
import torch

from clipself_d2.clip.dense_modes import DENSE_MODES
from clipself_d2.semantic import train_queries_and_values
from tests.clip.guide import MeanColors


def projections(tower):
    """Query, key and value matrices of each block, copied."""
    found = []
    for block in tower.trainable_units():
        if hasattr(block.attn, "q_proj"):
            parts = (block.attn.q_proj.weight, block.attn.k_proj.weight, block.attn.v_proj.weight)
        else:
            parts = block.attn.in_proj_weight.chunk(3)
        found.append([part.detach().clone() for part in parts])
    return found


def others(tower):
    names = ("in_proj_weight", "q_proj.weight", "v_proj.weight", "k_proj.weight")
    return {n: v.clone() for n, v in tower.state_dict().items() if not any(name in n for name in names)}


@pytest.mark.parametrize("mode", DENSE_MODES)
def test_only_queries_and_values_change(tower, mode):
    tower.hold_frozen("guide", MeanColors(tower.stride))
    images = torch.randn(2, 3, 2 * tower.stride, 2 * tower.stride)
    before, rest, plain = projections(tower), others(tower), copy.deepcopy(tower)
    train_queries_and_values(tower, mode)
    assert torch.allclose(tower.dense_embeddings(images, mode), plain.dense_embeddings(images, mode), atol=1e-6)
    trained = [p for p in tower.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-2, weight_decay=0.5)
    target = torch.randn_like(tower.dense_embeddings(images, mode))
    for _ in range(2):
        (tower.dense_embeddings(images, mode) * target).sum().backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in trained)
        assert all(p.grad is None for p in tower.parameters() if not p.requires_grad)
        optimizer.step()
        optimizer.zero_grad()
    unread = ("no_attn", "class_residual", "kk", "naclip", "values", "proxyclip")
    for number, (old, new) in enumerate(zip(before, projections(tower), strict=True)):
        last = number == len(before) - 1
        assert torch.equal(old[1], new[1])
        assert torch.equal(old[0], new[0]) == (last and mode in unread)
        assert not torch.equal(old[2], new[2])
    assert all(torch.equal(value, tower.state_dict()[name]) for name, value in rest.items())


def test_a_tower_that_was_trained_is_an_ordinary_one_again(tower):
    plain = copy.deepcopy(tower)
    train_queries_and_values(tower)
    train_queries_and_values(tower)  # twice is once
    with torch.no_grad():
        for p in tower.parameters():
            if p.requires_grad:
                p.add_(0.01)
    images = torch.randn(1, 3, 2 * tower.stride, 2 * tower.stride)
    expected = tower.dense_embeddings(images)
    tower.fuse_projections()
    assert tower.state_dict().keys() == plain.state_dict().keys()
    plain.load_state_dict(tower.state_dict())
    assert torch.allclose(plain.dense_embeddings(images), expected, atol=1e-6)


@pytest.mark.parametrize("frozen", [True, False])
def test_a_copy_is_fused_while_the_tower_trains_on(tower, frozen):
    train_queries_and_values(tower)
    if frozen:
        tower.requires_grad_(False)
    names = {name for name, _ in tower.named_parameters()}
    images = torch.randn(1, 3, 2 * tower.stride, 2 * tower.stride)
    fused = copy.deepcopy(tower)
    with torch.no_grad():
        fused.fuse_projections()
    assert torch.allclose(fused.dense_embeddings(images), tower.dense_embeddings(images), atol=1e-6)
    assert {name for name, _ in tower.named_parameters()} == names
    # every entry of the state dict but the buffers is a parameter, which an optimizer would get
    buffers = {name for name, _ in fused.named_buffers()}
    assert {name for name, _ in fused.named_parameters()} == set(fused.state_dict()) - buffers
    assert any(p.requires_grad for p in fused.parameters()) != frozen
    tower.fuse_projections()
    assert all(torch.equal(tower.state_dict()[name], value) for name, value in fused.state_dict().items())
