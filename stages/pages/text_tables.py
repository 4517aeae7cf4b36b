"""Tables as text: CSV for programs, LaTeX for papers. Used by the pages and by the verbs that print tables."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence

from split_matching.stages.ground.csv_cells import escape_cell

_MARKS = str.maketrans(
    {mark: f"\\{mark}" for mark in "&%$#_{}"}
    | {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}"}
    | {"<": r"\textless{}", ">": r"\textgreater{}"}
)


def write_csv(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table as CSV.

    Args:
        head: names of the columns.
        rows: text, which is escaped for spreadsheets, or numbers, unrounded; None and NaN are empty cells.
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(head)
    writer.writerows([_csv_cell(value) for value in row] for row in rows)
    return stream.getvalue()


def write_latex(columns: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table for a paper; needs the package booktabs.

    Args:
        columns: how each column is aligned, as `tabular` takes it: "llr".
        head: names of the columns.
        rows: cells, which LaTeX prints as they are.
    """
    lines = [f"\\begin{{tabular}}{{{columns}}}", r"\toprule", _latex_row(head), r"\midrule"]
    lines += [_latex_row(row) for row in rows]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def _csv_cell(value: object) -> object:
    if isinstance(value, str):
        return escape_cell(value)
    return "" if isinstance(value, float) and not math.isfinite(value) else value


def _latex_row(cells: Sequence[str]) -> str:
    return f"{' & '.join(cell.translate(_MARKS) for cell in cells)} \\\\"
