"""The log file of a run: what it was asked for and by which code, all lines that it showed, and tracebacks.

    artifacts/<dataset>/logs/<time>-<command>.log

Everything in `pipeline` that says something passes it to the logger `split_matching` as well. Forked workers inherit
the open file, and add to its end. A log that cannot be written ends no run.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import logging
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

from split_matching.cache.manifest import PACKAGES
from split_matching.environment import CHECKOUT
from split_matching.errors import UserError
from split_matching.pipeline.plan import Stage
from split_matching.pipeline.run.progress import LOGGER

LOGS = "logs"
KEPT = 100  # of a data set; older ones are removed
LOG_LEVELS = ("debug", "info", "warning", "error")
LUIGI = ("luigi", "luigi-interface", "luigi.scheduler")


@contextlib.contextmanager
def keep_log(stage: Stage, level: str = "info") -> Iterator[Path | None]:
    """Keep a log of the block.

    Args:
        stage: the wanted stage.
        level: the least important lines to keep, one of LOG_LEVELS; "debug" adds what luigi says.

    Yields:
        The file; None if it cannot be written.
    """
    folder = stage.plan.root / stage.config.dataset / LOGS
    path = folder / f"{datetime.now():%Y%m%d-%H%M%S-%f}-{stage.command}.log"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handler = _Handler(path, encoding="utf-8", errors="backslashreplace")
    except OSError:
        yield None
        return
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    handler.setLevel(level.upper())
    loggers = [LOGGER, *(logging.getLogger(name) for name in LUIGI if level == "debug")]
    for logger in loggers:
        logger.addHandler(handler)
    try:
        _remove_old(folder)
        for line in _describe(stage):
            LOGGER.info(line)
        yield path
    except KeyboardInterrupt:
        LOGGER.warning("interrupted")
        raise
    except Exception:
        LOGGER.exception("the run failed")
        raise
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
        handler.close()


class _Handler(logging.FileHandler):
    def handleError(self, record: logging.LogRecord) -> None:
        """Lose a line that cannot be written: the disk may be full."""

    def close(self) -> None:
        with contextlib.suppress(OSError):
            super().close()


def _describe(stage: Stage) -> Iterator[str]:
    """Yield who was asked for what: command, keys, code, versions."""
    yield f"command: {shlex.join(sys.argv)}"
    yield f"in {Path.cwd()} on {platform.node()}, process {os.getpid()}"
    for member in stage.plan.closure(stage.name):
        with contextlib.suppress(UserError):
            yield f"key of {member.command}: {member.key}"
    if commit := _commit():
        yield f"commit: {commit}"
    yield f"versions: python {platform.python_version()}, {', '.join(_versions(PACKAGES))}"


def _versions(packages: Sequence[str]) -> Iterator[str]:
    for name in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            yield f"{name} {importlib.metadata.version(name)}"


def _commit() -> str:
    """Return the commit of the checkout, with a word on edits since; "" without git."""
    if not (CHECKOUT / ".git").exists():
        return ""
    command = ["git", "-C", str(CHECKOUT), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def _remove_old(folder: Path) -> None:
    """Remove all logs but the newest."""
    for path in sorted(folder.glob("*.log"))[:-KEPT]:
        with contextlib.suppress(OSError):
            path.unlink()
