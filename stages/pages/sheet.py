"""A sheet about one image: pictures side by side, a table with a colour a row, and where it all comes from.

Drawn with Pillow and the font that comes with matplotlib, so that it looks the same on every machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import distance_transform_edt

from split_matching.stages.pages.figures import Bytes, resize_image, resize_labels

PANEL_SIDE = 420
"""Longer side of a picture on a sheet, pixels (choice)."""

_MARGIN = 16
_GAP = 14
_INK, _SOFT, _GROUND = (31, 38, 48), (91, 100, 112), (255, 255, 255)


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Args:
        cells: its words; columns are aligned.
        colour: (3,) uint8 of its swatch; None for none.
        thumbnail: (h, w, 3) uint8 shown after the swatch; None for none.
        hatched: the swatch has lines (unseen classes).
    """

    cells: tuple[str, ...]
    colour: npt.NDArray[Any] | None = None
    thumbnail: Bytes | None = None
    hatched: bool = False


@dataclass(frozen=True)
class Sheet:
    """What is to be seen and said about one image.

    Args:
        title: the heading.
        panels: captions and pictures, (H, W, 3) uint8.
        head: names of the table's columns.
        rows: the table.
        notes: lines below it: what was left out, and where it comes from.
    """

    title: str
    panels: tuple[tuple[str, Bytes], ...]
    head: tuple[str, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]

    def lines(self) -> list[str]:
        """Return the sheet as text."""
        table = [self.head, *(row.cells for row in self.rows)]
        widths = [max(len(cells[column]) for cells in table) for column in range(len(self.head))]
        aligned = ["  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) for cells in table]
        return [self.title, "", *(line.rstrip() for line in aligned), "", *self.notes]


def write_sheet(sheet: Sheet, path: Path) -> None:
    """Draw a sheet into a PNG file, which appears in one step; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        Image.fromarray(draw_sheet(sheet)).save(temporary, "PNG")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def draw_sheet(sheet: Sheet) -> Bytes:
    """Return a sheet as a (H, W, 3) uint8 picture."""
    pictures = [(caption, resize_image(picture, PANEL_SIDE)) for caption, picture in sheet.panels]
    columns = _columns(sheet)
    table = _MARGIN * 2 + (columns[-1] if columns else 0)
    title = _MARGIN * 2 + int(font(19, bold=True).getlength(sheet.title))
    across = _MARGIN * 2 + sum(p.shape[1] for _, p in pictures) + _GAP * (len(pictures) - 1)
    width = max(across, table, title)
    notes = [line for note in sheet.notes for line in _wrapped(note, width - 2 * _MARGIN)]
    top = 54 + max(p.shape[0] for _, p in pictures) + 30
    height = top + 26 + sum(_height(row) for row in sheet.rows) + 20 + 18 * len(notes) + _MARGIN
    canvas = Image.new("RGB", (width, height), _GROUND)
    pen = ImageDraw.Draw(canvas)
    pen.text((_MARGIN, 16), sheet.title, _INK, font(19, bold=True))
    left = _MARGIN
    for caption, picture in pictures:
        canvas.paste(Image.fromarray(picture), (left, 54))
        pen.text((left, 54 + picture.shape[0] + 6), caption, _SOFT, font(13))
        left += picture.shape[1] + _GAP
    bottom = _draw_table(canvas, pen, sheet, columns, top)
    for number, note in enumerate(notes):
        pen.text((_MARGIN, bottom + 14 + 18 * number), note, _SOFT, font(12))
    return np.asarray(canvas)


def _draw_table(canvas: Image.Image, pen: ImageDraw.ImageDraw, sheet: Sheet, columns: Sequence[int], top: int) -> int:
    """Draw the table from `top` down and return where it ends."""
    for cell, left in zip(sheet.head, columns, strict=False):
        pen.text((_MARGIN + left, top), cell, _SOFT, font(13))
    top += 24
    for row in sheet.rows:
        height = _height(row)
        middle = top + height // 2
        if row.colour is not None:
            box = (_MARGIN, middle - 8, _MARGIN + 16, middle + 8)
            pen.rectangle(box, tuple(int(value) for value in row.colour), (120, 120, 120))
            for shift in (0, 6, 12) if row.hatched else ():
                pen.line((box[0] + shift, box[3] - 1, box[0] + shift + 4, box[1] + 1), _GROUND, 1)
        if row.thumbnail is not None:
            picture = resize_image(row.thumbnail, height - 6)
            canvas.paste(Image.fromarray(picture), (_MARGIN + 24, top + 3))
        for cell, left in zip(row.cells, columns, strict=False):
            pen.text((_MARGIN + left, middle), cell, _INK, font(14), anchor="lm")
        top += height
    return top


def _wrapped(note: str, width: int) -> list[str]:
    """Break a note into lines that fit into a width in pixels."""
    lines = [""]
    for word in note.split(" "):
        longer = f"{lines[-1]} {word}" if lines[-1] else word
        if font(12).getlength(longer) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(f"  {word}")
    return lines


def _height(row: Row) -> int:
    return 62 if row.thumbnail is not None else 24


def _columns(sheet: Sheet) -> list[int]:
    """Return where each column of the table begins, and where the last one ends."""
    start = 26 if any(row.colour is not None for row in sheet.rows) else 0
    start += 62 if any(row.thumbnail is not None for row in sheet.rows) else 0
    edges = [start]
    for column in range(len(sheet.head)):
        cells = [sheet.head[column], *(row.cells[column] for row in sheet.rows)]
        edges.append(edges[-1] + int(max(font(14).getlength(cell) for cell in cells)) + 22)
    return edges


def numbered(picture: Bytes, labels: npt.NDArray[Any], names: Sequence[str]) -> Bytes:
    """Write a name into the middle of every region.

    Args:
        picture: (H, W, 3) uint8.
        labels: (h, w) integers: label i has the name i, negative ones have none; stretched over the picture.
        names: e.g. the numbers of the regions.

    Returns:
        (H, W, 3) uint8.
    """
    canvas = Image.fromarray(picture)
    pen = ImageDraw.Draw(canvas)
    labels = resize_labels(labels, (picture.shape[0], picture.shape[1]))
    size = max(11, min(22, picture.shape[1] // 20))
    for label, name in enumerate(names):
        inside = np.pad(labels == label, 1)
        if inside.any():
            depth = distance_transform_edt(inside)
            y, x = divmod(int(depth.argmax()), inside.shape[1])
            border = 0.6 * size
            place = (
                min(max(x - 1, border), picture.shape[1] - border),
                min(max(y - 1, border), picture.shape[0] - border),
            )
            pen.text(place, name, (255, 255, 255), font(size, True), "mm", stroke_width=2, stroke_fill=(0, 0, 0))
    return np.asarray(canvas)


@lru_cache
def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """Return the font of all sheets, `size` pixels high."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)
