"""Numbers, percentages and durations as text."""

from __future__ import annotations

import math
from typing import Any

import pytest

from split_matching.stages.ground.durations import format_duration
from split_matching.stages.pages.formats import UNDEFINED, format_known_duration, format_number, format_percent


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (12345, "12,345"),
        (0.123456, "0.1235"),
        (3.0, "3"),
        (None, UNDEFINED),
        (math.nan, UNDEFINED),
        ("x", "x"),
        (12345.6, "12,345.6"),
    ],
)
def test_format_number(value: Any, expected: str) -> None:
    assert format_number(value) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0, "0.00 s"),
        (0.123, "0.12 s"),
        (0.999, "1.0 s"),
        (12.34, "12.3 s"),
        (59.94, "59.9 s"),
        (59.97, "1 min 00 s"),
        (245, "4 min 05 s"),
        (3599.6, "1 h 00 min"),
        (7380, "2 h 03 min"),
        (86399.9, "1 d 00 h"),
        (273600, "3 d 04 h"),
    ],
)
def test_format_duration(seconds: float, expected: str) -> None:
    assert format_duration(seconds) == format_known_duration(seconds) == expected


def test_an_unknown_duration_is_a_dash() -> None:
    assert format_known_duration(None) == format_known_duration(math.nan) == UNDEFINED


def test_format_percent() -> None:
    assert [format_percent(value) for value in (None, math.nan, 0.0, 99.96)] == [UNDEFINED, UNDEFINED, "0.0", "100.0"]
