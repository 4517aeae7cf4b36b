"""Reads the tensors of a local file of CLIP weights, whatever its format, and runs nothing that the file says.

Three formats: safetensors; what `torch.save` writes; and the TorchScript archives that OpenAI published. The last two
are archives with a pickle. `torch.jit.load` would compile, and may run, code of an archive, and `torch.load` believes
the sizes that a pickle names, so both are read here without them: the pickle is walked opcode by opcode, and only
tensors, numbers and nesting are understood (choice). Sizes, depth and the number of steps have limits, so that a small
file can take neither all memory nor all time.
"""

from __future__ import annotations

import pickletools
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from split_matching.errors import DataError, first_line
from split_matching.model.weight_names import find_state, plain_names

OPENAI_MARKS = ("input_resolution", "context_length", "vocab_size")
"""Buffers that OpenAI's archives carry beside the weights; nothing else writes them."""

MAX_PICKLE = 2**24
"""Bytes of the pickle in an archive; OpenAI's largest has under a million (choice)."""

MAX_GROWTH = 4
"""How many times its own size an archive may unpack to: weights hardly shrink when they are packed (choice)."""

MAX_STEPS = 500_000
"""Values and opcodes of a pickle, each counted wherever it appears: a few shared ones can nest to billions (choice)."""

MAX_AXES = 16
MAX_DEPTH = 100
MAX_NAME = 1000
"""Letters of a tensor's whole dotted name."""

_LEGACY_PICKLES = 5
"""What `torch.save` wrote before it wrote archives: so many pickles, one after another, and then the numbers."""

_DTYPES = {
    "torch HalfStorage": torch.float16,
    "torch BFloat16Storage": torch.bfloat16,
    "torch FloatStorage": torch.float32,
    "torch DoubleStorage": torch.float64,
    "torch LongStorage": torch.int64,
    "torch IntStorage": torch.int32,
    "torch ShortStorage": torch.int16,
    "torch CharStorage": torch.int8,
    "torch ByteStorage": torch.uint8,
    "torch BoolStorage": torch.bool,
}


_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY: Mapping[str, Callable[[], Any]] = {"EMPTY_TUPLE": tuple, "EMPTY_DICT": dict, "EMPTY_LIST": list}


@dataclass(frozen=True)
class WeightFile:
    """What a file of weights holds.

    Args:
        tensors: by the names of open_clip, see `weight_names`.
        openai: whether the file carries OpenAI's marks.
    """

    tensors: Mapping[str, Tensor]
    openai: bool


def read_weight_file(path: Path) -> WeightFile:
    """Read a file of weights.

    Args:
        path: the file: safetensors, `torch.save` (a state dict, or a checkpoint that holds one), or TorchScript.

    Raises:
        DataError: the file is none of these, is damaged, or would need code to be run.
    """
    try:
        _check_page(path)
        found = load_file(path) if path.suffix == ".safetensors" else _read_torch(path)
    except DataError:
        raise
    except Exception as error:  # safetensors, zipfile and torch raise many kinds for damaged bytes
        raise DataError(
            f"CLIP weights {path} cannot be read ({_reason(error)}): give a whole .safetensors file, a "
            "state dict saved by torch, or OpenAI's archive; pickles that need code are never loaded"
        ) from error
    found = find_state(found)
    if not isinstance(found, Mapping) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in found.items()
    ):
        raise DataError(f"CLIP weights {path} hold no tensors by name: give a file with a state dict of the whole CLIP")
    tensors = plain_names(found)
    marks = [name for name in OPENAI_MARKS if name in tensors]
    return WeightFile({n: t for n, t in tensors.items() if n not in marks}, len(marks) == len(OPENAI_MARKS))


def _check_page(path: Path) -> None:
    """Raise for a web page, which a failed download often is."""
    with path.open("rb") as stream:
        start = stream.read(200).lstrip().lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise DataError(f"CLIP weights {path} are a web page, not weights: the download failed; fetch the file again")


def _reason(error: Exception) -> str:
    """What a library says, without torch's advice to load the file all the same, which would run its code."""
    text = first_line(error)
    return "the pickle needs code" if "weights_only" in text or "Weights only" in text else text


