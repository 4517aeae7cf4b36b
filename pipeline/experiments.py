"""The parts of `ablate` and `tune`: variants of a config, one evaluation through the cache, and the time that is left.

Every run is an ordinary Evaluate through the cache, so whatever two runs share is made once, a finished run is never
made again, and an interrupted set goes on where it stopped.
"""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cache.refusals import refusals_named
from configs.errors import ConfigError, UserError
from configs.load import load_config
from configs.schema import Config
from pipeline.graph import Plan
from pipeline.launch import Options, ensure
from pipeline.progress import duration

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
        fresh: how many of them are known to be there already.
    """

    def __init__(self, total: int, fresh: int = 0) -> None:
        self.total = total
        self.done = 0
        self._expected_fresh, self._made, self._spent = fresh, 0, 0.0
        self._started = time.monotonic()

    def finished(self, fresh: bool) -> str:
        """Count a run that ends now and began when the last one ended; return "fresh" or its time, and what is left.

        Args:
            fresh: whether it was there already.
        """
        now = time.monotonic()
        took, self._started = now - self._started, now
        self.done += 1
        if fresh:
            self._expected_fresh = max(0, self._expected_fresh - 1)
        else:
            self._made, self._spent = self._made + 1, self._spent + took
        left = self.total - self.done - self._expected_fresh
        rest = f", about {duration(left * self._spent / self._made)} left" if left > 0 and self._made else ""
        return f"{'fresh' if fresh else duration(took)}{rest}"

    def drop(self, runs: int) -> None:
        """Count runs out that will not be needed."""
        self.total -= runs


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
