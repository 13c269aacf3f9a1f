"""A simulated "cuda" on the CPU: finds code that mixes tensors of two devices, on machines without a GPU.

    with SecondDevice():
        model.to("cuda")(inputs)  # RuntimeError where a tensor of the CPU meets one of "cuda"

Everything is computed on the CPU, with the CPU's results. Tensors that are made on or moved to "cuda" are `Remote`, and
so is whatever is computed from them. Not simulated: copies (a moved tensor shares its memory), streams and kernels.
"""

import traceback

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map_only

CUDA = torch.device("cuda", 0)

# CUDA reads tensors of the CPU in these: they copy.
COPIES = {"to", "copy_", "type_as", "__set__", "set_"}
INDEXING = {"__getitem__", "__setitem__"}
# A GPU must have computed what these read: values, or a shape that depends on values.
READING = {"item", "tolist", "__bool__", "__int__", "__float__", "__index__", "equal", "allclose", "numpy"}
READING |= {"nonzero", "argwhere", "masked_select", "unique", "unique_consecutive", "bincount", "nms"}
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


class HostWaits(TorchFunctionMode):
    """Within `SecondDevice`: lists the lines at which the host would wait for a GPU.

    These read values of the device, or copy between it and the host without `non_blocking`.
    """

    def __init__(self):
        super().__init__()
        self.lines = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        if waits(function.__name__, args, kwargs, result):
            *stack, caller, _ = traceback.extract_stack()
            if caller.filename.endswith("clip_grad.py"):  # asks for the true device of a simulated tensor
                return result
            frame = next(f for f in reversed([*stack, caller]) if "/torch/" not in f.filename)
            self.lines.append(f"{function.__name__}: {frame.filename}:{frame.lineno} {frame.line}")
        return result


def waits(name, args, kwargs, result):
    """Whether an operation waits for the device."""
    first = args[0] if args else None
    is_remote = isinstance(first, Remote)
    if name in READING:
        return is_remote
    if name in ("to", "cuda", "cpu", "copy_"):
        other = args[1] if name == "copy_" else result
        moves = isinstance(other, torch.Tensor) and is_remote != isinstance(other, Remote)
        return moves and not kwargs.get("non_blocking")
    if name in FROM_LISTS or name == "new_tensor":
        return isinstance(result, Remote) and not isinstance(first, Remote if name in FROM_LISTS else ())
    if name in INDEXING and is_remote:
        index = tree_leaves(args[1])
        tensors = [part for part in index if isinstance(part, torch.Tensor) and part.dim()]
        by_mask = any(part.dtype == torch.bool for part in tensors)
        if name == "__setitem__" and by_mask and not (isinstance(args[2], torch.Tensor) and args[2].dim()):
            return False  # a fill
        is_list = isinstance(args[1], list) or (
            isinstance(args[1], tuple) and any(isinstance(i, list) for i in args[1])
        )
        return by_mask or is_list or not all(isinstance(part, Remote) for part in tensors)
    if name == "repeat_interleave" and len(args) > 1 and isinstance(args[1], Remote):
        return kwargs.get("output_size") is None
    return name == "where" and is_remote and len(args) == 1
