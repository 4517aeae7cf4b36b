"""What training logged, and the calibration sweep, as curves for the report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from split_matching.cache.files import parse_json
from split_matching.errors import CorruptError, format_count
from split_matching.stages.pages.colours import (
    CURVE_COLOURS,
    NEUTRAL_COLOUR,
    SEEN_COLOUR,
    THIRD_COLOUR,
    UNSEEN_COLOUR,
)
from split_matching.stages.pages.plots import draw_curves, draw_query_maps

CURVE_POINTS = 1000
"""Most points drawn of a curve; of longer logs every n-th record is drawn."""

MAP_COLUMNS = 60
"""Most columns of the map of matched queries; what was logged between them is averaged."""

_SEEN_LOSSES = {"seen_class": "class", "seen_mask": "mask", "seen_dice": "dice"}
_CANDIDATE_LOSSES = {
    "candidate_cosine": "cosine",
    "candidate_nce": "InfoNCE",
    "candidate_mask": "mask",
    "candidate_dice": "dice",
}
_SWEEP_NAMES = {"mIoU_seen": "mIoU seen", "mIoU_unseen": "mIoU unseen", "hIoU": "hIoU"}


def read_log(path: Path) -> list[dict[str, Any]]:
    """Read JSON lines, one object a line.

    Args:
        path: the file.

    Returns:
        The objects in order.

    Raises:
        CorruptError: a line is not a JSON object with a `step`.
    """
    records = []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        if not line.strip():
            continue
        try:
            record = parse_json(line)
            float(record["step"])
        except (ValueError, TypeError, KeyError) as error:
            raise CorruptError(
                f"{path} line {number} is not a JSON object with a step: rerun TrainDecoder with --force"
            ) from error
        records.append(record)
    return records


def draw_training(path: Path) -> list[dict[str, str]]:
    """Draw what the training log holds: total, seen group, candidate group, learning rate, gradient norm.

    Args:
        path: `metrics.jsonl` of the training.

    Returns:
        `uri` and `alt` of each plot; none for what was not logged.

    Raises:
        CorruptError: see `read_log`.
    """
    records = read_log(path)
    records = records[:: -(-len(records) // CURVE_POINTS) or 1]
    plans: list[tuple[str, dict[str, str], tuple[str, ...]]] = [
        ("Total loss", {"loss": "loss"}, (NEUTRAL_COLOUR,)),
        ("Seen group", _SEEN_LOSSES, CURVE_COLOURS),
        ("Candidate group", _CANDIDATE_LOSSES, CURVE_COLOURS),
        ("Learning rate", {"lr": "lr"}, (NEUTRAL_COLOUR,)),
        ("Gradient norm", {"grad_norm": "norm"}, (NEUTRAL_COLOUR,)),
    ]
    drawn = []
    for title, names, colours in plans:
        if lines := _lines(records, names):
            smooth = title != "Learning rate"
            uri = draw_curves(lines, title=title, xlabel="step", smooth=smooth, colours=colours)
            drawn.append({"uri": uri, "alt": f"{title} over training steps: {', '.join(lines)}"})
    return drawn


def draw_validation(path: Path) -> list[dict[str, str]]:
    """Draw the mIoU of seen classes on held-out training images.

    Args:
        path: `validation.jsonl` of the training.

    Returns:
        `uri` and `alt` of the plot; none if nothing was measured.

    Raises:
        CorruptError: see `read_log`.
    """
    lines = _lines(read_log(path), {"held_out_mIoU": "mIoU seen, %"})
    title = "Held-out training images"
    uri = draw_curves(lines, title=title, xlabel="step", colours=(SEEN_COLOUR,)) if lines else ""
    return [{"uri": uri, "alt": f"{title}: mIoU of seen classes over training steps"}] if lines else []


def draw_matching(path: Path) -> dict[str, Any] | None:
    """Draw how the queries of both groups were matched over training.

    Args:
        path: `matching.jsonl` of the training.

    Returns:
        `map`, the URI of the map of matched queries, and `curves`, with `uri` and `alt` each; None without two records.

    Raises:
        CorruptError: see `read_log`.
    """
    records = read_log(path)
    maps: dict[str, tuple[list[float], NDArray[np.float64]]] = {}
    for group in ("seen", "candidate"):
        counted = [record for record in records if f"{group}_queries" in record]
        if len(counted) > 1:
            steps, shares = _query_shares(counted, group)
            maps[format_count(shares.shape[1], f"{group} query", f"{group} queries")] = (steps, shares)
    if not maps:
        return None
    plans = {
        "IoU of matched masks": {"seen_iou": "seen", "candidate_iou": "candidate"},
        "Class score of the matched": {"seen_score": "seen: probability", "candidate_score": "candidate: cosine"},
    }
    drawn = [
        {"uri": draw_curves(_lines(records, names), title=title, xlabel="step", smooth=True), "alt": title}
        for title, names in plans.items()
    ]
    return {"map": draw_query_maps(maps, title="Which queries are matched"), "curves": drawn}


def _query_shares(records: Sequence[Mapping[str, Any]], group: str) -> tuple[list[float], NDArray[np.float64]]:
    """Return the steps (T,) and the share of images in which each query found a target (T, Q), T <= MAP_COLUMNS."""
    shares = np.array([record[f"{group}_queries"] for record in records], np.float64)
    shares /= np.array([[record["images"]] for record in records], np.float64)
    columns = np.array_split(np.arange(len(shares)), min(len(shares), MAP_COLUMNS))
    steps = [float(records[column[0]]["step"]) for column in columns[:-1]] + [float(records[-1]["step"])]
    return steps, np.stack([shares[column].mean(0) for column in columns])


def _lines(
    records: Sequence[Mapping[str, Any]], names: Mapping[str, str]
) -> dict[str, tuple[list[float], list[float]]]:
    """Return steps and values by label, for each key of `names` that some record has; null is a gap."""
    lines = {}
    for key, label in names.items():
        found = [record for record in records if key in record]
        if found:
            values = [math.nan if record[key] is None else float(record[key]) for record in found]
            lines[label] = ([float(record["step"]) for record in found], values)
    return lines


def draw_sweep(extra: Mapping[str, Any]) -> dict[str, Any] | None:
    """Draw the calibration sweep, when the evaluation tried more than one gamma.

    Args:
        extra: `extra` of `metrics.json`.

    Returns:
        `uri`, `names` of the columns, `rows` of (gamma, values), and `used`, the gamma of the run; None for one gamma.
    """
    points = extra.get("gamma_sweep") or ()
    if len(points) < 2:
        return None
    ordered = sorted(points, key=lambda point: float(point["gamma"]))
    gammas = [float(point["gamma"]) for point in ordered]
    values = {
        label: [math.nan if point[key] is None else float(point[key]) for point in ordered]
        for key, label in _SWEEP_NAMES.items()
    }
    colours = (SEEN_COLOUR, UNSEEN_COLOUR, THIRD_COLOUR)
    lines = {label: (gammas, series) for label, series in values.items()}
    return {
        "uri": draw_curves(lines, title="Percent over gamma", xlabel="gamma", markers=True, colours=colours),
        "names": list(values),
        "rows": [(gamma, [values[label][index] for label in values]) for index, gamma in enumerate(gammas)],
        "used": extra.get("gamma"),
    }
