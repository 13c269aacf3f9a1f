"""Frozen modules that another module uses without owning them."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn


class FrozenModules(nn.Module):
    """Holds frozen modules by name: they move with it, but are not part of its state dict, parameters, modes or DDP.

    A frozen tower is named in a config, so a checkpoint of what was trained on it need not hold it.
    """

    _frozen: tuple[str, ...] = ()

    def hold_frozen(self, name: str, module: nn.Module) -> None:
        """Freeze a module, set it to evaluation mode and make it the attribute ``name``."""
        self.__dict__[name] = module.requires_grad_(False).eval()  # setattr would register it as a submodule
        self._frozen = (*self._frozen, name)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FrozenModules:
        for name in self._frozen:
            self.__dict__[name]._apply(fn, recurse)
        return super()._apply(fn, recurse)
