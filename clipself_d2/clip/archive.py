"""Reading PyTorch's files without executing them: `torch.save`, old and new, and TorchScript archives."""

import io
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from torch import Tensor

from clipself_d2.clip.unpickle import ScriptObject, Unpickler
from clipself_d2.errors import InputError, first_line

_LEGACY_MAGIC, _LEGACY_VERSION = 0x1950A86A20F9469CFC6C, 1001
# Limits to what a TorchScript archive may ask for.
_MAX_UNPACKED_SOURCE = 2**26  # bytes
_MAX_ATTRIBUTES = 100_000
_MAX_NAME = 500  # characters


def read_archive(path: str | Path) -> Any:
    """Read a file that `torch.save` or `torch.jit.save` wrote.

    Unlike `torch.load` and `torch.jit.load` it compares the checksum of each record, and runs no code of the file: a
    TorchScript archive may have methods that are called while it is loaded.

    Returns:
        What was saved: tensors on the CPU, numbers and texts, in dictionaries, lists and tuples. For a TorchScript
        archive the state dict of its module.

    Raises:
        InputError: a damaged file, or one that holds other objects. The message does not name the file.
        OSError: the file cannot be read.
    """
    path = Path(path)
    size = path.stat().st_size
    with path.open("rb") as file:
        try:
            return _read_zip(file, size) if file.read(2) == b"PK" else _read_legacy(file, size)
        except (InputError, OSError):
            raise
        except Exception as error:  # zipfile, pickletools and torch raise many kinds for a damaged file
            reason = first_line(error)
            raise InputError(f"truncated, damaged or of another kind ({reason}): download it again") from None


def _read_zip(file: IO[bytes], size: int) -> Any:
    with zipfile.ZipFile(file) as archive:
        records = {info.filename.partition("/")[2]: info for info in archive.infolist()}
        stored = sum(info.file_size for info in records.values() if info.compress_type == zipfile.ZIP_STORED)
        packed = sum(info.file_size for info in records.values()) - stored
        if stored > size or packed > _MAX_UNPACKED_SOURCE:
            raise InputError("the records of this archive are larger than the file")

        def read(name: str) -> bytes:
            if name not in records:
                raise InputError(f"an archive without weights, or an incomplete one: it has no {name[:80]!r}")
            return archive.read(records[name])  # compares the checksum

        if "byteorder" in records and read("byteorder") != b"little":
            raise InputError("written on a big-endian machine: save it again on a little-endian one")
        unpickler = Unpickler(size, lambda key, _: bytearray(read(f"data/{key}")))
        content = unpickler.load(io.BytesIO(read("data.pkl")))
        if isinstance(content, ScriptObject):
            return _script_state(content, lambda name: read(f"code/{name}").decode())
        return content


def _read_legacy(file: IO[bytes], size: int) -> Any:
    """The format of `torch.save` before PyTorch 1.6: five pickles, and the storages in the order of the last one."""
    buffers: dict[str, bytearray] = {}
    unpickler = Unpickler(size, lambda key, length: buffers.setdefault(key, bytearray(length)))
    file.seek(0)
    if file.read(1) != b"\x80":
        raise InputError("not a file of weights")
    file.seek(0)
    if (unpickler.load(file), unpickler.load(file)) != (_LEGACY_MAGIC, _LEGACY_VERSION):
        raise InputError("a pickle, but not one that PyTorch wrote")
    if unpickler.load(file).get("little_endian") is not True:
        raise InputError("written on a big-endian machine: save it again on a little-endian one")
    content, keys = unpickler.load(file), unpickler.load(file)
    if set(keys) != set(buffers):
        raise InputError("damaged, it does not list the tensors that it has")
    for key in keys:
        file.seek(8, io.SEEK_CUR)  # the number of elements, which the pickle gave
        if file.readinto(buffers[key]) != len(buffers[key]):  # type: ignore[attr-defined]
            raise InputError("truncated: download it again")
    return content


def _script_state(root: ScriptObject, read_source: Callable[[str], str]) -> dict[str, Tensor]:
    """The parameters and buffers of a module, by the names that its `state_dict` gives them.

    The archive's source declares which tensors they are. Before PyTorch 1.6 all tensors that are no parameters were
    buffers.
    """
    sources: dict[str, dict[str, set[str]]] = {}
    state: dict[str, Tensor] = {}
    modules = [("", root)]
    attributes_left = _MAX_ATTRIBUTES
    for prefix, module in modules:  # which grows
        attributes_left -= len(module.attributes)
        if attributes_left < 0 or len(prefix) > _MAX_NAME:
            raise InputError("it has modules that hold each other")
        file, _, name = module.type.replace(" ", ".").rpartition(".")
        if file not in sources:
            sources[file] = _declarations(read_source(f"{file.replace('.', '/')}.py"))
        declared = sources[file].get(name, set())
        for key, value in module.attributes.items():
            if isinstance(value, ScriptObject):
                modules.append((f"{prefix}{key}.", value))
            elif isinstance(value, Tensor) and (key in declared or "__buffers__" not in declared):
                state[f"{prefix}{key}"] = value
    return state


def _declarations(source: str) -> dict[str, set[str]]:
    """Per class, the names of its parameters and buffers, and of the lists that declare them."""
    classes: dict[str, set[str]] = {}
    names: set[str] = set()
    for line in source.splitlines():
        if match := re.match(r"class (\w+)\(", line):
            names = classes.setdefault(match[1], set())
        elif match := re.match("  (__parameters__|__buffers__) = ", line):
            names.update([match[1], *re.findall('"([^"]*)"', line)])
    return classes