def _read_torch(path: Path) -> Any:
    """Return what a file of torch holds: tensors by name, maybe deeper inside."""
    with path.open("rb") as stream:
        packed = stream.read(4) == b"PK\x03\x04"
    if not packed:
        _check_legacy(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        unpacked = sum(info.file_size for info in archive.infolist())
        if unpacked > MAX_GROWTH * path.stat().st_size + MAX_PICKLE:
            raise DataError(
                f"CLIP weights {path} would unpack to {unpacked:,} bytes, too many for weights: fetch it again"
            )
        reader = _ArchiveReader(archive, names[0].partition("/")[0])
        # what tells TorchScript from torch.save
        return reader.tensors() if any(name.endswith("/constants.pkl") for name in names) else reader.value()


def _check_legacy(path: Path) -> None:
    """Raise for pickles whose values nest to too many: `torch.load` would not end."""
    with path.open("rb") as stream:
        for _ in range(_LEGACY_PICKLES):
            stack: list[int] = []  # how many values each value is, with all that is in it
            marks: list[int] = []
            memo: dict[Any, int] = {}
            for steps, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
                name = opcode.name
                if name == "MARK":
                    marks.append(len(stack))
                elif "PUT" in name or name == "MEMOIZE":
                    memo[len(memo) if argument is None else argument] = stack[-1]
                elif "GET" in name:
                    stack.append(memo[argument])
                else:
                    _replace(stack, marks, opcode)
                if steps > MAX_STEPS or (stack and stack[-1] > MAX_STEPS):
                    raise DataError(f"CLIP weights {path} nest too many values: give a state dict as safetensors")


def _replace(stack: list[int], marks: list[int], opcode: pickletools.OpcodeInfo) -> None:
    """Do to the sizes on a stack what an opcode does to the values."""
    takes = list(opcode.stack_before)
    start = len(stack)
    if pickletools.markobject in takes:
        start, takes = marks.pop(), takes[: takes.index(pickletools.markobject)]
    start -= len(takes)
    if start < 0:
        raise ValueError("the pickle takes values that are not there")
    size = 1 + sum(stack[start:])
    stack[start:] = [size] * len(opcode.stack_after)


@dataclass(frozen=True)
class _Name:
    """A global that the pickle names; never looked up."""

    text: str


class _Module(dict[str, Any]):
    """Attributes of a module of a TorchScript archive."""


class _ArchiveReader:
    """Walks `data.pkl` of an archive: modules become dicts of their attributes.

    Args:
        archive: the open archive.
        root: its top folder.
    """

    def __init__(self, archive: zipfile.ZipFile, root: str) -> None:
        self.archive, self.root = archive, root
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.storages: dict[str, bytearray] = {}
        self.steps = 0

    def tensors(self) -> dict[str, Tensor]:
        """Return every tensor attribute by its dotted path."""
        found: dict[str, Tensor] = {}
        self._flatten(self.value(), "", 0, found)
        return found

    def value(self) -> Any:
        """Return what the pickle holds."""
        pickled = f"{self.root}/data.pkl"
        self._check(self.archive.getinfo(pickled).file_size <= MAX_PICKLE, f"a pickle of over {MAX_PICKLE:,} bytes")
        memo: dict[Any, Any] = {}
        for opcode, argument, _ in pickletools.genops(self.archive.read(pickled)):
            self._count(1)
            if opcode.name in ("BINPUT", "LONG_BINPUT"):
                memo[argument] = self.stack[-1]
            elif opcode.name in ("BINGET", "LONG_BINGET"):
                self.stack.append(memo[argument])
            elif opcode.name == "STOP":
                return self.stack.pop()
            else:
                self._do(opcode.name, argument)
        raise DataError(f"CLIP weights {self.archive.filename} end too early: fetch the file again")

    def _count(self, steps: int) -> None:
        self.steps += steps
        self._check(self.steps <= MAX_STEPS, f"over {MAX_STEPS:,} values")

    def _flatten(self, module: Any, prefix: str, depth: int, found: dict[str, Tensor]) -> None:
        """Collect the tensors of a module and of the modules in it."""
        self._check(isinstance(module, Mapping) and depth < MAX_DEPTH, f"modules more than {MAX_DEPTH} deep")
        for name, value in module.items():
            self._count(1)
            path = f"{prefix}{name}"
            self._check(len(path) <= MAX_NAME, f"a name of over {MAX_NAME} letters")
            if isinstance(value, Tensor):
                found[path] = value
            elif isinstance(value, Mapping):
                self._flatten(value, f"{path}.", depth + 1, found)

    def _do(self, name: str, argument: Any) -> None:
        """Do one opcode; any that could do more than nest data is an error."""
        stack = self.stack
        if name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE"):
            stack.append(argument)
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name == "MARK":
            self.marks.append(len(stack))
        elif name == "TUPLE":
            stack.append(tuple(self._to_mark()))
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            items = tuple(stack.pop() for _ in range(int(name[-1])))
            stack.append(items[::-1])
        elif name in ("APPEND", "APPENDS", "SETITEM", "SETITEMS", "BUILD"):
            self._fill(name)
        elif name == "GLOBAL":
            stack.append(_Name(argument))
        elif name == "BINPERSID":
            stack.append(self._storage(stack.pop()))
        elif name == "NEWOBJ":
            _, kind = stack.pop(), stack.pop()
            self._check(isinstance(kind, _Name) and kind.text.startswith("__torch__"), name)
            stack.append(_Module())
        elif name == "REDUCE":
            arguments, function = stack.pop(), stack.pop()
            stack.append(self._call(function, arguments))
        else:
            self._check(name == "PROTO", name)

    def _fill(self, name: str) -> None:
        """Put values into the list or dict below them."""
        count = {"APPEND": 1, "SETITEM": 2, "BUILD": 1}.get(name)
        items = self._to_mark() if count is None else [self.stack.pop() for _ in range(count)][::-1]
        target = self.stack[-1]
        if name.startswith("APPEND"):
            self._check(isinstance(target, list), name)
            target.extend(items)
        elif name == "BUILD":
            self._check(isinstance(target, dict) and isinstance(items[0], dict), name)
            self._count(len(items[0]))
            if isinstance(target, _Module):  # the attributes of a plain dict, such as its versions, are no tensors
                target.update(items[0])
        else:
            # other keys may nest, and then take for ever to hash
            self._check(isinstance(target, dict) and all(isinstance(key, str | int) for key in items[::2]), name)
            target.update(zip(items[::2], items[1::2], strict=True))

    def _to_mark(self) -> list[Any]:
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def _call(self, function: Any, arguments: Any) -> Any:
        """The result of the few functions that files of weights name."""
        name = function.text if isinstance(function, _Name) else type(function).__name__
        self._check(isinstance(arguments, tuple), name)
        if name == "collections OrderedDict":
            self._check(not arguments, name)
            return {}
        if name == "torch Size":
            return arguments
        if name == "torch._utils _rebuild_parameter":
            self._check(isinstance(arguments[0], Tensor), name)
            return arguments[0]
        self._check(name == "torch._utils _rebuild_tensor_v2", name)
        storage, offset, size, stride = arguments[:4]
        self._check(isinstance(size, tuple) and len(size) <= MAX_AXES, name)
        return torch.as_strided(storage, size, stride, offset)  # an error for what lies outside the storage

    def _storage(self, reference: Any) -> Tensor:
        """The numbers that several tensors may share, as one tensor. Their count in the pickle is not believed."""
        kind, dtype, key = reference[:3]
        self._check(kind == "storage" and isinstance(key, str) and key.isalnum(), "a storage without a name")
        self._check(isinstance(dtype, _Name) and dtype.text in _DTYPES, "numbers of an unknown type")
        if key not in self.storages:  # several tensors may share one
            self.storages[key] = bytearray(self.archive.read(f"{self.root}/data/{key}"))
        data = self.storages[key]
        return torch.frombuffer(data, dtype=_DTYPES[dtype.text]) if data else torch.empty(0, dtype=_DTYPES[dtype.text])

    def _check(self, allowed: bool, what: str) -> None:
        if not allowed:
            raise DataError(
                f"CLIP weights {self.archive.filename} hold more than weights ({what}): "
                "save its state dict as safetensors, and give that file"
            )
