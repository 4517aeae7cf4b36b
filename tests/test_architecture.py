"""The rules of the house: which folder imports which, where a library may be used, and what is never there."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = "split_matching"
FOLDERS = ("configs", "cache", "model", "stages", "pipeline")

# What each folder may import of ours; the errors are open to all.
MAY_IMPORT = {
    "configs": {"configs"},
    "cache": {"cache"},
    "model": {"model", "configs"},
    "stages": {"stages", "model", "configs", "cache"},
    "pipeline": {"pipeline", "stages", "model", "configs", "cache"},
}

# The floors of stages/, from the ground up: each imports itself and those before it.
FLOORS = ("ground", "data", "candidates", "training", "inference", "pages")

# Which files may import a library: full paths, or a folder that ends with a slash.
ONLY_IN = {
    "luigi": ("pipeline/run/",),
    "h5py": ("cache/shard_",),
    "fsspec": ("cache/remote.py",),
    "submitit": ("pipeline/run/slurm",),
    "open_clip": ("model/clip_weights.py",),
    "faiss": ("stages/candidates/clustering/faiss_kmeans.py",),
    "cv2": ("stages/data/augment.py",),
    "torch": ("model/", "stages/"),
    "pydantic": ("configs/",),
    "yaml": ("configs/", "pipeline/experiments/gammas.py"),
}

NEVER = {"mmcv", "mmengine", "mmseg", "detectron2", "pickle", "dill", "joblib", "shelve"}
VAGUE_NAMES = {
    f"{stem}{tail}" for stem in ("util", "utils", "misc", "helper", "helpers", "common") for tail in (".py", "")
}
TEXT_ENDINGS = {".py", ".yaml", ".yml", ".toml", ".txt", ".md", ".json", ".html", ".jinja", ".css", ".j2", ""}


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def modules(*folders: str) -> list[Path]:
    """Python files of the folders, and of the root for none."""
    files = [path for folder in folders or FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    return files if folders else [*files, *sorted(ROOT.glob("*.py"))]


def place(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def imports(path: Path) -> tuple[str, ...]:
    """Return the names that a file imports, see `_imports`."""
    return tuple(_imports(path))


def _imports(path: Path) -> Iterator[str]:
    """Dotted names that a file imports, also inside functions; `from a import b` gives a.b, where b may be a module.

    Names of ours come without the package: `split_matching.cache.keys` gives cache.keys.
    """
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name.removeprefix(f"{PACKAGE}.") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = [*above, *([node.module] if node.module else [])]
            yield from (".".join([*base, alias.name]).removeprefix(f"{PACKAGE}.") for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            # only a name that is spelt out can be checked
            given = [argument.value for argument in node.args[:1] if isinstance(argument, ast.Constant)]
            yield from (name.removeprefix(f"{PACKAGE}.") for name in given if isinstance(name, str))


def top(name: str) -> str:
    return name.partition(".")[0]


def allowed(name: str, permits: set[str]) -> bool:
    return any(name == permit or name.startswith(f"{permit}.") for permit in permits)


def project_files() -> list[Path]:
    """Every file of the project: what git tracks or would track, or all outside dot folders where git is not there."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        skipped = {"artifacts", "build", "__pycache__"}
        every = (path for path in ROOT.rglob("*") if path.is_file())
        parts = ((path, path.relative_to(ROOT).parts) for path in every)
        return [path for path, names in parts if not names[0].startswith(".") and not skipped & set(names)]
    return [path for name in done.stdout.decode().split("\0") if name and (path := ROOT / name).is_file()]


def test_the_walk_finds_the_rooms_and_their_imports():
    """Guards the guards: an empty walk would pass every rule below."""
    found = {top(name) for path in modules() for name in imports(path)}
    assert {"configs", "cache", "model", "stages", "torch", "numpy"} <= found
    assert all(modules(folder) for folder in FOLDERS)


@pytest.mark.parametrize("folder", FOLDERS)
def test_imports_point_one_way(folder):
    wrong = [
        f"{place(path)} imports {name}"
        for path in modules(folder)
        for name in imports(path)
        if top(name) in (*FOLDERS, "tests", "benchmarks", "run_pipeline") and not allowed(name, MAY_IMPORT[folder])
    ]
    assert not wrong


def test_stages_import_downwards_only():
    """Six floors, one way: a photograph goes up, and no import goes with it."""
    wrong = [
        f"{place(path)} imports {name}"
        for height, floor in enumerate(FLOORS)
        for path in modules(f"stages/{floor}")
        for name in imports(path)
        if name.startswith("stages.") and not allowed(name, {f"stages.{below}" for below in FLOORS[: height + 1]})
    ]
    assert not wrong
    assert {path.parent.name for path in (ROOT / "stages").glob("*/__init__.py")} == set(FLOORS)


