"""Frozen modules that another module uses without owning them."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn


class FrozenModules(nn.Module):
    """A module that holds frozen ones: they move with it, yet are no part of its state dict, parameters, modes or DDP.

    A frozen tower is named in a config; a checkpoint of what was trained on it need not hold it.
    """

    # In a tuple, because modules that are attributes become part of the state dict, parameters and DDP.
    _frozen: tuple[nn.Module, ...] = ()

    def hold_frozen(self, module: nn.Module) -> None:
        """Freezes a module, sets it to evaluation and keeps it aside."""
        self._frozen = (*self._frozen, module.requires_grad_(False).eval())

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FrozenModules:
        for module in self._frozen:
            module._apply(fn, recurse)
        return super()._apply(fn, recurse)
