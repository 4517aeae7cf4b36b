"""How a run ends before its time: Ctrl-C, a polite kill, a scheduler's notice."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

INTERRUPTED = 130
"""Exit code of a run that was ended so."""

END_SECONDS = 25.0  # for a worker to write its checkpoint; Slurm kills 30 s after its SIGTERM

received = 0
"""The signal that ended the last run of this process."""


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Make Ctrl-C, a polite kill and a scheduler's notice (SIGUSR1) end the run in the parent.

    Forked workers inherit the handlers and do not act.
    """
    parent = os.getpid()

    def interrupt(signum: int, frame: FrameType | None) -> None:
        global received
        received = signum
        if os.getpid() == parent:
            raise KeyboardInterrupt
        if signum == signal.SIGTERM:
            os._exit(128 + signum)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    former = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    try:
        yield
    except KeyboardInterrupt:
        for number in (signal.SIGTERM, signal.SIGUSR1):  # a scheduler may send both
            signal.signal(number, signal.SIG_IGN)
        _end_workers()
        raise
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def _end_workers() -> None:
    """End the workers, once they have saved what they can; a second Ctrl-C does not wait for that."""
    workers = multiprocessing.active_children()
    end = time.monotonic() + END_SECONDS
    with contextlib.suppress(KeyboardInterrupt):
        for process in workers:
            process.terminate()
        for process in workers:
            process.join(max(0.0, end - time.monotonic()))
    for process in workers:
        if process.is_alive():
            process.kill()
