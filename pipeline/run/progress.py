"""Progress of the stages on stderr: on a terminal a line for every stage that runs, elsewhere a line now and then.

Several processes may work on the shards of one stage, and on several stages. Each shard has a slot of shared memory,
and whoever counts an image draws what all of them do when that is due. There is no thread and no process that only
draws, as luigi forks its workers; a lock belongs to its process, so a killed one cannot block the others.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import logging
import mmap
import os
import sys
import textwrap
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TextIO

from split_matching.pipeline.run.progress_line import describe_line, draw_lines
from split_matching.pipeline.terminal import console_of, is_terminal
from split_matching.stages.ground.durations import format_duration

LOGGER = logging.getLogger("split_matching")
LOGGER.setLevel(logging.DEBUG)
LOGGER.propagate = False  # what is shown is shown by this project; a log file is a handler, see `run_log`
LOGGER.addHandler(logging.NullHandler())
SLOTS = 1 << 15
STARTED, LOGGED, TOTAL, BEFORE, USED, ENDED, FIRST = range(7)
HEADER = 7
NOTE_BYTES = 4096
DRAWN, WHEN = range(2)  # of the display: lines that are on the terminal, and when they were drawn
TERMINAL_SECONDS = 0.1
LOG_SECONDS = 10.0
LABELLED_SECONDS = 60.0
PIPED = 5  # numbers of a line in a pipe, the speed among them: the learning rate, the loss and its two parts


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
        label: name of one run among several: begins each of its lines. How far a stage is is then said once a minute,
            in the log too, and nothing is drawn over another line.
    """

    def __init__(
        self,
        names: Sequence[str] = (),
        units: Sequence[str] = (),
        stream: TextIO | None = None,
        quiet: bool = False,
        label: str = "",
    ) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._quiet = quiet
        self._begin, self._every = (f"{label}: ", LABELLED_SECONDS) if label else ("", LOG_SECONDS)
        self._terminal = not label and is_terminal(self._stream) and os.environ.get("TERM") != "dumb"
        self._units = dict(zip(names, units, strict=True))
        self._memory = {name: memoryview(mmap.mmap(-1, 8 * (HEADER + SLOTS))).cast("q") for name in names}
        self._notes = {name: mmap.mmap(-1, NOTE_BYTES) for name in names}
        self._screen = memoryview(mmap.mmap(-1, mmap.PAGESIZE)).cast("q")
        self._lock = os.memfd_create("progress")
        weakref.finalize(self, os.close, self._lock)

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
        memory[STARTED], memory[LOGGED], memory[TOTAL], memory[BEFORE] = now, now, total, before
        memory[USED] = min(slots, SLOTS)
        done = f", {before} done before" if before else ""
        what = f"{_count(total, self._units[name])}{done}" if total else "started"
        self.say(f"{name}: {what}{self._place(name)}")

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
                memory[FIRST] = memory[FIRST] or max(done, 1)  # what is resumed counts on from where it was
                memory[TOTAL] = max(total, memory[BEFORE] + done)
            self._tick(name)

        return count

    def note(self, name: str, step: int, numbers: Mapping[str, float]) -> None:
        """Show what a stage measured at a step beside its progress; what comes without a loss is said at once."""
        if name not in self._notes:
            return
        if "loss" not in numbers:
            self.say(f"{name}: step {step}, {', '.join(f'{key} {value:.4g}' for key, value in numbers.items())}")
            return
        text = json.dumps({key: float(f"{value:.4g}") for key, value in numbers.items()}).encode()
        if len(text) < NOTE_BYTES:
            self._notes[name][:] = text.ljust(NOTE_BYTES, b"\0")

    def seconds(self, name: str) -> float:
        """Return the time since a stage began."""
        memory = self._memory.get(name)
        return (time.monotonic_ns() - memory[STARTED]) / 1e9 if memory is not None and memory[STARTED] else 0.0

    def end(self, name: str) -> None:
        """Print the last line of a stage."""
        memory = self._memory.get(name)
        if memory is not None and memory[STARTED]:
            memory[ENDED] = 1
            count = f"{_count(memory[TOTAL], self._units[name])} " if memory[TOTAL] else ""
            self.say(f"{name}: {count}in {format_duration(self.seconds(name))}")

    def say(self, text: str) -> None:
        """Print a line that stays."""
        LOGGER.info(text)
        if self._quiet:
            return
        with self._alone():
            self._write(f"{self._erase()}{self._wrap(self._begin + text)}\n{self._draw()}")

    def clear(self) -> None:
        """Remove the lines of progress from the terminal, before something else is printed."""
        if self._terminal and not self._quiet:
            with self._alone():
                self._write(self._erase())

    def _place(self, name: str) -> str:
        """Which of the stages it is."""
        names = list(self._units)
        return f", stage {names.index(name) + 1} of {len(names)}" if len(names) > 1 else ""

    def _tick(self, name: str) -> None:
        """Draw what is going on if that is due, and tell the log."""
        memory, now = self._memory[name], time.monotonic_ns()
        if now - memory[LOGGED] >= 1e9 * self._every:
            memory[LOGGED] = now
            unit, counts, numbers = self._units[name], self._counts(name), self._numbers(name)
            LOGGER.info(describe_line(name, unit, *counts, numbers))
            if not self._terminal and not self._quiet:
                first = dict(itertools.islice(numbers.items(), PIPED))  # the log file has all of them
                self._write(f"{self._begin}{describe_line(name, unit, *counts, first)}\n")
        if self._terminal and not self._quiet and now - self._screen[WHEN] >= 1e9 * TERMINAL_SECONDS:
            self._screen[WHEN] = now
            with self._alone():
                self._write(self._erase() + self._draw())

    def _counts(self, name: str) -> tuple[int, int, float]:
        """How much is done of how much, and how much of it in a second of this run."""
        memory = self._memory[name]
        new = sum(memory[HEADER : HEADER + memory[USED]])
        own = new - max(memory[FIRST] - 1, 0)
        return memory[BEFORE] + new, memory[TOTAL], own / max(self.seconds(name), 1e-9)

    def _numbers(self, name: str) -> dict[str, float]:
        """What was noted last; nothing while another process writes it."""
        with contextlib.suppress(ValueError):
            return dict(json.loads(self._notes[name][:].rstrip(b"\0") or b"{}"))
        return {}

    # --- the terminal -------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other processes from writing meanwhile; the lock vanishes with its process."""
        fcntl.lockf(self._lock, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.lockf(self._lock, fcntl.LOCK_UN)

    def _erase(self) -> str:
        """Return what moves to the first line that was drawn and clears all of them."""
        if not self._terminal:
            return ""
        drawn, self._screen[DRAWN] = self._screen[DRAWN], 0
        return "\r" + "\x1b[A" * (drawn - 1) + "\x1b[J"

    def _draw(self) -> str:
        """Return a line for every stage that has counted something and goes on; the cursor stays in the last one."""
        if not self._terminal:
            return ""
        names = [n for n, memory in self._memory.items() if memory[STARTED] and memory[TOTAL] and not memory[ENDED]]
        rows = [(name, self._units[name], *self._counts(name), self._numbers(name)) for name in names]
        self._screen[DRAWN] = len(rows)
        return draw_lines(rows, self._stream)

    def _wrap(self, text: str) -> str:
        """Return a line as lines that fit the terminal; elsewhere it stays one."""
        if not self._terminal:
            return text
        return textwrap.fill(text, console_of(self._stream).width, break_long_words=False, break_on_hyphens=False)

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


def _count(number: int, unit: str) -> str:
    """Return "1 image" or "2 images"."""
    one = "class" if unit == "classes" else unit.removesuffix("s")
    return f"{number} {one if number == 1 else unit}"
