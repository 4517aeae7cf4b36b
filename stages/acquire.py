"""Which data sets can be downloaded, and by what. Apart from `stages.datasets`, so that no stage depends on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from configs.errors import ConfigError, DataError
from configs.schema import DataConfig
from stages.datasets import coco_archives, voc_archives
from stages.datasets.download import Phase, refusals_explained

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
    with refusals_explained(data.root):
        ACQUIRE[data.layout](data, data.root, phase)
