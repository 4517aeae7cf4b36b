"""The verb `tune`: choose settings on folds of seen classes, without a look at the unseen ones.

A fold hides some seen classes: in training their pixels are unannotated, as those of unseen classes are; evaluation
counts them as unseen, and ignores the pixels of the truly unseen classes. The score of a setting is the mean hIoU over
folds and seeds, at the gamma that the mean sweep is best at.

Everything that tuning runs goes through `evaluate_on_folds`, which refuses a config without a fold.

Source: choice, after the practice of zero-shot recognition (Xian et al. 2017): tune on classes held out of the seen
ones. The images are those of the validation split, of which only seen classes' labels are used.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from split_matching.configs.schema import Config
from split_matching.errors import ConfigError
from split_matching.pipeline.arguments import parse_positive
from split_matching.pipeline.experiments import runs as experiments
from split_matching.pipeline.experiments.files import GammaRecord, Grid, override, read_grid, set_file, write_gammas
from split_matching.pipeline.experiments.runs import GAMMAS, Clock, Evaluations, Outcome, Request, Setup, say
from split_matching.pipeline.run.launch import INTERRUPTED
from split_matching.pipeline.verbs.ablate import add_experiment_options, request_of

if TYPE_CHECKING:
    from split_matching.stages.pages.ablation.statistics import Spread, Sweep

HELP = "settings, or gamma alone, chosen on folds of seen classes"
DESCRIPTION = """
Chooses settings without a look at the unseen classes. Each fold hides some seen classes in training, and evaluation
counts those as unseen; pixels of the truly unseen classes are ignored. A point of the grid is run on all folds with
all seeds; its score is the mean hIoU at the gamma that is best for the mean of its runs. Writes choice.yaml (takes
part as a --set-file, gamma included) and tune.json. With --gamma-only it writes gammas.yaml: gamma for the data set's
own config and for each --set-file, all chosen by this one rule; ablate reads it.
"""
EXIT_CODES = """0 chosen, 1 some point failed (the choice is among the others), 2 wrong usage or config and 3 data or
weights missing (nothing was run), 130 interrupted (the same command continues from there)"""
EXAMPLES = (
    "tune --dataset shapes --grid configs/tuning/shapes.yaml",
    "tune --dataset shapes --gamma-only --set-file configs/ablations/*.yaml",
)
RULE = (
    "the point with the highest mean hIoU over folds of seen classes and seeds, each at the gamma where its mean sweep "
    "is highest; among equals the first"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `tune`."""
    add_experiment_options(parser)
    add = parser.add_argument
    add("--seeds", type=parse_positive, default=1, metavar="N", help="seeds a fold, 0 to N-1 (default: 1)")
    add("--folds", type=int, metavar="N", help="folds of the seen classes (default: data.folds)")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--grid", type=Path, metavar="FILE", help="YAML of keys and the values to try")
    what.add_argument("--gamma-only", action="store_true", help="choose gamma alone, for every variant")


def run(options: argparse.Namespace) -> int:
    """Tune settings, or gamma."""
    if options.gamma_only:
        return tune_gamma(request_of(options, "gamma"), options.folds)
    return tune(request_of(options, options.grid.stem), options.grid, options.folds)


class InterruptedTuningError(Exception):
    """A run was interrupted."""


@dataclass(frozen=True)
class FoldRun:
    """One run of a point."""

    fold: int
    seed: int
    sweep: Sweep


@dataclass(frozen=True)
class Point:
    """One setting, measured on all folds and seeds.

    Args:
        name: of the variant, or the values as text.
        values: by dotted key.
        settings: key of the settings, see `experiments.settings_key`.
        runs: one a fold and seed.
        gamma: the best gamma of the mean sweep; None if the point failed.
        metrics: over the runs, at that gamma.
        error: why it failed, or "".
    """

    name: str
    values: Mapping[str, Any]
    settings: str
    runs: tuple[FoldRun, ...]
    gamma: float | None
    metrics: Mapping[str, Spread]
    error: str = ""

    @property
    def rank(self) -> tuple[int, float]:
        """Order of points: in how many runs hIoU is defined, then its mean; means over fewer runs do not compare."""
        return (self.metrics["hIoU"].count, self.metrics["hIoU"].mean) if self.gamma is not None else (0, 0.0)


