"""A sheet about one image: pictures side by side, a table with a colour a row, and where it all comes from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy.ndimage import distance_transform_edt

from split_matching.cache.files import atomic_write
from split_matching.stages.data.resize import resize_labels
from split_matching.stages.ground.picture_files import write_picture
from split_matching.stages.pages.legend import INK, PAPER, SOFT_INK, SWATCH, draw_swatch, load_font
from split_matching.stages.pages.overlays import scale_to_side

PANEL_SIDE = 420
"""Longer side of a picture on a sheet, pixels (choice)."""

_MARGIN = 16
_GAP = 14
_TITLE = 54  # height of the title, pixels
_CAPTION = 30  # height of the captions below the pictures


@dataclass(frozen=True)
class SheetRow:
    """One line of the table.

    Args:
        cells: its words; columns are aligned.
        colour: (3,) uint8 of its swatch; None for none.
        thumbnail: (h, w, 3) uint8 shown after the swatch; None for none.
        hatched: the swatch has lines (unseen classes).
    """

    cells: tuple[str, ...]
    colour: NDArray[Any] | None = None
    thumbnail: NDArray[np.uint8] | None = None
    hatched: bool = False


@dataclass(frozen=True)
class Sheet:
    """What is shown of one image.

    Args:
        title: the heading.
        panels: captions and pictures, (H, W, 3) uint8.
        head: names of the table's columns.
        rows: the table.
        notes: lines below it: what was left out, and where it comes from.
    """

    title: str
    panels: tuple[tuple[str, NDArray[np.uint8]], ...]
    head: tuple[str, ...]
    rows: tuple[SheetRow, ...]
    notes: tuple[str, ...]

    def lines(self) -> list[str]:
        """Return the sheet as text."""
        table = [self.head, *(row.cells for row in self.rows)]
        widths = [max(len(cells[column]) for cells in table) for column in range(len(self.head))]
        aligned = ["  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) for cells in table]
        return [self.title, "", *(line.rstrip() for line in aligned), "", *self.notes]


def write_sheet(sheet: Sheet, path: Path) -> None:
    """Draw a sheet into a PNG file, atomically; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        write_picture(Image.fromarray(draw_sheet(sheet)), temporary, "PNG")


def draw_sheet(sheet: Sheet) -> NDArray[np.uint8]:
    """Return a sheet as a (H, W, 3) uint8 picture."""
    pictures = [(caption, scale_to_side(picture, PANEL_SIDE)) for caption, picture in sheet.panels]
    columns = _place_columns(sheet)
    table = _MARGIN * 2 + (columns[-1] if columns else 0)
    title = _MARGIN * 2 + int(load_font(19, bold=True).getlength(sheet.title))
    across = _MARGIN * 2 + sum(p.shape[1] for _, p in pictures) + _GAP * (len(pictures) - 1)
    width = max(across, table, title)
    notes = [line for note in sheet.notes for line in _wrap(note, width - 2 * _MARGIN)]
    top = _TITLE + max(p.shape[0] for _, p in pictures) + _CAPTION
    height = top + 26 + sum(_row_height(row) for row in sheet.rows) + 20 + 18 * len(notes) + _MARGIN
    canvas = Image.new("RGB", (width, height), PAPER)
    pen = ImageDraw.Draw(canvas)
    pen.text((_MARGIN, 16), sheet.title, INK, load_font(19, bold=True))
    left = _MARGIN
    for caption, picture in pictures:
        canvas.paste(Image.fromarray(picture), (left, _TITLE))
        pen.text((left, _TITLE + picture.shape[0] + 6), caption, SOFT_INK, load_font(13))
        left += picture.shape[1] + _GAP
    bottom = _draw_table(canvas, pen, sheet, columns, top)
    for number, note in enumerate(notes):
        pen.text((_MARGIN, bottom + 14 + 18 * number), note, SOFT_INK, load_font(12))
    return np.asarray(canvas)


def _draw_table(canvas: Image.Image, pen: ImageDraw.ImageDraw, sheet: Sheet, columns: Sequence[int], top: int) -> int:
    """Draw the table from `top` down and return where it ends."""
    for cell, left in zip(sheet.head, columns, strict=False):
        pen.text((_MARGIN + left, top), cell, SOFT_INK, load_font(13))
    top += 24
    for row in sheet.rows:
        height = _row_height(row)
        middle = top + height // 2
        if row.colour is not None:
            draw_swatch(pen, _MARGIN, middle - SWATCH // 2, row.colour, row.hatched)
        if row.thumbnail is not None:
            picture = scale_to_side(row.thumbnail, height - 6)
            canvas.paste(Image.fromarray(picture), (_MARGIN + 24, top + 3))
        for cell, left in zip(row.cells, columns, strict=False):
            pen.text((_MARGIN + left, middle), cell, INK, load_font(14), anchor="lm")
        top += height
    return top


def _wrap(note: str, width: int) -> list[str]:
    """Break a note into lines that fit into a width in pixels."""
    lines = [""]
    for word in note.split(" "):
        longer = f"{lines[-1]} {word}" if lines[-1] else word
        if load_font(12).getlength(longer) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(f"  {word}")
    return lines


def _row_height(row: SheetRow) -> int:
    return 62 if row.thumbnail is not None else 24


def _place_columns(sheet: Sheet) -> list[int]:
    """Return where each column of the table begins, and where the last one ends."""
    start = 26 if any(row.colour is not None for row in sheet.rows) else 0
    start += 62 if any(row.thumbnail is not None for row in sheet.rows) else 0
    edges = [start]
    for column in range(len(sheet.head)):
        cells = [sheet.head[column], *(row.cells[column] for row in sheet.rows)]
        edges.append(edges[-1] + int(max(load_font(14).getlength(cell) for cell in cells)) + 22)
    return edges


def format_area(mask: NDArray[np.bool_]) -> str:
    """Return the share of an image that a mask covers, e.g. `12.3%`."""
    return f"{mask.mean():.1%}"


def write_names(picture: NDArray[np.uint8], labels: NDArray[Any], names: Sequence[str]) -> NDArray[np.uint8]:
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
            pen.text(place, name, (255, 255, 255), load_font(size, True), "mm", stroke_width=2, stroke_fill=(0, 0, 0))
    return np.asarray(canvas)
