"""A simulated "cuda" on the CPU: finds code that mixes tensors of two devices, on machines without a GPU.

    with SecondDevice():
        model.to("cuda")(inputs)  # RuntimeError where a tensor of the CPU meets one of "cuda"

Everything is computed on the CPU, with the CPU's results. Tensors that are made on or moved to "cuda" are `Remote`, and
so is whatever is computed from them. Not simulated: copies (a moved tensor shares its memory), streams and kernels.
"""

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map_only

CUDA = torch.device("cuda", 0)

# CUDA reads tensors of the CPU in these: they copy.
COPIES = {"to", "copy_", "type_as", "__set__", "set_"}
INDEXING = {"__getitem__", "__setitem__"}
# These read a list of tensors value by value: the result is on the CPU unless a device is named.
FROM_LISTS = {"tensor", "as_tensor"}


class Remote(torch.Tensor):
    """A tensor that says that it is on cuda:0."""

    __torch_function__ = torch._C._disabled_torch_function_impl  # only `SecondDevice` decides what is remote

    device = property(lambda self: CUDA)
    is_cuda = property(lambda self: True)
    is_cpu = property(lambda self: False)

    def numpy(self, *args, **kwargs):
        raise TypeError("can't convert cuda:0 device type tensor to numpy: use Tensor.cpu() first")

    __array__ = numpy


def remote(tensor):
    return tensor if isinstance(tensor, Remote) else tensor.as_subclass(Remote)


def local(tensor):
    return tensor.as_subclass(torch.Tensor) if isinstance(tensor, Remote) else tensor


def device_type(value):
    """ "cuda" or "cpu" if the value names a device, else None."""
    if isinstance(value, torch.device):
        return value.type
    return value.partition(":")[0] if isinstance(value, str) else None


class SecondDevice(TorchFunctionMode):
    """Within this context "cuda" is the simulated device."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        name = function.__name__
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        is_remote = any(isinstance(tensor, Remote) for tensor in tensors)
        if name == "_has_compatible_shallow_copy_type":  # asked when a module moves: not between two devices
            return len({isinstance(tensor, Remote) for tensor in tensors}) == 1
        if is_remote and name not in COPIES:
            check_one_device(name, args, tensors)

        wanted = device_type(kwargs.get("device"))
        if wanted:
            kwargs["device"] = "cpu"
        if name in ("cuda", "cpu"):
            wanted, function, args = name, torch.Tensor.to, (args[0], "cpu")
        elif name == "to":
            others = [device_type(arg) or (arg.device.type if isinstance(arg, torch.Tensor) else None) for arg in args]
            wanted = wanted or next(filter(None, others[1:]), None)
            args = (args[0], *("cpu" if device_type(arg) else arg for arg in args[1:]))
        elif name in FROM_LISTS and not isinstance(args[0], torch.Tensor):
            is_remote = False

        result = function(*args, **kwargs)
        to_remote = wanted == "cuda" if wanted else is_remote
        return tree_map_only(torch.Tensor, remote if to_remote else local, result)


def check_one_device(name, args, tensors):
    """What CUDA checks: all on one device, but for scalars and for indices into a tensor of the device."""
    if name in FROM_LISTS or (name in INDEXING and isinstance(args[0], Remote)):
        return
    if any(tensor.dim() and not isinstance(tensor, Remote) for tensor in tensors):
        raise RuntimeError(f"{name}: expected all tensors to be on the same device, found cuda:0 and cpu (simulated)")
