"""Histograms of labels against masks that are averaged one by one."""

import numpy as np
import pytest

from split_matching.stages.data.augment import View, draw_view, take_labels
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


@pytest.mark.parametrize("classes", [1, 3])
def test_crops_are_drawn_as_by_sorting_the_labels(classes: int) -> None:
    """The rule in plain words, over draws that are accepted and draws that are not."""
    rng = np.random.default_rng(1)
    labels = np.where(
        rng.random((40, 40)) < 0.3, 255, (rng.random((5, 5)) * classes).astype(np.uint8).repeat(8, 0).repeat(8, 1)
    )
    labels = labels.astype(np.uint8)
    for seed in range(30):
        draws, own = np.random.default_rng(seed), np.random.default_rng(seed)
        found = draw_view(own, labels, (50, 60), 24, 0.6, True)
        mirrored = bool(draws.random() < 0.5)
        for _ in range(10):
            view = View(50, 60, int(draws.integers(27)), int(draws.integers(37)), 24, 24, mirrored)
            seen = [value for value in take_labels(labels, view).ravel().tolist() if value != 255]
            shares = [seen.count(value) / len(seen) for value in set(seen)]
            if len(shares) > 1 and max(shares) < 0.6:
                break
        assert found == view and own.random() == draws.random()  # what is drawn next is the same too
