"""Makes a stage's artifact, or one of its shards: opens the build, takes its lock, calls the module, and commits.

Every step asks the cache again before it works, because an upstream that was rebuilt with identical bytes makes a stage
fresh, and because another process may have been faster.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from types import ModuleType
from typing import Any

from split_matching.cache.build import Build, OtherShardsError, open_build, recover
from split_matching.cache.entry import read_progress
from split_matching.cache.shard_reader import ShardSet
from split_matching.cache.shard_writer import ShardWriter
from split_matching.configs.runtime_settings import RuntimeConfig
from split_matching.errors import UserError, format_count
from split_matching.pipeline.known_runs import EVALUATED, REPORTED, describe_run
from split_matching.pipeline.plan import Stage
from split_matching.pipeline.run import session, torchrun
from split_matching.pipeline.run.cpu import WAITING, keep_memory
from split_matching.pipeline.run.events import EventFile
from split_matching.pipeline.run.gpus import take_gpu
from split_matching.pipeline.run_tables import list_differences
from split_matching.stages.ground.context import Shard, StageContext
from split_matching.stages.pages.about import About, ReportContext

ATTEMPTS = 3  # to open a build that other processes start at the same time


def make_artifact(stage: Stage) -> None:
    """Make the artifact of a stage unless it is fresh; the shards of a sharded stage are there already."""
    work = _commit_shards if stage.splits else _run_whole
    while not _is_fresh(stage):
        build = _open(stage)
        with build.lock(lambda: _say(stage, "waiting for another process that makes it")) as held:
            if not held:
                continue
            if stage.own_state.fresh:
                build.discard()
                return
            work(stage, build)
            session.current().display.end(stage.command)


def make_shard(stage: Stage, shard: Shard) -> None:
    """Make one shard of a stage unless it is finished.

    Raises:
        SkippedError: another task of the run has failed.
        UserError: another process threw the build away meanwhile.
    """
    recover(stage.entry, stage.recipe)
    if is_made(stage, shard):
        return
    if session.has_failed():
        raise session.SkippedError
    build = _open(stage)
    with build.lock_shard(shard.split, shard.index) as held:
        # another process may have started a build of other shards: the stage then asks for these
        if held and _resumes(stage, shard) and not build.is_done(shard.split, shard.index):
            _run_shard(stage, shard, build)
    if shard in stage.shards() and not is_made(stage, shard):
        raise UserError(
            f"{build.path} was started again by a process with other code or inputs: run this again when that has ended"
        )


def is_made(stage: Stage, shard: Shard) -> bool:
    """Whether a shard is finished, in the build in progress or in a fresh artifact."""
    if stage.entry.is_done(shard.split, shard.index):
        return _resumes(stage, shard)
    return stage.own_state.fresh and stage.state.fresh


def _resumes(stage: Stage, shard: Shard) -> bool:
    """Whether the build in progress is one that is not thrown away, and cut as this shard."""
    return shard in stage.shards() and stage.entry.resumes(stage.recipe, stage.shard_digests(), stage.force)


def load_module(stage: Stage, alone: bool) -> ModuleType:
    """Import a stage's module, and set how many CPU threads and, in a worker, which GPU it may use.

    In a sharded stage an operation of torch has one thread, and images are worked on side by side, see
    `stages.ground.device.images_at_once`: matrix kernels round otherwise with another number of threads, and the bytes
    of a shard must not depend on the number of workers.

    Args:
        stage: the stage.
        alone: whether it runs by itself, with all cores; otherwise workers share them.
    """
    runtime = stage.config.runtime
    threads = set_up_cpu(runtime, alone)
    module = stage.import_module()
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1 if stage.splits else threads)
        if session.is_worker():
            take_gpu(torch, runtime.device)
    return module


def set_up_cpu(runtime: RuntimeConfig, alone: bool) -> int:
    """Say how many CPU threads libraries that are yet to be loaded use, and keep freed memory; return that number."""
    cores = len(os.sched_getaffinity(0))
    threads = runtime.threads or (cores if alone else max(1, cores // runtime.workers))
    os.environ["OMP_NUM_THREADS"] = str(threads)
    for name, value in WAITING.items():
        os.environ.setdefault(name, value)
    keep_memory()
    return threads


def _is_fresh(stage: Stage) -> bool:
    recover(stage.entry, stage.recipe)
    return stage.own_state.fresh


def _open(stage: Stage) -> Build:
    say = partial(_say, stage)
    for _ in range(ATTEMPTS):
        with contextlib.suppress(OtherShardsError):  # another process was faster: its shards are as good
            return open_build(stage.entry, stage.recipe, stage.shard_digests(), stage.force, say)
    return open_build(stage.entry, stage.recipe, stage.shard_digests(), stage.force, say)


def _say(stage: Stage, line: str) -> None:
    session.current().display.say(f"{stage.command}: {line}")


def _run_whole(stage: Stage, build: Build) -> None:
    build.clear(stage.resumes)
    module = load_module(stage, alone=True)
    display = session.current().display
    started = time.monotonic() - read_progress(build.path)[2]  # with the time of interrupted runs
    display.start(stage.command)
    run = torchrun.share_training(module.run, stage)
    with EventFile(stage) as events:

        def report(step: int, numbers: Mapping[str, float]) -> None:
            display.note(stage.command, step, numbers)
            events.add(step, numbers)

        ctx = replace(_context(stage, build, display.counter(stage.command)), report=report)
        summary = run(ctx) or {}
    images = summary.get("images", 0)
    stage.check_files()
    build.commit(time.monotonic() - started, summary, images if isinstance(images, int) else 0)


def _run_shard(stage: Stage, shard: Shard, build: Build) -> None:
    shards = stage.shards()
    slot = shards.index(shard)
    display = session.current().display
    if not display.started(stage.command):
        before = sum(len(s.ids) for s in shards if build.is_done(s.split, s.index))
        display.start(stage.command, sum(len(s.ids) for s in shards), before, len(shards))
    module = load_module(stage, alone=False)
    ctx = _context(stage, build, display.counter(stage.command, slot))
    started = time.monotonic()
    with ShardWriter(build.shard_file(shard.split, shard.index), module.KIND, module.fields(ctx.config)) as writer:
        module.run_shard(ctx, shard, writer)
        if tuple(writer.ids) != shard.ids:
            found = f"got {len(writer.ids)} images, expected {len(shard.ids)}"
            raise RuntimeError(f"shard {shard.split} {shard.index} {found}")
    stage.check_files()
    build.finish(shard.split, shard.index, time.monotonic() - started)


def _commit_shards(stage: Stage, build: Build) -> None:
    shards = stage.shards()
    if missing := [shard for shard in shards if not build.is_done(shard.split, shard.index)]:
        raise UserError(f"{format_count(len(missing), 'shard')} vanished from {build.path}: run it again")
    images = sum(len(shard.ids) for shard in shards)
    summary: dict[str, Any] = {"images": images, "shards": len(shards)}
    if summarise := getattr(stage.import_module(), "summarise", None):
        files = [build.shard_file(shard.split, shard.index) for shard in shards if shard.split == stage.splits[0]]
        summary |= summarise(ShardSet(files))
    build.commit(build.shard_seconds(), summary, images)
    for line in stage.remarks(summary):
        _say(stage, line)


def _context(stage: Stage, build: Build, progress: Callable[[int, int], Any]) -> StageContext:
    given = (stage.slice, stage.inputs(), build.path, stage.config.runtime, stage.data_root, progress)
    say = partial(_say, stage)
    if stage.name == REPORTED:
        return ReportContext(*given, say=say, about=_about(stage))
    return StageContext(*given, say=say)


def _about(stage: Stage) -> About:
    """Return what the page of a run says of it besides its results."""
    run = describe_run(stage.plan.root, stage.plan[EVALUATED].artifact())
    return About(run.note.name, run.note.text, run.seed, tuple(list_differences(run)))
