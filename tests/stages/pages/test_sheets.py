"""Sheets about one image, and what is measured for them."""

from __future__ import annotations

import json

import numpy as np
import pytest

from split_matching.stages.pages.colours import region_colours
from split_matching.stages.pages.sheets.feature_sheet import principal_colours
from split_matching.stages.pages.sheets.regions import measure_separation
from split_matching.stages.pages.sheets.sheet import Sheet, SheetRow, draw_sheet, write_names


def test_separation_is_high_for_regions_that_differ_and_low_for_a_cut_through_one_thing() -> None:
    labels = np.repeat(np.array([[1, 2], [1, 2]], np.uint8), 4, axis=1)
    apart = np.zeros((2, 8, 2), np.float32)
    apart[:, :4, 0] = apart[:, 4:, 1] = 1
    assert measure_separation(apart, labels) == pytest.approx([1, 1])
    assert measure_separation(np.ones((2, 8, 2), np.float32), labels) == pytest.approx([0, 0], abs=1e-6)


def test_separation_is_not_defined_for_one_region_or_none() -> None:
    dense = np.ones((2, 2, 3), np.float32)
    assert np.isnan(measure_separation(dense, np.ones((4, 4), np.uint8))).all()
    assert measure_separation(dense, np.zeros((4, 4), np.uint8)).shape == (0,)


def test_principal_colours_do_not_depend_on_the_sign_of_an_axis() -> None:
    dense = np.random.default_rng(0).normal(size=(4, 5, 6))
    colours, share = principal_colours(dense)
    assert colours.shape == (4, 5, 3) and colours.dtype == np.uint8 and 0.5 < share <= 1
    mirrored, _ = principal_colours(dense[:, ::-1])
    assert np.array_equal(mirrored[:, ::-1], colours)


def test_number_is_written_inside_its_region() -> None:
    labels = np.full((100, 100), -1)
    labels[60:90, 50:80] = 0
    drawn = write_names(np.full((100, 100, 3), 90, np.uint8), labels, ["1"])
    rows, columns = np.nonzero((drawn != 90).any(-1))
    assert 60 < rows.mean() < 90 and 50 < columns.mean() < 80


def test_sheet_grows_with_its_table_and_wraps_long_notes() -> None:
    picture = np.zeros((10, 10, 3), np.uint8)
    row = SheetRow(("1", "two"), region_colours(1)[0])
    short = draw_sheet(Sheet("title", (("image", picture),), ("a", "b"), (row,), ()))
    long = draw_sheet(Sheet("title", (("image", picture),), ("a", "b"), (row,) * 3, ("word " * 80,)))
    assert long.shape[0] > short.shape[0] + 48 and long.shape[1] == short.shape[1]
    assert json.dumps(Sheet("t", (), ("a",), (), ("n",)).lines()) == '["t", "", "a", "", "n"]'
