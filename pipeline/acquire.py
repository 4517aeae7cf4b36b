"""`PrepareDataset --download`: fetches a data set's archives before the plan asks which raw files there are."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from configs.schema import Config
from pipeline.progress import Board
from stages.context import Progress


def download(config: Config, quiet: bool) -> None:
    """Download and derive what the data set misses.

    Args:
        config: the resolved config.
        quiet: show no progress.

    Raises:
        UserError: there is nothing to download for this layout, or it failed.
    """
    from stages.acquire import acquire

    @contextlib.contextmanager
    def phase(name: str, unit: str) -> Iterator[Progress]:
        board = Board([name], [unit], quiet=quiet)
        board.start(name)
        yield board.counter(name)
        board.end(name)

    Board(quiet=quiet).say(f"{config.dataset}: what is missing goes to {config.data.root} (data.root)")
    acquire(config.data, phase)
