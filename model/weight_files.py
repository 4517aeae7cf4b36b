"""Reads the tensors of a local file of CLIP weights, whatever its format, and runs nothing that the file says.

Three formats: safetensors; what `torch.save` writes, read with `weights_only=True`; and the TorchScript archives that
OpenAI published. `torch.jit.load` would compile, and may run, code of an archive, so its data are read here without
it: the pickle inside is walked opcode by opcode, and only tensors, numbers and nesting are understood (choice).
"""

from __future__ import annotations

import pickletools
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from split_matching.errors import DataError, first_line

OPENAI_MARKS = ("input_resolution", "context_length", "vocab_size")
"""Buffers that OpenAI's archives carry beside the weights; nothing else writes them."""

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


@dataclass(frozen=True)
class WeightFile:
    """What a file of weights holds.

    Args:
        tensors: by name, without the prefix that data-parallel training leaves.
        openai: whether the file carries OpenAI's marks.
    """

    tensors: Mapping[str, Tensor]
    openai: bool


def read_weight_file(path: Path) -> WeightFile:
    """Read a file of weights.

    Args:
        path: the file: safetensors, `torch.save` (a state dict, or a dict with one as `state_dict`), or TorchScript.

    Raises:
        DataError: the file is none of these, is damaged, or would need code to be run.
    """
    try:
        found = load_file(path) if path.suffix == ".safetensors" else _read_torch(path)
    except DataError:
        raise
    except Exception as error:  # safetensors, zipfile and torch raise many kinds for damaged bytes
        raise DataError(
            f"CLIP weights {path} cannot be read ({first_line(error)}): give a whole .safetensors file, a "
            "state dict saved by torch, or OpenAI's archive; pickles that need code are never loaded"
        ) from error
    if isinstance(found, Mapping) and isinstance(found.get("state_dict"), Mapping):
        found = found["state_dict"]
    if not isinstance(found, Mapping) or not all(isinstance(value, Tensor) for value in found.values()):
        raise DataError(f"CLIP weights {path} hold no tensors by name: give a file with a state dict of the whole CLIP")
    tensors = {str(name).removeprefix("module."): value for name, value in found.items()}
    marks = [name for name in OPENAI_MARKS if name in tensors]
    return WeightFile({n: t for n, t in tensors.items() if n not in marks}, len(marks) == len(OPENAI_MARKS))


def _read_torch(path: Path) -> Any:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if any(name.endswith("/constants.pkl") for name in names):  # what tells TorchScript from torch.save
                return _ArchiveReader(archive, names[0].partition("/")[0]).tensors()
    return torch.load(path, map_location="cpu", weights_only=True)


@dataclass(frozen=True)
class _Name:
    """A global that the pickle names; never looked up."""

    text: str


class _ArchiveReader:
    """Walks `data.pkl` of a TorchScript archive: modules become dicts of their attributes.

    Args:
        archive: the open archive.
        root: its top folder.
    """

    def __init__(self, archive: zipfile.ZipFile, root: str) -> None:
        self.archive, self.root = archive, root
        self.stack: list[Any] = []
        self.marks: list[int] = []

    def tensors(self) -> dict[str, Tensor]:
        """Return every tensor attribute by its dotted path."""
        memo: dict[Any, Any] = {}
        for opcode, argument, _ in pickletools.genops(self.archive.read(f"{self.root}/data.pkl")):
            if opcode.name in ("BINPUT", "LONG_BINPUT"):
                memo[argument] = self.stack[-1]
            elif opcode.name in ("BINGET", "LONG_BINGET"):
                self.stack.append(memo[argument])
            elif opcode.name == "STOP":
                return dict(_flatten(self.stack.pop()))
            else:
                self._do(opcode.name, argument)
        raise DataError(f"CLIP weights {self.archive.filename} end too early: fetch the file again")

    def _do(self, name: str, argument: Any) -> None:
        """Do one opcode; any that could do more than nest data is an error."""
        stack = self.stack
        constants = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
        if name in constants:
            stack.append(constants[name])
        elif name in ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE"):
            stack.append(argument)
        elif name in ("EMPTY_TUPLE", "EMPTY_DICT", "EMPTY_LIST"):
            stack.append({"EMPTY_TUPLE": tuple, "EMPTY_DICT": dict, "EMPTY_LIST": list}[name]())
        elif name == "MARK":
            self.marks.append(len(stack))
        elif name == "TUPLE":
            stack.append(tuple(self._to_mark()))
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            items = tuple(stack.pop() for _ in range(int(name[-1])))
            stack.append(items[::-1])
        elif name == "APPENDS":
            items = tuple(self._to_mark())
            stack[-1].extend(items)
        elif name == "SETITEMS":
            items = tuple(self._to_mark())
            stack[-1].update(zip(items[::2], items[1::2], strict=True))
        elif name == "SETITEM":
            value, key = stack.pop(), stack.pop()
            stack[-1][key] = value
        elif name == "GLOBAL":
            stack.append(_Name(argument))
        elif name == "BINPERSID":
            stack.append(self._storage(*stack.pop()))
        elif name == "NEWOBJ":
            _, kind = stack.pop(), stack.pop()
            self._check(isinstance(kind, _Name) and kind.text.startswith("__torch__"), name)
            stack.append({})
        elif name == "BUILD":
            state = stack.pop()
            self._check(isinstance(state, dict) and isinstance(stack[-1], dict), name)
            stack[-1].update(state)
        elif name == "REDUCE":
            arguments, function = stack.pop(), stack.pop()
            stack.append(self._call(function, arguments))
        else:
            self._check(name == "PROTO", name)

    def _to_mark(self) -> list[Any]:
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def _call(self, function: Any, arguments: Any) -> Any:
        """The result of the two functions that archives of weights name."""
        name = function.text if isinstance(function, _Name) else str(function)
        if name == "collections OrderedDict":
            return {}
        self._check(name == "torch._utils _rebuild_tensor_v2", name)
        storage, offset, size, stride = arguments[:4]
        return torch.as_strided(storage, size, stride, offset)  # an error for what lies outside the storage

    def _storage(self, kind: str, dtype: _Name, key: str, *_: Any) -> Tensor:
        self._check(kind == "storage" and dtype.text in _DTYPES and key.isalnum(), f"{kind} {key}")
        data = bytearray(self.archive.read(f"{self.root}/data/{key}"))
        return torch.frombuffer(data, dtype=_DTYPES[dtype.text]) if data else torch.empty(0, dtype=_DTYPES[dtype.text])

    def _check(self, allowed: bool, what: str) -> None:
        if not allowed:
            raise DataError(
                f"CLIP weights {self.archive.filename} hold more than weights ({what}): "
                "save its state dict as safetensors, and give that file"
            )


def _flatten(module: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Tensor]]:
    found: list[tuple[str, Tensor]] = []
    for name, value in module.items():
        if isinstance(value, Tensor):
            found.append((f"{prefix}{name}", value))
        elif isinstance(value, Mapping):
            found += _flatten(value, f"{prefix}{name}.")
    return found
