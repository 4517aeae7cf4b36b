"""Pictures for the report and for inspection: class colours, label overlays, curves, data URIs.

Everything here is deterministic: equal inputs give equal bytes. Figures are made with matplotlib's object interface and
an explicit style, so no global state of a notebook or of another stage leaks in. A hatch means "unseen class" wherever
it appears (choice), because colour alone does not tell groups apart for every reader.
"""

from __future__ import annotations

import base64
import io
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

Bytes = npt.NDArray[np.uint8]

NONE = 255
"""Label of pixels that belong to no class or region."""

SEEN_COLOUR = "#2f6fb3"
UNSEEN_COLOUR = "#d9731a"
NEUTRAL_COLOUR = "#5b6470"
CURVE_COLOURS = (SEEN_COLOUR, UNSEEN_COLOUR, "#2c8c6b", "#8a56a8", NEUTRAL_COLOUR)

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
_LUMA = np.array([0.299, 0.587, 0.114])  # brightness of red, green and blue. Source: ITU-R BT.601
_STYLE_LOCK = threading.Lock()


def palette(count: int, *, muted: bool = False) -> Bytes:
    """Return `count` colours that are easy to tell apart; the first colours do not change with `count`.

    Greedy choice: each colour is the candidate farthest in OKLab from all colours before it, among candidates that are
    neither nearly black, nearly white nor grey. Choice; OKLab distances follow perceived differences.

    Args:
        count: number of colours, at least 0.
        muted: soft, light colours, for things that are not classes (regions).

    Returns:
        (count, 3) uint8 sRGB.
    """
    if count < 0:
        raise ValueError(f"a palette cannot have {count} colours")
    chosen = _palette_order(max(64, 1 << (count - 1).bit_length()) if count else 64, muted)
    return chosen[:count].copy()


@cache
def _palette_order(count: int, muted: bool) -> Bytes:
    levels = np.arange(0, 256, 15, dtype=np.uint8)
    rgb = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)
    lab = _oklab(rgb)
    chroma = np.hypot(lab[:, 1], lab[:, 2])
    light, colourful = ((0.78, 0.95), (0.05, 0.14)) if muted else ((0.42, 0.86), (0.09, 1.0))
    keep = (lab[:, 0] >= light[0]) & (lab[:, 0] <= light[1]) & (chroma >= colourful[0]) & (chroma <= colourful[1])
    rgb, lab = rgb[keep], lab[keep] * np.array([0.8, 1.0, 1.0])  # hue counts for a bit more than lightness
    first = np.array([[165, 210, 240] if muted else [45, 105, 180]], dtype=np.uint8)  # choice: a calm blue
    start = int(np.argmin(np.abs(lab - _oklab(first) * [0.8, 1.0, 1.0]).sum(axis=1)))
    order, distance = [start], np.full(len(lab), np.inf)
    for _ in range(min(count, len(lab)) - 1):
        distance = np.minimum(distance, ((lab - lab[order[-1]]) ** 2).sum(axis=1))
        order.append(int(distance.argmax()))
    repeats = -(-count // len(order))  # more classes than candidates: colours come round again
    return np.tile(rgb[order], (repeats, 1))[:count]


def _oklab(rgb: Bytes) -> npt.NDArray[np.float64]:
    """Convert (N, 3) sRGB bytes to OKLab. Source: B. Ottosson, "A perceptual color space", 2020 (the constants)."""
    value = rgb / 255.0
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    to_lms = [[0.4122214708, 0.5363325363, 0.0514459929], [0.2119034982, 0.6806995451, 0.1073969566]]
    to_lms.append([0.0883024619, 0.2817188376, 0.6299787005])
    to_lab = [[0.2104542553, 0.7936177850, -0.0040720468], [1.9779984951, -2.4285922050, 0.4505937099]]
    to_lab.append([0.0259040371, 0.7827717662, -0.8086757660])
    return np.asarray(np.cbrt(linear @ np.array(to_lms).T) @ np.array(to_lab).T, dtype=np.float64)


def hex_colours(colours: Bytes) -> list[str]:
    """Return `#rrggbb` for each row of a (n, 3) uint8 palette."""
    return [f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in colours.tolist()]


def resize_image(image: Bytes, side: int) -> Bytes:
    """Scale an image so that its longer side is `side` pixels, up or down.

    Args:
        image: (H, W, 3) uint8.
        side: length of the longer side, pixels.

    Returns:
        (h, w, 3) uint8, antialiased.
    """
    height, width = image.shape[:2]
    scale = side / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))


