"""Runs sets of evaluations and makes tables of them: variants over seeds (`ablate`). Tuning builds on the same parts.

Every run is an ordinary Evaluate through the cache, so whatever two runs share is made once, a finished run is never
made again, and an interrupted set goes on where it stopped. Runs of the same seed are compared in pairs.

Source: choice.
"""

from __future__ import annotations

import json
import platform
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cache.refusals import refusals_named
from configs.errors import ConfigError, UserError
from configs.load import is_runtime, load_config
from configs.schema import Config, Section
from configs.search import GammaRecord, opening_comment, override, read_gammas
from pipeline.graph import Plan
from pipeline.launch import INTERRUPTED, Options, ensure
from pipeline.progress import duration

if TYPE_CHECKING:
    from stages.tables import Table

DEFAULT = "default"
STAGE = "Evaluate"
GAMMAS = "gammas.yaml"


@dataclass(frozen=True)
class Request:
    """What the user asked for, of `ablate` and of `tune`.

    Args:
        dataset: name of the data set.
        base: set files laid under every variant.
        variants: set files, one a variant.
        overrides: `--set`, laid over every variant.
        seeds: number of seeds: 0..seeds-1.
        name: folder of the results.
        out: the folder itself, if not the usual one.
        command: the command line, to be shown.
        debug: print tracebacks.
    """

    dataset: str
    base: tuple[Path, ...] = ()
    variants: tuple[Path, ...] = ()
    overrides: tuple[str, ...] = ()
    seeds: int = 1
    name: str = "main"
    out: Path | None = None
    command: str = ""
    debug: bool = False

    def folder(self, kind: str) -> Path:
        """Return where results go: artifacts/<dataset>/<kind>/<name>, if no other folder was asked for."""
        if not self.name or Path(self.name).name != self.name:
            raise ConfigError(f"--name {self.name!r}: expected a plain word; a path is given by --out")
        artifacts = load_config(self.dataset, self.base, self.overrides).runtime.artifacts
        return self.out or artifacts / self.dataset / kind / self.name


@dataclass(frozen=True)
class Setup:
    """The layers of one variant's config.

    Args:
        name: of the variant.
        dataset: name of the data set.
        files: set files, the variant's own last.
        overrides: laid over the files.
        file: the variant's own file; None for the default.
    """

    name: str
    dataset: str
    files: tuple[Path, ...] = ()
    overrides: tuple[str, ...] = ()
    file: Path | None = None

    def config(self, *more: str) -> Config:
        """Return the config, with further overrides laid over all others."""
        return load_config(self.dataset, self.files, [*self.overrides, *more])


@dataclass(frozen=True)
class Outcome:
    """What became of one run.

    Args:
        code: exit code of the run; 0 if `metrics` are there.
        error: why it failed, in a line.
        metrics: content of `metrics.json`.
        seconds: by folder, the time that each artifact it rests on took, whenever it was made.
        hosts: where these were made.
    """

    code: int = 0
    error: str = ""
    metrics: Mapping[str, Any] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    hosts: frozenset[str] = frozenset()


def setups(request: Request, fixed: Sequence[str]) -> list[Setup]:
    """Return the default and the variants, named by their files, in order.

    Args:
        request: what was asked for.
        fixed: keys that the verb sets itself and `--set` may not.

    Raises:
        ConfigError: such a key, two files of one name, or a config that is refused.
    """
    for given in request.overrides:
        if (key := given.partition("=")[0].strip()) in fixed:
            raise ConfigError(f"--set {key}: it is set for every run here; leave it out")
    found = [Setup(DEFAULT, request.dataset, request.base, request.overrides)]
    for path in request.variants:
        if any(path.stem == setup.name for setup in found):
            taken = "the data set's own config" if path.stem == DEFAULT else "another variant"
            raise ConfigError(f"{path}: {path.stem!r} is already the name of {taken}; rename the file")
        found.append(Setup(path.stem, request.dataset, (*request.base, path), request.overrides, path))
    for setup in found:
        setup.config()  # all are checked before any runs
    return found


def evaluate(config: Config, debug: bool = False) -> Outcome:
    """Make one evaluation fresh and return its metrics; a failure is returned, not raised."""
    errors: list[str] = []
    try:
        plan = Plan(config)
        code = ensure(plan, plan.named(STAGE), Options(debug=debug, quiet=True), errors.append)
        if code:
            return Outcome(code, " ".join(errors) or "it did not finish")
        slug = plan.named(STAGE).slug
        artifacts = [plan.artifact(stage.slug) for stage in plan.closure(slug)]
        return Outcome(
            metrics=plan.artifact(slug).json("metrics.json"),
            seconds={str(artifact.path): float(artifact.manifest["seconds"]) for artifact in artifacts},
            hosts=frozenset(str(artifact.manifest["host"]) for artifact in artifacts),
        )
    except UserError as error:
        return Outcome(error.exit_code, str(error))


