"""Names in cells of CSV files: spreadsheets run a cell that begins like a formula, wherever its text comes from."""

from __future__ import annotations

FORMULA = ("=", "+", "-", "@", "\t", "\r")
MARK = "'"
"""What spreadsheets take as "the rest is text"."""


def escape_cell(name: str) -> str:
    """Return a name as a cell that is text to every spreadsheet; nearly all names stay as they are."""
    return f"{MARK}{name}" if name.lstrip(MARK).startswith(FORMULA) else name


def read_cell(cell: str) -> str:
    """Return the name that `escape_cell` made a cell of."""
    return cell.removeprefix(MARK) if cell.lstrip(MARK).startswith(FORMULA) else cell
