"""Runs the evaluations of an experiment, one by one or several at the same time, and says how long it will take.

Every run is an ordinary Evaluate through the cache: what two runs share is made once, a finished run is not made again,
and an interrupted experiment continues where it stopped.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from typing import Any, TypeVar

from split_matching.configs.schema import Config
from split_matching.errors import UserError, format_count
from split_matching.pipeline.experiments.variants import STAGE, Repeat
from split_matching.pipeline.plan import Stage
from split_matching.pipeline.run.ending import INTERRUPTED, end_with_parent
from split_matching.pipeline.run.launch import Options, ensure
from split_matching.pipeline.run.progress import LOGGER
from split_matching.pipeline.stages import make_plan
from split_matching.stages.ground.durations import format_duration

SHOWN = {"hIoU": "hIoU", "mIoU_seen": "S", "mIoU_unseen": "U"}
"""Metrics in the line of a run: name in `metrics.json` -> word."""

Key = TypeVar("Key")


@dataclass(frozen=True)
class Outcome:
    """What became of one run.

    Args:
        code: exit code of the run; 0 if `metrics` are there.
        error: why it failed, in a line.
        metrics: content of `metrics.json`.
        seconds: by folder, the time that each artifact behind the metrics took, now or in an earlier run.
        hosts: machines that made these artifacts.
        fresh: whether nothing had to run.
        took: seconds that the run took now.
    """

    code: int = 0
    error: str = ""
    metrics: Mapping[str, Any] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    hosts: frozenset[str] = frozenset()
    fresh: bool = False
    took: float = 0.0


Configs = Mapping[tuple[str, Repeat], Config]
"""The config of each run, by variant and repeat."""
Outcomes = Mapping[tuple[str, Repeat], Outcome]
"""What became of each run, by variant and repeat."""


def run_all(configs: Configs, jobs: int, debug: bool) -> Outcomes | None:
    """Run everything; print what each run does now and then, and a line when it has ended.

    Args:
        configs: of every run.
        jobs: evaluations at the same time.
        debug: print tracebacks.

    Returns:
        What became of each run, in the order of `configs`; None if interrupted.
    """
    fresh = sum(is_fresh(config) for config in configs.values())
    progress = RunProgress(len(configs), fresh)
    outcomes: dict[tuple[str, Repeat], Outcome] = {}
    _say(f"{format_count(len(configs), 'run')} of Evaluate, {jobs} at a time; {fresh} in the cache")
    with EvaluationPool(jobs, debug) as pool:
        for key, outcome in pool.run(configs, _name_run):
            if outcome.code == INTERRUPTED:
                return None
            outcomes[key] = outcome
            _say(progress.count(_name_run(key), outcome))
    return {key: outcomes[key] for key in configs}


def _name_run(key: tuple[str, Repeat]) -> str:
    name, repeat = key
    return f"{name}, {repeat}"


def _say(line: str) -> None:
    LOGGER.info(line)
    print(line, file=sys.stderr, flush=True)


def evaluate(config: Config, debug: bool = False, label: str = "") -> Outcome:
    """Make one evaluation fresh and return its metrics; a failure is returned, not raised.

    Args:
        config: what to evaluate.
        debug: print tracebacks.
        label: begins each line of progress.
    """
    started = time.monotonic()
    errors: list[str] = []
    try:
        plan = make_plan(config)
        stage = plan.stage(STAGE)
        fresh = stage.state.fresh
        if not fresh:
            _import_code(stage)
        code = 0 if fresh else ensure(stage, Options(debug=debug, label=label), errors.append)
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
    except Exception as error:  # a bug in one variant, or in code that is being edited: the others run
        if debug:
            traceback.print_exc()
        message = f"{type(error).__name__}: {' '.join(str(error).split())}; rerun with --debug"
        return Outcome(1, message, took=time.monotonic() - started)


def _import_code(stage: Stage) -> None:
    """Import the code of all that a run may need, so that edits from now on change nothing for this process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of luigi's, which this imports
        from split_matching.pipeline.run.work import set_up_cpu

    runtime = stage.config.runtime
    set_up_cpu(runtime, alone=runtime.workers == 1)
    for member in stage.plan.closure(stage.name):
        member.import_module()