def is_fresh(config: Config) -> bool:
    """Whether an evaluation needs no run."""
    try:
        plan = Plan(config)
        return plan.state(plan.named(STAGE).slug).fresh
    except UserError:
        return False


def settings_key(config: Config) -> str:
    """Return a key of all settings that a gamma is chosen for: everything but fold, seed and gamma itself."""
    neutral = config.model_copy(
        update={
            "data": config.data.model_copy(update={"fold": None, "folds": 2}),
            "train": config.train.model_copy(update={"seed": 0}),
            "evaluate": config.evaluate.model_copy(update={"gamma": 0.0, "gamma_sweep": ()}),
        }
    )
    return Plan(neutral).key(Plan(neutral).named(STAGE).slug)[:16]


class Clock:
    """Says how long the remaining runs will take, from the runs of this session that were really made.

    Args:
        total: number of runs.
        to_make: how many of them are not fresh yet.
    """

    def __init__(self, total: int, to_make: int) -> None:
        self.total, self.to_make = total, to_make
        self.done, self.made, self.spent = 0, 0, 0.0
        self._started = time.monotonic()

    def finished(self, fresh: bool) -> str:
        """Count a run that ends now and began when the last one ended; return "fresh" or its time, and what is left.

        Args:
            fresh: whether it was there already.
        """
        now = time.monotonic()
        took, self._started = now - self._started, now
        self.done += 1
        if not fresh:
            self.made, self.spent = self.made + 1, self.spent + took
        left = max(0, self.to_make - self.made)
        rest = f", about {duration(left * self.spent / self.made)} left" if left and self.made else ""
        return f"{'fresh' if fresh else duration(took)}{rest}"


def headline(outcome: Outcome) -> str:
    """Return the metrics of a run in a few words, or that it failed."""
    if outcome.code:
        return f"failed: {outcome.error}"
    words = [f"{word} {_number(outcome.metrics[key])}" for key, word in _HEADLINE.items()]
    return ", ".join(words)


_HEADLINE = {"hIoU": "hIoU", "mIoU_seen": "S", "mIoU_unseen": "U"}


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.1f}"


def circumstances(request: Request, config: Config, outcomes: Iterable[Outcome]) -> dict[str, Any]:
    """Return command, machine and time of a set of runs, as facts of a table."""
    from stages.machine import describe_machine

    seconds: dict[str, float] = {}
    hosts: set[str] = set()
    for outcome in outcomes:
        seconds.update(outcome.seconds)
        hosts |= outcome.hosts
    elsewhere = sorted(hosts - {platform.node()})
    total = sum(seconds.values())
    return {
        "command": request.command,
        "machine": describe_machine(config.runtime.device),
        "some of it made on": ", ".join(elsewhere),
        "time from nothing": duration(total),
        "seconds": round(total, 1),
    }


