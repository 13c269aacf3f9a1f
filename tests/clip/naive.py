"""The towers' arithmetic once more, from the state dict alone: double precision, explicit loops over queries."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from open_clip import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from torch import Tensor

State = dict[str, Tensor]


def linear(state: State, name: str, x: Tensor) -> Tensor:
    out = x @ state[f"{name}.weight"].T
    return out + state[f"{name}.bias"] if f"{name}.bias" in state else out


def layer_norm(state: State, name: str, x: Tensor, eps: float) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return (
        centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt() * state[f"{name}.weight"]
        + state[f"{name}.bias"]
    )


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    heads: int,
    allowed: Tensor | None = None,
    added: Tensor | None = None,
) -> Tensor:
    """Softmax attention, one query at a time, without batch; ``allowed`` and ``added`` are ``queries x keys``."""
    out = torch.zeros(len(query), value.shape[1], dtype=value.dtype)
    width = query.shape[1] // heads
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        for i in range(len(query)):
            keep = torch.ones(len(key), dtype=torch.bool) if allowed is None else allowed[i]
            logits = key[keep][:, part] @ query[i, part] / math.sqrt(width)
            logits = logits if added is None else logits + added[i, keep]
            weights = torch.exp(logits - logits.max())
            out[i, part] = (weights / weights.sum()) @ value[keep][:, part]
    return out


def positions(embedding: Tensor, native: int, size: tuple[int, int]) -> Tensor:
    grid = embedding[1:].reshape(native, native, -1).permute(2, 0, 1)[None]
    grid = F.interpolate(grid, size=size, mode="bicubic", align_corners=False, antialias=False)
    return torch.cat([embedding[:1], grid[0].permute(1, 2, 0).reshape(size[0] * size[1], -1)])


def guided_weights(patches: Tensor, beta: float = 1.2, gamma: float = 3.0) -> Tensor:
    """ProxyCLIP's attention of patches ``N x C`` to each other, pair by pair."""
    cosines = [[float(a @ b / (a.norm() * b.norm())) for b in patches] for a in patches]
    mean = sum(map(sum, cosines)) / len(patches) ** 2
    weights = torch.zeros(len(patches), len(patches), dtype=torch.double)
    for i, row in enumerate(cosines):
        scores = {j: gamma * (cosine - beta * mean) for j, cosine in enumerate(row)}
        kept = {j: math.exp(score) for j, score in scores.items() if score >= 0 or j == i}
        for j, share in kept.items():
            weights[i, j] = share / sum(kept.values())
    return weights


