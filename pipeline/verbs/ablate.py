"""The verb `ablate`: the default and its variants, each with several seeds, in one table.

Runs of the same seed are compared in pairs. All seeds of a variant share what does not depend on the seed, and variants
share what they do not change: the cache sees to that.

With `--folds` no unseen class is looked at. Each fold hides some seen classes: in training their pixels are
unannotated, like those of unseen classes; evaluation counts them as unseen, and ignores the pixels of the truly unseen
classes. Such tables are the way to choose defaults. They also choose a gamma for each variant: the one at which its
mean hIoU is highest. A later table of the same variants on the unseen classes reads these gammas.

Source: choice.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from split_matching.environment import command, shell_line
from split_matching.errors import ConfigError
from split_matching.pipeline.arguments import (
    add_config_options,
    add_device_option,
    add_log_option,
    add_run_options,
    add_variants_option,
    overrides_of,
    parse_output_folder,
    whole_number,
)
from split_matching.pipeline.experiments import gammas, results, runs, variants
from split_matching.pipeline.experiments.gammas import GammaRecord
from split_matching.pipeline.experiments.runs import Configs, Outcomes
from split_matching.pipeline.experiments.variants import Repeat, Request, Setup, override, settings_key
from split_matching.pipeline.run.launch import INTERRUPTED
from split_matching.pipeline.run.progress import show
from split_matching.pipeline.run.run_log import keep_log
from split_matching.pipeline.stages import make_plan

if TYPE_CHECKING:
    from split_matching.stages.pages.ablation.tables import Table

HELP = "a table of variants over seeds, against the data set's own config; with --folds on seen classes only"
DESCRIPTION = """
Evaluates the data set's own config ("default") and every variant with every seed, and writes table.md, table.csv,
table.json and ablation.html: means and deviations over seeds, and differences to the default, paired by seed. What two
runs share is made once; the same command continues where it stopped, and runs nothing twice.

With --folds it chooses between variants without a look at the unseen classes: each fold hides some seen classes in
training, and evaluation counts those as unseen; pixels of the truly unseen classes are ignored. Every variant is
evaluated on every fold with every seed. It also writes gammas.yaml: the gamma that is best for the mean of a variant's
runs. Without --folds, the table has a second part with these gammas.
"""
EXIT_CODES = """0 all runs are in the table, 1 some run failed (the others are in the table), 2 wrong usage or config
and 3 data or weights missing (nothing was run), 130 interrupted (the same command continues from there)"""
EXAMPLES = (
    "ablate --dataset shapes --variants configs/ablations/*.yaml --folds 3",
    "ablate --dataset shapes --variants configs/ablations/*.yaml --seeds 5",
    "ablate --dataset shapes --variants configs/ablations/single.yaml --set-file configs/schedules/shapes-4x.yaml",
)
SEEDS = 5
SEEDS_ON_FOLDS = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `ablate`."""
    add_config_options(parser)
    add_device_option(parser)
    add_run_options(parser)
    add_log_option(parser)
    add_variants_option(parser, "each has a row of the table")
    add = parser.add_argument
    add(
        "--seeds",
        type=whole_number(1),
        metavar="N",
        help=f"seeds of training, 0 to N-1 (default: {SEEDS}, with --folds {SEEDS_ON_FOLDS})",
    )
    either = parser.add_mutually_exclusive_group()
    either.add_argument(
        "--folds",
        type=whole_number(2),
        nargs="?",
        const=0,
        metavar="N",
        help="run on N folds of the seen classes (without a number: data.folds)",
    )
    either.add_argument(
        "--gammas",
        type=Path,
        metavar="FILE",
        help="gammas that --folds chose (default: those of the same --name, if they are there)",
    )
    add("--jobs", type=whole_number(1), default=1, metavar="N", help="evaluations at the same time (default: 1)")
    add(
        "--name",
        default="main",
        metavar="WORD",
        help="folder of the results below artifacts/DATASET/ablations/ or folds/ (default: main)",
    )
    add("--out", type=parse_output_folder, metavar="DIR", help="write the results here instead")


def run(options: argparse.Namespace) -> int:
    """Run all variants, and write the table."""
    if len(options.set_file) > 1 and not options.variants:
        raise ConfigError("--set-file lays all files over the one config; for a row of each, give them as --variants")
    on_folds = options.folds is not None
    request = Request(
        dataset=options.dataset,
        base=tuple(options.set_file),
        variants=tuple(options.variants),
        overrides=tuple(overrides_of(options)),
        seeds=options.seeds or (SEEDS_ON_FOLDS if on_folds else SEEDS),
        on_folds=on_folds,
        folds=options.folds or None,
        name=options.name,
        out=options.out,
        command=f"{command()} {shell_line(options.command_line)}",
        jobs=options.jobs,
        debug=options.debug,
    )
    plan = make_plan(variants.list_setups(request)[0].config())
    with keep_log(plan, options.verb, options.log_level):
        return ablate(request, options.gammas)


