"""What all tasks of one run share, and how the failure of a task reaches the process that started the run.

Forked workers inherit the session. An exception of a worker reaches luigi's parent as text only, so each failure leaves
a record in a folder of the run.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from split_matching.cache.disk_errors import explain_disk_error
from split_matching.configs.schema import Config
from split_matching.errors import CorruptError, UserError
from split_matching.pipeline.plan import Plan
from split_matching.pipeline.run.ending import end_with_parent
from split_matching.pipeline.run.progress import LOGGER, ProgressDisplay
from split_matching.pipeline.stages import make_plan


@dataclass
class Session:
    """One run.

    Args:
        display: where progress is shown.
        failures: folder in which a failing task leaves a record; None to leave none.
        force: name of the stage to make again.
        supersedes: digest of the manifest that it supersedes.
        pid: process that started the run; any other is a worker.
    """

    display: ProgressDisplay = field(default_factory=ProgressDisplay)
    failures: Path | None = None
    force: str = ""
    supersedes: str = ""
    pid: int = field(default_factory=os.getpid)


_session = Session()


def begin(session: Session) -> None:
    """Set the session of the tasks that run from now on."""
    global _session
    _session = session
    plan_of.cache_clear()


def current() -> Session:
    """Return the session."""
    return _session


@lru_cache(maxsize=8)
def plan_of(config: str) -> Plan:
    """Return the plan of a config, given as JSON."""
    return make_plan(Config.model_validate_json(config), _session.force, _session.supersedes)


class SkippedError(Exception):
    """Another shard failed, so this one was not started."""


@contextlib.contextmanager
def record_failures(stage: str) -> Iterator[None]:
    """Leave a record of an exception inside the block, and let it pass on.

    An error of the file system that a user can do something about becomes a UserError here.
    """
    try:
        yield
    except SkippedError:
        raise
    except Exception as error:
        explained = None if isinstance(error, UserError) else explain_disk_error(error)
        record(stage, explained or error, traceback.format_exc())
        raise


def record(stage: str, error: Exception, trace: str = "") -> None:
    """Write the record of one failure."""
    LOGGER.error("%s: %s%s", stage, error, f"\n{trace}" if trace else "")
    if _session.failures is None:
        return
    value = {
        "stage": stage,
        "user": isinstance(error, UserError),
        "exit_code": error.exit_code if isinstance(error, UserError) else 1,
        "damaged": [str(path) for path in error.damaged] if isinstance(error, CorruptError) else [],
        "type": type(error).__name__,
        "message": str(error) if isinstance(error, UserError) else " ".join(str(error).split()),
        "traceback": trace,
    }
    try:
        path = _session.failures / f"{time.time_ns()}-{secrets.token_hex(4)}.json"
        path.write_text(json.dumps(value), encoding="utf-8")
    except OSError:  # the folder of temporary files is full as well, so nobody can read it later
        print(f"error: {stage}: {value['message']}", file=sys.stderr)


def read_records(failures: Path) -> list[dict[str, Any]]:
    """Return the records of failures, first ones first, without those that could not be written in full."""
    records = []
    for path in sorted(failures.iterdir()):
        with contextlib.suppress(ValueError):
            records.append(json.loads(path.read_text(encoding="utf-8")))
    return records


def has_failed() -> bool:
    """Whether some task of this run has failed."""
    return _session.failures is not None and any(_session.failures.iterdir())


def is_worker() -> bool:
    """Whether this process was forked by the one that started the run."""
    return os.getpid() != _session.pid


def settle_into_process() -> None:
    """In a worker: leave all signals but SIGTERM to the parent, which ends it, and end if that is killed."""
    if not is_worker():
        return
    for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    end_with_parent(_session.pid)
