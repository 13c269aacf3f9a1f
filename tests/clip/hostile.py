"""Files of weights that try to run code, to write, to hang or to fill the memory; each with a name."""

import io
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn


class Call:
    """Calls a function where it is unpickled."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.reduced = (function, arguments)

    def __reduce__(self) -> Any:
        return self.reduced


class Named:
    """A callable known by a name alone."""

    def __init__(self, module: str, name: str) -> None:
        self.__module__, self.__qualname__, self.__name__ = module, name, name


def zipped(pickled: bytes, data: dict[str, bytes] | None = None, **options: Any) -> bytes:
    """A zip archive as `torch.save` lays it out."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", **options) as archive:
        archive.writestr("archive/data.pkl", pickled)
        for name, content in (data or {"data/0": bytes(16)}).items():
            archive.writestr(f"archive/{name}", content)
    return out.getvalue()


def legacy(pickled: bytes) -> bytes:
    """A file as `torch.save` laid it out before 1.6."""
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}
    head = b"".join(pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, system))
    return head + pickled + pickle.dumps([], 2)


def wrapped(body: bytes) -> bytes:
    """A pickle of ``{"visual.proj": BODY}``; the body leaves one value on the stack."""
    return b"\x80\x02}X\x0b\x00\x00\x00visual.proj" + body + b"s."


def function(name: str) -> bytes:
    """The instruction that names a function."""
    return f"c{name.replace(' ', chr(10))}\n".encode()


def storage(kind: str = "torch FloatStorage", key: str = "0", count: int = 4) -> bytes:
    """The instructions for a storage."""
    text = struct.pack("<BI", 88, len(key)) + key.encode()
    return b"(X\x07\x00\x00\x00storage" + function(kind) + text + b"X\x03\x00\x00\x00cpu" + number(count) + b"tQ"


def number(value: int) -> bytes:
    """The instruction for an integer."""
    content = value.to_bytes(9, "little", signed=True)
    return b"\x8a\x09" + content


def tensor(size: tuple[int, ...], stride: tuple[int, ...], offset: int = 0, of: bytes | None = None) -> bytes:
    """The instructions for a tensor."""
    shape, steps = (b"(" + b"".join(map(number, numbers)) + b"t" for numbers in (size, stride))
    rest = b"\x89" + function("collections OrderedDict") + b")RtR"
    return (
        function("torch._utils _rebuild_tensor_v2") + b"(" + (of or storage()) + number(offset) + shape + steps + rest
    )


class Script(nn.Module):
    """Calls itself hostile functions where `torch.jit.load` reads it."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path
        self.weight = nn.Parameter(torch.ones(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


class Writes(Script):
    @torch.jit.export
    def __getstate__(self) -> tuple[str, bool]:
        return self.path, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[str, bool]) -> None:
        self.path, self.training = state
        self.weight = torch.from_file(state[0], True, 8).fill_(1)


class Hangs(Script):
    @torch.jit.export
    def __getstate__(self) -> tuple[str, bool]:
        return self.path, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[str, bool]) -> None:
        self.path, self.training = state
        count = 0
        while count >= 0:
            count = (count + 1) % 7


class Holder(nn.Module):
    """A module that holds another one."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def files(canary: Path) -> Iterator[tuple[str, bytes]]:
    """Names and contents; a file that is executed makes the canary."""
    yield from calls(canary)
    for kind in (Writes, Hangs):
        for name, module in (("alone", kind(str(canary))), ("within", Holder(kind(str(canary))))):
            out = io.BytesIO()
            torch.jit.save(torch.jit.script(module), out)
            yield f"torchscript {kind.__name__.lower()} {name}", out.getvalue()
    yield from (
        (f"pickle {name} {box.__name__}", box(content))
        for name, content in pickles().items()
        for box in (zipped, legacy)
    )
    yield from tensors()
    yield from archives()
    yield from structures()
    yield from safetensors()


