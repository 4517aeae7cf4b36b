"""The log file of a run: what it was asked for and by which code, all lines that it showed, and tracebacks.

    artifacts/<dataset>/logs/<time>-<command>.log

Everything in `pipeline` that says something passes it to the logger `split_matching` as well. The file is made when
something is said first, so a command that finds all fresh leaves none. Forked workers inherit the open file, and add to
its end. A log that cannot be written ends no run.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import logging
import os
import platform
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from split_matching.cache.manifest import PACKAGES
from split_matching.environment import commit, shell_line
from split_matching.errors import UserError
from split_matching.pipeline.plan import Plan
from split_matching.pipeline.run.progress import LOGGER

LOGS = "logs"
KEPT = 100  # of a data set; older ones are removed
LOG_LEVELS = ("debug", "info", "warning", "error")
NOTE = "log: "
LUIGI = ("luigi", "luigi-interface", "luigi.scheduler")


class RunLog(logging.FileHandler):
    """The log of one run.

    Args:
        plan: of the run's config.
        command: its stage or verb.
    """

    def __init__(self, plan: Plan, command: str) -> None:
        self._plan, self._command = plan, command
        folder = plan.root / plan.config.dataset / LOGS
        path = folder / f"{datetime.now():%Y%m%d-%H%M%S-%f}-{command}.log"
        super().__init__(path, encoding="utf-8", errors="backslashreplace", delay=True)
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))

    @property
    def path(self) -> Path | None:
        """The file; None if there is none."""
        return Path(self.baseFilename) if self.stream else None

    def begin(self) -> None:
        """Make the file, before workers are forked that write to it."""
        if self.stream:
            return
        path = Path(self.baseFilename)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.stream = self._open()
        except OSError:
            return
        _remove_old(path)
        for line in _describe(self._plan, self._command):
            super().emit(logging.makeLogRecord({"levelname": "INFO", "msg": line}))

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line; the first one makes the file."""
        self.begin()
        if self.stream:
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:
        """Lose a line that cannot be written: the disk may be full."""

    def close(self) -> None:
        """Close the file."""
        with contextlib.suppress(OSError):
            super().close()


@contextlib.contextmanager
def keep_log(plan: Plan, command: str, level: str = "info") -> Iterator[RunLog]:
    """Keep a log of the block. An exception gets a note that says where the log is, see `note_of`.

    Args:
        plan: of the run's config.
        command: its stage or verb.
        level: the least important lines to keep, one of LOG_LEVELS; "debug" adds what luigi says.
    """
    log = RunLog(plan, command)
    log.setLevel(level.upper())
    loggers = [LOGGER, *(logging.getLogger(name) for name in LUIGI if level == "debug")]
    for logger in loggers:
        logger.addHandler(log)
    try:
        yield log
    except KeyboardInterrupt:
        LOGGER.warning("interrupted")
        raise
    except Exception as error:
        LOGGER.exception("%s: %s", type(error).__name__, error)
        if log.path and not note_of(error):
            error.add_note(f"{NOTE}{log.path}")
        raise
    finally:
        for logger in loggers:
            logger.removeHandler(log)
        log.close()


def note_of(error: BaseException) -> str:
    """Return where the log is of the run that an exception ended, as `log: PATH`; "" if there is none."""
    return next((note for note in getattr(error, "__notes__", ()) if note.startswith(NOTE)), "")


def _describe(plan: Plan, command: str) -> Iterator[str]:
    """Yield who was asked for what: command, keys, code, versions."""
    yield f"command: {shell_line(sys.argv)}"
    yield f"in {Path.cwd()} on {platform.node()}, process {os.getpid()}"
    wanted = [member.name for member in plan.stages.values() if member.command == command]
    for member in plan.closure(wanted[0]) if wanted else plan.stages.values():
        with contextlib.suppress(UserError):
            yield f"key of {member.command}: {member.key}"
    if found := commit():
        yield f"commit: {found}"
    yield f"versions: {', '.join(list_versions())}"


def list_versions() -> Iterator[str]:
    """Yield the names and versions of Python and of the packages that a result depends on."""
    yield f"python {platform.python_version()}"
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            yield f"{name} {importlib.metadata.version(name)}"


def _remove_old(own: Path) -> None:
    """Remove all logs beside a new one but the newest; a clock may have been wrong, so not by name alone."""
    for path in sorted(own.parent.glob("*.log"))[:-KEPT]:
        if path != own:
            with contextlib.suppress(OSError):
                path.unlink()
