"""Colours: of classes and regions, and those of plots.

A class has the same colour on every page, as its colour follows from the whole class list of its data set alone. Each
takes the colour that differs most from all colours before it. A class that is named by a colour ("red striped") takes
one of that colour.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cache, lru_cache

import numpy as np
from numpy.typing import NDArray

from split_matching.stages.pages.colour_difference import delta_e76, delta_e2000, to_lab

SEEN_COLOUR = "#2f6fb3"
UNSEEN_COLOUR = "#d9731a"
THIRD_COLOUR = "#2c8c6b"
NEUTRAL_COLOUR = "#5b6470"
CURVE_COLOURS = (SEEN_COLOUR, UNSEEN_COLOUR, THIRD_COLOUR, "#8a56a8", NEUTRAL_COLOUR)

NAMED_COLOURS = {
    "red": (215, 40, 40),
    "orange": (240, 135, 25),
    "yellow": (235, 205, 40),
    "green": (40, 170, 60),
    "blue": (45, 80, 215),
    "purple": (160, 50, 180),
    "pink": (245, 150, 185),
    "brown": (125, 75, 35),
    "black": (25, 25, 25),
    "grey": (128, 128, 128),
    "white": (240, 240, 240),
}
"""The eleven basic colours, as most languages have them. Source: B. Berlin, P. Kay, "Basic Color Terms", 1969."""

ENOUGH = 18.0
"""Difference from which classes need not differ more to keep to the colour of their name, see `difference` (choice)."""

LUMA = np.array([0.299, 0.587, 0.114])
"""Brightness of red, green and blue. Source: ITU-R BT.601."""

_START = (45, 105, 180)  # where nothing is taken yet: a calm blue (choice)
_LIGHT = 150  # of 255: from here dark lines are seen better than white ones (choice)
_MOST_REGIONS = 255


def class_colours(classes: Sequence[str], names: Sequence[str] | None = None) -> NDArray[np.uint8]:
    """Return the colours of classes.

    Args:
        classes: names of the whole list, in order.
        names: which of them to return, and others that the list has not; None for the whole list.

    Returns:
        sRGB, none of it black. Shape: (n, 3), uint8.
    """
    wanted = tuple(classes) if names is None else tuple(names)
    others = tuple(name for name in wanted if name not in set(classes))
    places = _assign(tuple(classes), others)
    return _grid()[0][[places[name] for name in wanted]].reshape(-1, 3)


def region_colours(count: int) -> NDArray[np.uint8]:
    """Return soft, light colours for things that are no classes; the first ones do not change with `count`.

    Args:
        count: number of colours, at least 0; after some hundred they repeat.

    Returns:
        sRGB. Shape: (count, 3), uint8.
    """
    if count < 0:
        raise ValueError(f"there are no {count} colours")
    return _soft_colours()[np.arange(count) % _MOST_REGIONS]


def is_light(colour: Iterable[int]) -> bool:
    """Whether lines on a colour must be dark to be seen."""
    return float(np.array([*colour]) @ LUMA) >= _LIGHT


def hex_colours(colours: NDArray[np.uint8]) -> list[str]:
    """Return `#rrggbb` for each row of a (n, 3) uint8 palette."""
    return [f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in colours.tolist()]


def difference(lab: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how much colours in Lab differ from one: the smaller of both formulas, as each exaggerates some colours.

    Shapes: (N, 3) and (3,) -> (N,). Choice: CIEDE2000 counts twice, as its values are about half as large.
    """
    return np.minimum(delta_e76(lab, other), 2 * delta_e2000(lab, other))


@lru_cache(maxsize=8)
def _assign(*lists: tuple[str, ...]) -> dict[str, int]:
    """Give each name its row of the grid; later lists change nothing for earlier ones."""
    _, lab, plain = _grid()
    distance, found = np.full(len(lab), np.inf), dict[str, int]()
    for names in lists:
        for name in sorted(names, key=lambda name: not _colour_in(name)):  # few choices first
            word = _colour_in(name)
            allowed = _rows_of(word) if word else plain
            gain = np.minimum(distance[allowed], ENOUGH) if word else distance[allowed]
            best = allowed[gain == gain.max()]
            wish = to_lab(np.array([NAMED_COLOURS.get(word, _START)], np.uint8))[0]
            off = (lab[best] - wish) ** 2 @ [0.25, 1, 1]  # rather another lightness than another hue
            found[name] = int(best[off.argmin()])
            distance = np.minimum(distance, difference(lab, lab[found[name]]))
    return found


def _colour_in(name: str) -> str:
    """Return the first colour that a name has among its words, "" if it has none."""
    words = re.findall(r"[a-z]+", name.lower().replace("gray", "grey"))
    return next((word for word in words if word in NAMED_COLOURS), "")


@cache
def _grid() -> tuple[NDArray[np.uint8], NDArray[np.float64], NDArray[np.intp]]:
    """Colours to choose from, the same in Lab, and the rows of those that are not nearly black, white or grey."""
    levels = np.arange(0, 256, 17, dtype=np.uint8)
    cube = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)
    rgb = cube[1:-1]  # without black, which means no class, and white, which is the page
    lab = to_lab(rgb)
    chroma = np.hypot(lab[:, 1], lab[:, 2])
    return rgb, lab, np.flatnonzero((lab[:, 0] >= 25) & (lab[:, 0] <= 92) & (chroma >= 20))


@cache
def _rows_of(word: str) -> NDArray[np.intp]:
    """Rows of the grid that are nearer to a named colour than to every other one."""
    lab = _grid()[1]
    others = to_lab(np.array(list(NAMED_COLOURS.values()), np.uint8))
    nearest = np.stack([difference(lab, other) for other in others]).argmin(0)
    return np.flatnonzero(nearest == list(NAMED_COLOURS).index(word))


@cache
def _soft_colours() -> NDArray[np.uint8]:
    rgb, lab, _ = _grid()
    chroma = np.hypot(lab[:, 1], lab[:, 2])
    soft = np.flatnonzero((lab[:, 0] >= 72) & (lab[:, 0] <= 92) & (chroma >= 12) & (chroma <= 40))
    rgb, lab = rgb[soft], lab[soft]
    order = [int(difference(lab, to_lab(np.array([[165, 210, 240]], np.uint8))[0]).argmin())]
    distance = np.full(len(lab), np.inf)
    for _ in range(_MOST_REGIONS - 1):
        distance = np.minimum(distance, difference(lab, lab[order[-1]]))
        order.append(int(distance.argmax()))
    return rgb[order]
