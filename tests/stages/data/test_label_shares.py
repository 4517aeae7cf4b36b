"""Histograms of labels against masks that are averaged one by one."""

import numpy as np
import pytest

from split_matching.stages.data.label_shares import label_shares, present_labels
from split_matching.stages.data.resize import resize_share


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize(
    ("shape", "size"),
    [((64, 64), (8, 8)), ((37, 50), (6, 8)), ((8, 8), (16, 16)), ((13, 7), (5, 11)), ((1, 1), (1, 3))],
)
def test_shares_are_those_of_each_mask_to_the_bit(shape: tuple[int, int], size: tuple[int, int], kind: type) -> None:
    rng, nothing = np.random.default_rng(0), np.iinfo(kind).max
    labels = rng.choice(np.array([0, 3, 7, 200, nothing], kind), shape)
    values = present_labels(labels)
    assert values.tolist() == [value for value in (0, 3, 7, 200) if (labels == value).any()]
    expected = resize_share((labels[None] == values[:, None, None]).astype(np.float32), *size)
    assert np.array_equal(label_shares(labels, values, *size), expected)
    assert np.array_equal(label_shares(labels, values[::-1], *size), expected[::-1])


def test_shares_of_nothing() -> None:
    labels = np.full((4, 4), 255, np.uint8)
    assert present_labels(labels).shape == (0,)
    assert label_shares(labels, present_labels(labels), 2, 2).shape == (0, 2, 2)
    assert not label_shares(labels, np.array([5]), 2, 2).any()


@pytest.mark.parametrize("size", [(8, 8), (6, 8), (32, 48)])
@pytest.mark.parametrize("repeats", [0.4, 1.0, 2.7])
def test_shares_of_chosen_rows_and_columns_are_those_of_the_map_that_they_make(
    size: tuple[int, int], repeats: float
) -> None:
    rng = np.random.default_rng(0)
    labels = rng.choice(np.array([0, 3, 7, 255], np.uint8), (20, 30))
    rows, cols = (np.arange(int(have * repeats)) * have // int(have * repeats) for have in labels.shape)
    values = np.array([3, 0, 9])
    for cells in ((rows, cols), (rows[3:], cols[::-1])):
        expected = label_shares(labels[cells[0][:, None], cells[1]], values, *size)
        assert np.array_equal(label_shares(labels, values, *size, cells), expected)
        masks = (labels[cells[0][:, None], cells[1]] == values[:, None, None]).astype(np.float32)
        assert np.array_equal(expected, resize_share(masks, *size))


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (40, 50)])
def test_present_labels_are_all_that_are_annotated(shape: tuple[int, int], kind: type) -> None:
    for seed in range(20):
        labels = np.random.default_rng(seed).choice(np.array([0, 3, 200, np.iinfo(kind).max], kind), shape)
        for own in (labels, labels.repeat(3, 0).repeat(2, 1), labels[:, ::-1]):
            assert present_labels(own).tolist() == sorted(set(own.ravel().tolist()) - {np.iinfo(kind).max})
