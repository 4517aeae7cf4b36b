"""Resampling of label maps: small cases with known cells."""

from __future__ import annotations

import numpy as np
import pytest

from split_matching.stages.data.resize import nearest_cells, resize_labels


@pytest.mark.parametrize(
    ("have", "want", "expected"),
    [(2, 4, [0, 0, 1, 1]), (2, 3, [0, 1, 1]), (3, 2, [0, 2]), (5, 5, [0, 1, 2, 3, 4]), (4, 1, [2])],
)
def test_a_cell_is_that_of_the_centre(have: int, want: int, expected: list[int]) -> None:
    assert nearest_cells(have, want).tolist() == expected


@pytest.mark.parametrize("have", [1, 7, 375, 2**20])
@pytest.mark.parametrize("want", [1, 3, 512, 2**20 + 1])
def test_cells_stay_inside(have: int, want: int) -> None:
    cells = nearest_cells(have, want)
    assert cells.min() >= 0 and cells.max() < have


def test_resize_labels_repeats_cells_exactly() -> None:
    labels = np.array([[0, 7], [3, 255]], np.uint8)
    np.testing.assert_array_equal(resize_labels(labels, (6, 4)), np.kron(labels, np.ones((3, 2), np.uint8)))


@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (7, 9), (64, 2)])
def test_resize_labels_invents_no_value(shape: tuple[int, int]) -> None:
    labels = np.random.default_rng(0).choice([0, 9, 200], (6, 5))
    resized = resize_labels(labels, shape)
    assert resized.shape == shape
    assert set(np.unique(resized)) <= {0, 9, 200}
