"""The installed package: the files in the wheel, a run from any folder, and the line for a missing package."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from split_matching import environment
from split_matching.configs.load import load_config
from split_matching.environment import default_artifacts, explain_missing_package
from split_matching.pipeline.cli import main

ROOT = Path(__file__).parent.parent
FOLDERS = ("cache", "configs", "model", "stages", "pipeline")
PACKAGE = "split_matching"
NOT_SHIPPED = {".pyc"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, built from a copy, without a network."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "checkout"
    source.mkdir()
    for name in (*FOLDERS, PACKAGE):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "run_pipeline.py"):
        shutil.copy(ROOT / name, source)
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--wheel-dir", str(folder)]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, str(source)], check=True, timeout=300)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path) -> Path:
    """A folder for `sys.path` that holds the package as an installation does."""
    folder = wheel.parent / "site-packages"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


@pytest.fixture
def users_folder(tmp_path: Path) -> Path:
    """A folder of a user whose own modules have the names of folders."""
    for name in FOLDERS:
        (tmp_path / f"{name}.py").write_text("raise SystemExit('a module of the user was imported')\n")
    return tmp_path


def run_python(arguments: list[str], folder: Path, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    known = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    given = {"PYTHONPATH": str(path)} if path else {}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=folder, env={**known, **given}, capture_output=True, text=True, timeout=120)


def test_wheel_holds_every_file_of_the_rooms_and_no_other(wheel: Path) -> None:
    expected = {f"{PACKAGE}/{path.name}" for path in (ROOT / PACKAGE).glob("*.py")}
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and path.suffix not in NOT_SHIPPED:
                expected.add(f"{PACKAGE}/{path.relative_to(ROOT).as_posix()}")
    with zipfile.ZipFile(wheel) as archive:
        found = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert found == expected
    assert {Path(name).suffix for name in found} >= {".py", ".yaml", ".json", ".safetensors", ".j2", ".css", ".js"}


def test_wheel_names_the_command_and_the_requirements(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        texts = {Path(name).name: archive.read(name).decode() for name in archive.namelist() if ".dist-info/" in name}
    assert "split-matching = split_matching.__main__:main" in texts["entry_points.txt"]
    lines = texts["METADATA"].splitlines()
    assert {"Name: split-matching", "Requires-Python: >=3.11", "Provides-Extra: dev"} <= set(lines)
    assert any(line.startswith("Requires-Dist: torch<3,>=2.9") for line in lines)


def test_installed_package_runs_beside_modules_of_the_same_names(installed: Path, users_folder: Path) -> None:
    done = run_python(["-m", PACKAGE, "status", "--dataset", "shapes"], users_folder, installed)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("RenderShapes ")
    done = run_python(["-m", PACKAGE, "--help"], users_folder, installed)
    assert done.stdout.startswith("usage: split-matching ") and "run_pipeline.py" not in done.stdout
    code = "import split_matching; from split_matching.cache.keys import digest; print(split_matching.__file__)"
    done = run_python(["-c", code], users_folder, installed)
    assert done.stdout.strip() == str(installed / PACKAGE / "__init__.py"), done.stderr


def test_installed_package_renders_and_stores_below_the_working_folder(installed: Path, users_folder: Path) -> None:
    settings = ["--set", "shapes.train_scenes=2", "shapes.val_scenes=1"]
    done = run_python(["-m", PACKAGE, "RenderShapes", "--quiet", *settings], users_folder, installed)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("artifacts/shapes/")
    assert (users_folder / done.stdout.strip()).is_dir()


def test_data_of_an_installed_package_go_below_the_working_folder(installed: Path, users_folder: Path) -> None:
    done = run_python(["-m", PACKAGE, "config", "--dataset", "voc"], users_folder, installed)
    assert f"  root: {users_folder / 'data/voc'}  #" in done.stdout, done.stderr


def test_results_of_a_checkout_are_found_from_any_folder(users_folder: Path) -> None:
    done = run_python([str(ROOT / "run_pipeline.py"), "config"], users_folder)
    assert f"  artifacts: {ROOT.resolve() / 'artifacts'}  #" in done.stdout, done.stderr
    done = run_python([str(ROOT / "run_pipeline.py"), "config"], ROOT)
    assert "  artifacts: artifacts  #" in done.stdout, done.stderr


def test_a_given_folder_of_results_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert default_artifacts() == ROOT.resolve() / "artifacts"
    assert load_config("shapes").runtime.artifacts == ROOT.resolve() / "artifacts"
    assert load_config("shapes", [], ["runtime.artifacts=here"]).runtime.artifacts == Path("here")


def test_a_missing_package_is_one_line(users_folder: Path) -> None:
    """-S: no site-packages, as in a shell where the environment is not active."""
    done = run_python(["-S", str(ROOT / "run_pipeline.py"), "status"], users_folder)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: the package ") and done.stderr.count("\n") == 1
    assert "run `" in done.stderr


@pytest.mark.parametrize(
    ("checkout", "environment_exists", "advice"),
    [
        (True, True, "the environment of this project is not active; run `source .venv/bin/activate`"),
        (True, False, "run `python -m pip install -e .`"),
        (False, False, "install split-matching again"),
    ],
)
def test_the_advice_for_a_missing_package(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, checkout: bool, environment_exists: bool, advice: str
) -> None:
    monkeypatch.setattr(environment, "CHECKOUT", tmp_path)
    monkeypatch.chdir(tmp_path)
    if checkout:
        (tmp_path / "run_pipeline.py").touch()
    if environment_exists:
        (tmp_path / ".venv/bin").mkdir(parents=True)
        (tmp_path / ".venv/bin/activate").touch()
    line = explain_missing_package(ModuleNotFoundError("No module named 'torch.nn'", name="torch.nn"))
    assert line.startswith("the package torch is not installed in ") and advice in line


@pytest.mark.parametrize(
    ("name", "code", "said"),
    [
        ("torch", 2, "the package torch is not installed"),
        ("split_matching.gone", 1, "ModuleNotFoundError"),  # a bug of ours, and said as one
    ],
)
def test_a_package_that_is_missing_later_is_one_line_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, code: int, said: str
) -> None:
    def fail(*_: object) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr("split_matching.pipeline.arguments.load_with_origins", fail)
    assert main(["config"]) == code
    assert said in capsys.readouterr().err