def resize_labels(labels: npt.NDArray[Any], shape: tuple[int, int]) -> npt.NDArray[Any]:
    """Stretch a label map over `shape` (height, width); each output pixel takes the cell that its centre lies in.

    Args:
        labels: (H, W) integers of any type.
        shape: (height, width) wanted.

    Returns:
        (height, width) of the same dtype; no value that was not there before.
    """
    rows, columns = (
        np.minimum(((np.arange(wanted) + 0.5) * have / wanted).astype(np.intp), have - 1)
        for wanted, have in zip(shape, labels.shape, strict=True)
    )
    return np.asarray(labels[rows[:, None], columns[None, :]])


def borders(labels: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Mark the border pixels of a label map: those that differ from their right or lower neighbour.

    Args:
        labels: (H, W) integers.

    Returns:
        (H, W) bool.
    """
    edge = np.zeros(labels.shape, dtype=bool)
    edge[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    edge[:-1, :] |= labels[:-1, :] != labels[1:, :]
    return edge


def hatch(shape: tuple[int, int], period: int = 8, width: int = 2) -> npt.NDArray[np.bool_]:
    """Return a (H, W) bool pattern of diagonal lines, `width` of every `period` pixels."""
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    return np.asarray((rows + columns) % period < width)


def colour_labels(labels: npt.NDArray[Any], colours: Bytes, none: int = NONE, ground: int = 238) -> Bytes:
    """Paint a label map in flat colours.

    Args:
        labels: (H, W) integers: rows of `colours`, or `none`.
        colours: (n, 3) uint8.
        none: label that is left in grey.
        ground: grey value of `none`, 0..255.

    Returns:
        (H, W, 3) uint8.

    Raises:
        ValueError: a label is neither `none` nor a row of `colours`.
    """
    return _painted(labels, colours, none, np.full((*labels.shape, 3), ground, dtype=np.uint8))


def overlay(
    image: Bytes,
    labels: npt.NDArray[Any],
    colours: Bytes,
    *,
    alpha: float = 0.6,
    none: int = NONE,
    outline: bool = True,
    hatched: npt.NDArray[np.bool_] | None = None,
    weight: npt.NDArray[Any] | None = None,
) -> Bytes:
    """Lay a label map over an image in translucent colours, with region borders drawn; labelled pixels lose their hue.

    Args:
        image: (H, W, 3) uint8.
        labels: (h, w) integers: rows of `colours`, or `none`; stretched over the image when smaller or larger.
        colours: (n, 3) uint8.
        alpha: share of the colour against the image, 0..1.
        none: label of pixels that stay as they are.
        outline: draw a dark line along borders.
        hatched: (n,) bool, rows drawn with light diagonal lines (unseen classes).
        weight: (h, w) floats 0..1 that scale `alpha` per pixel; None is 1 everywhere.

    Returns:
        (H, W, 3) uint8.

    Raises:
        ValueError: a label is neither `none` nor a row of `colours`.
    """
    shape = (image.shape[0], image.shape[1])
    labels = resize_labels(labels, shape)
    inside = labels != none
    # Under a colour the image keeps its brightness only, so that a class looks like its swatch on any object (choice).
    grey = np.broadcast_to((image @ _LUMA)[..., None], image.shape)
    ground = np.where(inside[..., None], grey, image)
    painted = _painted(labels, colours, none, image)
    share = np.full(shape, alpha) if weight is None else alpha * resize_labels(weight, shape)
    result = ground + share[..., None] * (painted - ground)
    if hatched is not None:
        lines = np.zeros(shape, dtype=bool)
        lines[inside] = hatched[labels[inside]]
        lines &= hatch(shape)
        result = np.where(lines[..., None], result + share[..., None] * 0.9 * (255 - result), result)
    if outline:
        result[borders(labels)] *= 0.25
    return np.asarray(result.round().clip(0, 255), dtype=np.uint8)


def _painted(labels: npt.NDArray[Any], colours: Bytes, none: int, ground: Bytes) -> Bytes:
    """Replace the pixels of `ground` that have a label by their colour."""
    inside = labels != none
    values = labels[inside]
    if values.size and not 0 <= int(values.min()) <= int(values.max()) < len(colours):
        worst = int(values.max()) if int(values.max()) >= len(colours) else int(values.min())
        raise ValueError(f"label {worst} has no colour: there are {len(colours)}, and {none} means none")
    result = ground.copy()
    result[inside] = colours[values]
    return result


def png_data_uri(image: Bytes) -> str:
    """Return a (H, W, 3) uint8 image as a lossless `data:` URI."""
    return _image_data_uri(image, "png", optimize=True)


def jpeg_data_uri(image: Bytes, quality: int = 88) -> str:
    """Return a (H, W, 3) uint8 image as a JPEG `data:` URI with full colour resolution; far smaller for photos."""
    return _image_data_uri(image, "jpeg", quality=quality, subsampling=0, optimize=True)


def _image_data_uri(image: Bytes, kind: str, **options: Any) -> str:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind.upper(), **options)
    return _data_uri(f"image/{kind}", buffer.getvalue())


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def running_mean(values: npt.NDArray[np.float64], window: int) -> npt.NDArray[np.float64]:
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


def curves(
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
        colours: one a line, coming round again.

    Returns:
        A `data:image/svg+xml` URI.
    """
    with _styled():
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


def query_maps(groups: Mapping[str, tuple[Sequence[float], npt.NDArray[np.float64]]], *, title: str) -> str:
    """Draw for each group of queries how often each of them found a target, over training steps.

    Args:
        groups: by name the steps (T,) and the shares (T, Q) in 0..1; queries are drawn in order of their mean share.
        title: heading of the figure.

    Returns:
        A `data:image/svg+xml` URI.
    """
    rows = [max(1, shares.shape[1]) for _, shares in groups.values()]
    with _styled():
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


def intervals(groups: Mapping[str, Sequence[float]], *, title: str, xlabel: str) -> str:
    """Draw one line a group, the first on top: a dot for every value, and mean and sample deviation as a bar.

    Args:
        groups: values by name; NaN is left out. The mean of the first group is drawn as a line through all.
        title: heading of the figure.
        xlabel: label of the x axis.

    Returns:
        A `data:image/svg+xml` URI.
    """
    with _styled():
        figure = Figure(figsize=(4.4, 0.9 + 0.34 * max(1, len(groups))), layout="constrained")
        axes = figure.add_subplot()
        for row, (name, given) in enumerate(groups.items()):
            values = np.asarray([value for value in given if np.isfinite(value)], dtype=np.float64)
            if not len(values):
                continue
            colour = NEUTRAL_COLOUR if row else CURVE_COLOURS[2]
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
def _styled() -> Iterator[None]:
    # rc_context changes state of the whole process for a moment; the lock keeps threads from mixing styles.
    style: dict[Any, Any] = {**matplotlib.rcParamsDefault, **_STYLE}
    with _STYLE_LOCK, matplotlib.rc_context(style):
        yield


def _svg_data_uri(figure: Figure) -> str:
    buffer = io.BytesIO()
    FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None, "Creator": None})
    return _data_uri("image/svg+xml", buffer.getvalue())
