"""Parts of the report that look closer: published results, confusion of unseen classes, worst images, mask quality."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from split_matching.errors import CorruptError
from split_matching.stages.ground.context import StageContext
from split_matching.stages.pages.class_rows import ClassRow
from split_matching.stages.pages.figures import resize_labels
from split_matching.stages.pages.mask_quality import FOUND, measure

METRICS = {"pAcc": "pAcc", "mIoU_seen": "S", "mIoU_unseen": "U", "hIoU": "hIoU"}
CONFUSED = 4
"""Most classes listed that pixels of one unseen class are mistaken for."""


def published(ctx: StageContext, metrics: Mapping[str, Any], doubtful: bool) -> dict[str, Any] | None:
    """Return published or measured rows with the run's own at the end; None where there are none, or for a tuning run.

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
            "values": [getattr(row, key) for key in METRICS],
            "source": row.source,
            "note": row.note,
            "own": False,
        }
        for row in rows
    ]
    own = {"method": "this run", "venue": "", "values": [metrics[key] for key in METRICS], "source": "measured"}
    measured = all(row.source == "measured" for row in rows)
    note = "does not compare: see the banner" if doubtful and not measured else ""
    if not ctx.config.data.expected_val and not measured:
        note = "does not compare: the number of images of the published split is not checked"
    return {"names": list(METRICS.values()), "measured": measured, "rows": [*lines, {**own, "note": note, "own": True}]}


def unseen_confusion(counts: npt.NDArray[np.int64], rows: Sequence[ClassRow]) -> list[dict[str, Any]]:
    """Say for every unseen class what its pixels were taken for.

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
        others = [{"row": rows[i], "share": float(shares[i])} for i in order[:CONFUSED]]
        rest = float(shares[order[CONFUSED:]].sum())
        found.append({"row": row, "right": float(shares[index]), "others": others, "rest": rest})
    return found


def worst_images(path: Path, count: int) -> list[tuple[str, float]]:
    """Return the images with the lowest mean IoU over the classes in their truth, worst first, and that IoU in percent.

    Args:
        path: `per_image.csv`.
        count: how many.

    Raises:
        CorruptError: the file is not what it should be.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            found = [(entry["id"], float(entry["mIoU"])) for entry in csv.DictReader(file)]
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise CorruptError(f"{path} is not a table of images ({error!r}): rerun Evaluate with --force") from error
    scored = [(image_id, iou) for image_id, iou in found if not math.isnan(iou)]
    return sorted(scored, key=lambda entry: (entry[1], entry[0]))[:count]


def mask_quality(ctx: StageContext, rows: Sequence[ClassRow], source: Any) -> dict[str, Any] | None:
    """Compare pseudo masks with the truth of unseen classes on evenly spread training images; see `mask_quality`."""
    from split_matching.stages.data.images import read_all_labels

    ids = sorted(str(image["id"]) for image in ctx.inputs["dataset"].json("train.json")["images"])
    count = min(ctx.config.report.quality_images, len(ids))
    names = {index: row.name for index, row in enumerate(rows) if row.group == "unseen"}
    if not count or not names or "pseudo_masks" not in ctx.inputs:
        return None
    chosen = [ids[index * len(ids) // count] for index in range(count)]
    shards = ctx.inputs["pseudo_masks"].shards("train")

    def read(image_id: str) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        regions = shards.read(image_id, "labels")
        labels = read_all_labels(source, image_id, [row.id for row in rows])
        return resize_labels(labels, (regions.shape[0], regions.shape[1])), regions

    found = measure(chosen, names, read, ctx.progress)
    present = [entry for entry in found if entry.images]
    if not present:
        return None
    total = sum(entry.images for entry in present)
    mean = {key: sum(getattr(entry, key) * entry.images for entry in present) / total for key in ("best_iou", "found")}
    return {"rows": found, "images": count, "of": len(ids), "objects": total, "least": 100 * FOUND, **mean}


def cost(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return parameters and operations as (name, value), from what Evaluate counted."""
    found = metrics.get("extra", {}).get("complexity")
    if not found:
        return []
    side = f"{found['side']} x {found['side']} pixels"
    return [
        ("Trained parameters (decoder and prompts)", f"{found['trained_parameters']:,}"),
        ("Frozen parameters, image tower", f"{found['frozen_image_parameters']:,}"),
        ("Frozen parameters, text tower", f"{found['frozen_text_parameters']:,}"),
        (f"Image tower for {side}", _giga(found["tower_flops"])),
        (f"Decoder for {side}", _giga(found["decoder_flops"])),
        ("One region crop, where CLIP is asked about predicted regions", _giga(found["crop_flops"])),
    ]


def _giga(flops: int) -> str:
    return f"{flops / 1e9:,.3f} GFLOPs ({flops:,})"