def calls(canary: Path) -> Iterator[tuple[str, bytes]]:
    """Calls of functions, in every kind of file."""
    command = f"open({str(canary)!r}, 'w')"
    for name, arguments in {
        "os system": (f"touch {canary}",),
        "posix system": (f"touch {canary}",),
        "subprocess Popen": (["touch", str(canary)],),
        "builtins exec": (command,),
        "builtins eval": (command,),
        "builtins getattr": ("x", "upper"),
        "__builtin__ open": (str(canary), "w"),
        "io FileIO": (str(canary), "w"),
        "pathlib Path.touch": (str(canary),),
        "torch from_file": (str(canary), True, 8),
        "torch save": ({}, str(canary)),
        "torch.serialization load": (str(canary),),
        "torch.jit load": (str(canary),),
        "numpy fromfile": (str(canary),),
        "importlib import_module": ("antigravity",),
        "torch._utils _rebuild_sparse_tensor": (None, ()),
    }.items():
        call = function(name) + plain(arguments) + b"R"
        yield f"{name} zip", zipped(wrapped(call))
        yield f"{name} legacy", legacy(wrapped(call))
        yield f"{name} pickle", wrapped(call)
        beside = wrapped(tensor((2, 2), (2, 1)))[:-1] + b"X\x01\x00\x00\x00z" + call + b"s."
        yield f"{name} beside weights", zipped(beside)
        within = wrapped(function("collections OrderedDict") + b"(" + call + b"tR")
        yield f"{name} in a dictionary's arguments", zipped(within)


def plain(value: Any) -> bytes:
    """The instructions for a plain value."""
    return pickle.dumps(value, 2)[2:-1]


def pickles() -> dict[str, bytes]:
    """Programs that misuse instructions."""
    ordered, rebuild = function("collections OrderedDict"), function("torch._utils _rebuild_tensor_v2")
    proj = tensor((2, 2), (2, 1))
    attack = b"}X\x08\x00\x00\x00__call__" + function("os system") + b"s"
    nested = b"".join(b"(" for _ in range(100_000)) + b"N" + b"t" * 100_000
    return {
        "empty": b"",
        "stop": b".",
        "no stop": b"\x80\x02}",
        "memo of 4 billion": wrapped(b"Nr\xff\xff\xff\xff"),
        "text of 2**60 bytes": wrapped(b"\x8d" + (2**60).to_bytes(8, "little")),
        "text of 4 GB": wrapped(b"X\xff\xff\xff\xff"),
        "bytes of 2**60": wrapped(b"\x8e" + (2**60).to_bytes(8, "little")),
        "a mark too few": wrapped(b"t"),
        "an empty stack": b"\x80\x02\x85\x85.",
        "memo that is not there": wrapped(b"h\x07"),
        "extension": wrapped(b"\x82\x01"),
        "instance": wrapped(b"(ios\nsystem\n"),
        "object": wrapped(b"(" + function("os system") + b"X\x01\x00\x00\x00ao"),
        "newobj with keywords": wrapped(ordered + b")}\x92"),
        "old integer": wrapped(b"I" + b"9" * 50_000 + b"\n"),
        "old text": wrapped(b"S'" + b"a" * 1000 + b"'\n"),
        "old persistent id": wrapped(b"P0\n"),
        "duplicates": wrapped(b"2"),
        "next buffer": wrapped(b"\x97"),
        "attributes of a function": wrapped(rebuild + attack + b"b"),
        "attributes of a class": wrapped(ordered + attack + b"b"),
        "attributes of a tensor": wrapped(proj + attack + b"b"),
        "items of a tensor": wrapped(proj + b"K\x00K\x01s"),
        "items of a function": wrapped(ordered + b"K\x00K\x01s"),
        "appended to a tensor": wrapped(proj + b"Na"),
        "a function as weights": wrapped(rebuild),
        "a tensor called": wrapped(proj + b")R"),
        "a tensor of nothing": wrapped(rebuild + b")R"),
        "a tensor of texts": wrapped(rebuild + plain(("a", "b", "c", "d")) + b"R"),
        "storage of nothing": wrapped(b")Q"),
        "storage that is a text": wrapped(b"X\x01\x00\x00\x000Q"),
        "a list as a key": b"\x80\x02}]Ns.",
        "colliding keys": b"\x80\x02}" + b"".join(long(i * (2**61 - 1)) + b"Ns" for i in range(1000)) + b".",
        "deep tuples": wrapped(nested),
        "a hundred thousand lists": wrapped(b"]" * 100_000 + b"a" * 99_999),
        "too many instructions": b"\x80\x02" + b"N" * 1_100_000 + b".",
        "a script object without source": b"\x80\x02c__torch__\nM\n)\x81}X\x01\x00\x00\x00w" + proj + b"sb.",
        "a script class with arguments": wrapped(function("__torch__ M") + b"K\x01\x85\x81"),
        "a numpy array": wrapped(function("numpy.core.multiarray _reconstruct") + b")R"),
        "a module": wrapped(function("torch.nn.modules.linear Linear") + b")\x81"),
    }


