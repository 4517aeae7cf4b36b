"""Region maps: numbering and masks."""

import numpy as np

from split_matching.stages.ground.region_map import masks_of, number_by_area


def test_small_regions_are_dropped_and_numbers_follow_area() -> None:
    labels = np.array([[3, 3, 3, 7], [3, 5, 5, 0]])
    assert number_by_area(labels, 0).tolist() == [[1, 1, 1, 3], [1, 2, 2, 0]]
    assert number_by_area(labels, 2).tolist() == [[1, 1, 1, 0], [1, 2, 2, 0]]
    assert number_by_area(np.arange(1, 401).reshape(20, 20), 0).max() == 254


def test_masks_are_those_of_the_numbers() -> None:
    masks = masks_of(np.array([[1, 1, 0], [3, 3, 2]], np.uint8))
    assert masks.tolist() == [
        [[True, True, False], [False, False, False]],
        [[False, False, False], [False, False, True]],
        [[False, False, False], [True, True, False]],
    ]
    assert masks_of(np.zeros((2, 3), np.uint8)).shape == (0, 2, 3)
