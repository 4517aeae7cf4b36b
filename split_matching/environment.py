"""Where the code runs: from a checkout or installed, at which commit, by which command, and where its results go.

Imports only the standard library and `errors`, as it runs when nothing else can be imported.
"""

from __future__ import annotations

import importlib.metadata
import os
import shlex
import sys
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from split_matching.errors import hide_passwords, one_line

CHECKOUT = Path(__file__).resolve().parent.parent
"""The folder of run_pipeline.py, or site-packages for an installed package."""

INSTALLED = "split-matching"
"""The command of the installed package."""


def is_checkout() -> bool:
    """Whether the code runs from a checkout, and not from an installed package."""
    return (CHECKOUT / "run_pipeline.py").is_file()


def command() -> str:
    """Return what a user types before the name of a stage or verb."""
    installed = Path(sys.argv[0]).name == INSTALLED or not is_checkout()
    return INSTALLED if installed else "python run_pipeline.py"


def version() -> str:
    """Return the version of the package; "unknown" where it runs from a checkout that was not installed."""
    try:
        return importlib.metadata.version(INSTALLED)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def command_line() -> str:
    """Return what this process was started with, as `shell_line` does."""
    return shell_line([Path(sys.argv[0]).name, *sys.argv[1:]])


def shell_line(words: Sequence[str]) -> str:
    """Return the words of a command as one line for a shell, without the passwords of addresses."""
    return one_line(shlex.join(map(hide_passwords, words)))


@lru_cache(maxsize=1)
def commit() -> str:
    """Return the commit of the checkout, with `-dirty` where files were edited since; "" without git."""
    import subprocess

    if not (CHECKOUT / ".git").exists():
        return ""
    words = ["git", "-C", str(CHECKOUT), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}  # it writes nothing into the user's checkout
    try:
        return subprocess.run(
            words, capture_output=True, text=True, timeout=10, check=True, env=environment
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def home() -> Path:
    """Return the folder that holds `artifacts/` and `data/` by default: the checkout, else the working folder."""
    return CHECKOUT if is_checkout() else Path.cwd()


def default_artifacts() -> Path:
    """Return the folder of the cache that is used unless another one is given.

    In a checkout it is the same folder, whatever the working folder is. The path is relative where that is the same.
    """
    return Path("artifacts") if Path.cwd() == home() else home() / "artifacts"


def explain_missing_package(error: ModuleNotFoundError) -> str:
    """Return one line that names the missing package and the command that makes it available."""
    missing = f"the package {(error.name or str(error)).partition('.')[0]} is not installed in {sys.prefix}"
    environment = CHECKOUT / ".venv"
    activate = environment / "bin" / "activate"
    if activate.is_file() and Path(sys.prefix).resolve() != environment.resolve():
        return f"{missing}: the environment of this project is not active; run `source {_short(activate)}`"
    if is_checkout():
        return f"{missing}: run `python -m pip install -e {_short(CHECKOUT)}` in the environment that you want to use"
    return f"{missing}: install split-matching again, with what it needs"


def _short(path: Path) -> str:
    """Return a path as a word for a shell, relative to the working folder if it lies below it."""
    if path.is_relative_to(Path.cwd()):
        path = path.relative_to(Path.cwd())
    return shlex.quote(str(path))
