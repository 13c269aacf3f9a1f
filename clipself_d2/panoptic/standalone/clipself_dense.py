"""CLIP's scores of masks from a CLIPSelf tower's dense map, in any environment.

Copy this file beside another project's code. It needs Python 3.8, torch 1.13 and numpy, and a file that
``tools/convert_checkpoint.py --format plugin`` wrote: an image tower (OpenAI's or LAION's ViT, EVA-02) and the text
embeddings of class names, as safetensors. Such a file is a json header and plain arrays, which numpy reads in a few
lines. Nothing in it is executed, and it depends on no version of torch.

Bad input raises a ValueError of one line.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

FORMAT = "clipself_d2.plugin.1"

Classes = Sequence[Sequence[str]]


class ExportedCLIP(nn.Module):
    """A CLIP image tower with the text embeddings of some class names, read from one file.

    It moves with the module that holds it and is not part of its state dict or parameters.

    Args:
        path: written by ``tools/convert_checkpoint.py --format plugin``.
        size: side of the square that images are brought to, in pixels, a multiple of the patch. A CLIPSelf tower is at
            its best at the size of its distillation.

    Attributes:
        patch: side of a patch in pixels.
        names: the class names whose text embeddings are stored.

    Raises:
        ValueError: an unreadable file, one of another format, a size that is not a multiple of the patch.
    """

    class_token: Tensor
    positions: Tensor
    text: Tensor
    logit_scale: Tensor
    _buffers: Any

    def __init__(self, path: str | Path, size: int) -> None:
        super().__init__()
        tensors, metadata = _read_safetensors(path)
        if metadata.get("format") != FORMAT:
            raise ValueError(f"{path}: its format is {metadata.get('format')!r}, not {FORMAT!r}: export it again")
        for name, tensor in tensors.items():
            self.register_buffer(name.replace(".", "/"), tensor, persistent=False)
        self.names: list[str] = json.loads(metadata["names"])
        self._rows = {name: row for row, name in enumerate(self.names)}
        self._config: dict[str, Any] = json.loads(metadata["config"])
        self.patch = tensors["patch.weight"].shape[-1]
        if size < 1 or size % self.patch:
            raise ValueError(f"size={size}: not a multiple of the patch, {self.patch} pixels")
        self.size = size
        self.grid = size // self.patch

    @torch.no_grad()
    def embed_masks(self, images: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        """Pool masks on the dense map.

        Args:
            images: B x 3 x H x W RGB in 0..255.
            masks: B x Q x h x w logits of the same extent, at any resolution.

        Returns:
            B x Q x C unit embeddings, and B x Q bool: whether the mask covers any cell. If not, its embedding is 0.
        """
        dense = self.dense_map(images)
        size = [max(1, round(side * self.grid / max(images.shape[-2:]))) for side in images.shape[-2:]]
        with torch.autocast(dense.device.type, enabled=False):
            cells = F.interpolate(masks.float().to(dense.device), size, mode="bilinear", align_corners=False) > 0
            cells = F.pad(cells.float(), (0, dense.shape[3] - size[1], 0, dense.shape[2] - size[0]))
            weights = cells / cells.sum(dim=(2, 3), keepdim=True).clamp(min=1)
            embeddings = F.normalize(torch.einsum("bchw,bqhw->bqc", dense, weights), dim=-1)
        return embeddings, cells.flatten(2).any(dim=-1)

    def logits(self, embeddings: Tensor, classes: Classes) -> Tensor:
        """Cosines with the best synonym of each class, times CLIP's temperature factor.

        Args:
            embeddings: ... x C unit vectors.
            classes: K lists of synonyms.

        Returns:
            ... x K.

        Raises:
            ValueError: a synonym without a stored embedding.
        """
        if absent := [name for synonyms in classes for name in synonyms if name not in self._rows]:
            raise ValueError(
                f"{len(absent)} class names have no text embedding, first {absent[0]!r}: export the file with these "
                "names too (--vocabulary)"
            )
        rows = self.text[[self._rows[name] for synonyms in classes for name in synonyms]]
        with torch.autocast(embeddings.device.type, enabled=False):
            cosines = embeddings.float() @ rows.T.to(embeddings.device)
            parts = cosines.split([len(synonyms) for synonyms in classes], dim=-1)
            best = torch.stack([part.amax(dim=-1) for part in parts], dim=-1)
            return best * self.logit_scale.to(best).exp().clamp(max=100)

    @torch.no_grad()
    def dense_map(self, images: Tensor) -> Tensor:
        """One forward of letterboxed images; patches that hold nothing of the image are left out.

        Args:
            images: B x 3 x H x W RGB in 0..255.

        Returns:
            B x C x h x w fp32 unit embeddings, the upper left part of the map of the square.
        """
        longest, device = max(images.shape[-2:]), self.text.device
        shape = [_num_patches(side * self.size / longest / self.patch, self.grid) for side in images.shape[-2:]]
        pixels = images.to(device, torch.float32)
        with torch.autocast(device.type, enabled=False):
            for axis in (3, 2):
                weights = _bicubic_weights(images.shape[axis], longest, self.size, shape[axis - 2] * self.patch)
                pixels = (pixels.transpose(axis, 3) @ weights.T.to(device)).round().clamp(0, 255).transpose(axis, 3)
            mean, std = (torch.tensor(self._config[key], device=device).view(3, 1, 1) for key in ("mean", "std"))
            pixels = (pixels / 255 - mean) / std
        tokens = F.conv2d(pixels, self._buffers["patch/weight"], self._buffers.get("patch/bias"), stride=self.patch)
        tokens = tokens.flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_token.expand(len(tokens), 1, -1), tokens], dim=1)
        tokens = self._norm("pre_norm", tokens + self._positions(shape))
        rotary = self._rotary(shape, device)
        for number in range(self._config["blocks"]):
            # The last block keeps its values and drops its attention: what CLIPSelf distills.
            attention = number < self._config["blocks"] - 1
            tokens = self._block(f"blocks/{number}", tokens, rotary, attention)
        dense = self._linear("head", self._norm("norm", tokens[:, 1:])).float()
        return F.normalize(dense, dim=-1).transpose(1, 2).unflatten(2, shape)

    def _block(self, name: str, tokens: Tensor, rotary: Tensor | None, attention: bool) -> Tensor:
        normed = self._norm(f"{name}/norm1", tokens)
        value = self._linear(f"{name}/v", normed)
        if attention:
            q, k, v = (
                x.unflatten(-1, (self._config["heads"], -1)).transpose(1, 2)
                for x in (self._linear(f"{name}/q", normed), self._linear(f"{name}/k", normed), value)
            )
            if rotary is not None:
                q, k = _rotate(q, rotary), _rotate(k, rotary)
            weights = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(dim=-1)
            value = (weights @ v.to(weights)).transpose(1, 2).flatten(2)
        tokens = tokens + self._linear(f"{name}/out", self._norm(f"{name}/attention_norm", value))
        normed = self._norm(f"{name}/norm2", tokens)
        hidden = self._linear(f"{name}/fc1", normed)
        if self._config["activation"] == "swiglu":
            hidden = F.silu(self._linear(f"{name}/gate", normed)) * hidden
        elif self._config["activation"] == "quick_gelu":
            hidden = hidden * torch.sigmoid(1.702 * hidden)
        else:
            hidden = F.gelu(hidden)
        return tokens + self._linear(f"{name}/fc2", self._norm(f"{name}/mlp_norm", hidden))

    def _linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self._buffers[f"{name}/weight"], self._buffers.get(f"{name}/bias"))

    def _norm(self, name: str, x: Tensor) -> Tensor:
        """Layer norm; nothing where the family has no such norm."""
        weight = self._buffers.get(f"{name}/weight")
        if weight is None:
            return x
        return F.layer_norm(x, weight.shape, weight, self._buffers[f"{name}/bias"], self._config["eps"])

    def _positions(self, shape: Sequence[int]) -> Tensor:
        native = self._config["native_grid"]
        patches = self.positions[1:].T.unflatten(1, native)[None].float()
        if native != [self.grid, self.grid]:
            patches = F.interpolate(patches, (self.grid, self.grid), mode="bicubic", align_corners=False)
        return torch.cat([self.positions[:1], patches[0, :, : shape[0], : shape[1]].flatten(1).T])

    def _rotary(self, shape: Sequence[int], device: torch.device) -> Tensor | None:
        """EVA-02's rotations of pairs of channels, 1 + h * w complex rows; positions in units of the reference grid."""
        if self._config["rotary_grid"] is None:
            return None
        bands = self.positions.shape[1] // self._config["heads"] // 4
        frequencies = 10000 ** -(torch.arange(bands, device=device).float() / bands)
        rows, columns = (
            torch.arange(side, device=device).float() / self.grid * reference
            for side, reference in zip(shape, self._config["rotary_grid"])
        )
        angles = [(side[:, None] * frequencies) for side in (rows, columns)]
        whole = [angles[0][:, None].expand(*shape, bands), angles[1][None].expand(*shape, bands)]
        turns = torch.cat(whole, dim=-1).flatten(0, 1)
        turns = torch.cat([torch.zeros_like(turns[:1]), turns])  # the class token is not rotated
        return torch.polar(torch.ones_like(turns), turns)


