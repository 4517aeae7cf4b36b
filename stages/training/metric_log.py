"""Training metrics as JSON lines and, for those who watch a run, as TensorBoard events with the same numbers.

The same run gives the same bytes: events carry their step as wall time, and the file's name no time and no host.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

METRICS = "metrics.jsonl"
MATCHING = "matching.jsonl"
EVENTS = "events.out.tfevents.train"


class MetricLog:
    """The log of a training stage; a context manager.

    `metrics.jsonl` has loss terms, learning rate and gradient norm; `matching.jsonl` how queries were matched, with
    how often each query found a target; the events have the numbers of both.

    Args:
        out: folder of the stage, where the files are written.
        start: first step of this run; 0 begins new logs, any other continues those that `restore_checkpoint` left.
    """

    def __init__(self, out: Path, start: int) -> None:
        paths = {name: out / name for name in (METRICS, MATCHING)}
        kept = [line for path in paths.values() if start for line in path.read_text(encoding="utf-8").splitlines()]
        self._lines = {name: path.open("a" if start else "w", encoding="utf-8") for name, path in paths.items()}
        self._events = RecordWriter((out / EVENTS).open("wb"))
        self._events.write(Event(file_version="brain.Event:2", wall_time=0.0).SerializeToString())
        # in the order of an undisturbed run, where each step logs its metrics, then its matching
        for values in sorted(map(json.loads, kept), key=lambda values: values["step"]):
            self._add_event(values)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for stream in (*self._lines.values(), self._events):
            stream.close()

    def add(self, step: int, metrics: Mapping[str, float], matching: Mapping[str, float | list[int]]) -> None:
        """Write what was measured at one step."""
        for name, values in ((METRICS, metrics), (MATCHING, matching)):
            line = {"step": step, **values}
            self._lines[name].write(json.dumps(line) + "\n")
            self._lines[name].flush()
            self._add_event(line)

    def _add_event(self, values: Mapping[str, Any]) -> None:
        step = int(values["step"])
        scalars = [
            Summary.Value(tag=tag, simple_value=value)
            for tag, value in values.items()
            if tag != "step" and not isinstance(value, list)
        ]
        self._events.write(Event(step=step, wall_time=float(step), summary=Summary(value=scalars)).SerializeToString())
        self._events.flush()
