"""Which data sets can be downloaded, and by what. Apart from the layouts, so that no stage depends on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from split_matching.configs.data_settings import DataConfig
from split_matching.errors import ConfigError, DataError
from split_matching.stages.data.download.coco_stuff import download_coco_stuff
from split_matching.stages.data.download.fetch import Phase, explain_write_errors
from split_matching.stages.data.download.pascal_context import download_pascal_context
from split_matching.stages.data.download.voc import download_voc

DOWNLOADS: Mapping[str, Callable[[DataConfig, Path, Phase], None]] = {
    "voc": download_voc,
    "coco_stuff": download_coco_stuff,
    "pascal_context": download_pascal_context,
}
"""By the layout, or for the layout `folder` by `data.download`."""


def download_data(data: DataConfig, phase: Phase) -> None:
    """Download and derive what a data set lacks; what is there is kept.

    Args:
        data: the `data` section.
        phase: shows progress.

    Raises:
        ConfigError: the layout has nothing to download.
        DataError: no root; or a download or an archive failed; what is done so far is kept.
    """
    name = data.download or data.layout
    if name not in DOWNLOADS:
        raise ConfigError(
            f"--download: nothing to download for data.layout {data.layout}; expected a config of VOC, COCO-Stuff or "
            "PASCAL Context, such as --dataset voc, coco_stuff or pascal_context"
        )
    if data.root is None:
        raise DataError("data.root is not set; expected the folder that the data set goes to: --set data.root=PATH")
    with explain_write_errors(data.root):
        DOWNLOADS[name](data, data.root, phase)