def evaluate_on_folds(
    evaluations: Evaluations, configs: Mapping[tuple[int, int], Config]
) -> Iterator[tuple[tuple[int, int], Outcome]]:
    """Evaluate configs, by fold and seed, on hidden seen classes; yields as `Evaluations.run`.

    Raises:
        ValueError: a config has no fold, so that it would look at unseen classes; nothing was run.
    """
    if any(config.data.fold is None for config in configs.values()):
        raise ValueError("tuning runs no config without data.fold: it would look at the unseen classes")
    return evaluations.run(configs)


@dataclass
class Folds:
    """Measures settings on folds.

    Args:
        folds: number of folds of the seen classes.
        seeds: number of seeds.
        evaluations: runs them.
        clock: counts the runs.
    """

    folds: int
    seeds: int
    evaluations: Evaluations
    clock: Clock

    def __post_init__(self) -> None:
        self.outcomes: list[Outcome] = []
        self._measured: dict[str, Point] = {}

    def __str__(self) -> str:
        return f"{self.folds} folds of the seen classes, {self.seeds} seed{'' if self.seeds == 1 else 's'} each"

    def measure(self, name: str, setup: Setup, values: Mapping[str, Any]) -> Point:
        """Run a setting on every fold with every seed; one that was measured before is not run again.

        Raises:
            InterruptedTuningError: a run was interrupted.
        """
        more = [override(key, value) for key, value in values.items()]
        settings = experiments.settings_key(setup.config(*more))
        if settings not in self._measured:
            before = self.clock.done
            self._measured[settings] = self._run(name, setup, more, values, settings)
            self.clock.drop(self.folds * self.seeds - (self.clock.done - before))
        else:
            self.clock.drop(self.folds * self.seeds)
        return self._measured[settings]

    def _run(self, name: str, setup: Setup, more: list[str], values: Mapping[str, Any], settings: str) -> Point:
        from split_matching.stages.pages.ablation.statistics import choose_gamma, metrics_at, read_sweep

        configs = {
            (fold, seed): setup.config(*more, *_on_fold(fold, self.folds), override("train.seed", seed))
            for fold, seed in itertools.product(range(self.folds), range(self.seeds))
        }
        found: dict[tuple[int, int], Sweep] = {}
        error = ""
        for (fold, seed), outcome in evaluate_on_folds(self.evaluations, configs):
            if outcome.code == INTERRUPTED:
                raise InterruptedTuningError
            self.outcomes.append(outcome)
            say(self.clock.line(f"{name}, fold {fold}, seed {seed}", outcome))
            if not outcome.code:
                found[fold, seed] = read_sweep(outcome.metrics)
                continue
            error = error or outcome.error
            if self.evaluations.jobs == 1:  # the others would be in vain; those at work already may as well end
                break
        if error:  # the mean would not be over all folds: the point is out
            return Point(name, values, settings, (), None, {}, error)
        runs = tuple(FoldRun(fold, seed, found[fold, seed]) for fold, seed in configs)
        gamma = choose_gamma([run.sweep for run in runs])
        if gamma is None:
            return Point(name, values, settings, runs, None, {}, "hIoU is undefined on every fold")
        return Point(name, values, settings, runs, gamma, metrics_at([run.sweep for run in runs], gamma))


def _on_fold(fold: int, folds: int) -> list[str]:
    return [override("data.folds", folds), override("data.fold", fold)]


FIXED = ("data.fold", "data.folds", "train.seed")


