"""`PrepareDataset --download`: fetches a data set's archives before the plan asks which raw files there are."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial

from split_matching.configs.schema import Config
from split_matching.pipeline.run.progress import ProgressDisplay
from split_matching.stages.ground.context import Progress


def download(config: Config, quiet: bool) -> None:
    """Download and derive what the data set misses.

    Args:
        config: the resolved config.
        quiet: show no progress.

    Raises:
        UserError: there is nothing to download for this layout, or it failed.
    """
    from split_matching.stages.data.download.catalogue import acquire

    ProgressDisplay(quiet=quiet).say(f"{config.dataset}: what is missing goes to {config.data.root} (data.root)")
    acquire(config.data, partial(_phase, quiet))


@contextlib.contextmanager
def _phase(quiet: bool, name: str, unit: str) -> Iterator[Progress]:
    """Show the progress of one piece of work; what an earlier run had done does not count as speed."""
    board, before = ProgressDisplay([name], [unit], quiet=quiet), -1

    def count(done: int, total: int) -> None:
        nonlocal before
        if before < 0:
            before = done
            board.start(name, total, before)
        board.counter(name)(max(0, done - before), total)

    yield count
    board.end(name)
