"""What a run ends with: each stage, and of Evaluate and Report a table: numbers, worst classes, what limits them."""

from __future__ import annotations

import csv
import math
import textwrap
from collections.abc import Mapping

from split_matching.cache.entry import State
from split_matching.errors import format_count
from split_matching.pipeline.plan import Stage
from split_matching.pipeline.run.progress import LOGGER
from split_matching.pipeline.terminal import join_columns, print_line, print_rows
from split_matching.stages.ground.context import StageContext
from split_matching.stages.ground.csv_cells import read_cell
from split_matching.stages.ground.durations import format_duration
from split_matching.stages.pages.banners import list_banners

EVALUATED = ("evaluate", "report")
"""Stages that end with the table."""
COLUMNS = {"pAcc": "pAcc", "mIoU_seen": "mIoU S", "mIoU_unseen": "mIoU U", "hIoU": "hIoU"}
STYLES = {"red": "bold red", "amber": "yellow", "blue": "blue"}
WORST = 3
WIDTH = 79


def show_result(stage: Stage, before: Mapping[str, State], quiet: bool) -> None:
    """Print what became of each stage, the numbers of an evaluation, and the path last; the log has it if anything ran.

    Args:
        stage: the wanted stage; its result is fresh.
        before: states before the run, by name.
        quiet: print the path alone.
    """
    rows = [] if quiet else _list_stages(stage, before)
    lines = list_result(stage) if stage.name in EVALUATED and not quiet else []
    lines.append((str(stage.result), ""))
    if not before[stage.name].fresh:
        for line in [*join_columns(rows), *(line for line, _ in lines)]:
            LOGGER.info(line)
    print_rows(rows)
    for line, style in lines:
        print_line(line, style)


def _list_stages(stage: Stage, before: Mapping[str, State]) -> list[tuple[str, str]]:
    rows = []
    for member in stage.plan.closure(stage.name):
        artifact = member.artifact()
        old = before[member.name].artifact
        if old is not None and old.manifest["digest"] == artifact.manifest["digest"]:
            did = "fresh" if before[member.name].fresh else "fresh, its inputs came out the same"
        else:
            images, took = artifact.manifest["images"], format_duration(artifact.manifest["seconds"])
            did = f"ran in {took}" + (f", {format_count(images, 'image')}" if images else "")
        rows.append((member.command, f"{did}, {artifact.path}"))
    return rows


def list_result(stage: Stage) -> list[tuple[str, str]]:
    """Return the lines of the table, each with its style on a terminal.

    Args:
        stage: Evaluate or Report, whose result is fresh.

    Raises:
        CorruptError: a file of the evaluation is damaged.
    """
    plan = stage.plan
    evaluate, dataset = plan["evaluate"].artifact(), plan["dataset"].artifact()
    metrics = evaluate.json("metrics.json")
    with evaluate.file("per_class.csv").open(newline="", encoding="utf-8") as file:
        classes = list(csv.DictReader(file))
    ctx = StageContext(plan["report"].slice, {"dataset": dataset}, evaluate.path)
    unseen = sum(row["group"] == "unseen" for row in classes)
    lines = [("", ""), *_table(plan.config.dataset, metrics)]
    if worst := _worst(classes):
        lines.append((f"worst classes: {worst}", ""))
    for banner in list_banners(ctx, metrics, unseen):
        text = f"{banner['title']}: {banner['text']}"
        lines += [(line, STYLES[banner["kind"]]) for line in textwrap.wrap(text, WIDTH)]
    return [*lines, ("", "")]


def _table(dataset: str, metrics: Mapping[str, float | None]) -> list[tuple[str, str]]:
    """A head and a row; "-" is undefined, e.g. where no class is unseen."""
    width = max(len(dataset), len("percent"))
    cells = ["-" if (value := metrics[name]) is None else f"{value:.1f}" for name in COLUMNS]
    head = f"{'percent':<{width}}" + "".join(f"{word:>9}" for word in COLUMNS.values())
    return [(head, "dim"), (f"{dataset:<{width}}" + "".join(f"{cell:>9}" for cell in cells), "bold")]


def _worst(classes: list[dict[str, str]]) -> str:
    """The classes with the lowest IoU, lowest first."""
    scored = [row for row in classes if not math.isnan(float(row["iou"]))]
    scored.sort(key=lambda row: float(row["iou"]))
    return ", ".join(f"{read_cell(r['name'])} {float(r['iou']):.1f} ({r['group']})" for r in scored[:WORST])
