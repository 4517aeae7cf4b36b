"""How a run ends before its time: Ctrl-C, a polite kill, a scheduler's notice, a terminal that is gone."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing.connection
import os
import signal
import threading
import time
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from types import FrameType

PR_SET_PDEATHSIG = 1  # of Linux
INTERRUPTED = 130
"""Exit code of a run that was ended so."""

END_SECONDS = 25.0  # for a worker to write its checkpoint; Slurm kills 30 s after its SIGTERM
AGAIN_SECONDS = 0.5  # until a worker is told again to end: a signal is lost that comes while the system forks it
START_SECONDS = 0.05  # until a signal that came while a worker was started has its effect

received = 0
"""The signal that ended the last run of this process."""


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Make Ctrl-C, a polite kill, a scheduler's notice (SIGUSR1) and SIGHUP end the run in the parent.

    Forked workers inherit the handlers and do not act.
    """
    parent = os.getpid()

    def interrupt(signum: int, frame: FrameType | None) -> None:
        global received
        if signum != signal.SIGALRM:
            received = signum
        if os.getpid() != parent:
            if signum == signal.SIGTERM:
                os._exit(128 + signum)
        elif _starts_worker(frame):  # Python drops an exception in a hook of os.fork
            signal.setitimer(signal.ITIMER_REAL, START_SECONDS)
        else:
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handled = [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGALRM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup sets it
        handled.append(signal.SIGHUP)  # the terminal was closed, or the connection is lost
    former = {number: signal.signal(number, interrupt) for number in handled}
    try:
        yield
        if signal.setitimer(signal.ITIMER_REAL, 0)[0]:  # it came while the last worker was started
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        end_workers()
        raise
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in former.items():
            signal.signal(number, handler)


def _starts_worker(frame: FrameType | None) -> bool:
    """Whether a process is being started in a frame or in one that called it, in this process."""
    while frame and frame.f_code not in (BaseProcess.start.__code__, BaseProcess._bootstrap.__code__):  # type: ignore[attr-defined]
        frame = frame.f_back
    return frame is not None and frame.f_code is BaseProcess.start.__code__


def end_workers() -> None:
    """End the workers, once they have saved what they can; a second Ctrl-C does not wait for that."""
    signal.setitimer(signal.ITIMER_REAL, 0)
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP, signal.SIGALRM):  # several may come
        signal.signal(number, signal.SIG_IGN)
    workers = multiprocessing.active_children()
    end = time.monotonic() + END_SECONDS
    with contextlib.suppress(KeyboardInterrupt):
        while workers and time.monotonic() < end:
            for process in workers:
                BaseProcess.terminate(process)  # luigi's own waits for the end of the process
            multiprocessing.connection.wait([process.sentinel for process in workers], AGAIN_SECONDS)
            workers = multiprocessing.active_children()
    for process in workers:
        process.kill()
        process.join(AGAIN_SECONDS)


def end_with_parent(parent: int) -> None:
    """In a worker process: end politely when the process that started it is gone, even if that was killed."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it ended before it could be asked
        os._exit(1)
