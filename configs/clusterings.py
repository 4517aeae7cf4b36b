"""The clustering methods and their engines: a new one is a file in `stages/candidates/clustering` and a row here.

A method says how the features of an image become regions, an engine by which library and on which device. The table
lies with the config, because every config is checked against it, and because a new row then makes no result stale.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

FOLDER = "split_matching.stages.candidates.clustering"


@dataclass(frozen=True)
class Clustering:
    """One row of the table.

    Args:
        module: its function `cluster` does the work, see `stages.candidates.clustering.ClusteringModule`.
        unused: fields of `pseudo_masks` that it does not read; changing them changes no result.
    """

    module: str
    unused: tuple[str, ...] = ()


CLUSTERINGS: Mapping[tuple[str, str], Clustering] = {
    # (pseudo_masks.method, pseudo_masks.engine)
    ("multiscale", "faiss"): Clustering(f"{FOLDER}.multiscale_faiss", unused=("k", "seed")),
    ("multiscale", "torch"): Clustering(f"{FOLDER}.multiscale_torch", unused=("k", "seed")),
    ("kmeans", "faiss"): Clustering(f"{FOLDER}.kmeans_faiss", unused=("windows",)),
}


def find_clustering(method: str, engine: str) -> Clustering:
    """Return the row of a method and an engine.

    Raises:
        ValueError: there is none; the message says which there are.
    """
    if (method, engine) not in CLUSTERINGS:
        known = ", ".join(f"{known_method} on {known_engine}" for known_method, known_engine in CLUSTERINGS)
        raise ValueError(f"pseudo_masks: no method {method} on engine {engine}; there are: {known}")
    return CLUSTERINGS[method, engine]


def clustering_module(method: str, engine: str) -> str:
    """Return the dotted name of the module that clusters; imports nothing.

    Raises:
        ValueError: there is none; the message says which there are.
    """
    return find_clustering(method, engine).module
