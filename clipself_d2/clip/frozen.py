"""Frozen modules that another module uses without owning them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from clipself_d2.clip.tower import ImageTower
from clipself_d2.errors import InputError


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


def all_modules(model: nn.Module) -> Iterator[nn.Module]:
    """The modules of a model, with those that it holds frozen."""
    for module in model.modules():
        yield module
        if isinstance(module, FrozenModules):
            for name in module._frozen:
                yield from all_modules(module.__dict__[name])


def compile_towers(model: nn.Module) -> None:
    """Compile the blocks of all image towers of a model, in place; nothing else is compiled.

    Raises:
        InputError: the model has no image tower.
    """
    towers = [module for module in all_modules(model) if isinstance(module, ImageTower)]
    if not towers:
        raise InputError("train.compile: this model has no image tower to compile; leave it out")
    # PyTorch compiles a function 8 times, then runs it as it is. A student and its teacher share their blocks' code and
    # take more: with gradients or not, of one image or of several, in training and in evaluation.
    torch._dynamo.config.cache_size_limit = 32
    # Under DistributedDataParallel, it would cut graphs where its buckets end: ours end with each block anyway.
    torch._dynamo.config.optimize_ddp = False
    for tower in towers:
        tower.compile()
