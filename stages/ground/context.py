"""What a stage function is given: its slice of the config, its inputs, and a place to write.

A stage function is plain Python: it knows nothing of luigi, of cache keys or of how its output is committed, and it
runs in a notebook with a hand-made context.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from split_matching.cache.artifact import Artifact
from split_matching.configs.runtime_settings import RuntimeConfig

if TYPE_CHECKING:  # `status` and `plan` do without NumPy
    import numpy as np
    from numpy.typing import NDArray

Progress = Callable[[int, int], None]
"""Called as `progress(done, total)`; cheap enough to be called for every image or step."""


Report = Callable[[int, Mapping[str, float]], None]
"""Called as `report(step, numbers)` with what a training measured, the most telling first, for whoever watches it."""


def no_report(step: int, numbers: Mapping[str, float]) -> None:
    """Tell nobody: the default in notebooks and tests."""


Say = Callable[[str], None]
"""Called with a line for whoever runs the stage."""


def say_nothing(line: str) -> None:
    """Tell nobody: the default in notebooks and tests."""


def no_progress(done: int, total: int) -> None:
    """Ignore progress: the default in notebooks and tests."""


class Features(Protocol):
    """Features of images by id: those of the cache, as `shard_reader.ShardSet`, or computed when they are asked for."""

    @property
    def ids(self) -> tuple[str, ...]:
        """Ids of the images, sorted."""

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the features, see `stages.candidates.features.fields`."""

    def read(self, image_id: str, field: str) -> NDArray[np.generic]:
        """Return the features of one image by their name."""


@dataclass(frozen=True)
class Shard:
    """A fixed run of images of one split, in sorted id order; the unit of parallel work."""

    split: str
    index: int
    ids: tuple[str, ...]


@dataclass(frozen=True)
class StageContext:
    """Everything a stage function may use.

    Args:
        config: the slice of the config that the stage declared, as `configs.slices.Slice`: attribute access as on
            `Config`, and an error for anything the stage did not declare (it would be missing from the cache key).
        inputs: upstream artifacts by stage, e.g. `inputs["features"].shards("train").read(image_id, "dense")`.
        out: folder for output files; committed atomically by the caller when the stage returns.
        runtime: device, threads and batch; never changes a result.
        data_root: root of the raw images and masks.
        progress: called with (done, total).
        report: called with a step and what was measured there; enters no result.
        say: called with a line about the run itself, such as the step at which it continues.
    """

    config: Any
    inputs: Mapping[str, Artifact]
    out: Path
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    data_root: Path = Path()
    progress: Progress = no_progress
    report: Report = no_report
    say: Say = say_nothing
