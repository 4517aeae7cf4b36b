"""Colours: of classes and regions, and those of plots."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

SEEN_COLOUR = "#2f6fb3"
UNSEEN_COLOUR = "#d9731a"
THIRD_COLOUR = "#2c8c6b"
NEUTRAL_COLOUR = "#5b6470"
CURVE_COLOURS = (SEEN_COLOUR, UNSEEN_COLOUR, THIRD_COLOUR, "#8a56a8", NEUTRAL_COLOUR)


def palette(count: int, *, muted: bool = False) -> NDArray[np.uint8]:
    """Return `count` colours that are easy to tell apart; the first colours do not change with `count`.

    Greedy choice: each colour is the candidate farthest in OKLab from all colours before it, among candidates that are
    neither nearly black, nearly white nor grey. Choice; OKLab distances follow perceived differences.

    Args:
        count: number of colours, at least 0.
        muted: soft, light colours, for things that are not classes (regions).

    Returns:
        (count, 3) uint8 sRGB.
    """
    if count < 0:
        raise ValueError(f"a palette cannot have {count} colours")
    chosen = _palette_order(max(64, 1 << (count - 1).bit_length()) if count else 64, muted)
    return chosen[:count].copy()


@cache
def _palette_order(count: int, muted: bool) -> NDArray[np.uint8]:
    levels = np.arange(0, 256, 15, dtype=np.uint8)
    rgb = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)
    lab = _oklab(rgb)
    chroma = np.hypot(lab[:, 1], lab[:, 2])
    light, colourful = ((0.78, 0.95), (0.05, 0.14)) if muted else ((0.42, 0.86), (0.09, 1.0))
    keep = (lab[:, 0] >= light[0]) & (lab[:, 0] <= light[1]) & (chroma >= colourful[0]) & (chroma <= colourful[1])
    rgb, lab = rgb[keep], lab[keep] * np.array([0.8, 1.0, 1.0])  # hue counts for a bit more than lightness
    first = np.array([[165, 210, 240] if muted else [45, 105, 180]], dtype=np.uint8)  # choice: a calm blue
    start = int(np.argmin(np.abs(lab - _oklab(first) * [0.8, 1.0, 1.0]).sum(axis=1)))
    order, distance = [start], np.full(len(lab), np.inf)
    for _ in range(min(count, len(lab)) - 1):
        distance = np.minimum(distance, ((lab - lab[order[-1]]) ** 2).sum(axis=1))
        order.append(int(distance.argmax()))
    repeats = -(-count // len(order))  # more classes than candidates: colours repeat
    return np.tile(rgb[order], (repeats, 1))[:count]


def _oklab(rgb: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Convert (N, 3) sRGB bytes to OKLab. Source: B. Ottosson, "A perceptual color space", 2020 (the constants)."""
    value = rgb / 255.0
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    to_lms = [[0.4122214708, 0.5363325363, 0.0514459929], [0.2119034982, 0.6806995451, 0.1073969566]]
    to_lms.append([0.0883024619, 0.2817188376, 0.6299787005])
    to_lab = [[0.2104542553, 0.7936177850, -0.0040720468], [1.9779984951, -2.4285922050, 0.4505937099]]
    to_lab.append([0.0259040371, 0.7827717662, -0.8086757660])
    return np.asarray(np.cbrt(linear @ np.array(to_lms).T) @ np.array(to_lab).T, dtype=np.float64)


def hex_colours(colours: NDArray[np.uint8]) -> list[str]:
    """Return `#rrggbb` for each row of a (n, 3) uint8 palette."""
    return [f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in colours.tolist()]
