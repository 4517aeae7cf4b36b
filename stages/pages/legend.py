"""What pictures with words are drawn with: one font, one set of inks, one kind of swatch.

The font is the one that comes with matplotlib, so that pictures look the same on every machine.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import matplotlib
from numpy.typing import NDArray
from PIL import ImageDraw, ImageFont

from split_matching.stages.pages.colours import is_light

INK, SOFT_INK, PAPER = (31, 38, 48), (91, 100, 112), (255, 255, 255)

SWATCH = 16
"""Side of a swatch, pixels."""

_SWATCH_EDGE = (120, 120, 120)


@lru_cache
def load_font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """Return the font of all pictures, `size` pixels high."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)


def draw_swatch(pen: ImageDraw.ImageDraw, left: int, top: int, colour: NDArray[Any], hatched: bool = False) -> None:
    """Draw a small square in the colour of a class or region.

    Args:
        pen: draws on the picture.
        left: of the square, pixels.
        top: of the square, pixels.
        colour: (3,) uint8.
        hatched: with lines, as unseen classes have.
    """
    right, bottom = left + SWATCH, top + SWATCH
    pen.rectangle((left, top, right, bottom), tuple(int(value) for value in colour), _SWATCH_EDGE)
    for shift in (0, 6, 12) if hatched else ():
        pen.line((left + shift, bottom - 1, left + shift + 4, top + 1), INK if is_light(colour) else PAPER, 1)
