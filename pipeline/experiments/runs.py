"""The parts of `ablate` and `tune`: variants of a config, one evaluation through the cache, and the time that is left.

Every run is an ordinary Evaluate through the cache, so whatever two runs share is made once, a finished run is never
made again, and an interrupted set goes on where it stopped.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import platform
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from split_matching.cache.disk_errors import refusals_named
from split_matching.cache.files import atomic_write
from split_matching.configs.load import dataset_name, load_config
from split_matching.configs.schema import Config
from split_matching.errors import ConfigError, UserError
from split_matching.pipeline.plan import Stage
from split_matching.pipeline.run.launch import INTERRUPTED, Options, ensure
from split_matching.pipeline.stages import make_plan
from split_matching.pipeline.text import format_duration

DEFAULT = "default"
STAGE = "Evaluate"
GAMMAS = "gammas.yaml"
PR_SET_PDEATHSIG = 1

Key = TypeVar("Key")


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
        jobs: evaluations at the same time.
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
    jobs: int = 1
    debug: bool = False

    def folder(self, kind: str) -> Path:
        """Return where results go: artifacts/<dataset>/<kind>/<name>, if no other folder was asked for."""
        if not self.name or Path(self.name).name != self.name:
            raise ConfigError(f"--name {self.name!r}: expected a plain word; a path is given by --out")
        artifacts = load_config(self.dataset, self.base, self.overrides).runtime.artifacts
        return self.out or artifacts / dataset_name(self.dataset) / kind / self.name


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
        fresh: whether it was there already.
        took: seconds from beginning to end, now.
    """

    code: int = 0
    error: str = ""
    metrics: Mapping[str, Any] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    hosts: frozenset[str] = frozenset()
    fresh: bool = False
    took: float = 0.0


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
    started = time.monotonic()
    errors: list[str] = []
    try:
        plan = make_plan(config)
        stage = plan.stage(STAGE)
        fresh = stage.state.fresh
        if not fresh:
            _import_code(stage)
        code = 0 if fresh else ensure(stage, Options(debug=debug, quiet=True), errors.append)
        if code:
            return Outcome(code, " ".join(errors) or "it did not finish", took=time.monotonic() - started)
        artifacts = [member.artifact() for member in plan.closure(stage.name)]
        return Outcome(
            metrics=stage.artifact().json("metrics.json"),
            seconds={str(artifact.path): float(artifact.manifest["seconds"]) for artifact in artifacts},
            hosts=frozenset(str(artifact.manifest["host"]) for artifact in artifacts),
            fresh=fresh,
            took=time.monotonic() - started,
        )
    except UserError as error:
        return Outcome(error.exit_code, str(error), took=time.monotonic() - started)
    except Exception as error:  # a bug in one variant, or in code that is being edited, is no reason to stop the others
        if debug:
            traceback.print_exc()
        message = f"{type(error).__name__}: {' '.join(str(error).split())}; rerun with --debug"
        return Outcome(1, message, took=time.monotonic() - started)


def _import_code(stage: Stage) -> None:
    """Import the code of all that a run may need, so that edits from now on change nothing for this process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of luigi's, which this imports
        from split_matching.pipeline.run.work import set_threads

    runtime = stage.config.runtime
    set_threads(runtime, alone=runtime.workers == 1)
    for member in stage.plan.closure(stage.name):
        member.import_module()


class Evaluations(contextlib.AbstractContextManager["Evaluations"]):
    """Evaluates configs, several at the same time if asked to.

    Processes that need the same artifact wait for the first of them: the cache locks what is being made.

    Args:
        jobs: processes; 1 runs all in this one, in order.
        debug: print tracebacks.
    """

    def __init__(self, jobs: int = 1, debug: bool = False) -> None:
        self.jobs, self.debug = jobs, debug
        self._pool: ProcessPoolExecutor | None = None

    def run(self, configs: Mapping[Key, Config]) -> Iterator[tuple[Key, Outcome]]:
        """Evaluate configs, given by any name, and yield each as it ends."""
        if self.jobs == 1:
            for key, config in configs.items():
                yield key, evaluate(config, self.debug)
            return
        if self._pool is None:
            # spawned, not forked: a worker may use the GPU
            spawn = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self.jobs, spawn, _end_with_parent, (os.getpid(),))
        submit = self._pool.submit
        started = {
            submit(_evaluate_in_worker, _sharing_cores(config, self.jobs), self.debug): key
            for key, config in configs.items()
        }
        for future in as_completed(started):
            try:
                yield started[future], future.result()
            except BrokenProcessPool:
                self._pool = None  # it takes no more work
                message = "a worker process died; memory may have run out: use fewer --jobs"
                yield started[future], Outcome(1, message)

    def __exit__(self, kind: type[BaseException] | None, *details: object) -> None:
        """End the workers; if something was raised, without waiting for what they do."""
        if self._pool is None:
            return
        self._pool.shutdown(wait=False, cancel_futures=True)
        if kind is not None:
            for worker in multiprocessing.active_children():
                worker.terminate()  # a run in progress ends as if interrupted
        self._pool.shutdown()


def _evaluate_in_worker(config: Config, debug: bool) -> Outcome:
    outcome = evaluate(config, debug)
    if outcome.code == INTERRUPTED:
        os._exit(INTERRUPTED)  # a pool hands out work ahead: returning would begin the next run
    return outcome


def _sharing_cores(config: Config, jobs: int) -> Config:
    if config.runtime.threads:
        return config
    threads = max(1, len(os.sched_getaffinity(0)) // jobs)
    return config.model_copy(update={"runtime": config.runtime.model_copy(update={"threads": threads})})


def _end_with_parent(parent: int) -> None:
    """In a worker: leave Ctrl-C to the parent, which ends the workers, and end with the parent if that is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        os._exit(1)


def is_fresh(config: Config) -> bool:
    """Whether an evaluation needs no run."""
    try:
        return make_plan(config).stage(STAGE).state.fresh
    except (UserError, SyntaxError):  # the run will say so
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
    return make_plan(neutral).stage(STAGE).key[:16]


class Clock:
    """Counts runs and says how long the remaining ones will take, from those of this session that were really made.

    Args:
        total: number of runs.
        fresh: how many of them are known to be there already.
    """

    def __init__(self, total: int, fresh: int = 0) -> None:
        self.total = total
        self.done = 0
        self._expected_fresh, self._made = fresh, 0
        self._started = time.monotonic()

    def line(self, name: str, outcome: Outcome) -> str:
        """Count a run that ended, and return a line that says how it went and how long the others will take."""
        self.done += 1
        if outcome.fresh:
            self._expected_fresh = max(0, self._expected_fresh - 1)
        else:
            self._made += 1
        left = self.total - self.done - self._expected_fresh
        # fresh runs take no time, so what has passed since the start went into those that were made
        pace = (time.monotonic() - self._started) / max(1, self._made)
        rest = f", about {format_duration(left * pace)} left" if left > 0 and self._made else ""
        took = "fresh" if outcome.fresh else format_duration(outcome.took)
        return f"[{self.done}/{self.total}] {name}: {headline(outcome)} ({took}{rest})"

    def drop(self, runs: int) -> None:
        """Count runs out that are not needed after all."""
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
    from split_matching.pipeline.experiments.machine import describe_machine

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
        "compute time": format_duration(total),
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
            with atomic_write(folder / name) as temporary:
                temporary.write_text(text, encoding="utf-8")


def say(text: str) -> None:
    """Print a line of progress."""
    print(text, file=sys.stderr, flush=True)
