"""The base of all luigi tasks: when a stage runs, under which lock, with which context, and how its failure travels.

luigi decides the order and forks the workers; whether something is to be done is asked of the cache alone. `complete()`
changes nothing. A task asks again before it works, because an upstream that was rebuilt with identical bytes makes it
fresh, and because another process may have been faster.

A task's id holds `work`, a digest of the cache, keys, code and shards: at a scheduler that several processes share, two
tasks with one id may be done by either process. Config is no part of the id, for its runtime settings may differ.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import secrets
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import luigi

from split_matching.cache.disk_errors import REFUSALS, refusal
from split_matching.cache.shard_reader import ShardWriter
from split_matching.cache.store import Build
from split_matching.configs.schema import Config
from split_matching.errors import UserError
from split_matching.pipeline.plan import Plan, Stage
from split_matching.pipeline.run import torchrun as distributed
from split_matching.pipeline.run.gpus import WAITING, take_gpu
from split_matching.pipeline.run.progress import ProgressDisplay
from split_matching.stages.ground.context import Shard, StageContext

PR_SET_PDEATHSIG = 1


@dataclass
class Session:
    """What all tasks of one run share; forked workers inherit it.

    Args:
        board: where progress is shown.
        failures: folder in which a failing task leaves a record; None to leave none.
        force: slug of the stage to make again.
        token: digest of the manifest that it supersedes.
        pid: process that started the run; any other is a worker.
    """

    board: ProgressDisplay = field(default_factory=ProgressDisplay)
    failures: Path | None = None
    force: str = ""
    token: str = ""
    pid: int = field(default_factory=os.getpid)


_session = Session()


def begin(session: Session) -> None:
    """Set the session of the tasks that run from now on."""
    global _session
    _session = session
    plan_of.cache_clear()


@lru_cache(maxsize=8)
def plan_of(config: str) -> Plan:
    """Return the plan of a config, given as JSON."""
    return Plan(Config.model_validate_json(config), _session.force, _session.token)


class SkippedError(Exception):
    """Another shard failed, so this one was not begun."""


class StageTask(luigi.Task):
    """One stage. Subclasses have the stage's name and no code."""

    dataset = luigi.Parameter()
    key = luigi.Parameter()
    work = luigi.Parameter()
    config = luigi.Parameter(significant=False)

    by_name: ClassVar[dict[str, type[StageTask]]] = {}

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        StageTask.by_name[cls.__name__] = cls

    @property
    def plan(self) -> Plan:
        """The plan of this task's config."""
        return plan_of(self.config)

    @property
    def stage(self) -> Stage:
        """This task's row of the table."""
        return self.plan.named(type(self).__name__)

    def requires(self) -> list[luigi.Task]:
        """The upstream stages and, of a sharded stage, the shards: known because all upstream is fresh (see launch)."""
        with recorded(self.stage.name):
            upstream = [make_task(self.plan, slug, self.config) for slug in self.stage.upstream]
            shards = self.plan.shards(self.stage.slug)
            return [*upstream, *(self._shard_task(shard, len(shards) - slot) for slot, shard in enumerate(shards))]

    def complete(self) -> bool:
        """Whether the artifact and everything upstream are fresh."""
        with recorded(self.stage.name):
            return self.plan.state(self.stage.slug).fresh

    def run(self) -> None:
        """Make the artifact unless it is fresh; the shards of a sharded stage are there already."""
        with recorded(self.stage.name):
            _settle_into_process()
            self._make(self._commit_shards if self.stage.sharded else self._run_whole)

    def _fresh(self) -> bool:
        self.plan.store.recover(self.plan.recipe(self.stage.slug))
        return self.plan.own_state(self.stage.slug).fresh

    def _shard_task(self, shard: Shard, priority: int) -> ShardTask:
        return ShardTask(
            dataset=self.dataset,
            stage=self.stage.name,
            key=self.key,
            work=self.work,
            split=shard.split,
            index=shard.index,
            priority=priority,
            config=self.config,
        )

    def _make(self, work: Callable[[Build], None]) -> None:
        """Do the work that commits the build, under its lock, unless another process was faster."""
        while not self._fresh():
            build = open_build(self.plan, self.stage.slug)
            with build.lock(self._waiting) as held:
                if not held:
                    continue
                if self.plan.own_state(self.stage.slug).fresh:
                    build.discard()
                    return
                work(build)
                _session.board.end(self.stage.name)

    def _commit_shards(self, build: Build) -> None:
        shards = self.plan.shards(self.stage.slug)
        if missing := [shard for shard in shards if not build.done(shard.split, shard.index)]:
            raise UserError(f"{len(missing)} shards vanished from {build.path}: run it again")
        summary = {"images": sum(len(shard.ids) for shard in shards), "shards": len(shards)}
        # without a shard of its own, this process has no time of its own either
        seconds = _session.board.seconds(self.stage.name) or sum(build.seconds(s.split, s.index) for s in shards)
        build.commit(seconds, summary, summary["images"])

    def _run_whole(self, build: Build) -> None:
        if not self.stage.resumes:
            build.clear()
        module = load_stage(self.plan, self.stage, alone=True)
        started = time.monotonic()
        _session.board.start(self.stage.name)
        progress = _session.board.counter(self.stage.name)
        run = distributed.shared(module.run, self.plan, self.stage)
        summary = run(context(self.plan, self.stage.slug, build, progress)) or {}
        images = summary.get("images", 0)
        build.commit(time.monotonic() - started, summary, images if isinstance(images, int) else 0)

    def _waiting(self) -> None:
        _session.board.say(f"{self.stage.name}: waiting for another process that makes it")