def test_no_circle_of_imports():
    """Imports at the top of modules and inside functions alike."""
    files = {place(path).removesuffix(".py").removesuffix("/__init__").replace("/", "."): path for path in modules()}
    needs = {
        name: {found for target in imports(path) if (found := module_of(target, files))} for name, path in files.items()
    }
    circles = []
    for start in needs:
        reached, waiting = set(), [start]
        while waiting:
            for name in needs[waiting.pop()] - reached:
                reached.add(name)
                waiting.append(name)
        if start in reached:
            circles.append(start)
    assert not circles


def module_of(name: str, files: dict[str, Path]) -> str:
    """The module that a dotted name is or is defined in; "" for none of ours."""
    return name if name in files else name.rpartition(".")[0] if name.rpartition(".")[0] in files else ""


def test_our_modules_have_one_name():
    """`import cache.keys` would load a second copy beside `split_matching.cache.keys`, and clash with a user's own."""
    bare = [
        f"{place(path)}:{node.lineno}"
        for path in [*modules(), *(ROOT / "tests").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]
        for node in ast.walk(tree(path))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom) and not node.level
            else []
        )
        if top(name) in FOLDERS
    ]
    assert not bare


@pytest.mark.parametrize("library", ONLY_IN)
def test_libraries_stay_where_they_belong(library):
    wrong = [
        place(path)
        for path in modules()
        if library in {top(name) for name in imports(path)} and not place(path).startswith(ONLY_IN[library])
    ]
    assert not wrong


def test_no_forbidden_library():
    wrong = [(place(path), name) for path in modules() for name in imports(path) if top(name) in NEVER]
    assert not wrong


def test_weights_are_loaded_without_code():
    """`torch.load` runs what a file says unless `weights_only=True` is given."""
    wrong = [
        f"{place(path)}:{node.lineno}"
        for path in modules()
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) == "torch.load"
        and not any(key.arg == "weights_only" and ast.unparse(key.value) == "True" for key in node.keywords)
    ]
    assert not wrong


def test_images_are_opened_in_one_guarded_place():
    """`Image.open` without `formats` hands some files to other programs."""
    found = [
        (place(path), sorted(key.arg for key in node.keywords))
        for path in modules()
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("Image.open")
    ]
    assert found == [("stages/data/images.py", ["formats"])]


def test_tasks_know_no_arrays():
    """A task has no arithmetic: the pipeline does not import an array library."""
    arrays = {"numpy", "scipy", "torch", "PIL", "matplotlib"}
    wrong = [(place(path), name) for path in modules("pipeline") for name in imports(path) if top(name) in arrays]
    assert not wrong


def test_every_module_says_what_it_does():
    silent = [
        place(path)
        for path in modules()
        if path.name != "__init__.py" and not (ast.get_docstring(tree(path)) or "").strip()
    ]
    assert not silent


def test_no_vague_file_names():
    vague = [place(path) for path in project_files() if VAGUE_NAMES & set(path.relative_to(ROOT).parts)]
    assert not vague


def test_no_path_of_one_machine_in_any_file():
    """A path that exists on one machine only: a home folder or a workplace."""
    pattern = re.compile(r"(?<![\w.~<$}/-])/(?:home|root|work|Users|mnt)/\w")
    wrong = [
        f"{place(path)}:{number}"
        for path in project_files()
        if path.suffix in TEXT_ENDINGS and path != Path(__file__)
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1)
        if pattern.search(line)
    ]
    assert not wrong


def test_command_line_starts_without_heavy_libraries():
    heavy = {"torch", "torchvision", "numpy", "luigi", "h5py", "open_clip", "faiss", "scipy", "matplotlib"}
    code = f"import sys, split_matching.pipeline.cli; print(sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


# ---- the rules themselves ----


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("import a.b", "a.b"),
        ("from a import b", "a.b"),
        ("from . import b", "stages.b"),
        ("from .. import b", "b"),
        ("from split_matching.a import b", "a.b"),
        ("from .x import b", "stages.x.b"),
        ("def f():\n    import a", "a"),
        ("if True:\n    from a.b import c", "a.b.c"),
        ("import importlib\nimportlib.import_module('a.b')", "a.b"),
    ],
)
def test_every_way_to_import_is_seen(monkeypatch, source, name):
    monkeypatch.setattr(sys.modules[__name__], "tree", lambda path: ast.parse(source))
    assert name in set(_imports(ROOT / "stages" / "made_up.py"))


def test_a_permit_covers_its_submodules_only():
    assert allowed("split_matching.errors.DataError", {"split_matching.errors"})
    assert not allowed("configs.errors_more", {"split_matching.errors"})
    assert not allowed("split_matching.configs.schema", {"split_matching.errors"})