class NaiveViT:
    """open_clip's VisionTransformer. Images ``3 x H x W``; results without batch."""

    norms = ("ln_1", "ln_2")
    eps = 1e-5

    def __init__(self, state: State, heads: int, patch: int = 8, native: int = 4, quick: bool = False) -> None:
        self.state = {key.removeprefix("visual."): value.double() for key, value in state.items()}
        self.heads, self.patch, self.native, self.quick = heads, patch, native, quick
        self.depth = 1 + max(int(key.split("blocks.")[1].split(".")[0]) for key in self.state if "blocks." in key)

    def block(self, i: int) -> str:
        return f"transformer.resblocks.{i}"

    def patches(self, image: Tensor, name: str = "conv1") -> Tensor:
        p = self.patch
        rows = [
            image[:, y : y + p, x : x + p].reshape(-1)
            for y in range(0, image.shape[1], p)
            for x in range(0, image.shape[2], p)
        ]
        weight = self.state[f"{name}.weight"]
        out = torch.stack(rows).double() @ weight.reshape(len(weight), -1).T
        return out + self.state[f"{name}.bias"] if f"{name}.bias" in self.state else out

    def embed(self, image: Tensor) -> Tensor:
        tokens = torch.cat([self.state["class_embedding"][None], self.patches(image)])
        tokens = tokens + positions(self.state["positional_embedding"], self.native, self.size(image))
        return layer_norm(self.state, "ln_pre", tokens, self.eps) if "ln_pre.weight" in self.state else tokens

    def size(self, image: Tensor) -> tuple[int, int]:
        return image.shape[1] // self.patch, image.shape[2] // self.patch

    def qkv(self, i: int, x: Tensor, size: tuple[int, int], readers: int) -> list[Tensor]:
        x = layer_norm(self.state, f"{self.block(i)}.ln_1", x, self.eps)
        name = f"{self.block(i)}.attn.in_proj"
        return list((x @ self.state[f"{name}_weight"].T + self.state[f"{name}_bias"]).chunk(3, dim=1))

    def scale(self, i: int, name: str, x: Tensor) -> Tensor:
        return x * self.state.get(f"{self.block(i)}.{name}.gamma", torch.ones(()))

    def after(self, i: int, x: Tensor, attended: Tensor, mlp: bool = True) -> Tensor:
        name = self.block(i)
        x = x + self.scale(i, "ls_1", linear(self.state, f"{name}.attn.out_proj", attended))
        if not mlp:
            return x
        hidden = linear(self.state, f"{name}.mlp.c_fc", layer_norm(self.state, f"{name}.ln_2", x, self.eps))
        hidden = (
            hidden / (1 + torch.exp(-1.702 * hidden)) if self.quick else hidden * (1 + torch.erf(hidden / 2**0.5)) / 2
        )
        return x + self.scale(i, "ls_2", linear(self.state, f"{name}.mlp.c_proj", hidden))

    def project(self, x: Tensor) -> Tensor:
        return layer_norm(self.state, "ln_post", x, self.eps) @ self.state["proj"]

    # what the tests compare with

    def run(self, image: Tensor, dense_mode: str) -> list[Tensor]:
        """Tokens after every block, and what the dense mode projects."""
        x, out = self.embed(image), []
        projected = torch.zeros_like(x)
        for i in range(self.depth):
            query, key, value = self.qkv(i, x, self.size(image), 0)
            if dense_mode == "values" and i >= self.depth - 3:
                read = self.after(i, torch.zeros_like(x), value, mlp=False)
                projected = projected + read
            elif i == self.depth - 1:
                projected = read = self.read_last(image, x, query, key, value, dense_mode)
            last = i == self.depth - 1
            x = read if last else self.after(i, x, attention(query, key, value, self.heads))
            out.append(x)
        return [*out, projected]

    def read_last(self, image: Tensor, x: Tensor, query: Tensor, key: Tensor, value: Tensor, mode: str) -> Tensor:
        """The last block's output in a dense mode."""
        last, nothing = self.depth - 1, torch.zeros_like(x)
        if mode == "no_attn":
            return self.after(last, x, value)
        if mode == "class_residual":
            return self.after(last, x[:1].repeat(len(x), 1), value)
        if mode == "full":
            return self.after(last, x, attention(query, key, value, self.heads))
        if mode == "qq":
            return self.after(last, x, attention(query, query, value, self.heads))
        if mode == "kk":
            return self.after(last, x, attention(key, key, value, self.heads))
        if mode == "sclip":
            both = attention(query, query, value, self.heads) + attention(key, key, value, self.heads)
            return self.after(last, x, both)
        if mode == "clearclip":
            return self.after(last, nothing, attention(query, query, value, self.heads), mlp=False)
        if mode == "declip":
            plain = self.unrotated_query(last, x) * (x.shape[1] // self.heads) ** 0.25
            return self.after(last, nothing, attention(plain, plain, value, self.heads), mlp=False)
        if mode == "proxyclip":
            return self.after(last, nothing, self.guided(image) @ value, mlp=False)
        assert mode == "naclip"
        near = attention(key, key, value, self.heads, added=self.neighborhood(image, std=5))
        return self.after(last, nothing, near, mlp=False)

    def unrotated_query(self, i: int, x: Tensor) -> Tensor:
        return self.qkv(i, x, (0, 0), len(x) - 1)[0]

    def guided(self, image: Tensor) -> Tensor:
        """By the patches' mean colors (`guide.MeanColors`); the class token gives and takes nothing."""
        colors = image * torch.tensor(OPENAI_DATASET_STD)[:, None, None]
        colors = (colors + torch.tensor(OPENAI_DATASET_MEAN)[:, None, None] - 0.5).double()
        height, width = self.size(image)
        squares = [
            colors[:, y * self.patch : (y + 1) * self.patch, x * self.patch : (x + 1) * self.patch]
            for y in range(height)
            for x in range(width)
        ]
        weights = torch.zeros(1 + len(squares), 1 + len(squares), dtype=torch.double)
        weights[1:, 1:] = guided_weights(torch.stack([square.mean(dim=(1, 2)) for square in squares]))
        return weights

    def neighborhood(self, image: Tensor, std: float) -> Tensor:
        height, width = self.size(image)
        places = [(y, x) for y in range(height) for x in range(width)]
        added = torch.zeros(1 + len(places), 1 + len(places), dtype=torch.double)
        for i, (y, x) in enumerate(places):
            for j, (other_y, other_x) in enumerate(places):
                added[1 + i, 1 + j] = math.exp(-((y - other_y) ** 2 + (x - other_x) ** 2) / (2 * std**2))
        return added

    def dense(self, image: Tensor, dense_mode: str) -> Tensor:
        rows = self.project(self.run(image, dense_mode)[-1][1:])
        rows = rows / rows.norm(dim=1, keepdim=True)
        return rows.T.reshape(-1, *self.size(image))

    def image(self, image: Tensor) -> Tensor:
        return self.project(self.run(image, "full")[-1][0])

    def masked(self, image: Tensor, masks: Sequence[Tensor]) -> Tensor:
        """One sequence of regions, class token and patches under one square mask."""
        tokens, count = self.embed(image), len(masks)
        x = torch.cat([tokens[:1].repeat(count, 1), tokens])
        allowed = torch.zeros(len(x), len(x), dtype=torch.bool)
        allowed[:, count:] = True
        for i, mask in enumerate(masks):
            allowed[i, count + 1 :] = mask.flatten()
        for i in range(self.depth):
            query, key, value = self.qkv(i, x, self.size(image), count)
            x = self.after(i, x, attention(query, key, value, self.heads, allowed))
        return self.project(x[:count])


class NaiveEVA(NaiveViT):
    """EVA-02-CLIP, under timm's names."""

    eps = 1e-6

    def __init__(self, state: State, heads: int, patch: int = 8, native: int = 4) -> None:
        super().__init__({key.replace("trunk.", ""): value for key, value in state.items()}, heads, patch, native)

    def block(self, i: int) -> str:
        return f"blocks.{i}"

    def embed(self, image: Tensor) -> Tensor:
        tokens = torch.cat([self.state["cls_token"][0], self.patches(image, "patch_embed.proj")])
        return tokens + positions(self.state["pos_embed"][0], self.native, self.size(image))

    def rotate(self, x: Tensor, size: tuple[int, int], skip: int) -> Tensor:
        """Turn neighbouring channels of each head by position times frequency; the first ``skip`` tokens stay."""
        out, width = x.clone(), x.shape[1] // self.heads
        quarter = width // 4
        frequencies = [10000 ** (-j / quarter) for j in range(quarter)]
        for n in range(len(x) - skip):
            row, column = n // size[1] / size[0] * 16, n % size[1] / size[1] * 16
            for head in range(self.heads):
                for half, position in enumerate((row, column)):
                    for j, frequency in enumerate(frequencies):
                        at = head * width + half * width // 2 + 2 * j
                        a, b = x[skip + n, at].item(), x[skip + n, at + 1].item()
                        sin, cos = math.sin(position * frequency), math.cos(position * frequency)
                        out[skip + n, at], out[skip + n, at + 1] = a * cos - b * sin, b * cos + a * sin
        return out

    def qkv(self, i: int, x: Tensor, size: tuple[int, int], readers: int) -> list[Tensor]:
        x = layer_norm(self.state, f"{self.block(i)}.norm1", x, self.eps)
        query, key, value = (linear(self.state, f"{self.block(i)}.attn.{n}_proj", x) for n in "qkv")
        return [self.rotate(query, size, readers + 1), self.rotate(key, size, readers + 1), value]

    def after(self, i: int, x: Tensor, attended: Tensor, mlp: bool = True) -> Tensor:
        name, s = self.block(i), self.state
        x = x + linear(s, f"{name}.attn.proj", layer_norm(s, f"{name}.attn.norm", attended, self.eps))
        if not mlp:
            return x
        y = layer_norm(s, f"{name}.norm2", x, self.eps)
        gate = linear(s, f"{name}.mlp.fc1_g", y)
        hidden = gate / (1 + torch.exp(-gate)) * linear(s, f"{name}.mlp.fc1_x", y)
        return x + linear(s, f"{name}.mlp.fc2", layer_norm(s, f"{name}.mlp.norm", hidden, self.eps))

    def project(self, x: Tensor) -> Tensor:
        return linear(self.state, "head", layer_norm(self.state, "norm", x, self.eps))
