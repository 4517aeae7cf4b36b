"""Names for content: digests of values, of files, and of code that ignore what changes nothing.

A key says which result is meant (config, version, upstream keys); a fingerprint says which code made it. Both must be
the same on every machine and in every process, so values are hashed in one canonical JSON form, and code by its syntax
tree.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

PACKAGE = "split_matching"
ROOMS = Path(__file__).resolve().parent.parent
"""The folder that holds `cache`, `model` and the others: the checkout, or the installed package."""

LOCAL = ("model", "stages")
"""Packages whose code makes results. The others (cache, configs, pipeline) carry bytes about without changing them."""

DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
COSMETIC = ("type_comment", "kind", "type_ignores")


def canonical_json(value: Any) -> str:
    """Return the one JSON text of a value: sorted keys, no spaces, tuples as lists, no NaN.

    Raises:
        TypeError: the value is no JSON value.
        ValueError: NaN or infinity.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def digest(value: Any) -> str:
    """Return the sha256 (64 hex digits) of a JSON value."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """Return the sha256 (64 hex digits) of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def code_fingerprint(module_file: Path) -> str:
    """Return a digest of a Python file that stays when only comments, docstrings or whitespace change.

    Args:
        module_file: a file of valid Python.
    """
    return _parse(module_file).fingerprint


def module_closure(module: str, packages: Sequence[str] = LOCAL, root: Path = ROOMS) -> dict[str, str]:
    """Return the fingerprints of a module and of all local modules that it imports, directly or not.

    Imports inside functions count too: they run as well. A package's `__init__.py` counts, for importing a module in it
    runs it; but what it imports counts only if somebody imports the package itself.

    Args:
        module: dotted name, e.g. "split_matching.stages.candidates.features".
        packages: top-level packages to follow.
        root: the folder that holds them.

    Returns:
        Paths from `root` with forward slashes -> fingerprint, e.g. {"stages/training/text.py": "9f86..."}, sorted.
    """
    found: dict[str, str] = {}
    seen: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop().removeprefix(f"{PACKAGE}.")
        path = _module_file(name, root)
        # no path: `from stages.a import run` names `stages.a.run`, which is no module
        if name in seen or name.partition(".")[0] not in packages or path is None:
            continue
        seen.add(name)
        found[path.relative_to(root).as_posix()] = code_fingerprint(path)
        parts = name.split(".")
        for init in (root.joinpath(*parts[:n], "__init__.py") for n in range(1, len(parts))):
            if init.is_file():
                found[init.relative_to(root).as_posix()] = code_fingerprint(init)
        waiting.extend(_absolute(target, name, path.name == "__init__.py") for target in _parse(path).imports)
    return dict(sorted(found.items()))


def changed(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """Return the names whose values differ between two mappings, or that only one of them has; sorted."""
    return sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))


class _Parsed:
    """What is kept of a Python file: its fingerprint and the names it imports (relative ones with their dots)."""

    def __init__(self, tree: ast.Module) -> None:
        self.imports = tuple(sorted(set(_imported(tree))))
        self.fingerprint = hashlib.sha256(repr(_shape(tree)).encode()).hexdigest()


def _parse(path: Path) -> _Parsed:
    stat = path.stat()
    return _parsed(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=512)
def _parsed(path: Path, mtime_ns: int, size: int) -> _Parsed:
    return _Parsed(ast.parse(path.read_bytes(), filename=str(path)))


def _module_file(name: str, root: Path) -> Path | None:
    base = root.joinpath(*name.split("."))
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None


def _imported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            yield base
            joint = "" if base.endswith(".") else "."
            yield from (f"{base}{joint}{alias.name}" for alias in node.names)


def _absolute(target: str, importer: str, is_package: bool) -> str:
    level = len(target) - len(target.lstrip("."))
    if not level:
        return target
    parts = importer.split(".")
    kept = parts[: len(parts) - level + is_package]
    return ".".join([*kept, target[level:]]).rstrip(".")


def _shape(node: Any) -> Any:
    """Return a syntax tree as nested tuples, without positions, docstrings and empty fields.

    Not `ast.dump`: its text differs between Python versions, and a cache outlives an upgrade.
    """
    if isinstance(node, ast.AST):
        fields = dict(ast.iter_fields(node))
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            fields["body"] = node.body[1:] or [ast.Pass()]
        kept = ((name, value) for name, value in fields.items() if name not in COSMETIC and value not in (None, []))
        return (type(node).__name__, *((name, _shape(value)) for name, value in kept))
    if isinstance(node, list):
        return [_shape(child) for child in node]
    return f"{type(node).__name__}:{node!r}"
