"""How different two colours look: CIE Lab, and the two usual formulas for a difference in it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
_WHITE = _TO_XYZ.sum(1)

Floats = NDArray[np.float64]


def to_lab(rgb: NDArray[np.uint8]) -> Floats:
    """Convert colours to CIE Lab with the white of daylight, D65.

    Args:
        rgb: sRGB. Shape: (N, 3), uint8.

    Returns:
        L 0..100, a and b. Shape: (N, 3).

    Source: IEC 61966-2-1 (sRGB); CIE 15 (Lab).
    """
    value = rgb / 255.0
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    xyz = linear @ _TO_XYZ.T / _WHITE
    root = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.stack([116 * root[:, 1] - 16, 500 * (root[:, 0] - root[:, 1]), 200 * (root[:, 1] - root[:, 2])], axis=1)


def delta_e76(first: Floats, second: Floats) -> Floats:
    """Return the CIE 1976 difference of colours in Lab. Shapes: (N, 3) and (N, 3) or (3,) -> (N,)."""
    return np.asarray(np.sqrt(((first - second) ** 2).sum(-1)))


def delta_e2000(first: Floats, second: Floats) -> Floats:
    """Return the CIEDE2000 difference of colours in Lab; about 2 can just be seen.

    Args:
        first: Shape: (N, 3).
        second: Shape: (N, 3) or (3,).

    Returns:
        Shape: (N,).

    Source: G. Sharma, W. Wu, E. Dalal, "The CIEDE2000 color-difference formula", 2005; names as there.
    """
    l1, a1, b1 = first.T
    l2, a2, b2 = np.broadcast_to(second, first.shape).T
    g = 0.5 * (1 - _saturation((np.hypot(a1, b1) + np.hypot(a2, b2)) / 2))
    a1, a2 = (1 + g) * a1, (1 + g) * a2
    c1, c2 = np.hypot(a1, b1), np.hypot(a2, b2)
    h1, h2 = np.arctan2(b1, a1) % (2 * np.pi), np.arctan2(b2, a2) % (2 * np.pi)
    turn = (h2 - h1 + np.pi) % (2 * np.pi) - np.pi  # the shorter way round
    mean_h = h1 + turn / 2
    mean_l, mean_c = (l1 + l2) / 2, (c1 + c2) / 2
    t = 1 - 0.17 * np.cos(mean_h - np.radians(30)) + 0.24 * np.cos(2 * mean_h)
    t = t + 0.32 * np.cos(3 * mean_h + np.radians(6)) - 0.20 * np.cos(4 * mean_h - np.radians(63))
    s_l = 1 + 0.015 * (mean_l - 50) ** 2 / np.sqrt(20 + (mean_l - 50) ** 2)
    lightness, chroma = (l2 - l1) / s_l, (c2 - c1) / (1 + 0.045 * mean_c)
    hue = 2 * np.sqrt(c1 * c2) * np.sin(turn / 2) / (1 + 0.015 * mean_c * t)
    blue = np.radians(60) * np.exp(-(((np.degrees(mean_h) % 360 - 275) / 25) ** 2))
    rotation = -2 * _saturation(mean_c) * np.sin(blue)
    return np.asarray(np.sqrt(lightness**2 + chroma**2 + hue**2 + rotation * chroma * hue))


def _saturation(chroma: Floats) -> Floats:
    return np.asarray(np.sqrt(chroma**7 / (chroma**7 + 25.0**7)))
