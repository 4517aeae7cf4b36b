"""Clustering by faiss against plain implementations of its steps."""

import numpy as np
import pytest
from numpy.typing import NDArray

from split_matching.configs.settings import PseudoMasksConfig
from split_matching.errors import DataError
from split_matching.stages.candidates.clustering import cluster
from split_matching.stages.candidates.clustering.faiss_kmeans import smooth, spherical_kmeans
from split_matching.stages.candidates.clustering.multiscale_faiss import window_seeds
from split_matching.stages.candidates.clustering.steps import merge_centroids

CONFIG = PseudoMasksConfig(windows=(2, 4), merge=0.9, min_area=0.01, smooth=0.0)


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
        nearest = (points @ centroids.T).argmax(1)
        centroids = unit(np.stack([points[nearest == k].mean(0) for k in range(len(seeds))]))
    return centroids


def test_kmeans_equals_a_plain_implementation() -> None:
    rng = np.random.default_rng(1)
    points = unit(rng.standard_normal((200, 8)) + 3 * np.eye(8)[rng.integers(0, 5, 200)])
    seeds = points[:5].copy()
    assert np.allclose(spherical_kmeans(points, seeds, 10), plain_kmeans(points, seeds, 10), atol=1e-4)


def test_kmeans_equals_scikit_learn_from_the_same_seeds() -> None:
    from sklearn.cluster import KMeans

    points = blocks().reshape(-1, 16)
    seeds = points[[0, 7, 56, 63]].copy()
    reference = KMeans(4, init=seeds, n_init=1, max_iter=20).fit(points)
    ours = (points @ spherical_kmeans(points, seeds, 20).T).argmax(1)
    assert np.array_equal(ours, reference.labels_)


def test_window_seeds_are_window_means() -> None:
    dense = unit(np.random.default_rng(2).standard_normal((5, 7, 4)))
    seeds = window_seeds(dense, (4,))
    expected = [dense[y : y + 4, x : x + 4].mean((0, 1)) for y in (0, 1) for x in (0, 2, 3)]
    assert np.allclose(seeds, unit(np.array(expected)), atol=1e-5)
    assert len(window_seeds(dense, (100,))) == 1
    assert np.allclose(window_seeds(dense, (1,)), dense.reshape(-1, 4), atol=1e-6)
    assert len(window_seeds(dense, (3,))) == 3 * 5  # half of 3 is 1: every place
    assert len(window_seeds(np.ones((16, 16, 3), np.float32), (4, 8, 16))) == 49 + 9 + 1


def test_smoothing_is_the_neighbourhood_mean() -> None:
    dense = unit(np.random.default_rng(5).standard_normal((4, 5, 3)))
    padded = np.pad(dense, ((1, 1), (1, 1), (0, 0)), mode="edge")
    mean = np.array([[padded[y : y + 3, x : x + 3].mean((0, 1)) for x in range(5)] for y in range(4)])
    assert np.allclose(smooth(dense, 0.3), unit(0.7 * dense + 0.3 * mean), atol=1e-5)
    assert np.allclose(smooth(dense, 1.0), unit(mean), atol=1e-5)
    assert np.allclose(smooth(2 * dense, 0.0), dense, atol=1e-6)


def test_merging_keeps_what_differs() -> None:
    centroids = unit(np.array([[1, 0, 0], [1, 0.05, 0], [0, 1, 0], [0, 0, 1.0]]))
    sizes = np.array([30, 10, 5, 0])
    merged = merge_centroids(centroids, sizes, 0.9)
    assert len(merged) == 2  # the empty cluster is gone, the first two are one
    assert np.allclose(merged[0], unit(30 * centroids[0] + 10 * centroids[1]), atol=1e-6)
    assert len(merge_centroids(centroids, sizes, 1.0)) == 3
    assert np.allclose(merge_centroids(centroids[:2], sizes[:2], 0.9), merged[:1], atol=1e-6)
    assert len(merge_centroids(centroids[:1], sizes[:1], 0.9)) == 1


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


def test_clustering_is_deterministic() -> None:
    dense = unit(np.random.default_rng(3).standard_normal((16, 16, 32)))
    for method in ("multiscale", "kmeans"):
        config = CONFIG.model_copy(update={"method": method, "windows": (4, 8, 16)})
        assert np.array_equal(cluster(dense, config), cluster(dense.copy(), config))


def test_nan_and_too_few_points_are_clear_errors() -> None:
    points = np.ones((4, 3), np.float32)
    with pytest.raises(DataError, match="4 tokens cannot make 9 clusters"):
        spherical_kmeans(points, 9, 5)
    points[2, 1] = np.nan
    with pytest.raises(DataError, match="NaN"):
        spherical_kmeans(points, 2, 5)


def test_merging_is_by_the_mean_similarity_of_groups() -> None:
    """Cosines 0.9 between neighbours and 0.62 from end to end: the third joins at 0.76, the mean of 0.9 and 0.62."""
    angle = np.arccos(0.9) * np.arange(3)
    centroids = unit(np.stack([np.cos(angle), np.sin(angle)], 1))
    sizes = np.array([1, 1, 1])
    assert [len(merge_centroids(centroids, sizes, threshold)) for threshold in (0.95, 0.77, 0.75)] == [3, 2, 1]


def test_merged_centroids_are_in_order_of_their_first_member() -> None:
    centroids = unit(np.array([[0, 1, 0], [1, 0, 0], [0, 0, 1], [1, 0.1, 0]]))
    merged = merge_centroids(centroids, np.array([1, 3, 2, 1]), 0.9)
    assert np.allclose(merged, [centroids[0], unit(3 * centroids[1] + centroids[3]), centroids[2]], atol=1e-6)


def test_a_grid_of_fewer_cells_than_clusters_gets_one_a_cell() -> None:
    cells = np.eye(8, dtype=np.float32)[:6].reshape(2, 3, 8)
    config = CONFIG.model_copy(update={"method": "kmeans", "k": 8, "scale": 1})
    assert np.unique(cluster(cells, config)).tolist() == [1, 2, 3, 4, 5, 6]
    assert np.unique(cluster(cells, config.model_copy(update={"k": 6}))).tolist() == [1, 2, 3, 4, 5, 6]
