"""A CLIP image tower as a Detectron2 backbone: a feature pyramid and the dense map from one forward."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from torch import Tensor

from clipself_d2.backbones.frozen_tower import HoldsTower
from clipself_d2.backbones.pyramid import Pyramid, level_names
from clipself_d2.clip.tower import ImageTower
from clipself_d2.errors import InputError


class CLIPBackbone(HoldsTower, Backbone):
    """Levels ``p2``, ``p3``, .. of a pyramid on a tower's blocks, and the tower's ``dense`` map.

    What does not train of the tower is not part of the state dict, see `HoldsTower`.

    Args:
        tower: a CLIP image tower whose blocks have a single scale (a plain ViT).
        blocks: 0-based blocks whose outputs feed the pyramid's levels, fine to coarse; the paper's are 3, 5, 7, 11 of
            B/16 and 6, 10, 14, 23 of L/14. A block may be repeated (Tab. A3, "last block").
        pyramid: `FPNPyramid` or `SimplePyramid`.
        trainable: train the tower's blocks too (Tab. A3); the optimizer sets their learning rate.
        dense_mode: dense mode of the tower; with "no_attn" the last block's output is that of the block without
            attention.
        square_size: side in pixels of the squares that Detectron2's own models pad their batches to, a multiple of the
            tower's stride; 0 for none (`FViT` has a size of its own).

    Raises:
        InputError: a ResNet; another number of blocks than the pyramid reads; a block that the tower does not have; a
            trainable tower whose last block no level reads; a square size that the tower cannot read.
    """

    def __init__(
        self,
        tower: ImageTower,
        blocks: Sequence[int],
        pyramid: Pyramid,
        trainable: bool = False,
        dense_mode: str = "no_attn",
        square_size: int = 0,
    ) -> None:
        super().__init__()
        if not tower.single_scale:
            raise InputError("backbone: the pyramid is built on the blocks of a ViT: clip.name must not be a ResNet")
        tower.check_blocks(blocks)
        tower.check_dense_mode(dense_mode)
        if len(blocks) != pyramid.num_inputs:
            raise InputError(f"backbone: {len(blocks)} blocks for a pyramid that reads {pyramid.num_inputs} maps")
        if trainable and tower.num_blocks - 1 not in blocks:
            raise InputError(
                f"backbone: blocks {list(blocks)} leave out the last one, {tower.num_blocks - 1}, which then could not "
                "be trained: name it too, or set trainable=False"
            )
        if square_size:
            tower.check_size(square_size, "backbone: square_size")
        self.blocks = list(blocks)
        self.pyramid = pyramid
        self.trainable = trainable
        self.dense_mode = dense_mode
        self.square_size = square_size
        self.level_names = level_names(len(pyramid.scales))
        if trainable:
            tower.set_trainable_blocks(tower.num_blocks, dense_mode)
        self.hold_tower(tower, trainable)

    @property
    def size_divisibility(self) -> int:
        """Sides of the input must be multiples of this."""
        return self.tower.stride

    @property
    def padding_constraints(self) -> dict[str, int]:
        """What Detectron2's own models ask for before they make a batch."""
        return {"square_size": self.square_size}

    @property
    def strides(self) -> list[float]:
        """The levels' strides in pixels of the input: 4, 8, 16, 32, 64 for B/16, 3.5, 7, 14, 28, 56 for L/14."""
        return [self.tower.stride / scale for scale in self.pyramid.scales]

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and stride of every output."""
        shapes = {
            name: ShapeSpec(channels=self.pyramid.channels, stride=int(stride) if stride.is_integer() else stride)
            for name, stride in zip(self.level_names, self.strides, strict=True)
        }
        return {**shapes, "dense": ShapeSpec(channels=self.tower.embed_dim, stride=self.tower.stride)}

    def forward(self, images: Tensor, padded_size: int | None = None) -> dict[str, Tensor]:
        """Run the tower once.

        Args:
            images: B x 3 x H x W, normalized, sides multiples of the tower's stride.
            padded_size: side of the square of which the images are the upper left part, see `ImageTower.features`.

        Returns:
            The pyramid's levels by name, and ``dense``: B x C x h x w unit embeddings, fp32.
        """
        with nullcontext() if self.trainable else torch.no_grad():
            dense, maps = self.tower.features(images, self.blocks, self.dense_mode, padded_size)
        levels = self.pyramid(maps)
        return {**dict(zip(self.level_names, levels, strict=True)), "dense": dense.detach()}