class ShardTask(luigi.Task):
    """One shard of one stage."""

    dataset = luigi.Parameter()
    stage = luigi.Parameter()
    key = luigi.Parameter()
    work = luigi.Parameter()
    split = luigi.Parameter()
    index = luigi.IntParameter()
    priority = luigi.IntParameter(significant=False)  # luigi takes the largest first
    config = luigi.Parameter(significant=False)

    @property
    def plan(self) -> Plan:
        """The plan of this task's config."""
        return plan_of(self.config)

    @property
    def slug(self) -> str:
        """Slug of the stage."""
        return self.plan.named(self.stage).slug

    def complete(self) -> bool:
        """Whether the shard is finished, in the build in progress or in a fresh artifact."""
        recipe = self.plan.recipe(self.slug)
        build = Build(self.plan.store, recipe, {}, "")
        if build.done(self.split, self.index):
            # a build of other code or other shards would be thrown away, with this shard
            return self.plan.store.goes_on(recipe, self.plan.shard_plan(self.slug), force_of(self.plan, self.slug))
        return self.plan.own_state(self.slug).fresh and self.plan.state(self.slug).fresh

    def run(self) -> None:
        """Make the shard unless it is finished."""
        with recorded(self.stage):
            _settle_into_process()
            self.plan.store.recover(self.plan.recipe(self.slug))
            if self.complete():
                return
            if failed():
                raise SkippedError
            build = open_build(self.plan, self.slug)
            with build.lock_shard(self.split, self.index) as held:
                if held and not build.done(self.split, self.index):
                    self._make(build)
            if not self.complete():
                raise UserError(
                    f"{build.path} was begun anew by a process with other code or another runtime.shard_size: "
                    "run this again when that has ended"
                )

    def _make(self, build: Build) -> None:
        shards = self.plan.shards(self.slug)
        slot = next(n for n, s in enumerate(shards) if (s.split, s.index) == (self.split, self.index))
        shard = shards[slot]
        if not _session.board.started(self.stage):
            before = sum(len(s.ids) for s in shards if build.done(s.split, s.index))
            _session.board.start(self.stage, sum(len(s.ids) for s in shards), before, len(shards))
        module = load_stage(self.plan, self.plan.stages[self.slug], alone=False)
        ctx = context(self.plan, self.slug, build, _session.board.counter(self.stage, slot))
        started = time.monotonic()
        path = build.shard_file(shard.split, shard.index)
        with ShardWriter(path, module.KIND, module.fields(ctx.config)) as writer:
            module.run_shard(ctx, shard, writer)
            _check_whole(writer, shard)
        build.finish(shard.split, shard.index, time.monotonic() - started)


