"""Region maps: numbers by area, what is dropped, and masks."""

import numpy as np

from split_matching.stages.ground.region_map import masks_of, number_by_area


def test_small_regions_are_dropped_and_numbers_follow_area() -> None:
    labels = np.array([[3, 3, 3, 7], [3, 5, 5, 0]])
    assert number_by_area(labels).tolist() == [[1, 1, 1, 3], [1, 2, 2, 0]]
    assert number_by_area(labels, 2).tolist() == [[1, 1, 1, 0], [1, 2, 2, 0]]
    assert number_by_area(labels, 2.5).tolist() == [[1, 1, 1, 0], [1, 0, 0, 0]]


def test_of_equal_regions_the_lower_number_is_first() -> None:
    assert number_by_area(np.array([9, 4, 4, 9, 2, 2, 2])).tolist() == [3, 2, 2, 3, 1, 1, 1]


def test_no_region_remains_none_however_many_cells_it_has() -> None:
    assert number_by_area(np.array([0, 0, 0, 0, 2, 2, 5])).tolist() == [0, 0, 0, 0, 1, 1, 2]
    assert number_by_area(np.array([0, 5])).tolist() == [0, 1]
    assert number_by_area(np.zeros((2, 3), int)).tolist() == [[0, 0, 0], [0, 0, 0]]


def test_the_smallest_beyond_254_are_dropped() -> None:
    labels = np.repeat(np.arange(1, 401), np.arange(1, 401))
    numbers = number_by_area(labels)
    assert numbers.dtype == np.uint8
    assert [int(numbers[labels == label][0]) for label in (400, 399, 147, 146, 1)] == [1, 2, 254, 0, 0]


def test_masks_are_one_a_region_in_order() -> None:
    masks = masks_of(np.array([[0, 2], [1, 2]], np.uint8))
    assert masks.dtype == bool
    assert masks.tolist() == [[[False, False], [True, False]], [[False, True], [False, True]]]
    assert masks_of(np.zeros((2, 2), np.uint8)).shape == (0, 2, 2)
    assert masks_of(np.zeros((0, 2), np.uint8)).shape == (0, 0, 2)
