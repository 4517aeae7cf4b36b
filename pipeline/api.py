"""What `import split_matching as sm` offers: configs, and the runs of a cache."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

from split_matching.configs.load import load_config
from split_matching.configs.schema import Config
from split_matching.environment import default_artifacts
from split_matching.pipeline.known_runs import list_runs
from split_matching.pipeline.trained_run import TrainedRun, load_run

__all__ = ["TrainedRun", "config", "load_run", "runs"]


def config(dataset: str = "shapes", overrides: Sequence[str] = (), set_files: Sequence[Path] = ()) -> Config:
    """Return a config: every setting of a data set.

    Args:
        dataset: name of a file in `configs/`, or the path of a config.
        overrides: `section.key=value`, as after `--set`.
        set_files: YAML files laid over the data set's, as after `--set-file`.

    Raises:
        ConfigError: there is no such config, or a value is wrong.
    """
    return load_config(dataset, set_files, overrides)


def runs(artifacts: Path | str | None = None) -> Iterator[TrainedRun]:
    """Iterate over all trained and evaluated runs of a cache, newest first; warns of what cannot be read.

    Args:
        artifacts: folder of the cache; None for the usual one.
    """
    for run in list_runs(Path(artifacts) if artifacts else default_artifacts(), skip=warnings.warn):
        yield TrainedRun(run.artifact, run.artifacts, run.note, run.usual, run.report)
