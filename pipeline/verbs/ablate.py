"""The verb `ablate`: the default and its variants, each with several seeds, in one table.

Runs of the same seed are compared in pairs. All seeds of a variant share what does not depend on the seed, and variants
share what they do not change: the cache sees to that.

Source: choice.
"""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from split_matching.configs.load import dataset_name
from split_matching.configs.schema import Config
from split_matching.configs.section import Section, is_runtime
from split_matching.configs.slices import build_slice
from split_matching.environment import command
from split_matching.errors import UserError
from split_matching.pipeline.arguments import add_config_options, overrides_of, parse_output_folder, parse_positive
from split_matching.pipeline.experiments import runs as experiments
from split_matching.pipeline.experiments.files import opening_comment, override, read_gammas
from split_matching.pipeline.experiments.runs import DEFAULT, GAMMAS, STAGE, Clock, Outcome, Request, Setup, say
from split_matching.pipeline.run.launch import INTERRUPTED
from split_matching.pipeline.stages import make_plan
from split_matching.stages.ground.context import StageContext

if TYPE_CHECKING:
    from split_matching.stages.pages.ablation.comparison import Comparison
    from split_matching.stages.pages.ablation.tables import Run, Table, Variant

HELP = "a table of variants over seeds, against the data set's own config"
DESCRIPTION = """
Evaluates the data set's own config ("default") and every variant with every seed, and writes table.md, table.csv,
table.json and ablation.html: means and deviations over seeds, and differences to the default paired by seed. What two
runs share is made once; the same command continues where it stopped, and runs nothing twice.
"""
EXIT_CODES = """0 all runs are in the table, 1 some run failed (the others are in the table), 2 wrong usage or config
and 3 data or weights missing (nothing was run), 130 interrupted (the same command continues from there)"""
EXAMPLES = ("ablate --dataset shapes --set-file configs/ablations/*.yaml --seeds 5",)
PAGE = "ablation.html"
STAGE_NAME = "evaluate"
SIDE_BY_SIDE = 8
"""Most images drawn side by side."""

Runs = Mapping[tuple[str, int], Outcome]
"""What became of each run, by variant and seed."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `ablate`."""
    add_experiment_options(parser)
    parser.add_argument(
        "--seeds", type=parse_positive, default=5, metavar="N", help="seeds of training, 0 to N-1 (default: 5)"
    )
    parser.add_argument(
        "--gammas", type=Path, metavar="FILE", help="gammas that tune --gamma-only chose (default: its last)"
    )


