"""Colours of classes and regions: how far apart they are, and that a class keeps its own."""

from __future__ import annotations

import colorsys
import itertools
import math

import numpy as np
import pytest
from numpy.typing import NDArray

from split_matching.configs.class_list import load_shipped_classes
from split_matching.stages.data.shapes import COLOURS
from split_matching.stages.pages.colour_difference import delta_e2000, to_lab
from split_matching.stages.pages.colours import class_colours, hex_colours, is_light, region_colours

SHARMA = """
50.0000 2.6772 -79.7751 50.0000 0.0000 -82.7485 2.0425
50.0000 -1.3802 -84.2814 50.0000 0.0000 -82.7485 1.0000
50.0000 0.0000 0.0000 50.0000 -1.0000 2.0000 2.3669
50.0000 2.4900 -0.0010 50.0000 -2.4900 0.0009 7.1792
50.0000 2.4900 -0.0010 50.0000 -2.4900 0.0011 7.2195
50.0000 2.5000 0.0000 73.0000 25.0000 -18.0000 27.1492
50.0000 2.5000 0.0000 58.0000 24.0000 15.0000 19.4535
60.2574 -34.0099 36.2677 60.4626 -34.1751 39.4387 1.2644
22.7233 20.0904 -46.6940 23.0331 14.9730 -42.5619 2.0373
36.4612 47.8580 18.3852 36.2715 50.5065 21.2231 1.4146
90.8027 -2.0831 1.4410 91.1528 -1.6435 0.0447 1.4441
2.0776 0.0795 -1.1350 0.9033 -0.0636 -0.5514 0.9082
"""
"""Pairs of colours in Lab and their CIEDE2000 difference. Source: table 1 of Sharma, Wu and Dalal, 2005."""


def lab_by_hand(colour: tuple[int, int, int]) -> tuple[float, float, float]:
    red, green, blue = (
        v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in (channel / 255 for channel in colour)
    )
    x = 0.4124 * red + 0.3576 * green + 0.1805 * blue
    y = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    z = 0.0193 * red + 0.1192 * green + 0.9505 * blue
    fx, fy, fz = (t ** (1 / 3) if t > 0.008856 else 7.787 * t + 16 / 116 for t in (x / 0.9505, y, z / 1.089))
    return 116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)


def least(colours: NDArray[np.uint8]) -> tuple[float, float]:
    """The least difference of two of some colours: CIE 1976 by hand, and CIEDE2000."""
    by_hand = [lab_by_hand(tuple(colour)) for colour in colours.tolist()]
    first, second = np.triu_indices(len(colours), 1)
    lab = to_lab(colours)
    return (
        min(math.dist(a, b) for a, b in itertools.combinations(by_hand, 2)),
        float(delta_e2000(lab[first], lab[second]).min()),
    )


def test_differences_are_those_of_the_published_table() -> None:
    rows = np.array([line.split() for line in SHARMA.split("\n") if line], float)
    np.testing.assert_allclose(delta_e2000(rows[:, :3], rows[:, 3:6]), rows[:, 6], atol=5e-5)
    np.testing.assert_allclose(delta_e2000(rows[:, 3:6], rows[:, :3]), rows[:, 6], atol=5e-5)


def test_lab_is_that_of_the_formula() -> None:
    colours = [(255, 0, 0), (0, 0, 255), (10, 12, 8), (128, 128, 128), (255, 255, 255)]
    np.testing.assert_allclose(to_lab(np.array(colours, np.uint8)), [lab_by_hand(c) for c in colours], atol=0.05)


@pytest.mark.parametrize(
    ("count", "e76", "e2000"), [(20, 36, 18), (40, 26, 13), (59, 21, 10.5), (171, 13, 6.5), (255, 11, 5.5)]
)
def test_colours_of_classes_can_be_told_apart(count: int, e76: float, e2000: float) -> None:
    """About 2 of CIEDE2000 can just be seen. A list of 171 had pairs of 7.9 and 4.1, one of 40 of 14.5 and 7.5."""
    found = least(class_colours([f"class {number}" for number in range(255)])[:count])
    assert found[0] >= e76 and found[1] >= e2000


def test_a_class_named_by_a_colour_has_that_colour() -> None:
    names = [entry.name for entry in load_shipped_classes("shapes").entries]
    colours = class_colours(names)
    assert least(colours)[0] >= 18 and least(colours)[1] >= 9
    anchors = {name: lab_by_hand(colour) for name, colour in COLOURS.items()}
    for name, colour in zip(names, colours.tolist(), strict=True):
        own = name.split()[0]
        assert min(anchors, key=lambda other: math.dist(anchors[other], lab_by_hand(colour))) == own, (name, colour)
    plain = {name.split()[0]: colour for name, colour in zip(names, colours, strict=True) if name.endswith("plain")}
    for word, colour in plain.items():
        assert math.dist(lab_by_hand(tuple(colour.tolist())), anchors[word]) < 12  # a step of the grid of colours


def test_a_word_for_a_colour_counts_in_any_case_and_place() -> None:
    fruit = class_colours(["apple", "Orange", "dark-GRAY wall", "Fred", "greenhouse"])
    hue = 360 * colorsys.rgb_to_hsv(*(fruit[1] / 255))[0]
    assert 15 < hue < 45 and np.ptp(fruit[2].astype(int)) < 30
    assert fruit[0].tolist() == class_colours(["apple", "Orange"])[0].tolist()  # later classes change nothing


def test_a_class_has_the_same_colour_wherever_it_is_shown() -> None:
    names = ["cat", "dog", "red car", "tree"]
    whole = class_colours(names)
    np.testing.assert_array_equal(class_colours(names, ["tree", "cat"]), whole[[3, 0]])
    mixed = class_colours(names, ["lamp", "dog", "red car", "red hat"])
    np.testing.assert_array_equal(mixed[[1, 2]], whole[[1, 2]])
    assert least(np.vstack([whole, mixed[[0, 3]]]))[0] >= 17
    assert class_colours(names, []).shape == (0, 3) and class_colours(["one"]).shape == (1, 3)


def test_many_classes_of_one_colour_are_of_different_shades() -> None:
    colours = class_colours([f"grey {number}" for number in range(60)])
    assert len({tuple(colour) for colour in colours.tolist()}) == 60


def test_regions_have_soft_colours_that_do_not_depend_on_their_number() -> None:
    colours = region_colours(12)
    np.testing.assert_array_equal(region_colours(40)[:12], colours)
    assert colours.dtype == np.uint8 and least(colours)[0] >= 20
    assert all(70 <= lab_by_hand(colour)[0] <= 93 for colour in region_colours(255).tolist())
    assert region_colours(0).shape == (0, 3) and region_colours(300).shape == (300, 3)
    colours[:] = 0
    assert region_colours(3).any()
    with pytest.raises(ValueError, match="-1"):
        region_colours(-1)


def test_lines_on_light_colours_are_dark() -> None:
    assert [is_light(colour) for colour in ((255, 255, 255), (235, 205, 40), (45, 80, 215), (0, 0, 0))] == [1, 1, 0, 0]


def test_hex_colours() -> None:
    assert hex_colours(np.array([[0, 15, 255]], np.uint8)) == ["#000fff"]
