"""Signals that wait until a step of a training is complete, so that it can be saved before the process ends."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
"""Ctrl-C, a polite kill, what schedulers send some time before a job's time is up, and the end of a terminal."""


class DelayedSignals:
    """A context manager in which signals that end a process are noted; at its end they have their usual effect.

    Signals that the process ignores stay ignored. A second Ctrl-C does not wait. Does nothing outside the main thread.
    """

    def __init__(self) -> None:
        self.received = 0
        self._former: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            former = {number: signal.getsignal(number) for number in ENDING}
            self._former = {n: handler for n, handler in former.items() if handler not in (signal.SIG_IGN, None)}
            for number in self._former:
                signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)
        if self.received:
            signal.raise_signal(self.received)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT == self.received:
            raise KeyboardInterrupt
        self.received = number
