"""Many settings of `merge` from one clustering: at each the regions are those that ClusterPseudoMasks stores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from split_matching.configs.clusterings import CLUSTERINGS, Clustering
from split_matching.configs.settings import PseudoMasksConfig
from split_matching.stages.candidates import pseudo_masks
from split_matching.stages.candidates.clustering import cluster, cluster_at, field_to_cluster
from split_matching.stages.candidates.quality import best_overlap
from split_matching.stages.candidates.sweep import settings_of, sweep_image
from split_matching.stages.data.labels import read_seen_labels
from split_matching.stages.data.source import open_source
from tests.handmade import Chain

MERGES = [0.3, 0.6, 0.85, 0.9, 0.97, 1.0]


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    from split_matching.stages.candidates import features

    made = Chain(tmp_path_factory.mktemp("sweep"), "shapes.train_scenes=2")
    made.sharded(features, "features", ("train",))
    return made


@pytest.mark.parametrize("tokens", ["all", "unannotated"])
def test_every_setting_gives_the_regions_of_the_stage(chain: Chain, tmp_path: Path, tokens: str) -> None:
    shards = chain.inputs["features"].shards("train")
    source = open_source(chain.config.data, chain.root)
    config = chain.config.pseudo_masks.model_copy(update={"tokens": tokens})
    sweeps = {}
    for image_id in shards.ids:
        dense = shards.read(image_id, field_to_cluster(shards.fields, config))
        labels, annotated = read_seen_labels(source, image_id, chain.slice.classes.seen_ids)
        sweeps[image_id] = (sweep_image(dense, labels, annotated, config, MERGES), dense, labels, annotated)
    for place, merge in enumerate(MERGES):
        branch = chain.branch(tmp_path / str(merge), f"pseudo_masks.merge={merge}", f"pseudo_masks.tokens={tokens}")
        branch.sharded(pseudo_masks, "pseudo_masks")
        for image_id, (sweep, dense, labels, annotated) in sweeps.items():
            stored = branch.inputs["pseudo_masks"].shards("train").read(image_id, "labels")
            assert np.array_equal(sweep.maps[place], stored)
            clusters = cluster(dense, branch.config.pseudo_masks)
            truth = [labels == value for value in sorted(set(labels[annotated].tolist()))]
            assert sweep.overlaps[place].tolist() == [best_overlap(clusters, mask)[1] for mask in truth]
    counts = [[int(map_.max()) for map_ in sweep.maps] for sweep, *_ in sweeps.values()]
    assert all(len(set(row)) > 2 for row in counts), "the settings must differ for this to mean something"


@pytest.mark.parametrize(("method", "engine"), CLUSTERINGS)
def test_one_clustering_serves_all_settings(method: str, engine: str) -> None:
    config = PseudoMasksConfig(method=method, engine=engine, windows=(2, 4), iterations=3)
    dense = np.random.default_rng(3).standard_normal((7, 9, 16)).astype(np.float16)
    free = np.random.default_rng(4).random((7, 9)) < 0.8
    for cells in (free, np.ones_like(free)):
        for merge, found in zip(MERGES, cluster_at(dense, cells, config, MERGES), strict=True):
            setting = config.model_copy(update={"merge": merge})
            module = pytest.importorskip(CLUSTERINGS[method, engine].module)
            assert np.array_equal(found, module.cluster([dense], [cells], setting, "cpu")[0])


@pytest.mark.parametrize("tokens", ["all", "unannotated"])
def test_a_wide_image_and_one_that_is_annotated_all_over(tokens: str) -> None:
    config = PseudoMasksConfig(windows=(2, 4), iterations=3, scale=2, tokens=tokens)
    dense = np.random.default_rng(5).standard_normal((4, 7, 16)).astype(np.float16)
    labels, annotated = np.zeros((16, 28), np.uint8), np.zeros((16, 28), bool)
    annotated[:, :8] = True
    for map_ in sweep_image(dense, labels, annotated, config, [0.5, 0.9]).maps:
        assert map_.shape == (8, 14) and not map_[:, :4].any() and map_[:, 6:].all()
    whole = sweep_image(dense, labels, np.ones_like(annotated), config, [0.5, 0.9])
    assert not any(map_.any() for map_ in whole.maps) and whole.overlaps.shape == (2, 1)


def test_a_method_without_a_sweep_of_its_own_runs_once_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    class Method:
        @staticmethod
        def cluster(images: Any, free: Any, config: PseudoMasksConfig, device: str) -> list[np.ndarray]:
            return [np.full(cells.shape, round(10 * config.merge), np.uint8) for cells in free]

    monkeypatch.setattr("split_matching.stages.candidates.clustering.load_clustering", lambda config: Method)
    dense, free = np.zeros((2, 2, 3), np.float16), np.ones((2, 2), bool)
    assert [int(found[0, 0]) for found in cluster_at(dense, free, PseudoMasksConfig(), [0.1, 0.9])] == [1, 9]


def test_settings_hold_that_of_the_config_and_it_alone_for_a_method_that_does_not_merge(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = settings_of(PseudoMasksConfig(merge=0.123))
    assert found[:3] == [0.123, 0.5, 0.51] and found[-1] == 0.98 and len(found) == 50
    assert len(settings_of(PseudoMasksConfig(merge=0.85))) == 49
    monkeypatch.setattr(
        "split_matching.stages.candidates.sweep.find_clustering", lambda *_: Clustering("x", unused=("merge",))
    )
    assert settings_of(PseudoMasksConfig(merge=0.85)) == [0.85]
