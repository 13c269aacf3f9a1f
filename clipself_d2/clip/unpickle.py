"""A reader of pickles that builds tensors, numbers, texts and containers, and calls nothing else.

A pickle is a program. This interpreter knows the few instructions that weights need. It imports no name that a file
gives, and its time and memory are bounded by the size of the file.
"""

import math
import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import IO, Any, NamedTuple

import torch
from torch import Tensor

from clipself_d2.errors import InputError

_DTYPES = {
    "torch DoubleStorage": torch.float64,
    "torch FloatStorage": torch.float32,
    "torch HalfStorage": torch.float16,
    "torch BFloat16Storage": torch.bfloat16,
    "torch LongStorage": torch.int64,
    "torch IntStorage": torch.int32,
    "torch ShortStorage": torch.int16,
    "torch CharStorage": torch.int8,
    "torch ByteStorage": torch.uint8,
    "torch BoolStorage": torch.bool,
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
# Limits to what a file may ask for. A CLIP has about 10,000 instructions, and no tensors that share values.
_MAX_INSTRUCTIONS = 1_000_000
_MAX_SHARING = 8  # bytes of all tensors over bytes of the file
_MAX_DIMENSIONS = 8


class _Global(NamedTuple):
    """The name of a class or function, which is never imported."""

    name: str


@dataclass(eq=False)
class ScriptObject:
    """An object of a class that a TorchScript archive defines: ``__torch__.package.Class``."""

    type: str
    attributes: dict[str, Any] = field(default_factory=dict)


class Unpickler:
    """Reads the pickles of one file.

    Args:
        size: of the file, in bytes.
        read_storage: gives the bytes of a storage, from its key and its length.
    """

    def __init__(self, size: int, read_storage: Callable[[str, int], bytearray]) -> None:
        self.read_storage = read_storage
        self.storages: dict[tuple[str, torch.dtype], Tensor] = {}
        self.storage_bytes_left = size
        self.tensor_bytes_left = size * _MAX_SHARING
        self.instructions_left = _MAX_INSTRUCTIONS
        self.functions: dict[str, Callable[..., Any]] = {
            "collections OrderedDict": dict,
            "torch Size": tuple,
            "torch._utils _rebuild_tensor_v2": self._tensor,
            "torch._utils _rebuild_parameter": lambda data, *_: data,
            "torch.jit._pickle restore_type_tag": lambda value, *_: value,
            **{f"torch.jit._pickle build_{kind}list": list for kind in ("int", "double", "bool", "tensor")},
        }

    def load(self, file: IO[bytes]) -> Any:
        """Read the next pickle of a file.

        Raises:
            InputError: it needs more than tensors and containers, or asks for more than the file has.
            Exception: of any kind, if the pickle is damaged.
        """
        stack: list[Any] = []
        marks: list[int] = []
        memo: dict[int, Any] = {}

        def pop(count: int | None = None) -> list[Any]:
            """Take the last values from the stack; those since the last mark if no count is given."""
            start = marks.pop() if count is None else len(stack) - count
            if start < 0:
                raise InputError("damaged, its pickle takes more than it has")
            values = stack[start:]
            del stack[start:]
            return values

        argument: Any  # of the type that the instruction has
        for instruction, argument, _ in pickletools.genops(file):
            self.instructions_left -= 1
            if self.instructions_left < 0:
                raise InputError(
                    f"its pickle has more than {_MAX_INSTRUCTIONS:,} instructions, which weights do not need"
                )
            match instruction.name:
                case "BINUNICODE" | "SHORT_BINUNICODE" | "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT":
                    stack.append(argument)
                case "BINSTRING" | "SHORT_BINSTRING":  # of Python 2
                    stack.append(argument)
                case "NONE" | "NEWTRUE" | "NEWFALSE" | "EMPTY_TUPLE":
                    stack.append(_CONSTANTS[instruction.name])
                case "EMPTY_LIST":
                    stack.append([])
                case "EMPTY_DICT":
                    stack.append({})
                case "BINPUT" | "LONG_BINPUT":
                    memo[argument] = stack[-1]
                case "MEMOIZE":
                    memo[len(memo)] = stack[-1]
                case "BINGET" | "LONG_BINGET":
                    stack.append(memo[argument])
                case "MARK":
                    marks.append(len(stack))
                case "TUPLE":
                    stack.append(tuple(pop()))
                case "TUPLE1" | "TUPLE2" | "TUPLE3":
                    stack.append(tuple(pop(int(instruction.name[-1]))))
                case "APPEND" | "APPENDS":
                    values = pop(1 if instruction.name == "APPEND" else None)
                    _expect(stack[-1], list).extend(values)
                case "SETITEM" | "SETITEMS":
                    values = pop(2 if instruction.name == "SETITEM" else None)
                    _expect(stack[-1], dict).update(zip(map(_key, values[::2]), values[1::2], strict=True))
                case "GLOBAL":
                    stack.append(self._global(argument))
                case "STACK_GLOBAL":
                    stack.append(self._global(" ".join(_expect(part, str) for part in pop(2))))
                case "BINPERSID":
                    stack.append(self._storage(*_expect(pop(1)[0], tuple)))
                case "REDUCE" | "NEWOBJ":
                    callee, arguments = pop(2)
                    stack.append(self._call(_expect(callee, _Global).name, _expect(arguments, tuple)))
                case "BUILD":
                    target, state = pop(2)
                    stack.append(_with_attributes(target, state))
                case "STOP":
                    return stack.pop()
                case "PROTO" | "FRAME":
                    pass
                case other:
                    raise InputError(f"its pickle has an instruction that weights do not need ({other})")
        raise InputError("truncated")

    def _global(self, name: str) -> _Global:
        if name not in self.functions and name not in _DTYPES and not name.startswith("__torch__"):
            raise InputError(
                f"holds other Python objects than tensors ({name.replace(' ', '.')[:80]!r}), which may run code and "
                f"are not read: save its state dict alone, with the program that wrote it"
            )
        return _Global(name)

    def _call(self, name: str, arguments: tuple[Any, ...]) -> Any:
        if name.startswith("__torch__") and not arguments:
            return ScriptObject(name)
        if name not in self.functions or (name == "collections OrderedDict" and arguments):
            raise InputError(f"damaged, its pickle calls {name[:80]!r}")
        return self.functions[name](*arguments)

    def _storage(self, kind: str, dtype: _Global, key: str, _: str, count: int, view: object = None) -> Tensor:
        if kind != "storage" or view is not None or type(key) is not str or type(count) is not int or count < 0:
            raise InputError("damaged, the values of a tensor are not described")
        element = _DTYPES[_expect(dtype, _Global).name]
        if (key, element) not in self.storages:
            length = count * element.itemsize
            self.storage_bytes_left -= length
            if self.storage_bytes_left < 0:
                raise InputError("truncated, or its tensors are larger than the file")
            data = self.read_storage(key, length)
            if len(data) != length:
                raise InputError(f"damaged, storage {key[:80]!r} has {len(data)} bytes instead of {length}")
            self.storages[key, element] = (
                torch.frombuffer(data, dtype=element) if data else torch.empty(0, dtype=element)
            )
        return self.storages[key, element]

    def _tensor(self, storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
        if len(size) > _MAX_DIMENSIONS or any(type(x) is not int or x < 0 for x in (offset, *size, *stride)):
            raise InputError("damaged, the shape of a tensor is not one")
        count = math.prod(size)
        self.tensor_bytes_left -= count * storage.itemsize
        if count > len(storage) or self.tensor_bytes_left < 0:
            raise InputError(f"a tensor of shape {size} is larger than the values that the file has for it")
        return storage.as_strided(size, stride, offset)


def _expect(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise InputError(f"damaged, its pickle has a {type(value).__name__} where a {kind.__name__} belongs")
    return value


def _key(key: Any) -> Any:
    """A key of a dictionary: a text or a small integer, whose hashes no file can make collide."""
    if type(key) is str or (type(key) is int and abs(key) < 2**32):
        return key
    raise InputError(f"a dictionary in it has a key that is a {type(key).__name__}")


def _with_attributes(target: Any, state: Any) -> Any:
    if isinstance(target, ScriptObject):
        if type(state) is not dict:
            raise InputError("a module in it restores itself by code (__setstate__), which is not run")
        target.attributes = state
    elif type(target) is not dict:  # a state dict has an attribute `_metadata`, which is not needed
        raise InputError(f"damaged, its pickle gives attributes to a {type(target).__name__}")
    return target
