"""Which data sets can be downloaded, and by what. Apart from the layouts, so that no stage depends on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from split_matching.configs.schema import DataConfig
from split_matching.errors import ConfigError, DataError
from split_matching.stages.data.download import coco_stuff as coco_archives
from split_matching.stages.data.download import voc as voc_archives
from split_matching.stages.data.download.fetch import Phase, explain_write_errors

ACQUIRE: Mapping[str, Callable[[DataConfig, Path, Phase], None]] = {
    "voc": voc_archives.acquire,
    "coco_stuff": coco_archives.acquire,
}


def acquire(data: DataConfig, phase: Phase) -> None:
    """Download and derive what a data set misses; what is there is left alone.

    Args:
        data: the `data` section.
        phase: shows progress.

    Raises:
        ConfigError: the layout has nothing to download.
        DataError: no root; or the download or an archive failed, what is done being kept.
    """
    if data.layout not in ACQUIRE:
        raise ConfigError(
            f"--download: nothing to download for data.layout {data.layout}; expected {' or '.join(ACQUIRE)}"
        )
    if data.root is None:
        raise DataError("data.root is not set; expected the folder that the data set goes to: --set data.root=PATH")
    with explain_write_errors(data.root):
        ACQUIRE[data.layout](data, data.root, phase)