def ablate(request: Request, gammas_file: Path | None = None) -> int:
    """Evaluate the default and every variant with every seed, and write one table.

    Args:
        request: what was asked for.
        gammas_file: file of gammas that folds chose; None for its usual place, if it is there.

    Returns:
        0, 1 if some run failed (all others are in the table), or 130 if interrupted.

    Raises:
        ConfigError: a wrong config or option; nothing was run.
        DataError: the raw files or the weights are not there; nothing was run.
    """
    setups = variants.list_setups(request)
    repeats = variants.list_repeats(request, setups[0])
    folder = request.folder
    chosen, notes = ({}, []) if request.on_folds else _read_chosen(request, setups, gammas_file)
    described = variants.describe_variants(setups)
    configs = build_configs(setups, repeats, chosen)
    outcomes = runs.run_all(configs, request.jobs, request.debug)
    if outcomes is None:
        return INTERRUPTED
    files = {}
    if request.on_folds:
        chosen = choose_gammas(outcomes)
        files[gammas.FILE] = _format_chosen(request, setups, repeats, chosen)
    table = results.build_table(request, described, configs, outcomes, chosen, notes)
    comparisons = results.compare_images(configs, outcomes)
    results.write_files(folder, {**files, **results.render_files(table, outcomes, comparisons)})
    _print_table(table, folder)
    return 1 if table.failures else 0


def build_configs(setups: Sequence[Setup], repeats: Sequence[Repeat], chosen: Mapping[str, float]) -> Configs:
    """Return the config of every run, all variants of one repeat after another.

    Args:
        setups: the default and the variants.
        repeats: the runs of each.
        chosen: gamma by variant that the table will need.
    """
    configs = {}
    for repeat in repeats:
        for setup in setups:
            configs[setup.name, repeat] = setup.config(*repeat.overrides, *_widen_sweep(setup, chosen))
    return configs


def _widen_sweep(setup: Setup, chosen: Mapping[str, float]) -> list[str]:
    """Return an override that adds the gammas of the table to the sweep; [] if they are in it, as is usual."""
    settings = setup.config().evaluate
    wanted = {0.0, chosen.get(setup.name, 0.0)} - {settings.gamma, *settings.gamma_sweep}
    return [override("evaluate.gamma_sweep", [*settings.gamma_sweep, *sorted(wanted)])] if wanted else []


def choose_gammas(outcomes: Outcomes) -> dict[str, float]:
    """Return the gamma with the highest mean hIoU of each variant; none for a variant with a failed run.

    Raises:
        ValueError: a run without a fold, which has seen the unseen classes.
    """
    from split_matching.stages.pages.ablation.statistics import choose_gamma, read_sweep

    if any(repeat.fold is None for _, repeat in outcomes):
        raise ValueError("gamma is chosen on folds alone: a run without a fold has looked at the unseen classes")
    chosen = {}
    for name in dict.fromkeys(name for name, _ in outcomes):
        own = [outcome for (variant, _), outcome in outcomes.items() if variant == name]
        if not any(outcome.code for outcome in own):
            gamma = choose_gamma([read_sweep(outcome.metrics) for outcome in own])
            if gamma is not None:
                chosen[name] = gamma
    return chosen


def _format_chosen(
    request: Request, setups: Sequence[Setup], repeats: Sequence[Repeat], chosen: Mapping[str, float]
) -> str:
    """Return the text of gammas.yaml."""
    records = {
        setup.name: GammaRecord(chosen[setup.name], settings_key(setup.config()))
        for setup in setups
        if setup.name in chosen
    }
    comment = (
        f"Chosen by ablate --folds on {request.dataset}, {results.describe_repeats(repeats)}; no unseen class was "
        "looked at.\nRead by ablate --gammas; settings names the config that a gamma belongs to."
    )
    return gammas.format_gammas(records, comment)


def _read_chosen(request: Request, setups: Sequence[Setup], path: Path | None) -> tuple[dict[str, float], list[str]]:
    """Return the gamma recorded for each variant's present settings, and notes about variants without one."""
    usual = request.usual_folder("folds") / gammas.FILE
    if path is None and not usual.is_file():
        return {}, []
    path = path or usual
    by_settings = {record.settings: record.gamma for record in gammas.read_gammas(path).values()}
    keys = {setup.name: settings_key(setup.config()) for setup in setups}
    chosen = {name: by_settings[key] for name, key in keys.items() if key in by_settings}
    remedy = "run ablate --folds with the same variants"
    return chosen, [f"{path} holds no gamma for {name} as it is now: {remedy}" for name in keys if name not in chosen]


def _print_table(table: Table, folder: Path) -> None:
    from split_matching.stages.pages.ablation.table_text import to_markdown

    show(to_markdown(table), str(folder / results.PAGE))
