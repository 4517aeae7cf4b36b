"""What a training measures as TensorBoard events, with the times at which it did.

    artifacts/<dataset>/tensorboard/<what differs from the data set's config>_<key>/events.out.tfevents.*

They lie beside the results, not in them: equal runs have equal bytes, and other times. An event that cannot be written
ends no run.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from split_matching.configs.load import format_value, known_datasets, load_config
from split_matching.pipeline.plan import Stage
from split_matching.pipeline.text import flatten

FOLDER = "tensorboard"
LONGEST = 120  # characters of a run's name before its key
PREFIX = "events.out.tfevents."
VERSION = "brain.Event:2"


class EventFile:
    """The events of one run of a stage; a context manager. The file is made by the first event.

    Args:
        stage: what runs.
    """

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._writer: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer:
            with contextlib.suppress(OSError):
                self._writer.close()

    def add(self, step: int, numbers: Mapping[str, float]) -> None:
        """Write what was measured at a step. The first one takes back all of an earlier run from this step on."""
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.compat.proto.summary_pb2 import Summary

        with contextlib.suppress(OSError):
            if self._writer is None:
                self._writer = self._open()
                self._write(Event(file_version=VERSION))
                self._write(Event(step=step, session_log=SessionLog(status=SessionLog.START)))
            values = [Summary.Value(tag=name, simple_value=value) for name, value in numbers.items()]
            self._write(Event(step=step, summary=Summary(value=values)))

    def _open(self) -> Any:
        from tensorboard.summary.writer.record_writer import RecordWriter

        plan = self._stage.plan
        folder = plan.root / plan.config.dataset / FOLDER / run_name(self._stage)
        folder.mkdir(parents=True, exist_ok=True)
        # TensorBoard reads the files of a run in the order of their names
        return RecordWriter((folder / f"{PREFIX}{time.time_ns()}.{os.getpid()}").open("wb"))

    def _write(self, event: Any) -> None:
        event.wall_time = time.time()
        self._writer.write(event.SerializeToString())
        self._writer.flush()


def run_name(stage: Stage) -> str:
    """Return what differs from the data set's own config in all that made a stage's result, and the key.

    E.g. "train.matching=single_train.steps=300_49ae12cd". A resumed run has the same name.
    """
    found: dict[str, Any] = {}
    for member in stage.plan.closure(stage.name):
        found |= flatten(member.slice.recorded_values())
    config = stage.config
    usual = (
        flatten(load_config(config.dataset).model_dump(mode="json")) if config.dataset in known_datasets() else found
    )
    differs = [
        f"{path}={format_value(value)}" for path, value in found.items() if path in usual and usual[path] != value
    ]
    name = re.sub(r"[^\w=.,-]+", "_", "_".join(differs))  # of a folder, which a shell takes as it is
    return "_".join(part for part in (name[:LONGEST], stage.key[:8]) if part)


def event_folders(root: Path) -> Iterator[Path]:
    """Yield the folders of events in a cache, which end with the key of their stage; others there are left out."""
    for path in sorted(root.glob(f"*/{FOLDER}/*")):
        if re.fullmatch(r"(.*_)?[0-9a-f]{8}", path.name) and path.is_dir() and not path.is_symlink():
            files = list(path.iterdir())
            if files and all(file.name.startswith(PREFIX) for file in files):
                yield path
