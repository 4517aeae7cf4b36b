"""What an experiment writes: one table in four forms, and images as the variants see them."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from split_matching.cache.disk_errors import explain_disk_errors
from split_matching.cache.files import atomic_write
from split_matching.configs.schema import Config
from split_matching.configs.slices import build_slice
from split_matching.errors import UserError, format_count
from split_matching.pipeline.experiments.machine import describe_machine
from split_matching.pipeline.experiments.runs import Configs, Outcome, Outcomes
from split_matching.pipeline.experiments.variants import DEFAULT, STAGE, Repeat, Request
from split_matching.pipeline.stages import make_plan
from split_matching.stages.ground.context import StageContext
from split_matching.stages.ground.durations import format_duration

if TYPE_CHECKING:
    from split_matching.stages.pages.ablation.comparison import Comparison
    from split_matching.stages.pages.ablation.tables import Table, Variant

PAGE = "ablation.html"
SIDE_BY_SIDE = 8
"""Largest number of images drawn side by side."""


def build_table(
    request: Request,
    variants: Sequence[Variant],
    configs: Configs,
    outcomes: Outcomes,
    gammas: Mapping[str, float],
    notes: Sequence[str],
) -> Table:
    """Return the table of all runs.

    Args:
        request: what was asked for.
        variants: in the order of the rows.
        configs: of every run.
        outcomes: of every run.
        gammas: the gamma of each variant that folds of the seen classes chose.
        notes: to show beside the table.
    """
    from split_matching.stages.pages.ablation.statistics import read_sweep
    from split_matching.stages.pages.ablation.tables import Evaluation, Table, build_sections

    repeats = list(dict.fromkeys(repeat for _, repeat in configs))
    runs = [
        Evaluation(name, str(repeat), configs[name, repeat].evaluate.gamma, read_sweep(outcome.metrics))
        for (name, repeat), outcome in outcomes.items()
        if not outcome.code
    ]
    default = configs[DEFAULT, repeats[0]]
    return Table(
        dataset=request.dataset,
        repeats=tuple(map(str, repeats)),
        over=describe_repeats(repeats),
        variants=tuple(variants),
        sections=build_sections([variant.name for variant in variants], list(map(str, repeats)), runs, gammas),
        failures=tuple((name, str(repeat), run.error) for (name, repeat), run in outcomes.items() if run.code),
        notes=(*_warnings(default), *notes),
        facts=gather_facts(request, default, outcomes.values()),
    )


def describe_repeats(repeats: Sequence[Repeat]) -> str:
    """Return what the mean of a row is over: "5 seeds", "3 folds of the seen classes, 1 seed each"."""
    seeds = format_count(len({repeat.seed for repeat in repeats}), "seed")
    folds = {repeat.fold for repeat in repeats if repeat.fold is not None}
    return f"{format_count(len(folds), 'fold')} of the seen classes, {seeds} each" if folds else seeds


def _warnings(config: Config) -> list[str]:
    """Return what a reader of any number must know first."""
    warnings = []
    if config.clip.weights == "random":
        warnings.append("random CLIP weights: these numbers mean nothing, they show only that every stage ran")
    if config.data.fold is not None:
        warnings.append("folds of the seen classes: unseen means hidden seen classes; no unseen class is scored")
    return warnings


def gather_facts(request: Request, config: Config, outcomes: Iterable[Outcome]) -> dict[str, Any]:
    """Return command, machine and time of a set of runs, as facts of a table."""
    seconds: dict[str, float] = {}
    hosts: set[str] = set()
    for outcome in outcomes:
        seconds.update(outcome.seconds)
        hosts |= outcome.hosts
    total = sum(seconds.values())
    return {
        "command": request.command,
        "machine": describe_machine(config.runtime.device),
        "some of it made on": ", ".join(sorted(hosts - {platform.node()})),
        "compute time": format_duration(total),
        "seconds": round(total, 1),
    }


def compare_images(configs: Configs, outcomes: Outcomes) -> list[Comparison]:
    """Draw what the first run of every variant predicts that has the default's data and classes.

    If the artifacts are gone (another process may have removed them) there are no pictures; the numbers are kept.
    """
    from split_matching.stages.pages.ablation.comparison import compare

    first = next(iter(configs))[1]
    plans = {
        name: make_plan(configs[name, repeat])
        for (name, repeat), run in outcomes.items()
        if not run.code and repeat == first
    }
    default = plans.get(DEFAULT)
    if default is None:
        return []
    chosen: dict[str, str] = {}  # variants with the same key are one picture
    for name, plan in plans.items():
        if plan["dataset"].key == default["dataset"].key and plan.config.data.fold == default.config.data.fold:
            chosen.setdefault(plan.stage(STAGE).key, name)
    try:
        shown = {name: plans[name].stage(STAGE).artifact() for name in chosen.values()}
        inputs = {"dataset": default["dataset"].artifact()}
        config, runtime = build_slice(default.config, ("data",)), default.config.runtime
        ctx = StageContext(config, inputs, default.root, runtime, default["dataset"].data_root)
        return compare(ctx, shown, SIDE_BY_SIDE)
    except UserError:
        return []


def render_files(table: Table, outcomes: Outcomes, comparisons: Sequence[Comparison]) -> dict[str, str]:
    """Return the four files of a table by name. The JSON also holds what each run measured and took."""
    from split_matching.stages.pages.ablation.page import render_page
    from split_matching.stages.pages.ablation.table_text import to_csv, to_json, to_markdown

    runs = [
        {
            "variant": name,
            "seed": repeat.seed,
            "fold": repeat.fold,
            "metrics": outcome.metrics,
            "seconds": outcome.seconds,
        }
        for (name, repeat), outcome in outcomes.items()
        if not outcome.code
    ]
    return {
        "table.md": to_markdown(table),
        "table.csv": to_csv(table),
        "table.json": json.dumps({**to_json(table), "runs": runs}, indent=1, ensure_ascii=False) + "\n",
        PAGE: render_page(table, comparisons),
    }


def write_files(folder: Path, files: Mapping[str, str]) -> None:
    """Write text files, each at once or not at all.

    Raises:
        UserError: the folder cannot be written.
    """
    with explain_disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            with atomic_write(folder / name) as temporary:
                temporary.write_text(text, encoding="utf-8")
