"""Clustering by faiss against plain implementations of its steps."""

import numpy as np
import pytest
from numpy.typing import NDArray

from split_matching.configs.settings import PseudoMasksConfig
from split_matching.stages.candidates.clustering import cluster, kmeans_faiss, load_clustering
from split_matching.stages.candidates.clustering.faiss_kmeans import kmeans

CONFIG = PseudoMasksConfig(windows=(2, 4), merge=0.7, min_area=0.01, smooth=0.0)


def unit(rows: NDArray[np.float64]) -> NDArray[np.float32]:
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def blocks(noise: float = 0.05) -> NDArray[np.float32]:
    """An 8x8 map of four quadrants, each with its own direction."""
    rng = np.random.default_rng(0)
    centres = np.eye(16)[:4]
    dense = np.zeros((8, 8, 16))
    for index, (y, x) in enumerate([(0, 0), (0, 4), (4, 0), (4, 4)]):
        dense[y : y + 4, x : x + 4] = centres[index]
    return unit(dense + noise * rng.standard_normal(dense.shape))


def plain_kmeans(points: NDArray[np.float32], seeds: NDArray[np.float32], iterations: int) -> NDArray[np.float32]:
    centroids = seeds.copy()
    for _ in range(iterations):
        nearest = ((points[:, None] - centroids) ** 2).sum(-1).argmin(1)
        centroids = np.stack([points[nearest == k].mean(0) for k in range(len(seeds))])
    return centroids


def test_kmeans_equals_a_plain_implementation() -> None:
    rng = np.random.default_rng(1)
    points = (rng.standard_normal((200, 8)) + 3 * np.eye(8)[rng.integers(0, 5, 200)]).astype(np.float32)
    seeds = points[:5].copy()
    assert np.allclose(kmeans(points, seeds, 10), plain_kmeans(points, seeds, 10), atol=1e-4)


def test_kmeans_equals_scikit_learn_from_the_same_seeds() -> None:
    from sklearn.cluster import KMeans

    points = blocks().reshape(-1, 16)
    seeds = points[[0, 7, 56, 63]].copy()
    reference = KMeans(4, init=seeds, n_init=1, max_iter=20).fit(points)
    assert np.allclose(kmeans(points, seeds, 20), reference.cluster_centers_, atol=1e-5)


@pytest.mark.parametrize("method", ["multiscale", "kmeans"])
def test_quadrants_are_found(method: str) -> None:
    config = CONFIG.model_copy(update={"method": method, "k": 4, "scale": 2})
    labels = cluster(blocks(), config)
    assert labels.shape == (16, 16) and labels.min() == 1
    if method == "multiscale":
        assert labels.max() == 4
        for y in (0, 9):
            for x in (0, 9):
                assert len(np.unique(labels[y : y + 7, x : x + 7])) == 1


def test_plain_kmeans_begins_with_different_free_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    points, inside = np.arange(40, dtype=np.float32)[:, None], np.arange(40) >= 8
    monkeypatch.setattr(kmeans_faiss, "partition", lambda *given: given[3](points, inside, (5, 8)))
    config = CONFIG.model_copy(update={"method": "kmeans", "k": 32})
    seeds = kmeans_faiss.sweep(points, inside, config, [0.7])
    assert sorted(np.asarray(seeds).ravel().tolist()) == list(range(8, 40))


def test_clustering_is_deterministic() -> None:
    dense = unit(np.random.default_rng(3).standard_normal((16, 16, 32)))
    for method in ("multiscale", "kmeans"):
        config = CONFIG.model_copy(update={"method": method, "windows": (4, 8, 16)})
        assert np.array_equal(cluster(dense, config), cluster(dense.copy(), config))


@pytest.mark.parametrize("method", ["multiscale", "kmeans"])
def test_only_free_cells_are_clustered(method: str) -> None:
    """What the others hold changes nothing for the free ones."""
    config = CONFIG.model_copy(update={"method": method, "k": 4})
    dense, free = blocks(), np.ones((8, 8), bool)
    free[:3, :5] = False
    other = dense.copy()
    other[~free] = unit(np.random.default_rng(4).standard_normal((15, 16)))
    inside = np.kron(free, np.ones((2, 2), bool))
    inside[:7, :11] = False  # cells that touch the others are interpolated with them
    first, second = (load_clustering(config).cluster([d], [free], config, "cpu")[0] for d in (dense, other))
    assert np.array_equal(_renumber(first[inside]), _renumber(second[inside]))


def _renumber(labels: NDArray[np.uint8]) -> list[int]:
    """Numbers in order of appearance."""
    order = {value: place for place, value in enumerate(dict.fromkeys(labels.tolist()))}
    return [order[value] for value in labels.tolist()]


@pytest.mark.parametrize("engine", ["faiss", "torch"])
def test_a_component_that_all_features_share_changes_no_region(engine: str) -> None:
    """The modality gap of web-scale CLIP: mean cosines of two cells between 0 and 0.9."""
    rng = np.random.default_rng(0)
    config = PseudoMasksConfig(engine=engine, windows=(2, 4))
    flat = np.repeat(np.repeat(rng.integers(0, 5, (4, 4)), 4, 0), 4, 1)
    parts = unit(np.eye(32)[flat] + 0.1 * rng.standard_normal((16, 16, 32)))
    parts[..., 31] = 0
    parts = unit(parts)
    found = []
    for share in (0.0, 0.5, 0.9):
        cells = np.sqrt(1 - share) * parts
        cells[..., 31] = np.sqrt(share)
        found.append(cluster(cells.astype(np.float32), config))
    assert found[0].max() == len(np.unique(flat))
    assert np.mean(found[0] != found[1]) < 0.01 and np.mean(found[0] != found[2]) < 0.01, "ties aside"


def test_a_grid_of_fewer_cells_than_clusters_gets_one_a_cell() -> None:
    cells = np.eye(8, dtype=np.float32)[:6].reshape(2, 3, 8)
    config = CONFIG.model_copy(update={"method": "kmeans", "k": 8, "scale": 1})
    assert np.unique(cluster(cells, config)).tolist() == [1, 2, 3, 4, 5, 6]
    assert np.unique(cluster(cells, config.model_copy(update={"k": 6}))).tolist() == [1, 2, 3, 4, 5, 6]
