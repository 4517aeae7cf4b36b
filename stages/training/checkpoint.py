"""Checkpoints of a training stage: a kill at any moment leaves the last one whole, and resuming from it is exact.

One is written every few steps, every ten minutes, and before a signal ends the process.

The file is the sha256 of the rest (32 bytes) and then what `torch.save` wrote: torch itself does not notice altered
numbers. It also records the length and sha256 of each log at that step.
"""

from __future__ import annotations

import copy
import hashlib
import io
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import torch

from split_matching.cache.entry import PROGRESS, read_progress
from split_matching.cache.files import atomic_write, write_json
from split_matching.errors import CorruptError, first_line
from split_matching.model.process_group import ProcessGroup
from split_matching.stages.ground.context import Say
from split_matching.stages.training.signals import DelayedSignals

CHECKPOINT = "checkpoint.pt"
LOGS = "*.jsonl"
DIGEST_BYTES = 32
MOST_SECONDS = 600.0  # between two checkpoints


class Stateful(Protocol):
    """What a checkpoint holds: a model, an optimizer, a scaler of gradients."""

    def state_dict(self) -> Mapping[str, Any]:
        """Return the state."""

    def load_state_dict(self, state: Any) -> Any:
        """Take over a state."""


class Checkpoints:
    """Writes the checkpoints of a training; a context manager around its steps.

    Of several processes the first one writes, and all of them end after the same step if one got a signal to end.

    Args:
        out: folder of the unfinished stage.
        parts: what is saved, by name.
        every: steps from one checkpoint to the next.
        steps: of the whole training.
        device: where the processes talk to each other.
        check: called before one is written; raises if the state is not worth it.
    """

    def __init__(
        self,
        out: Path,
        parts: Mapping[str, Stateful],
        every: int,
        steps: int,
        device: str = "cpu",
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self._what, self._check = (out, parts), check
        self._every, self._steps, self._device = every, steps, device
        self._group = ProcessGroup()
        self._signals = DelayedSignals()
        self._before, self._started = read_progress(out)[2], time.monotonic()
        self._saved = self._started

    def __enter__(self) -> Self:
        self._signals.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._signals.__exit__(kind, error, trace)

    def step_done(self, done: int) -> None:
        """Write a checkpoint if one is due.

        Args:
            done: number of steps that are done.

        Raises:
            KeyboardInterrupt: a signal to end has come; the step is saved.
        """
        ends = self._ends()
        now = time.monotonic()
        due = done < self._steps and (done % self._every == 0 or now - self._saved >= MOST_SECONDS)
        if self._group.rank == 0 and (due or ends):
            self._check()
            save_checkpoint(*self._what, done)
            seconds = round(self._before + now - self._started, 3)
            write_json(self._what[0] / PROGRESS, {"step": done, "steps": self._steps, "seconds": seconds})
            self._saved = now
        if ends:
            raise KeyboardInterrupt

    def _ends(self) -> bool:
        received = bool(self._signals.received)
        if self._group.size == 1:
            return received
        return bool(self._group.sum(torch.tensor(float(received), device=self._device)))


def save_checkpoint(out: Path, parts: Mapping[str, Stateful], step: int) -> None:
    """Write a checkpoint in place of the old one.

    Args:
        out: folder of the unfinished stage.
        parts: what is saved, by name.
        step: the first step that is not done yet; the logs hold the lines of all steps before it.
    """
    state = {
        "parts": {name: part.state_dict() for name, part in parts.items()},
        "step": step,
        "logs": _log_digests(out),
    }
    buffer = io.BytesIO()
    torch.save(state, buffer)
    with atomic_write(out / CHECKPOINT) as temporary, temporary.open("wb") as stream:
        stream.write(hashlib.sha256(buffer.getbuffer()).digest())
        stream.write(buffer.getbuffer())


def restore_checkpoint(out: Path, parts: Mapping[str, Stateful], device: str, say: Say) -> int:
    """Load the checkpoint if there is one, and cut the logs back to what they were then.

    Args:
        out: folder of the unfinished stage.
        parts: what is loaded, by name.
        device: where to.
        say: is told where the training continues.

    Returns:
        The step to continue from; 0 without a usable checkpoint (an altered one is renamed, and costs a restart).

    Raises:
        OSError: it is there, and cannot be read.
        MemoryError: likewise torch's own, of the CPU and of a GPU.
    """
    path = out / CHECKPOINT
    if path.exists():
        initial = {name: copy.deepcopy(part.state_dict()) for name, part in parts.items()}
        try:
            state = _load(path, device)
            _check_logs(out, state)
            for name, part in parts.items():
                part.load_state_dict(state["parts"][name])
            for name, (size, _) in state["logs"].items():
                os.truncate(out / name, size)
            say(f"continues after step {state['step']}")
            return int(state["step"])
        except Exception as error:  # torch raises many kinds for bytes of another version
            if _says_nothing_about_the_file(error):
                raise
            for name, part in parts.items():
                part.load_state_dict(initial[name])  # it may have been half loaded
            path.rename(out / (CHECKPOINT + ".damaged"))
            say(f"the checkpoint cannot be used ({first_line(error)}), so it begins again at step 0")
    for log in out.glob(LOGS):
        log.unlink()
    return 0


def _says_nothing_about_the_file(error: Exception) -> bool:
    if isinstance(error, OSError):
        return not isinstance(error, FileNotFoundError)  # a log that is gone
    memory = (MemoryError, torch.OutOfMemoryError, torch.AcceleratorError)
    return isinstance(error, memory) or "allocate memory" in str(error)  # of the CPU it is a plain RuntimeError


def load_checkpoint(out: Path, parts: Mapping[str, Stateful], device: str) -> None:
    """Load the checkpoint that another process has restored from; changes no file.

    Raises:
        CorruptError: it is not there, or altered.
    """
    try:
        state = _load(out / CHECKPOINT, device)
    except (OSError, ValueError) as error:
        raise CorruptError(
            f"{out / CHECKPOINT}: this process cannot read it ({error}); all processes need the same folder"
        ) from None
    for name, part in parts.items():
        part.load_state_dict(state["parts"][name])


def _load(path: Path, device: str) -> dict[str, Any]:
    data = path.read_bytes()
    if hashlib.sha256(data[DIGEST_BYTES:]).digest() != data[:DIGEST_BYTES]:
        raise ValueError(f"{path} is altered")
    state: dict[str, Any] = torch.load(io.BytesIO(data[DIGEST_BYTES:]), map_location=device, weights_only=True)
    return state


def _check_logs(out: Path, state: Mapping[str, Any]) -> None:
    for name, (size, digest) in state["logs"].items():
        if hashlib.sha256((out / name).read_bytes()[:size]).hexdigest() != digest:
            raise ValueError(f"{out / name} is altered")


def _log_digests(out: Path) -> dict[str, tuple[int, str]]:
    """Return length and sha256 of every log, after making sure that it is on the disk."""
    digests = {}
    for path in sorted(out.glob(LOGS)):
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
            data = stream.read()
        digests[path.name] = (len(data), hashlib.sha256(data).hexdigest())
    return digests
