"""The steps of clustering against plain loops, and what a component that all features share may not change."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from split_matching.configs.settings import PseudoMasksConfig
from split_matching.errors import DataError
from split_matching.stages.candidates.clustering.steps import (
    closeness,
    label_merges,
    link_centroids,
    prepare,
    to_unit_length,
    window_seeds,
)

CONFIG = PseudoMasksConfig(min_area=0.0, merge=0.9)


def unit(rows: NDArray[np.float64]) -> NDArray[np.float32]:
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def prepared(dense: NDArray[np.float32], free: NDArray[np.bool_], weight: float) -> NDArray[np.float32]:
    return np.asarray(prepare(torch.from_numpy(dense)[None], torch.from_numpy(free)[None], weight)[0].numpy())


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_cells_are_mixed_with_their_surroundings_and_the_mean_of_the_free_ones_is_the_origin(weight: float) -> None:
    rng = np.random.default_rng(5)
    dense, free = rng.standard_normal((4, 5, 3)).astype(np.float32), rng.random((4, 5)) < 0.5
    cells = unit(dense)
    padded = np.pad(cells, ((1, 1), (1, 1), (0, 0)), mode="edge")
    mean = np.array([[padded[y : y + 3, x : x + 3].mean((0, 1)) for x in range(5)] for y in range(4)])
    mixed = (1 - weight) * cells + weight * mean
    assert np.allclose(prepared(dense, free, weight), mixed - mixed[free].mean(0), atol=1e-6)


def test_a_batch_is_prepared_image_by_image() -> None:
    rng = np.random.default_rng(6)
    dense, free = rng.standard_normal((2, 4, 5, 3)).astype(np.float32), rng.random((2, 4, 5)) < 0.5
    both = prepare(torch.from_numpy(dense), torch.from_numpy(free), 0.5).numpy()
    assert np.allclose(both, [prepared(dense[i], free[i], 0.5) for i in (0, 1)], atol=1e-6)


def test_nan_is_an_error() -> None:
    dense = np.ones((2, 2, 3), np.float32)
    dense[1, 0, 2] = np.nan
    with pytest.raises(DataError, match="dense features contain NaN"):
        prepared(dense, np.ones((2, 2), bool), 0.5)


def test_window_seeds_are_means_of_the_free_cells_of_windows() -> None:
    rng = np.random.default_rng(2)
    cells, free = rng.standard_normal((5, 7, 4)).astype(np.float32), np.ones((5, 7), bool)
    expected = [cells[y : y + 4, x : x + 4].mean((0, 1)) for y in (0, 1) for x in (0, 2, 3)]
    assert np.allclose(window_seeds(cells.reshape(-1, 4), free.ravel(), (5, 7), (4,)), expected, atol=1e-5)
    free[:, 2:] = rng.random((5, 5)) < 0.7
    expected = [cells[y : y + 4, x : x + 4][free[y : y + 4, x : x + 4]].mean(0) for y in (0, 1) for x in (0, 2, 3)]
    assert np.allclose(window_seeds(cells.reshape(-1, 4), free.ravel(), (5, 7), (4,)), expected, atol=1e-5)


def test_windows_have_sizes_and_strides() -> None:
    def count(height: int, width: int, *windows: int) -> int:
        points = np.zeros((height * width, 2), np.float32)
        return len(window_seeds(points, np.ones(height * width, bool), (height, width), windows))

    assert count(5, 7, 100) == 1  # cut to the grid
    assert count(5, 7, 3) == 3 * 5  # half of 3 is 1: every place
    assert count(16, 16, 4, 8, 16) == 49 + 9 + 1
    assert count(5, 7, 1) == 35


def test_a_window_without_a_free_cell_gives_no_seed_and_few_cells_are_the_seeds_themselves() -> None:
    points = np.arange(16, dtype=np.float32).reshape(16, 1)
    free = np.zeros((4, 4), bool)
    free[:2, :2] = True
    assert window_seeds(points, free.ravel(), (4, 4), (2,)).ravel().tolist() == [2.5, 3, 4.5, 5]
    free[1, 1] = free[1, 0] = False
    assert window_seeds(points, free.ravel(), (4, 4), (1, 2)).ravel().tolist() == [0, 1]


def test_vectors_of_any_shape_are_scaled_and_zero_remains() -> None:
    rows = np.array([[[3.0, 4, 0], [0, 0, 0]], [[0, 0, -2], [1, 2, 2]]])
    expected = [[[0.6, 0.8, 0], [0, 0, 0]], [[0, 0, -1], [1 / 3, 2 / 3, 2 / 3]]]
    assert to_unit_length(rows) == pytest.approx(np.array(expected))


def test_closeness_orders_centroids_as_distances_do() -> None:
    rng = np.random.default_rng(7)
    points, centroids = rng.standard_normal((20, 3)), rng.standard_normal((4, 3))
    squared = ((points[:, None] - centroids) ** 2).sum(-1)
    assert np.allclose(closeness(points, centroids), (points**2).sum(1)[:, None] / 2 - squared / 2)
    assert np.allclose(closeness(torch.from_numpy(points), torch.from_numpy(centroids)), closeness(points, centroids))


# --- merging ----------------------------------------------------------------------------------------------------------


def merged(places: list[float], sizes: list[int], **settings: float) -> list[float]:
    """Merge centroids on a line; the places of the results."""
    rows = np.array(places, np.float32)[:, None]
    config = CONFIG.model_copy(update=settings)
    linked = link_centroids(rows, np.array(sizes), config)
    return linked.means(linked.groups(config.merge))[:, 0].tolist()


def test_clusters_closer_than_a_share_of_the_largest_squared_distance_become_one() -> None:
    """On a line: 10 is the largest distance, so at merge 0.9 the limit is the root of 10, between 3.1 and 3.2."""
    assert merged([0, 3.1, 10], [1, 1, 1]) == pytest.approx([1.55, 10])
    assert merged([0, 3.2, 10], [1, 1, 1]) == pytest.approx([0, 3.2, 10])
    assert merged([0, 310, 1000], [1, 1, 1]) == pytest.approx([155, 1000]), "whatever the unit"


def test_extremes_of_merging() -> None:
    assert merged([0, 1, 4], [1, 1, 1], merge=0.0) == pytest.approx([5 / 3])
    assert merged([0, 1, 4], [1, 1, 1], merge=1.0) == [0, 1, 4]
    assert merged([3], [2]) == [3]
    assert merged([0, 7], [0, 2]) == [7], "an empty cluster is left out"


def test_merged_clusters_are_weighted_by_size_and_in_order_of_their_first_member() -> None:
    assert merged([10, 0, -9, 1], [1, 3, 2, 1]) == pytest.approx([10, 0.25, -9])


def test_groups_are_as_far_apart_as_their_members_on_average() -> None:
    """0 and 2 join first; 4 is then 16 and 4 away from them, 10 on average: within 0.1 of 10.1 squared, not of 9.9."""
    assert merged([0, 2, 4, 10.1 + 0], [1, 1, 1, 1]) == pytest.approx([2, 10.1])
    assert len(merged([0, 2, 4, 9.9], [1, 1, 1, 1])) == 3


def test_a_speck_far_away_is_not_the_measure() -> None:
    """Single odd tokens lie far from everything; with them as the measure the rest would be one."""
    assert merged([0, 3.2, 10, 100], [50, 50, 50, 1], min_area=0.01) == pytest.approx([0, 3.2, 10, 100])
    assert merged([0, 3.2, 10, 100], [50, 50, 50, 1], min_area=0.0) == pytest.approx([4.4, 100])
    assert merged([0, 3.2, 10, 100], [3, 2, 2, 1], min_area=0.125) == pytest.approx([26.4 / 7, 100]), "1 of 8 is enough"
    assert len(merged([0, 1, 10], [1, 1, 1], min_area=0.5)) == 2, "where all are specks, all are the measure"


def test_settings_that_merge_alike_are_labelled_once() -> None:
    linked = link_centroids(np.array([[0], [3.1], [10]], np.float32), np.array([1, 1, 1]), CONFIG)
    asked: list[list[float]] = []

    def label(rows: NDArray[np.float32]) -> NDArray[np.uint8]:
        asked.append(rows[:, 0].tolist())
        return np.array([len(rows)], np.uint8)

    maps = label_merges(linked, [1.0, 0.95, 0.9, 0.5, 0.0], label)
    assert [int(found[0]) for found in maps] == [3, 3, 2, 2, 1] and len(asked) == 3
    assert maps[0] is maps[1] and maps[2] is maps[3]
