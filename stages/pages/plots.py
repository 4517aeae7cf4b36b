"""Plots as SVG in `data:` URIs: curves, maps of matched queries, intervals.

Made with matplotlib's object interface and an explicit style, so that no global state of a notebook or of another stage
changes them. Equal inputs give equal bytes.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from split_matching.stages.pages.colours import CURVE_COLOURS, NEUTRAL_COLOUR, THIRD_COLOUR
from split_matching.stages.pages.overlays import data_uri

_STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",  # bundled with matplotlib, so the same on every machine
    "font.size": 9,
    "axes.edgecolor": "#9aa3ad",
    "axes.labelcolor": "#3c4450",
    "axes.titlecolor": "#1f2630",
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e8ec",
    "grid.linewidth": 0.8,
    "xtick.color": "#5b6470",
    "ytick.color": "#5b6470",
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "svg.fonttype": "path",
    "svg.hashsalt": "split-matching",
    "text.parse_math": False,
}
_STYLE_LOCK = threading.Lock()


def running_mean(values: NDArray[np.float64], window: int) -> NDArray[np.float64]:
    """Average each value with its neighbours; the window shrinks at both ends and skips NaN.

    Args:
        values: (n,) floats.
        window: values a mean, made odd.

    Returns:
        (n,) floats, NaN where a window has no value.
    """
    half = window // 2
    known = np.isfinite(values)
    total = np.concatenate([[0.0], np.cumsum(np.where(known, values, 0.0))])
    number = np.concatenate([[0], np.cumsum(known)])
    low = np.maximum(np.arange(len(values)) - half, 0)
    high = np.minimum(np.arange(len(values)) + half + 1, len(values))
    counted = number[high] - number[low]
    result = np.full(len(values), np.nan)
    return np.divide(total[high] - total[low], counted, out=result, where=counted > 0)


def draw_curves(
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    title: str,
    xlabel: str,
    smooth: bool = False,
    markers: bool = False,
    zero: bool = True,
    colours: Sequence[str] = CURVE_COLOURS,
) -> str:
    """Draw line curves as a small SVG that stays readable on a phone.

    Args:
        lines: x values and y values by name; NaN leaves a gap.
        title: heading of the figure.
        xlabel: label of the x axis.
        smooth: draw a running mean over the pale raw values.
        markers: mark every point.
        zero: start the y axis at 0 when no value is below it.
        colours: one a line; with more lines they repeat.

    Returns:
        A `data:image/svg+xml` URI.
    """
    with _use_style():
        figure = Figure(figsize=(4.4, 2.8), layout="constrained")
        axes = figure.add_subplot()
        lowest = np.inf
        for index, (name, (x, y)) in enumerate(lines.items()):
            colour = colours[index % len(colours)]
            values = np.asarray(y, dtype=np.float64)
            lowest = min(lowest, float(np.nanmin(values, initial=np.inf)))
            if smooth and len(values) > 20:
                axes.plot(x, values, color=colour, alpha=0.25, linewidth=0.8)
                values = running_mean(values, len(values) // 20)
            dot = ("o", "s", "^", "D", "v")[index % 5] if markers else None
            axes.plot(x, values, color=colour, linewidth=1.6, label=name, marker=dot, markersize=4)
        axes.set_title(title)
        axes.set_xlabel(xlabel)
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        axes.ticklabel_format(axis="y", style="sci", scilimits=(-3, 5))
        if zero and lowest >= 0:
            axes.set_ylim(bottom=0)
        if len(lines) > 1:
            axes.legend(ncols=2)
        return _svg_data_uri(figure)


def draw_query_maps(groups: Mapping[str, tuple[Sequence[float], NDArray[np.float64]]], *, title: str) -> str:
    """Draw for each group of queries how often each of them found a target, over training steps.

    Args:
        groups: by name the steps (T,) and the shares (T, Q) in 0..1; queries are drawn in order of their mean share.
        title: heading of the figure.

    Returns:
        A `data:image/svg+xml` URI.
    """
    rows = [max(1, shares.shape[1]) for _, shares in groups.values()]
    with _use_style():
        figure = Figure(figsize=(6.4, 1.5 + 0.085 * sum(rows)), layout="constrained")
        panels = figure.subplots(len(groups), 1, squeeze=False, sharex=True, height_ratios=rows)[:, 0]
        for axes, (name, (steps, shares)) in zip(panels, groups.items(), strict=True):
            order = np.argsort(-shares.mean(0), kind="stable")
            extent = (float(steps[0]), float(steps[-1]), len(order) - 0.5, -0.5)
            image = axes.imshow(
                shares.T[order], aspect="auto", cmap="viridis", vmin=0, vmax=1, extent=extent, interpolation="nearest"
            )
            axes.set_ylabel(name)
            axes.set_yticks([])
            axes.grid(False)
        panels[0].set_title(title)
        panels[-1].set_xlabel("step")
        figure.colorbar(image, ax=list(panels), label="share of images with a target")
        return _svg_data_uri(figure)


def draw_intervals(groups: Mapping[str, Sequence[float]], *, title: str, xlabel: str) -> str:
    """Draw one row a group, the first on top: a dot for every value, and mean and sample deviation as a bar.

    Args:
        groups: values by name; NaN is left out. The mean of the first group is drawn as a line through all.
        title: heading of the figure.
        xlabel: label of the x axis.

    Returns:
        A `data:image/svg+xml` URI.
    """
    with _use_style():
        figure = Figure(figsize=(4.4, 0.9 + 0.34 * max(1, len(groups))), layout="constrained")
        axes = figure.add_subplot()
        for row, (name, given) in enumerate(groups.items()):
            values = np.asarray([value for value in given if np.isfinite(value)], dtype=np.float64)
            if not len(values):
                continue
            colour = NEUTRAL_COLOUR if row else THIRD_COLOUR
            heights = row + np.linspace(-0.2, 0.2, len(values)) * (len(values) > 1)  # apart, in the given order
            axes.scatter(values, heights, s=11, color=colour, alpha=0.45, linewidths=0, gid=f"values of {name}")
            deviation = values.std(ddof=1) if len(values) > 1 else 0.0
            axes.errorbar(
                values.mean(), row, xerr=deviation, fmt="D", color=colour, markersize=4.5, capsize=3, linewidth=1.4
            )
            if row == 0:
                axes.axvline(values.mean(), color=colour, linewidth=0.8, linestyle="--", alpha=0.6)
        axes.set_title(title)
        axes.set_xlabel(xlabel)
        axes.set_yticks(range(len(groups)), list(groups))
        axes.set_ylim(len(groups) - 0.5, -0.5)
        axes.grid(False, axis="y")
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        return _svg_data_uri(figure)


@contextmanager
def _use_style() -> Iterator[None]:
    """Draw in the style of all pages, whatever the process has set."""
    # rc_context changes state of the whole process for a moment; the lock keeps threads from mixing styles.
    style: dict[Any, Any] = {**matplotlib.rcParamsDefault, **_STYLE}
    with _STYLE_LOCK, matplotlib.rc_context(style):
        yield


def _svg_data_uri(figure: Figure) -> str:
    buffer = io.BytesIO()
    FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None, "Creator": None})
    return data_uri("image/svg+xml", buffer.getvalue())
