"""Clustering the features of one image into regions: what is clustered, and by which method and engine.

Each method is one file here, with a row in `configs.clusterings`. It is imported by name, not above: a stage's code
fingerprint holds the chosen method only.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from importlib import import_module
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from split_matching.configs.clusterings import clustering_module
from split_matching.configs.settings import PseudoMasksConfig


class ClusteringModule(Protocol):
    """A module that clusters.

    Attributes:
        BATCHED: True: `cluster` gets up to `runtime.batch` images of one grid, on the device of the stage (on the CPU
            one image). False: one image a call, on the CPU, and several calls at once in threads.
    """

    BATCHED: bool

    def cluster(
        self, images: Sequence[NDArray[Any]], free: Sequence[NDArray[np.bool_]], config: PseudoMasksConfig, device: str
    ) -> list[NDArray[np.uint8]]:
        """Partition images. The same image must always give the same bytes.

        Args:
            images: features of each image. Shapes: (h, w, D), all alike, float16 or float32.
            free: which cells are to be clustered, at least one an image. Shapes: (h, w). What the other cells get does
                not matter: they are annotated, and are taken out afterwards.
            config: see PseudoMasksConfig.
            device: "cpu" or "cuda".

        Returns:
            Regions of each image, numbered from 1. Shapes: (scale * h, scale * w), uint8.

        Raises:
            DataError: the features cannot be clustered.
        """


def load_clustering(config: PseudoMasksConfig) -> ClusteringModule:
    """Import the module of the config's method and engine."""
    return cast(ClusteringModule, import_module(clustering_module(config.method, config.engine)))


def cluster(dense: NDArray[Any], config: PseudoMasksConfig) -> NDArray[np.uint8]:
    """Partition all cells of one image on the CPU. (h, w, D) -> (scale * h, scale * w), regions from 1."""
    return load_clustering(config).cluster([dense], [np.ones(dense.shape[:2], bool)], config, "cpu")[0]


def cluster_at(
    dense: NDArray[Any], free: NDArray[np.bool_], config: PseudoMasksConfig, merges: Sequence[float]
) -> list[NDArray[np.uint8]]:
    """Partition one image at several settings of `merge`, on the CPU, as `cluster` would at each.

    A module may have a function `sweep` of these arguments, which clusters once and merges often.

    Args:
        dense: features. Shape: (h, w, D).
        free: which cells are to be clustered, at least one. Shape: (h, w).
        config: everything but `merge`.
        merges: the settings.

    Returns:
        A label map for each, which may be one object for several. Shapes: (scale * h, scale * w), uint8.
    """
    module = load_clustering(config)
    if sweep := getattr(module, "sweep", None):
        return cast(list[NDArray[np.uint8]], sweep(dense, free, config, merges))
    settings = [config.model_copy(update={"merge": merge}) for merge in merges]
    return [module.cluster([dense], [free], setting, "cpu")[0] for setting in settings]


def field_to_cluster(features: Collection[str], config: PseudoMasksConfig) -> str:
    """Name of the features to cluster: `stitched` where there is one, else `dense` or a token map."""
    if "stitched" in features:  # made of the same block: see stages.candidates.features
        return "stitched"
    return "dense" if config.block is None else f"tokens_{config.block}"