def _read_safetensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read the length of a json header, the header, and the arrays that it describes."""
    try:
        data = np.memmap(path, np.uint8, "r")
        end = 8 + int.from_bytes(data[:8].tobytes(), "little")
        header = json.loads(data[8:end].tobytes())
        metadata = header.pop("__metadata__", {})
        tensors = {}
        for name, entry in header.items():
            if entry["dtype"] != "F32":
                raise ValueError(f"{name} is {entry['dtype']}, not F32")
            start, stop = entry["data_offsets"]
            array = np.array(data[end + start : end + stop]).view(np.float32).reshape(entry["shape"])
            tensors[name] = torch.from_numpy(array)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: is no file of tools/convert_checkpoint.py --format plugin ({error})") from error
    return tensors, metadata


def _num_patches(patches: float, grid: int) -> int:
    """Patches that hold something of the image; a rounding error of the factor does not count."""
    return min(grid, max(1, math.ceil(patches - 1e-6)))


def _bicubic_weights(pixels: int, longest: int, size: int, padded: int) -> Tensor:
    """Pillow's antialiased bicubic along one side: padded x pixels; rows beyond the image are zero, which is black."""
    content = max(1, round(pixels * (size / longest)))
    scale = torch.tensor(pixels / content)
    target, source = torch.arange(padded)[:, None], torch.arange(pixels)
    distance = (source + 0.5 - (target + 0.5) * scale).div(scale.clamp(min=1)).abs()
    near = (1.5 * distance - 2.5) * distance * distance + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    weights = torch.where(distance < 1, near, torch.where(distance < 2, far, torch.zeros_like(far)))
    weights = weights * (target < content)
    return weights / weights.sum(dim=1, keepdim=True).clamp(min=1e-6)


def _rotate(x: Tensor, turns: Tensor) -> Tensor:
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * turns).flatten(-2).to(x.dtype)