def add_experiment_options(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `ablate` and `tune`."""
    add_config_options(parser, "YAML files, each a variant: laid over the data set's config, named by the file")
    add = parser.add_argument
    add(
        "--base",
        action="extend",
        nargs="+",
        type=Path,
        default=[],
        metavar="FILE",
        help="YAML files laid under every variant and the default, e.g. a longer schedule",
    )
    add("--jobs", type=parse_positive, default=1, metavar="N", help="evaluations at the same time (default: 1)")
    add("--name", metavar="WORD", help="folder of the results under artifacts/DATASET/, so that sets do not mix")
    add("--out", type=parse_output_folder, metavar="DIR", help="write the results here instead")


def run(options: argparse.Namespace) -> int:
    """Run all variants, and write the table."""
    return ablate(request_of(options, "main"), options.gammas)


def request_of(options: argparse.Namespace, name: str) -> Request:
    """Return what the options ask for."""
    return Request(
        dataset=options.dataset,
        base=tuple(options.base),
        variants=tuple(options.set_file),
        overrides=tuple(overrides_of(options)),
        seeds=options.seeds,
        name=options.name or name,
        out=options.out,
        command=f"{command()} {shlex.join(options.command_line)}",
        jobs=options.jobs,
        debug=options.debug,
    )


def ablate(request: Request, gammas: Path | None = None) -> int:
    """Evaluate the default and every variant with every seed, and write one table.

    Args:
        request: what was asked for.
        gammas: file of the gammas that `tune --gamma-only` chose; None for its usual place, if it is there.

    Returns:
        0, 1 if some run failed (all others are in the table), or 130 if interrupted.

    Raises:
        ConfigError: a refused config or option; nothing was run.
        DataError: the raw files or the weights are not there; nothing was run.
    """
    setups = experiments.setups(request, ("train.seed",))
    folder = request.folder("ablations")
    tuned, notes = _tuned(setups, gammas or _usual_gammas(request, setups[0]))
    variants = describe_variants(setups)
    seeds = tuple(range(request.seeds))
    configs = {
        (setup.name, seed): setup.config(override("train.seed", seed), *_wider_sweep(setup, tuned))
        for seed in seeds
        for setup in setups
    }
    runs = _run_all(configs, request.jobs, request.debug)
    if runs is None:
        return INTERRUPTED
    from split_matching.stages.pages.ablation.table_text import to_markdown
    from split_matching.stages.pages.ablation.tables import Table, build_sections

    default = configs[DEFAULT, 0]
    table = Table(
        dataset=request.dataset,
        seeds=seeds,
        variants=variants,
        sections=build_sections([setup.name for setup in setups], seeds, _measured(configs, runs), tuned),
        failures=tuple((name, seed, run.error) for (name, seed), run in runs.items() if run.code),
        notes=(*_warnings(default), *notes),
        facts=experiments.circumstances(request, default, runs.values()),
    )
    experiments.write_files(folder, _forms(table, runs, _comparisons(configs, runs)))
    print(to_markdown(table))
    print(folder / PAGE)
    return 1 if table.failures else 0


def _run_all(configs: Mapping[tuple[str, int], Config], jobs: int, debug: bool) -> Runs | None:
    """Run everything, one line a run; None if interrupted."""
    clock = Clock(len(configs), sum(experiments.is_fresh(config) for config in configs.values()))
    runs: dict[tuple[str, int], Outcome] = {}
    with experiments.Evaluations(jobs, debug) as evaluations:
        for (name, seed), outcome in evaluations.run(configs):
            if outcome.code == INTERRUPTED:
                return None
            runs[name, seed] = outcome
            say(clock.line(f"{name}, seed {seed}", outcome))
    return {key: runs[key] for key in configs}


def _measured(configs: Mapping[tuple[str, int], Config], runs: Runs) -> list[Run]:
    from split_matching.stages.pages.ablation.statistics import read_sweep
    from split_matching.stages.pages.ablation.tables import Run

    return [
        Run(name, seed, configs[name, seed].evaluate.gamma, read_sweep(outcome.metrics))
        for (name, seed), outcome in runs.items()
        if not outcome.code
    ]


def _usual_gammas(request: Request, default: Setup) -> Path | None:
    path = default.config().runtime.artifacts / dataset_name(request.dataset) / "tuning" / "gamma" / GAMMAS
    return path if path.is_file() else None


def _tuned(setups: Sequence[Setup], path: Path | None) -> tuple[dict[str, float], list[str]]:
    """Return the gamma recorded for each variant's present settings, and remarks about variants without one."""
    if path is None:
        return {}, []
    by_settings = {record.settings: record.gamma for record in read_gammas(path).values()}
    keys = {setup.name: experiments.settings_key(setup.config()) for setup in setups}
    tuned = {name: by_settings[key] for name, key in keys.items() if key in by_settings}
    remedy = "run tune --gamma-only with the same variants"
    return tuned, [f"{path} holds no gamma for {name} as it is now: {remedy}" for name in keys if name not in tuned]


def _wider_sweep(setup: Setup, tuned: Mapping[str, float]) -> list[str]:
    """Return an override that adds gammas which the tables need to the sweep; [] if it has them, as is usual."""
    settings = setup.config().evaluate
    wanted = {0.0, tuned.get(setup.name, 0.0)} - {settings.gamma, *settings.gamma_sweep}
    return [override("evaluate.gamma_sweep", [*settings.gamma_sweep, *sorted(wanted)])] if wanted else []


def _warnings(config: Config) -> list[str]:
    """Return what a reader of any number must know first."""
    remarks = []
    if config.clip.weights == "random":
        remarks.append("random CLIP weights: these numbers mean nothing, they show only that every stage ran")
    if config.data.fold is not None:
        remarks.append(f"fold {config.data.fold}: unseen means hidden seen classes; no unseen class is scored")
    return remarks


def describe_variants(setups: Sequence[Setup]) -> tuple[Variant, ...]:
    """Return for each variant what it shows, how its config differs from the default's, and whether it differs at all.

    Raises:
        DataError: the raw files or the weights that decide about keys are not there.
    """
    from split_matching.stages.pages.ablation.tables import Variant

    configs = [setup.config() for setup in setups]
    base = _flat(configs[0])
    first_of: dict[str, str] = {}
    variants = []
    for setup, config in zip(setups, configs, strict=True):
        values = _flat(config)
        plan = make_plan(config)
        same_as = first_of.setdefault(plan.stage(STAGE).key, setup.name)
        variants.append(
            Variant(
                name=setup.name,
                file=str(setup.file or ""),
                shows=opening_comment(setup.file) if setup.file else "",
                changes={key: (base[key], values[key]) for key in base if base[key] != values[key]},
                same_as="" if same_as == setup.name else same_as,
            )
        )
    return tuple(variants)


def _flat(config: Config) -> dict[str, str]:
    """Return every value that can change a result by its dotted key, as JSON text."""
    values: dict[str, str] = {}
    for name in Config.model_fields:
        section = getattr(config, name)
        if isinstance(section, Section):
            plain = section.model_dump(mode="json")
            for key, info in type(section).model_fields.items():
                extra = info.json_schema_extra
                names_weights = isinstance(extra, Mapping) and "identity" in extra  # where they lie, but also what
                if names_weights or not is_runtime(info):
                    values[f"{name}.{key}"] = json.dumps(plain[key])
    return values


def _comparisons(configs: Mapping[tuple[str, int], Config], runs: Runs) -> list[Comparison]:
    """Draw what the first seed of every variant predicts that has the default's data and classes.

    Without the artifacts (another process may have removed them by now) there are no pictures; the numbers are at hand.
    """
    from split_matching.stages.pages.ablation.comparison import compare

    plans = {name: make_plan(configs[name, seed]) for (name, seed), run in runs.items() if seed == 0 and not run.code}
    default = plans.get(DEFAULT)
    if default is None:
        return []
    chosen: dict[str, str] = {}  # variants with the same key are one picture
    for name, plan in plans.items():
        if plan["dataset"].key == default["dataset"].key and plan.config.data.fold == default.config.data.fold:
            chosen.setdefault(plan[STAGE_NAME].key, name)
    try:
        shown = {name: plans[name][STAGE_NAME].artifact() for name in chosen.values()}
        inputs = {"dataset": default["dataset"].artifact()}
        config, runtime = build_slice(default.config, ("data",)), default.config.runtime
        ctx = StageContext(config, inputs, default.root, runtime, default["dataset"].data_root)
        return compare(ctx, shown, SIDE_BY_SIDE)
    except UserError:
        return []


def _forms(table: Table, runs: Runs, comparisons: Sequence[Comparison]) -> dict[str, str]:
    """Return the four files of a table. The JSON also holds what each run measured and took."""
    from split_matching.stages.pages.ablation.page import render_page
    from split_matching.stages.pages.ablation.table_text import to_csv, to_json, to_markdown

    measured = [
        {"variant": name, "seed": seed, "metrics": outcome.metrics, "seconds": outcome.seconds}
        for (name, seed), outcome in runs.items()
        if not outcome.code
    ]
    return {
        "table.md": to_markdown(table),
        "table.csv": to_csv(table),
        "table.json": json.dumps({**to_json(table), "runs": measured}, indent=1, ensure_ascii=False) + "\n",
        PAGE: render_page(table, comparisons),
    }
