"""Names in cells of CSV files."""

from __future__ import annotations

import pytest

from split_matching.stages.ground.csv_cells import escape_cell, read_cell


@pytest.mark.parametrize(
    ("name", "cell"),
    [
        ("=HYPERLINK(1)", "'=HYPERLINK(1)"),
        ("+1", "'+1"),
        ("-1", "'-1"),
        ("@SUM(1)", "'@SUM(1)"),
        ("\t=1", "'\t=1"),
        ("'=1", "''=1"),
        ("potted plant", "potted plant"),
        ("a-b=c", "a-b=c"),
        ("'s", "'s"),
        ("", ""),
    ],
)
def test_a_formula_becomes_text_and_is_read_back(name: str, cell: str) -> None:
    assert escape_cell(name) == cell
    assert read_cell(cell) == name