def tune(request: Request, grid: Path, folds: int | None = None) -> int:
    """Search a grid on folds of seen classes, and write the choice as a set file.

    Args:
        request: what was asked for; it has no variants.
        grid: the grid file.
        folds: number of folds; None for `data.folds`.

    Returns:
        0, 1 if some point failed (the choice is among the others), or 130 if interrupted.

    Raises:
        ConfigError: a refused config, grid or option; nothing was run.
        DataError: the raw files or the weights are not there; nothing was run.
    """
    if request.variants:
        raise ConfigError("tune --grid searches around one config: lay files under it with --base, not --set-file")
    setup = experiments.setups(request, FIXED)[0]
    folder = request.folder("tuning")
    wanted, start = _checked(read_grid(grid), setup)
    measure = _folds(request, setup, folds, _points_at_most(wanted))
    search = coordinate if wanted.mode == "coordinate" else product
    print(f"{wanted.mode} search of {grid}: at most {_points_at_most(wanted)} points, on {measure}", flush=True)
    shown: set[str] = set()

    def measured(values: Mapping[str, Any]) -> Point:
        point = measure.measure(_words(values), setup, values)
        if point.settings not in shown:
            print(_row(point), flush=True)
        shown.add(point.settings)
        return point

    try:
        with measure.evaluations:
            points = search(wanted.values, start, measured)
    except InterruptedTuningError:
        return INTERRUPTED
    best = best_of(points)
    facts = experiments.circumstances(request, setup.config(), measure.outcomes)
    about = {"grid": {"file": str(grid), "mode": wanted.mode, "values": wanted.values}, "chosen": best}
    files = {"tune.json": _record(request, measure, facts, points, about)}
    if best is not None:
        files["choice.yaml"] = _choice(best, request, measure, wanted)
        print(f"chosen: {_row(best)}")
    experiments.write_files(folder, files)
    print(folder / ("tune.json" if best is None else "choice.yaml"))
    return 1 if any(point.error for point in points) else 0


def tune_gamma(request: Request, folds: int | None = None) -> int:
    """Choose gamma alone, for the default and every variant by the same rule, and record it for `ablate`.

    Args:
        request: what was asked for.
        folds: number of folds; None for `data.folds`.

    Returns:
        0, 1 if some variant failed, or 130 if interrupted.

    Raises:
        ConfigError: a refused config or option; nothing was run.
        DataError: the raw files or the weights are not there; nothing was run.
    """
    setups = experiments.setups(request, FIXED)
    folder = request.folder("tuning")
    measure = _folds(request, setups[0], folds, len(setups))
    print(f"gamma for {len(setups)} variants, on {measure}", flush=True)
    try:
        points = {}
        with measure.evaluations:
            for setup in setups:
                points[setup.name] = measure.measure(setup.name, setup, {})
                print(_row(points[setup.name], setup.name), flush=True)
    except InterruptedTuningError:
        return INTERRUPTED
    facts = experiments.circumstances(request, setups[0].config(), measure.outcomes)
    found = {name: GammaRecord(p.gamma, p.settings) for name, p in points.items() if p.gamma is not None}
    comment = (
        f"{_origin(request, measure)}\nRead by ablate --gammas; settings names the config that a gamma belongs to."
    )
    record = _record(request, measure, facts, list(points.values()), {"gammas": found})
    experiments.write_files(folder, {"tune.json": record, GAMMAS: write_gammas(found, comment)})
    print(folder / GAMMAS)
    return 1 if any(point.error for point in points.values()) else 0


def coordinate(
    values: Mapping[str, Sequence[Any]], start: Mapping[str, Any], measure: Callable[[Mapping[str, Any]], Point]
) -> list[Point]:
    """Measure the start, then the values of one key after another, all else as in the best point so far."""
    points = [measure(start)]
    for key, choices in values.items():
        best = best_of(points)
        around = start if best is None else best.values
        points += [measure({**around, key: value}) for value in choices]
    return _once(points)


