"""Fingerprints of code: which code made a result, blind to comments, docstrings and whitespace.

A stage's fingerprint covers its module and all modules of ours that it imports, its closure. It is taken from the
syntax tree, so that it is the same in every version of Python.

A process keeps the modules that it has imported, so a file that is edited meanwhile keeps the fingerprint that it had
when it was first asked for (`code_of`), and a file that was edited before its module was imported is an error
(`import_code`): the code that is recorded is the code that runs.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

from split_matching.errors import UserError

PACKAGE = "split_matching"
CODE_FOLDER = Path(__file__).resolve().parent.parent
"""The folder that holds `cache`, `model` and the others: the checkout, or the installed package."""

RESULT_CODE = ("model", "stages", "configs.class_names")
"""Packages and modules whose code makes results. The others (cache, configs, pipeline) store and order them."""

DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
COSMETIC = ("type_comment", "kind", "type_ignores")


class _ModuleSource:
    """What is kept of a Python file: its fingerprint and the names it imports (relative ones with their dots)."""

    def __init__(self, tree: ast.Module) -> None:
        self.imports = tuple(sorted(set(_imports_of(tree))))
        self.fingerprint = hashlib.sha256(repr(_as_tuples(tree)).encode()).hexdigest()


def _parse(path: Path) -> _ModuleSource:
    stat = path.stat()
    return _parse_version(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=512)
def _parse_version(path: Path, mtime_ns: int, size: int) -> _ModuleSource:
    return _ModuleSource(ast.parse(path.read_bytes(), filename=str(path)))


def module_closure(
    module: str,
    packages: Sequence[str] = RESULT_CODE,
    root: Path = CODE_FOLDER,
    parse: Callable[[Path], _ModuleSource] = _parse,
) -> dict[str, str]:
    """Return the fingerprints of a module and of all local modules that it imports, directly or not.

    Imports inside functions count too: they run as well. A package's `__init__.py` counts, for importing a module in it
    runs it; but what it imports counts only if somebody imports the package itself.

    Args:
        module: dotted name, e.g. "split_matching.stages.candidates.features".
        packages: top-level packages, and modules, to follow.
        root: the folder that holds them.
        parse: reads a file.

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
        if name in seen or path is None or not any(f"{name}.".startswith(f"{package}.") for package in packages):
            continue
        seen.add(name)
        found[path.relative_to(root).as_posix()] = parse(path).fingerprint
        parts = name.split(".")
        for init in (root.joinpath(*parts[:n], "__init__.py") for n in range(1, len(parts))):
            if init.is_file():
                found[init.relative_to(root).as_posix()] = parse(init).fingerprint
        waiting.extend(_absolute(target, name, path.name == "__init__.py") for target in parse(path).imports)
    return dict(sorted(found.items()))


def _module_file(name: str, root: Path) -> Path | None:
    base = root.joinpath(*name.split("."))
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None


def _imports_of(tree: ast.Module) -> Iterator[str]:
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


def _as_tuples(node: Any) -> Any:
    """Return a syntax tree as nested tuples, without positions, docstrings and empty fields.

    Not `ast.dump`: its text differs between Python versions, and a cache outlives an upgrade.
    """
    if isinstance(node, ast.AST):
        fields = dict(ast.iter_fields(node))
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            fields["body"] = node.body[1:] or [ast.Pass()]
        kept = ((name, value) for name, value in fields.items() if name not in COSMETIC and value not in (None, []))
        return (type(node).__name__, *((name, _as_tuples(value)) for name, value in kept))
    if isinstance(node, list):
        return [_as_tuples(child) for child in node]
    return f"{type(node).__name__}:{node!r}"


@cache
def _parse_first(path: Path) -> _ModuleSource:
    return _parse(path)


@cache
def code_of(module: str) -> Mapping[str, str]:
    """Return the fingerprints of a module of ours and of all that it imports, as they were when first asked for."""
    return module_closure(module, parse=_parse_first)


_imported: set[str] = set()
"""Names of modules whose file had the recorded fingerprint when they had been imported."""

_noted: set[str] = set()
"""Names of modules whose fingerprint was taken because they were imported already."""


def import_code(module: str) -> ModuleType:
    """Import a module and all of ours that it imports, also inside functions, and see that this is the recorded code.

    Args:
        module: dotted name, e.g. "split_matching.stages.candidates.features".

    Raises:
        UserError: a file was edited after its fingerprint was taken, and before it was imported.
    """
    _note_loaded()
    prefix = f"{PACKAGE}." if module.startswith(f"{PACKAGE}.") else ""
    recorded = code_of(module)
    files = {prefix + file.removesuffix(".py").removesuffix("/__init__").replace("/", "."): file for file in recorded}
    for name in [module, *files]:
        importlib.import_module(name)
    if new := files.keys() - _imported:
        now = module_closure(module)
        if edited := sorted(files[name] for name in new if now.get(files[name]) != recorded[files[name]]):
            raise UserError(f"{edited[0]} was edited while this run started: run it again")
        _imported.update(new)
    return sys.modules[module]


def _note_loaded() -> None:
    """Take the fingerprints of what is imported already: later files may have been edited."""
    results = tuple(f"{PACKAGE}.{name}" for name in RESULT_CODE)
    for name, module in list(sys.modules.items()):
        if name.startswith(results) and name not in _noted and module.__file__:
            _parse_first(Path(module.__file__).resolve())
            _noted.add(name)


def forget_code() -> None:
    """Take all fingerprints anew: only where no module of ours is kept, as between two tests."""
    _parse_first.cache_clear()
    code_of.cache_clear()
    _imported.clear()
    _noted.clear()
