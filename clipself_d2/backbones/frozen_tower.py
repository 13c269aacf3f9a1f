"""A module on an image tower: of what does not train, a checkpoint holds the fingerprint instead of the weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from clipself_d2.clip.checkpoint import content_hash
from clipself_d2.clip.frozen import FrozenModules
from clipself_d2.clip.tower import ImageTower
from clipself_d2.errors import InputError


class HoldsTower(FrozenModules):
    """Has one image tower: the submodule ``trained_tower`` if some of it trains, else held frozen as ``frozen_tower``.

    The state dict has the parameters that train, and of all else of the tower the fingerprint, as the buffer
    ``tower_fingerprint``. It is refused beside another tower.
    """

    frozen_tower: ImageTower
    tower_fingerprint: Tensor

    def hold_tower(self, tower: ImageTower, trainable: bool) -> None:
        """Hold a tower: frozen, or with ``trainable`` such that the parameters which require a gradient train."""
        if trainable:
            self.trained_tower = tower
            self._fixed = [f"trained_tower.{name}" for name, p in tower.named_parameters() if not p.requires_grad]
            self.register_state_dict_post_hook(_drop_fixed)
        else:
            self.hold_frozen("frozen_tower", tower)
            self._fixed = []
        trained = {name for name, p in tower.named_parameters() if p.requires_grad}
        rest = {name: value for name, value in tower.state_dict().items() if name not in trained}
        fingerprint = torch.frombuffer(bytearray(content_hash(rest)), dtype=torch.uint8)
        self.register_buffer("tower_fingerprint", fingerprint)
        self.register_load_state_dict_pre_hook(_check_and_fill)

    @property
    def tower(self) -> ImageTower:
        """The tower, frozen or not."""
        return self._modules.get("trained_tower") or self.frozen_tower  # type: ignore[return-value]


def _drop_fixed(module: HoldsTower, state: dict[str, Any], prefix: str, _: Any) -> None:
    for name in module._fixed:
        state.pop(prefix + name, None)


def _check_and_fill(module: HoldsTower, state: dict[str, Any], prefix: str, *_: Any) -> None:
    saved = state.get(f"{prefix}tower_fingerprint")
    if saved is not None and not torch.equal(saved.cpu(), module.tower_fingerprint.cpu()):
        raise InputError(
            "this model was trained on another image tower: name the same clip.name and clip.pretrained "
            f"(its fingerprint is {bytes(saved.cpu().tolist()).hex()}, this tower's "
            f"{bytes(module.tower_fingerprint.cpu().tolist()).hex()})"
        )
    state.update({prefix + name: module.get_parameter(name) for name in module._fixed})