def long(value: int) -> bytes:
    """The instruction for a large integer."""
    return b"\x8a\x20" + value.to_bytes(32, "little", signed=True)


def tensors() -> Iterator[tuple[str, bytes]]:
    """Tensors that are larger than the file, or not tensors of values."""
    for name, body in {
        "expanded": tensor((2**20, 2**20), (0, 0)),
        "expanded beyond integers": tensor((2**40, 2**40), (0, 0)),
        "sliding": tensor((3, 2), (1, 1)),
        "beyond its storage": tensor((2, 2), (2, 1), offset=2),
        "negative offset": tensor((2, 2), (2, 1), offset=-1),
        "negative size": tensor((-2, 2), (2, 1)),
        "negative stride": tensor((2, 2), (-2, 1)),
        "stride beyond": tensor((2, 2), (2**60, 1)),
        "a thousand dimensions": tensor((1,) * 1000, (1,) * 1000),
        "unequal shape": tensor((2, 2), (1,)),
        "huge storage": tensor((2, 2), (2, 1), of=storage(count=2**40)),
        "negative storage": tensor((2, 2), (2, 1), of=storage(count=-4)),
        "longer storage": tensor((2, 2), (2, 1), of=storage(count=3)),
        "absent storage": tensor((2, 2), (2, 1), of=storage(key="../../etc/passwd")),
        "untyped storage": tensor((2, 2), (2, 1), of=storage("torch UntypedStorage")),
        "storage of functions": tensor((2, 2), (2, 1), of=storage("collections OrderedDict")),
        "not finite": tensor((2, 2), (2, 1), of=storage(key="nan")),
    }.items():
        yield (
            f"tensor {name}",
            zipped(wrapped(body), {"data/0": bytes(16), "data/nan": struct.pack("<4f", *[1e999] * 4)}),
        )
        yield f"tensor {name} legacy", legacy(wrapped(body))
    for name, value in {
        "meta": torch.empty(2**30, 2**10, device="meta"),
        "sparse": torch.eye(3).to_sparse(),
        "csr": torch.eye(3).to_sparse_csr(),
        "quantized": torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
        "expanded by torch": torch.zeros(1).expand(2**20, 2**20),
        "not finite": torch.full((2, 2), float("nan")),
        "complex": torch.zeros(2, dtype=torch.complex64),
        "float8": torch.zeros(2).to(torch.float8_e4m3fn),
    }.items():
        for new in (True, False):
            out = io.BytesIO()
            try:
                torch.save({"visual.proj": value}, out, _use_new_zipfile_serialization=new)
            except Exception:  # a kind that the old format does not have
                continue
            yield f"torch.save {name} {new}", out.getvalue()
    many = b"\x80\x02}" + b"".join(
        struct.pack("<BI", 88, 8) + b"%08d" % i + tensor((1000,), (1,), of=storage(count=1000)) + b"s"
        for i in range(400)
    )
    yield "tensor shared 400 times", zipped(many + b".", {"data/0": bytes(4000)}, compression=zipfile.ZIP_DEFLATED)