def write_files(folder: Path, files: Mapping[str, str]) -> None:
    """Write text files, each at once or not at all.

    Raises:
        UserError: the folder cannot be written.
    """
    with refusals_named(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            new = folder / f".{name}.tmp"
            new.write_text(text, encoding="utf-8")
            new.replace(folder / name)


def say(text: str) -> None:
    """Print a line of progress."""
    print(text, file=sys.stderr, flush=True)


# --- ablate -----------------------------------------------------------------------------------------------------------


def ablate(request: Request, gammas: Path | None = None) -> int:
    """Evaluate the default and every variant with every seed, and write one table.

    Args:
        request: what was asked for.
        gammas: file of the gammas that `tune --gamma-only` chose; None for its usual place, if it is there.

    Returns:
        0, 1 if some run failed (its variant's other runs are in the table), or 130 if interrupted.

    Raises:
        ConfigError: a refused config or option; nothing was run.
        DataError: the raw files or the weights are not there; nothing was run.
    """
    found = setups(request, ("train.seed",))
    folder = request.folder("ablations")
    seeds = tuple(range(request.seeds))
    tuned, notes = _tuned(request, found, gammas)
    configs = {
        (setup.name, seed): setup.config(override("train.seed", seed), *_wider_sweep(setup, tuned))
        for seed in seeds
        for setup in found
    }
    outcomes = _run_all(configs, request.debug)
    if outcomes is None:
        return INTERRUPTED
    table = _table(request, found, seeds, configs, outcomes, tuned, notes)
    write_files(folder, _forms(table, outcomes))
    from stages.tables import to_markdown

    print(to_markdown(table))
    print(folder / "ablation.html")
    return 1 if table.failures else 0


def _run_all(configs: Mapping[tuple[str, int], Config], debug: bool) -> dict[tuple[str, int], Outcome] | None:
    """Run everything, one line a run; None if interrupted."""
    fresh = {key: is_fresh(config) for key, config in configs.items()}
    clock = Clock(len(configs), sum(not there for there in fresh.values()))
    outcomes: dict[tuple[str, int], Outcome] = {}
    for (name, seed), config in configs.items():
        outcome = outcomes[name, seed] = evaluate(config, debug)
        if outcome.code == INTERRUPTED:
            return None
        took = clock.finished(fresh[name, seed])
        say(f"[{clock.done}/{clock.total}] {name}, seed {seed}: {headline(outcome)} ({took})")
    return outcomes


def _tuned(request: Request, found: Sequence[Setup], path: Path | None) -> tuple[dict[str, float], list[str]]:
    """Return the gammas recorded for the variants as they are now, and remarks about those that are not usable."""
    config = found[0].config()
    usual = config.runtime.artifacts / request.dataset / "tuning" / "gamma" / GAMMAS
    path = path or (usual if usual.is_file() else None)
    records: dict[str, GammaRecord] = read_gammas(path) if path else {}
    tuned, notes = {}, []
    for setup in found:
        record = records.get(setup.name)
        if record is not None and record.settings == settings_key(setup.config()):
            tuned[setup.name] = record.gamma
        elif record is not None:
            notes.append(f"the gamma in {path} for {setup.name} was chosen for other settings: run tune --gamma-only")
        elif records:
            notes.append(f"{path} holds no gamma for {setup.name}: run tune --gamma-only with its file")
    return tuned, notes


def _wider_sweep(setup: Setup, tuned: Mapping[str, float]) -> list[str]:
    """Return an override that adds gammas which the tables need to the sweep; [] if it has them, as is usual."""
    settings = setup.config().evaluate
    wanted = {0.0, tuned.get(setup.name, 0.0)} - {settings.gamma, *settings.gamma_sweep}
    return [override("evaluate.gamma_sweep", [*settings.gamma_sweep, *sorted(wanted)])] if wanted else []


def _table(
    request: Request,
    found: Sequence[Setup],
    seeds: tuple[int, ...],
    configs: Mapping[tuple[str, int], Config],
    outcomes: Mapping[tuple[str, int], Outcome],
    tuned: Mapping[str, float],
    notes: Sequence[str],
) -> Table:
    from stages import tables

    runs = [
        tables.Run(name, seed, configs[name, seed].evaluate.gamma, tables.read_sweep(outcome.metrics))
        for (name, seed), outcome in outcomes.items()
        if not outcome.code
    ]
    default = configs[DEFAULT, seeds[0]]
    return tables.Table(
        dataset=request.dataset,
        seeds=seeds,
        variants=_described(found, {setup.name: configs[setup.name, seeds[0]] for setup in found}),
        sections=tables.build_sections([setup.name for setup in found], seeds, runs, tuned),
        failures=tuple((name, seed, o.error) for (name, seed), o in outcomes.items() if o.code),
        notes=(*_warnings(default), *notes),
        facts=circumstances(request, default, outcomes.values()),
    )


def _warnings(config: Config) -> list[str]:
    """Return what a reader of any number must know first."""
    remarks = []
    if config.clip.weights == "random":
        remarks.append("random CLIP weights: these numbers mean nothing, they show only that every stage ran")
    if config.data.fold is not None:
        remarks.append(
            f"fold {config.data.fold}: unseen means seen classes that were hidden; no unseen class is scored"
        )
    return remarks


def _described(found: Sequence[Setup], configs: Mapping[str, Config]) -> tuple[Any, ...]:
    from stages.tables import Variant

    base = _flat(configs[DEFAULT])
    slug = Plan(configs[DEFAULT]).named(STAGE).slug
    first_of: dict[str, str] = {}
    variants = []
    for setup in found:
        values = _flat(configs[setup.name])
        changes = {key: (base[key], values[key]) for key in base if base[key] != values[key]}
        same_as = first_of.setdefault(Plan(configs[setup.name]).key(slug), setup.name)
        variants.append(
            Variant(
                setup.name,
                str(setup.file or ""),
                opening_comment(setup.file) if setup.file else "",
                changes,
                "" if same_as == setup.name else same_as,
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
                if not is_runtime(info) or (isinstance(extra, Mapping) and "identity" in extra):
                    values[f"{name}.{key}"] = json.dumps(plain[key])
    return values


def _forms(table: Table, outcomes: Mapping[tuple[str, int], Outcome]) -> dict[str, str]:
    """Return the four files of a table. The JSON also holds what each run measured and took."""
    from stages.ablation_page import render_page
    from stages.tables import to_csv, to_json, to_markdown

    runs = [
        {"variant": name, "seed": seed, "metrics": outcome.metrics, "seconds": outcome.seconds}
        for (name, seed), outcome in outcomes.items()
        if not outcome.code
    ]
    return {
        "table.md": to_markdown(table),
        "table.csv": to_csv(table),
        "table.json": json.dumps({**to_json(table), "runs": runs}, indent=1, ensure_ascii=False) + "\n",
        "ablation.html": render_page(table),
    }
