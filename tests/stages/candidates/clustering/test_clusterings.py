"""The table of clustering methods: what it rejects, what its rows promise, and a method of one's own."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from split_matching.cache.code import module_closure
from split_matching.configs import clusterings
from split_matching.configs.clusterings import CLUSTERINGS, Clustering, clustering_module
from split_matching.configs.load import load_config
from split_matching.configs.settings import PseudoMasksConfig
from split_matching.errors import ConfigError
from split_matching.stages.candidates import features, pseudo_masks
from split_matching.stages.candidates.clustering import ClusteringModule, cluster, load_clustering
from tests.handmade import Chain

PAIRS = pytest.mark.parametrize(("method", "engine"), CLUSTERINGS, ids="-".join)


FREE = np.ones((12, 16), bool)


def dense(height: int = 12, width: int = 16) -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal((height, width, 24)).astype(np.float32)


@pytest.mark.parametrize(
    ("method", "engine"), [("kmeans", "torch"), ("multiscale", "sklearn"), ("spectral", "faiss")], ids="-".join
)
def test_an_unknown_pair_is_an_error_that_names_the_known_ones(method: str, engine: str) -> None:
    expected = (
        f"pseudo_masks: no method {method} on engine {engine}; there are: "
        "multiscale on faiss, multiscale on torch, kmeans on faiss"
    )
    with pytest.raises(ConfigError) as failure:
        load_config("shapes", overrides=[f"pseudo_masks.engine={engine}", f"pseudo_masks.method={method}"])
    assert expected in str(failure.value) and "\n" not in str(failure.value)


@PAIRS
def test_every_row_names_a_module_that_clusters(method: str, engine: str) -> None:
    config = PseudoMasksConfig(method=method, engine=engine, windows=(3, 6))
    assert (engine == "torch") == load_clustering(config).BATCHED, "faiss takes one image a call"
    labels = cluster(dense(), config)
    assert labels.shape == (24, 32) and labels.dtype == np.uint8 and labels.min() == 1


@PAIRS
def test_unused_settings_are_not_read(method: str, engine: str) -> None:
    config = PseudoMasksConfig(method=method, engine=engine, windows=(3, 6))
    row = CLUSTERINGS[method, engine]
    assert set(row.unused) <= set(PseudoMasksConfig.model_fields)

    class Guard:
        """The config without the settings that the row calls unused."""

        def __getattr__(self, name: str) -> Any:
            assert name not in row.unused, f"{method} on {engine} reads pseudo_masks.{name}"
            return getattr(config, name)

    guarded: Any = Guard()
    assert np.array_equal(
        load_clustering(config).cluster([dense()], [FREE], guarded, "cpu")[0], cluster(dense(), config)
    )


@PAIRS
def test_the_code_of_a_method_holds_no_other_one(method: str, engine: str) -> None:
    own = set(module_closure(clustering_module(method, engine)))
    stage = set(module_closure("split_matching.stages.candidates.pseudo_masks"))
    for pair, row in CLUSTERINGS.items():
        file = row.module.removeprefix("split_matching.").replace(".", "/") + ".py"
        assert (file in own) == (pair == (method, engine)) and file not in stage
    assert ("stages/candidates/clustering/faiss_kmeans.py" in own) == (engine == "faiss")


def quarter(
    images: list[NDArray[Any]], free: list[NDArray[np.bool_]], config: PseudoMasksConfig, device: str
) -> list[NDArray[np.uint8]]:
    """A method of one's own: four quarters, whatever is to be seen."""
    found = []
    for image in images:
        rows, cols = (np.arange(config.scale * side) // (config.scale * side / 2) for side in image.shape[:2])
        found.append((1 + 2 * rows[:, None] + cols).astype(np.uint8))
    return found


@pytest.mark.parametrize("batched", [False, True])
def test_an_own_method_is_one_file_and_one_row(batched: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("quarters")
    module.BATCHED, module.cluster = batched, quarter  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "quarters", module)
    monkeypatch.setattr(clusterings, "CLUSTERINGS", {**CLUSTERINGS, ("quarters", "numpy"): Clustering("quarters")})
    chain = Chain(tmp_path, "pseudo_masks.method=quarters", "pseudo_masks.engine=numpy")
    chain.sharded(features, "features")
    chain.sharded(pseudo_masks, "pseudo_masks")
    shards = chain.inputs["pseudo_masks"].shards("train")
    for image_id in shards.ids:
        assert 1 <= shards.read(image_id, "labels").max() <= 4


def test_a_module_is_a_clustering_module() -> None:
    """For the type checker: the modules fit the protocol."""
    from split_matching.stages.candidates.clustering import kmeans_faiss, multiscale_faiss, multiscale_torch

    modules: list[ClusteringModule] = [kmeans_faiss, multiscale_faiss, multiscale_torch]
    assert len(modules) == len(CLUSTERINGS)
