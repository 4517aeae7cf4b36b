"""Training metrics as JSON lines and, for those who watch a run, as TensorBoard events with the same numbers.

The same run gives the same bytes: events carry their step as wall time, and the file's name no time and no host.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from stages.checkpoint import lines_before

METRICS = "metrics.jsonl"
EVENTS = "events.out.tfevents.train"


class MetricLog:
    """The log of a training stage; a context manager.

    Args:
        out: folder of the stage; `metrics.jsonl` and `events.out.tfevents.train` are written there.
        start: first step of this run; what an interrupted run logged before it is kept, what it logged after is not.
    """

    def __init__(self, out: Path, start: int) -> None:
        kept = lines_before(out / METRICS, start)
        # beside, then renamed: a kill in between must not lose what was logged before the checkpoint
        (out / (METRICS + ".tmp")).write_text("".join(kept), encoding="utf-8")
        (out / (METRICS + ".tmp")).replace(out / METRICS)
        self._lines = (out / METRICS).open("a", encoding="utf-8")
        self._events = RecordWriter((out / EVENTS).open("wb"))
        self._events.write(Event(file_version="brain.Event:2", wall_time=0.0).SerializeToString())
        for line in kept:
            self._add_event(json.loads(line))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lines.close()
        self._events.close()

    def add(self, values: Mapping[str, float]) -> None:
        """Write the numbers of one step, which is among them as `step`."""
        self._lines.write(json.dumps(values) + "\n")
        self._lines.flush()
        self._add_event(values)

    def _add_event(self, values: Mapping[str, float]) -> None:
        step = int(values["step"])
        scalars = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items() if tag != "step"]
        self._events.write(Event(step=step, wall_time=float(step), summary=Summary(value=scalars)).SerializeToString())
        self._events.flush()