def make_task(plan: Plan, slug: str, config: str) -> StageTask:
    """Return the task of a stage.

    Args:
        plan: the plan of the config.
        slug: the stage.
        config: the config as JSON.
    """
    task = StageTask.by_name[plan.stages[slug].name]
    return task(dataset=plan.config.dataset, key=plan.key(slug), work=plan.work(slug), config=config)


def force_of(plan: Plan, slug: str) -> str:
    """Return the token of a plan if it makes the stage again by force, else ""."""
    return plan.token if plan.force == slug else ""


def open_build(plan: Plan, slug: str) -> Build:
    """Open the build of a stage, with its shards where it has some."""
    return plan.store.open_build(plan.recipe(slug), plan.shard_plan(slug), force_of(plan, slug))


def context(plan: Plan, slug: str, build: Build, progress: Any) -> StageContext:
    """Return what a stage function is given."""
    return StageContext(
        plan.slice(slug), plan.inputs(slug), build.path, plan.config.runtime, plan.data_root(slug), progress
    )


def load_stage(plan: Plan, stage: Stage, alone: bool) -> ModuleType:
    """Import a stage's module, and set how many CPU threads and, in a worker, which GPU it may use.

    Args:
        plan: the plan of the config.
        stage: the stage.
        alone: whether it runs by itself, with all cores; otherwise workers share them.
    """
    threads = use_threads(plan, alone)
    module = importlib.import_module(stage.module)
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(threads)
        if os.getpid() != _session.pid:
            take_gpu(torch, plan.config.runtime.device)
    return module


def use_threads(plan: Plan, alone: bool) -> int:
    """Tell libraries that are yet to be loaded how many CPU threads to use, and return the number."""
    runtime = plan.config.runtime
    cores = len(os.sched_getaffinity(0))
    threads = runtime.threads or (cores if alone else max(1, cores // runtime.workers))
    os.environ["OMP_NUM_THREADS"] = str(threads)
    for name, value in WAITING.items():
        os.environ.setdefault(name, value)
    return threads


@contextlib.contextmanager
def recorded(stage: str) -> Iterator[None]:
    """Leave a record of an exception for the process that started the run, and let it pass on.

    A worker's exception reaches luigi's parent as text only. A refusal to write becomes a UserError here.
    """
    try:
        yield
    except SkippedError:
        raise
    except Exception as error:
        shown: Exception = error
        if not isinstance(error, UserError) and (number := refusal(error)) is not None:
            name = getattr(error, "filename", None) or "the cache"
            shown = UserError(f"cannot write {name}: {os.strerror(number).lower()}; {REFUSALS[number]}")
        record(stage, shown, traceback.format_exc())
        raise


def record(stage: str, error: Exception, trace: str = "") -> None:
    """Write the record of one failure."""
    if _session.failures is None:
        return
    value = {
        "stage": stage,
        "user": isinstance(error, UserError),
        "exit_code": error.exit_code if isinstance(error, UserError) else 1,
        "type": type(error).__name__,
        "message": str(error) if isinstance(error, UserError) else " ".join(str(error).split()),
        "traceback": trace,
    }
    try:
        path = _session.failures / f"{time.time_ns()}-{secrets.token_hex(4)}.json"
        path.write_text(json.dumps(value), encoding="utf-8")
    except OSError:  # the folder of temporary files is full as well, so nobody can read it later
        print(f"error: {stage}: {value['message']}", file=sys.stderr)


def failed() -> bool:
    """Whether some task of this run has failed."""
    return _session.failures is not None and any(_session.failures.iterdir())


def _check_whole(writer: ShardWriter, shard: Shard) -> None:
    if tuple(writer.ids) != shard.ids:
        raise RuntimeError(f"shard {shard.split} {shard.index} got {len(writer.ids)} images, expected {len(shard.ids)}")


def _settle_into_process() -> None:
    """In a worker: leave Ctrl-C to the parent, which ends the workers, and end with the parent if that is killed."""
    if os.getpid() == _session.pid:
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
