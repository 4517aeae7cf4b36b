"""Parts of the report that look closer: published results, confusion of unseen classes, worst images, costs."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from split_matching.errors import CorruptError
from split_matching.stages.ground.context import StageContext
from split_matching.stages.ground.csv_cells import read_cell
from split_matching.stages.pages.class_scores import ClassScores

PUBLISHED_COLUMNS = {"pAcc": "pAcc", "mIoU_seen": "S", "mIoU_unseen": "U", "hIoU": "hIoU"}
"""Columns of published results: name in `metrics.json` -> heading. In percent."""

MOST_CONFUSIONS = 4
"""Most classes listed that pixels of one unseen class are mistaken for."""


def compare_with_published(ctx: StageContext, metrics: Mapping[str, Any], doubtful: bool) -> dict[str, Any] | None:
    """Return published or measured results with those of the run at the end; None without any, or for a tuning run.

    Args:
        ctx: reads `classes.published` and `data.fold`.
        metrics: of this run.
        doubtful: whether its numbers do not compare (random weights, a part of the data).
    """
    rows = ctx.config.classes.published
    if not rows or ctx.config.data.fold is not None:
        return None
    lines = [
        {
            "method": row.method,
            "venue": row.venue,
            "values": [getattr(row, key) for key in PUBLISHED_COLUMNS],
            "source": row.source,
            "note": row.note,
            "own": False,
        }
        for row in rows
    ]
    values = [metrics[key] for key in PUBLISHED_COLUMNS]
    own = {"method": "this run", "venue": "", "values": values, "source": "measured"}
    measured = all(row.source == "measured" for row in rows)
    note = "does not compare: see the banner" if doubtful and not measured else ""
    if not ctx.config.data.expected_val and not measured:
        note = "does not compare: the number of images of the published split is not checked"
    names = list(PUBLISHED_COLUMNS.values())
    return {"names": names, "measured": measured, "rows": [*lines, {**own, "note": note, "own": True}]}


def list_confusions(counts: NDArray[np.int64], rows: Sequence[ClassScores]) -> list[dict[str, Any]]:
    """List for every unseen class what its pixels were taken for.

    Args:
        counts: confusion matrix, rows truth. Shape: (C, C).
        rows: the classes.

    Returns:
        One entry an unseen class that occurs: its row, `right`, `others` (row, share of the class's pixels) and
        `rest`, in percent.
    """
    found = []
    for index, row in enumerate(rows):
        total = int(counts[index].sum())
        if row.group != "unseen" or total == 0:
            continue
        shares = 100 * counts[index] / total
        order = [int(i) for i in np.argsort(-shares, kind="stable") if i != index and shares[i] > 0]
        others = [{"row": rows[i], "share": float(shares[i])} for i in order[:MOST_CONFUSIONS]]
        rest = float(shares[order[MOST_CONFUSIONS:]].sum())
        found.append({"row": row, "right": float(shares[index]), "others": others, "rest": rest})
    return found


def find_worst_images(path: Path, count: int) -> list[tuple[str, float]]:
    """Return the images with the lowest mean IoU over the classes in their truth, worst first, and that IoU in percent.

    Between two of them lie at least as many others as leave room for `count`, in the order of their ids: neighbours may
    be frames of one video, which fail alike (choice).

    Args:
        path: `per_image.csv`.
        count: how many.

    Raises:
        CorruptError: the file is not what it should be.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            found = [(read_cell(entry["id"]), float(entry["mIoU"])) for entry in csv.DictReader(file)]
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise CorruptError(f"{path} is not a table of images ({error!r}): rerun Evaluate with --force") from error
    scored = sorted((image_id, iou) for image_id, iou in found if not math.isnan(iou))
    gap = max(1, (len(scored) // count + 1) // 2) if count else 1
    chosen: list[int] = []
    for place in sorted(range(len(scored)), key=lambda place: (scored[place][1], place)):
        if len(chosen) < count and all(abs(place - other) >= gap for other in chosen):
            chosen.append(place)
    return [scored[place] for place in chosen]


def list_costs(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return parameters and operations as (name, value), from what Evaluate counted."""
    found = metrics.get("extra", {}).get("complexity")
    if not found:
        return []
    side = f"{found['side']} x {found['side']} pixels"
    return [
        ("Trained parameters (decoder and prompts)", f"{found['trained_parameters']:,}"),
        ("Frozen parameters, image tower", f"{found['frozen_image_parameters']:,}"),
        ("Frozen parameters, text tower", f"{found['frozen_text_parameters']:,}"),
        (f"Image tower for {side}", _format_flops(found["tower_flops"])),
        (f"Decoder for {side}", _format_flops(found["decoder_flops"])),
        ("One region crop, where CLIP is asked about predicted regions", _format_flops(found["crop_flops"])),
    ]


def _format_flops(flops: int) -> str:
    return f"{flops / 1e9:,.3f} GFLOPs ({flops:,})"
