"""What files of weights hold, and what towers that are built of them give."""

import torch

from clipself_d2.clip import build_towers


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