class EvaluationPool(contextlib.AbstractContextManager["EvaluationPool"]):
    """Evaluates configs, several at the same time if asked to.

    Processes that need the same artifact wait for the first of them: the cache locks a build.

    Args:
        jobs: processes; 1 runs all in this one, in order.
        debug: print tracebacks.
    """

    def __init__(self, jobs: int = 1, debug: bool = False) -> None:
        self.jobs, self.debug = jobs, debug
        self._pool: ProcessPoolExecutor | None = None

    def run(self, configs: Mapping[Key, Config], name: Callable[[Key], str] = str) -> Iterator[tuple[Key, Outcome]]:
        """Evaluate configs, given by any key, and yield each as it ends; `name` says what a key is called."""
        if self.jobs == 1:
            for key, config in configs.items():
                yield key, evaluate(config, self.debug, name(key))
            return
        # spawned, not forked: a worker may use the GPU
        spawn = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(self.jobs, spawn, _settle_into_process, (os.getpid(),))
        submit = self._pool.submit
        started = {
            submit(_evaluate_in_worker, _share_cores(config, self.jobs), self.debug, name(key)): key
            for key, config in configs.items()
        }
        for future in as_completed(started):
            try:
                yield started[future], future.result()
            except BrokenProcessPool:
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


def _evaluate_in_worker(config: Config, debug: bool, label: str) -> Outcome:
    outcome = evaluate(config, debug, label)
    if outcome.code == INTERRUPTED:
        os._exit(INTERRUPTED)  # a pool hands out work ahead: after a return the next run would start
    return outcome


def _share_cores(config: Config, jobs: int) -> Config:
    if config.runtime.threads:
        return config
    threads = max(1, len(os.sched_getaffinity(0)) // jobs)
    return config.model_copy(update={"runtime": config.runtime.model_copy(update={"threads": threads})})


def _settle_into_process(parent: int) -> None:
    """In a worker: leave Ctrl-C to the parent, which ends the workers, and end when the parent is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent(parent)


def is_fresh(config: Config) -> bool:
    """Whether an evaluation needs no run."""
    try:
        return make_plan(config).stage(STAGE).state.fresh
    except (UserError, SyntaxError):  # the run will say so
        return False


class RunProgress:
    """Counts runs and says how long the remaining ones will take, by the runs of this session that were not fresh.

    Args:
        total: number of runs.
        fresh: how many of them are known to be fresh.
    """

    def __init__(self, total: int, fresh: int = 0) -> None:
        self.total = total
        self.done = 0
        self._expected_fresh, self._made = fresh, 0
        self._started = time.monotonic()

    def count(self, name: str, outcome: Outcome) -> str:
        """Count a run that ended, and return a line with its result and the time that is left."""
        self.done += 1
        if outcome.fresh:
            self._expected_fresh = max(0, self._expected_fresh - 1)
        else:
            self._made += 1
        left = self.total - self.done - self._expected_fresh
        # fresh runs take no time, so all the time since the start was spent on the others
        pace = (time.monotonic() - self._started) / max(1, self._made)
        rest = f", about {format_duration(left * pace)} left" if left > 0 and self._made else ""
        took = "fresh" if outcome.fresh else format_duration(outcome.took)
        return f"[{self.done}/{self.total}] {name}: {_describe(outcome)} ({took}{rest})"


def _describe(outcome: Outcome) -> str:
    """Return the metrics of a run in a few words, or why it failed."""
    if outcome.code:
        return f"failed: {outcome.error}"
    return ", ".join(f"{word} {_number(outcome.metrics[key])}" for key, word in SHOWN.items())


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.1f}"