def product(
    values: Mapping[str, Sequence[Any]], start: Mapping[str, Any], measure: Callable[[Mapping[str, Any]], Point]
) -> list[Point]:
    """Measure the start and every combination of values."""
    combinations = itertools.product(*values.values())
    return _once([measure(start), *(measure(dict(zip(values, chosen, strict=True))) for chosen in combinations)])


def best_of(points: Sequence[Point]) -> Point | None:
    """Return the best point that did not fail, the first among equals."""
    good = [point for point in points if point.gamma is not None]
    return max(good, key=lambda point: point.rank, default=None)


def _once(points: Sequence[Point]) -> list[Point]:
    return list({point.settings: point for point in points}.values())


def _folds(request: Request, setup: Setup, folds: int | None, points: int) -> Folds:
    folds = setup.config().data.folds if folds is None else folds
    setup.config(*_on_fold(folds - 1, folds))  # refuses more folds than there are seen classes
    runs = points * folds * request.seeds
    return Folds(folds, request.seeds, Evaluations(request.jobs, request.debug), Clock(runs))


def _checked(grid: Grid, setup: Setup) -> tuple[Grid, dict[str, Any]]:
    """Return the grid with its values as the schema reads them, and the present values of its keys."""
    base = setup.config()
    values: dict[str, tuple[Any, ...]] = {}
    try:
        for key, choices in grid.values.items():
            values[key] = tuple(_value(setup.config(override(key, value)), key) for value in choices)
        if grid.mode == "product":
            for chosen in itertools.product(*values.values()):
                setup.config(*(override(key, value) for key, value in zip(values, chosen, strict=True)))
    except ConfigError as error:
        raise ConfigError(str(error).replace("--set", str(grid.path), 1)) from None
    return Grid(grid.path, grid.mode, values), {key: _value(base, key) for key in values}


def _value(config: Config, key: str) -> Any:
    section, _, name = key.partition(".")
    return getattr(config, section).model_dump(mode="json")[name]


def _points_at_most(grid: Grid) -> int:
    counts = [len(choices) for choices in grid.values.values()]
    return 1 + (sum(counts) if grid.mode == "coordinate" else math.prod(counts))


def _words(values: Mapping[str, Any]) -> str:
    return " ".join(f"{key}={json.dumps(value)}" for key, value in values.items())


def _row(point: Point, name: str = "") -> str:
    from split_matching.stages.pages.ablation.table_text import format_spread
    from split_matching.stages.pages.ablation.tables import COMPARED

    if point.gamma is None:
        return f"{name or point.name}: failed: {point.error}"
    numbers = [f"{word} {format_spread(point.metrics[key])}" for key, word in COMPARED.items()]
    return f"{name or point.name}: {', '.join(numbers)} at gamma {point.gamma:g}"


def _origin(request: Request, measure: Folds) -> str:
    return f"Chosen by tune on {request.dataset}, on {measure}; no unseen class was looked at."


def _choice(best: Point, request: Request, measure: Folds, grid: Grid) -> str:
    comment = (
        f"{_origin(request, measure)}\n{grid.mode} search of {grid.path}. "
        f"{_row(best, 'On the hidden seen classes (U) and the others (S)')}"
    )
    return set_file({**best.values, "evaluate.gamma": best.gamma}, comment)


def _record(
    request: Request, measure: Folds, facts: Mapping[str, Any], points: Sequence[Point], about: Mapping[str, Any]
) -> str:
    from split_matching.stages.pages.ablation.table_text import to_json

    value = {
        "dataset": request.dataset,
        "rule": RULE,
        "folds": measure.folds,
        "seeds": measure.seeds,
        **about,
        "points": list(points),
        "facts": facts,
    }
    return json.dumps(to_json(value), indent=1, ensure_ascii=False) + "\n"
