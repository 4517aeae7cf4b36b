"""Plots as SVG."""

from __future__ import annotations

import base64

import matplotlib
import numpy as np

from split_matching.stages.pages.plots import draw_curves, running_mean


def test_running_mean_equals_a_loop_and_skips_nan() -> None:
    values = np.random.default_rng(0).normal(size=30)
    values[[3, 4, 20]] = np.nan
    expected = [np.nanmean(values[max(0, i - 2) : i + 3]) for i in range(30)]
    np.testing.assert_allclose(running_mean(values, 5), expected)
    assert np.isnan(running_mean(np.array([np.nan, np.nan]), 1)).all()


LINES = {"one": ([0, 1, 2], [3.0, float("nan"), 1.0]), "$x_{": ([0, 1], [1.0, 2.0])}


def svg(uri: str) -> str:
    assert uri.startswith("data:image/svg+xml;base64,")
    return base64.b64decode(uri.split(",")[1]).decode("utf-8")


def test_curves_are_an_svg_with_equal_bytes_whatever_the_global_style() -> None:
    first = draw_curves(LINES, title="t", xlabel="step")
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red", "svg.hashsalt": None}):
        second = draw_curves(LINES, title="t", xlabel="step")
        assert matplotlib.rcParams["font.size"] == 30
    assert first == second
    assert "<svg" in svg(first)


def test_curves_take_flat_empty_and_undefined_lines() -> None:
    for values in ([], [float("nan")], [0.0, 0.0]):
        assert "<svg" in svg(draw_curves({"a": (list(range(len(values))), values)}, title="t", xlabel="x", smooth=True))


def test_curves_name_no_outside_resource() -> None:
    text = svg(draw_curves(LINES, title="t", xlabel="step"))
    references = [part.split('"')[0] for part in text.split('href="')[1:]]
    assert all(reference.startswith("#") for reference in references)
