"""Progress of the stages on stderr: one line rewritten on a terminal, a line every ten seconds elsewhere.

Several processes may work on the shards of one stage. Each has a slot of shared memory for every shard, and whoever
counts an image prints the sum when a line is due. No locks, so a killed process cannot block the others.
"""

from __future__ import annotations

import logging
import mmap
import sys
import time
from collections.abc import Callable, Sequence
from typing import TextIO

from split_matching.pipeline.text import format_duration

LOGGER = logging.getLogger("split_matching")
LOGGER.setLevel(logging.DEBUG)
LOGGER.propagate = False  # what is shown is shown by this project; a log file is a handler, see `run_log`
LOGGER.addHandler(logging.NullHandler())
SLOTS = 1 << 15
STARTED, PRINTED, TOTAL, BEFORE, USED = range(5)
HEADER = 5
TERMINAL_SECONDS = 0.1
LOG_SECONDS = 10.0


def show(*lines: str) -> None:
    """Print lines of a result to standard output; the log has them too."""
    for line in lines:
        LOGGER.info(line)
        print(line)


class ProgressDisplay:
    """Counts of all stages of one run. Made before any fork, so that all processes share it.

    Args:
        names: names of the stages.
        units: what each stage counts, e.g. "images".
        stream: where to print.
        quiet: print nothing.
    """

    def __init__(
        self, names: Sequence[str] = (), units: Sequence[str] = (), stream: TextIO | None = None, quiet: bool = False
    ) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._quiet = quiet
        self._terminal = self._stream.isatty()
        self._units = dict(zip(names, units, strict=True))
        self._memory = {name: memoryview(mmap.mmap(-1, 8 * (HEADER + SLOTS))).cast("q") for name in names}

    def start(self, name: str, total: int = 0, before: int = 0, slots: int = 1) -> None:
        """Start a stage; a stage that has started is left as it is.

        Args:
            name: the stage.
            total: how much there is to do; 0 if not known yet.
            before: how much of it an earlier run had done.
            slots: number of shards.
        """
        memory = self._memory.get(name)
        if memory is None or memory[STARTED]:
            return
        now = time.monotonic_ns()
        memory[STARTED], memory[PRINTED], memory[TOTAL], memory[BEFORE] = now, now, total, before
        memory[USED] = min(slots, SLOTS)
        done = f", {before} done before" if before else ""
        what = f"{total} {self._units[name]}{done}" if total else "started"
        self._print(f"{name}: {what}{self._place(name)}", lasting=True)

    def started(self, name: str) -> bool:
        """Return whether a stage has started, in this or another process."""
        memory = self._memory.get(name)
        return memory is None or memory[STARTED] != 0

    def counter(self, name: str, slot: int = 0) -> Callable[[int, int], None]:
        """Return a progress callback `(done, total)` for one shard, or for an unsharded stage."""
        memory = self._memory.get(name)
        if memory is None:
            return lambda done, total: None

        def count(done: int, total: int) -> None:
            memory[HEADER + slot % SLOTS] = done
            if memory[USED] <= 1:
                memory[TOTAL] = max(total, memory[BEFORE] + done)
            self._tick(name)

        return count

    def seconds(self, name: str) -> float:
        """Return the time since a stage began."""
        memory = self._memory.get(name)
        return (time.monotonic_ns() - memory[STARTED]) / 1e9 if memory is not None and memory[STARTED] else 0.0

    def end(self, name: str) -> None:
        """Print the last line of a stage."""
        memory = self._memory.get(name)
        if memory is not None and memory[STARTED]:
            count = f"{memory[TOTAL]} {self._units[name]} " if memory[TOTAL] else ""
            self._print(f"{name}: {count}in {format_duration(self.seconds(name))}", lasting=True)

    def say(self, text: str) -> None:
        """Print a line that stays."""
        self._print(text, lasting=True)

    def clear(self) -> None:
        """Remove a rewritten line from the terminal, before something else is printed."""
        if self._terminal and not self._quiet:
            self._stream.write("\r\x1b[K")
            self._stream.flush()

    def _place(self, name: str) -> str:
        """Which of the stages it is."""
        names = list(self._units)
        return f", stage {names.index(name) + 1} of {len(names)}" if len(names) > 1 else ""

    def _tick(self, name: str) -> None:
        memory = self._memory[name]
        now = time.monotonic_ns()
        if now - memory[PRINTED] < 1e9 * (TERMINAL_SECONDS if self._terminal else LOG_SECONDS):
            return
        memory[PRINTED] = now
        new = sum(memory[HEADER : HEADER + memory[USED]])
        done, total, rate = memory[BEFORE] + new, memory[TOTAL], new / max(self.seconds(name), 1e-9)
        left = f", {format_duration((total - done) / rate)} left" if rate and total > done else ""
        share = f" ({100 * done // total} %)" if total else ""
        self._print(f"{name}: {done}/{total}{share}, {rate:.3g} {self._units[name]}/s{left}", lasting=False)

    def _print(self, text: str, lasting: bool) -> None:
        LOGGER.log(logging.INFO if lasting else logging.DEBUG, text)
        if self._quiet:
            return
        if self._terminal:
            self._stream.write(f"\r{text}\x1b[K" + ("\n" if lasting else ""))
        else:
            self._stream.write(f"{text}\n")
        self._stream.flush()
