"""A module on an image tower: of a frozen tower, a checkpoint holds the fingerprint instead of the weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from clipself_d2.clip.checkpoint import content_hash
from clipself_d2.clip.frozen import FrozenModules
from clipself_d2.clip.tower import ImageTower
from clipself_d2.errors import InputError


class HoldsTower(FrozenModules):
    """Has one image tower: the submodule ``trained_tower`` if it trains, else held frozen as ``frozen_tower``.

    With a frozen tower the state dict has the buffer ``tower_fingerprint`` and is refused beside another tower.
    """

    frozen_tower: ImageTower
    tower_fingerprint: Tensor

    def hold_tower(self, tower: ImageTower) -> None:
        """Hold a tower frozen."""
        self.hold_frozen("frozen_tower", tower)
        fingerprint = torch.frombuffer(bytearray(content_hash(tower.state_dict())), dtype=torch.uint8)
        self.register_buffer("tower_fingerprint", fingerprint)
        self.register_load_state_dict_pre_hook(_check_fingerprint)

    @property
    def tower(self) -> ImageTower:
        """The tower, frozen or not."""
        return self._modules.get("trained_tower") or self.frozen_tower  # type: ignore[return-value]


def _check_fingerprint(module: HoldsTower, state: dict[str, Any], prefix: str, *_: Any) -> None:
    saved = state.get(f"{prefix}tower_fingerprint")
    if saved is not None and not torch.equal(saved.cpu(), module.tower_fingerprint.cpu()):
        raise InputError(
            "this model was trained on another image tower: name the same clip.name and clip.pretrained "
            f"(its fingerprint is {bytes(saved.cpu().tolist()).hex()}, this tower's "
            f"{bytes(module.tower_fingerprint.cpu().tolist()).hex()})"
        )
