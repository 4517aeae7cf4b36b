"""Colours of classes and regions."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from split_matching.stages.pages.colours import hex_colours, palette


@pytest.mark.parametrize("muted", [False, True])
@pytest.mark.parametrize("count", [0, 1, 20, 171])
def test_palette_has_distinct_colours(count: int, muted: bool) -> None:
    colours = palette(count, muted=muted)
    assert colours.shape == (count, 3)
    assert colours.dtype == np.uint8
    assert len({tuple(c) for c in colours.tolist()}) == count


def test_first_colours_do_not_depend_on_the_count() -> None:
    np.testing.assert_array_equal(palette(300)[:20], palette(20))


def test_twenty_colours_are_far_apart() -> None:
    gaps = [np.abs(a.astype(int) - b.astype(int)).sum() for a, b in itertools.combinations(palette(20), 2)]
    assert min(gaps) >= 60


def test_palette_is_endless_and_a_copy() -> None:
    assert palette(9000).shape == (9000, 3)
    palette(3)[:] = 0
    assert palette(3).any()


def test_palette_rejects_negative_counts() -> None:
    with pytest.raises(ValueError, match="-1"):
        palette(-1)


def test_hex_colours() -> None:
    assert hex_colours(np.array([[0, 15, 255]], np.uint8)) == ["#000fff"]