def archives() -> Iterator[tuple[str, bytes]]:
    """Zip archives that are not what they say."""
    good = wrapped(tensor((2, 2), (2, 1)))
    whole = zipped(good)
    yield "zip bomb", zipped(bytes(2**27), compression=zipfile.ZIP_DEFLATED)
    yield "zip bomb of values", zipped(good, {"data/0": bytes(2**27)}, compression=zipfile.ZIP_DEFLATED)
    yield "big-endian", zipped(good, {"data/0": bytes(16), "byteorder": b"big"})
    yield "no pickle", zipped(good).replace(b"data.pkl", b"data.pkm")
    yield (
        "encrypted",
        whole.replace(b"PK\x03\x04\x14\x00\x00", b"PK\x03\x04\x14\x00\x01").replace(
            b"PK\x01\x02\x14\x03\x14\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x01"
        ),
    )
    yield "only a name", b"PK\x03\x04"
    yield "only an end", b"PK\x05\x06" + bytes(18)
    for cut in (1, 20, 60, 100, len(whole) // 2):
        yield f"zip cut by {cut}", whole[:-cut]
    for offset in (16, 42):  # the central directory's checksum and position
        place = whole.rindex(b"PK\x01\x02") + offset
        yield f"zip directory changed at {offset}", whole[:place] + b"\xff\xff\xff\x7f" + whole[place + 4 :]
    values = whole.index(bytes(16))
    yield "changed value", whole[:values] + b"\x01" + whole[values + 1 :]


def structures() -> Iterator[tuple[str, bytes]]:
    """Dictionaries that hold themselves, names that are none."""
    itself: dict[str, Any] = {}
    itself["state_dict"] = itself
    deep: dict[str, Any] = {"visual.proj": 1}
    for _ in range(200):
        deep = {"model": deep}
    for name, content in {
        "itself": itself,
        "deep": deep,
        "numbers for names": OrderedDict({1: torch.zeros(1)}),
        "a line break in a name": {"visual.proj\nwritten": 1},
        "nothing": {},
        "a list": [torch.zeros(1)],
        "a text": "visual.proj",
    }.items():
        out = io.BytesIO()
        torch.save(content, out)
        yield f"structure {name}", out.getvalue()
    loop = b"\x80\x02c__torch__\nM\n)\x81q\x00}(X\x01\x00\x00\x00ah\x00X\x01\x00\x00\x00bh\x00ub."
    yield "structure modules that hold each other", zipped(loop, {"code/__torch__.py": b"class M(Module):\n"})


def safetensors() -> Iterator[tuple[str, bytes]]:
    """Headers that lie."""
    entry = b'{"visual.proj":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}}'
    for name, header in {
        "huge shape": entry.replace(b"[2,2]", b"[1099511627776,1099511627776]"),
        "negative shape": entry.replace(b"[2,2]", b"[-2,-2]"),
        "offsets beyond": entry.replace(b"[0,16]", b"[0,1099511627776]"),
        "offsets backwards": entry.replace(b"[0,16]", b"[16,0]"),
        "unknown type": entry.replace(b"F32", b"X99"),
        "two names for the same bytes": entry[:-1] + entry.replace(b"{", b",", 1).replace(b"proj", b"conv"),
        "deep": b"[" * 100_000,
        "not json": b"{visual.proj}",
        "not finite": entry,
    }.items():
        yield f"safetensors {name}", struct.pack("<Q", len(header)) + header + b"\xff\xff\xff\x7f" * 4
    yield "safetensors endless header", struct.pack("<Q", 2**62) + entry
