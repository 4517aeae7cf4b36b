"""Runs one stage with all it needs through luigi, and says in the end what became of each stage.

luigi reports success although a task failed, so the cache is asked whether the wanted artifact is fresh.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from split_matching.cache.folders import accept_input
from split_matching.cache.store import State
from split_matching.errors import CorruptError, UserError, one_line
from split_matching.model.weights_identity import is_tag
from split_matching.pipeline.plan import RAW_TIMES, Plan, Stage
from split_matching.pipeline.repair import rename_damaged_files
from split_matching.pipeline.run.progress import ProgressDisplay
from split_matching.pipeline.text import format_duration

INTERRUPTED = 130
MENDINGS = 3  # how often damaged files are renamed in one run: on a failing disk it must end
SETTINGS = {
    "core": {"no_configure_logging": "true"},
    "worker": {
        "keep_alive": "false",
        "wait_interval": "0.5",
        "wait_jitter": "0",
        "send_failure_email": "false",
        "cache_task_completion": "false",
        "no_install_shutdown_handler": "true",
    },
    # no worker of an own scheduler is ever dead: after the machine slept, the clock alone would say so
    "scheduler": {"retry_count": "1", "stable_done_cooldown_secs": "0", "worker_disconnect_delay": "1000000000"},
}


@dataclass(frozen=True)
class Options:
    """How a run behaves towards its user.

    Args:
        force: make the wanted stage again though it is fresh.
        debug: print tracebacks and luigi's log.
        quiet: print nothing but the last line and errors.
    """

    force: bool = False
    debug: bool = False
    quiet: bool = False


def _complain(message: str) -> None:
    print(f"error: {one_line(message)}", file=sys.stderr)


def launch(plan: Plan, stage: Stage, options: Options) -> int:
    """Make a stage's artifact fresh, and print one line for every stage on the way and the path of the result.

    Args:
        plan: the plan of the config.
        stage: the wanted stage.
        options: see Options.

    Returns:
        The exit code: 0 fresh, 1 failed, 130 interrupted, or that of a UserError.

    Raises:
        UserError: the raw files or weights that decide about keys are not there; nothing was run.
    """
    _compare_raw_files(plan, stage, options)
    if options.force:  # names the manifest that is there now, which a comparison may have written anew
        plan = plan.superseding(stage.slug)
    before = plan.states([stage.slug])
    code = 0 if before[stage.slug].fresh else _run(plan, stage, before, options)
    if code:
        return code
    if not options.quiet:
        _print_stages(plan, stage, before)
    print(_result(plan, stage))
    return 0


def ensure(plan: Plan, stage: Stage, options: Options, complain: Callable[[str], None] = _complain) -> int:
    """Make a stage's artifact fresh as `launch` does, but print nothing about the result.

    Args:
        plan: the plan of the config.
        stage: the wanted stage.
        options: see Options; `force` is not looked at.
        complain: called with the one line that says why it failed.

    Returns:
        The exit code, as of `launch`.

    Raises:
        UserError: as `launch`.
    """
    _compare_raw_files(plan, stage, options)
    before = plan.states([stage.slug])
    return 0 if before[stage.slug].fresh else _run(plan, stage, before, options, complain)


def _compare_raw_files(plan: Plan, stage: Stage, options: Options) -> None:
    """Read raw files that were copied or touched, and remember if they are the ones that PrepareDataset read.

    A trial on some images does without: it is made again as quickly.
    """
    member = next((s for s in plan.closure(stage.slug) if s.slug == "dataset"), None)
    if member is None or plan.config.data.images or not (times := plan.touched(member.slug)):
        return
    from split_matching.stages.data.prepare import RAW, raw_content

    artifact = plan.artifact(member.slug)
    board = ProgressDisplay([member.name], [member.unit], quiet=options.quiet)
    board.say(f"{member.name}: raw files have other times than before; comparing their contents")
    board.start(member.name)
    with contextlib.suppress(UserError):  # a missing or damaged file is for PrepareDataset to name
        before = artifact.json(RAW)["sha256"]
        content = raw_content(plan.source(), board.counter(member.name), plan.config.runtime.threads)
        if content == before:
            accept_input(artifact, RAW_TIMES, times)
    board.clear()


def _run(
    plan: Plan,
    stage: Stage,
    before: Mapping[str, State],
    options: Options,
    complain: Callable[[str], None] = _complain,
) -> int:
    """Let luigi run what is not fresh; returns the exit code.

    If a stage met a damaged file of the cache, they are renamed, and what made them runs again.
    """
    _check_clip(plan, [plan.stages[slug] for slug, state in before.items() if not state.fresh])
    failures = Path(tempfile.mkdtemp(prefix="split-matching-"))
    try:
        with _interruptible():
            for mendings in range(MENDINGS + 1):
                # all stages of the closure: one that was fresh may turn out to be damaged
                stages = plan.closure(stage.slug)
                board = ProgressDisplay([s.name for s in stages], [s.unit for s in stages], quiet=options.quiet)
                try:
                    _build(plan, stage, board, failures, options)
                finally:
                    board.clear()
                if plan.state(stage.slug).fresh:
                    return 0
                if mendings == MENDINGS or not _mended(plan, stage, failures, board):
                    break
        return _report_failure(stage, failures, options, complain)
    except KeyboardInterrupt:
        _end_workers()
        print("interrupted: finished stages and shards are kept, the same command goes on from there", file=sys.stderr)
        return INTERRUPTED
    finally:
        shutil.rmtree(failures, ignore_errors=True)


def _mended(plan: Plan, stage: Stage, failures: Path, board: ProgressDisplay) -> bool:
    """If a damaged file made a stage fail, rename all damaged files, forget the failures, and say so."""
    if not any(record["exit_code"] == CorruptError.exit_code for record in _records(failures)):
        return False
    lines = [
        line for slug, state in plan.states([stage.slug]).items() for line in rename_damaged_files(plan, slug, state)
    ]
    for line in lines:
        board.say(line)
    if lines:
        for path in failures.iterdir():
            path.unlink()
    return bool(lines)


def _records(failures: Path) -> list[dict[str, Any]]:
    """Return the records of failures, first ones first, without those that could not be written in full."""
    records = []
    for path in sorted(failures.iterdir()):
        with contextlib.suppress(ValueError):
            records.append(json.loads(path.read_text(encoding="utf-8")))
    return records


def _check_clip(plan: Plan, waiting: Sequence[Stage]) -> None:
    """Refuse a pretrained tag that is not to be had before hours of other stages run, not after.

    Only a tag needs open_clip, which takes seconds to import; a file that is missing was found with the keys.
    """
    uses_clip = any("clip.identity" in stage.reads for stage in waiting)
    if uses_clip and is_tag(plan.config.clip):
        from split_matching.model.clip_weights import check_weights

        check_weights(plan.config.clip)


def _build(plan: Plan, stage: Stage, board: ProgressDisplay, failures: Path, options: Options) -> None:
    """Hand tasks to luigi until the wanted one is done. Imports luigi only here: a fresh result needs none of it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import luigi
        import luigi.configuration

        from split_matching.pipeline.run import luigid as sharing
        from split_matching.pipeline.run import worker as task
    importlib.import_module("split_matching.pipeline.run.tasks")
    settings = luigi.configuration.get_config()
    for section, values in SETTINGS.items():
        for name, value in values.items():
            settings.set(section, name, value)
    logging.basicConfig(level=logging.DEBUG if options.debug else logging.CRITICAL)
    for name in ("luigi", "luigi-interface", "luigi.scheduler"):
        logging.getLogger(name).setLevel(logging.DEBUG if options.debug else logging.CRITICAL)
    scheduler = sharing.scheduler_of(plan.config.runtime)

    session = task.Session(board, failures, plan.force, plan.token)
    task.begin(session)
    luigi.Task.event_handler(luigi.Event.PROCESS_FAILURE)(_worker_died)
    workers = plan.config.runtime.workers
    if workers > 1:
        _preload(plan, stage)
    config = plan.config.model_dump_json()
    # luigi starts workers with the default method, and only fork lets them share this session
    multiprocessing.set_start_method("fork", force=True)
    ready, waited = _ready(plan, stage), False
    while ready and not task.failed():
        with sharing.loss_named(plan.config.runtime):
            luigi.build([task.make_task(plan, slug, config) for slug in ready], workers=workers, **scheduler)
        before, ready = ready, _ready(plan, stage)
        if ready == before:
            if not plan.config.runtime.scheduler:
                return
            if not waited:
                board.say(f"waiting for what another process makes (scheduler {plan.config.runtime.scheduler})")
            waited = True
            time.sleep(sharing.PAUSE_SECONDS)


def _ready(plan: Plan, stage: Stage) -> list[str]:
    """Return the slugs of stages that are not fresh and whose tasks are known.

    The shards of a stage are known when all that it reads is fresh; what comes after it waits as well.
    """
    states = plan.states([stage.slug])
    unknown: set[str] = set()
    for slug in states:
        upstream = plan.stages[slug].upstream
        waits = plan.stages[slug].sharded and not all(states[up].fresh for up in upstream)
        if waits or unknown.intersection(upstream):
            unknown.add(slug)
    return [slug for slug, state in states.items() if not state.fresh and slug not in unknown]


def _preload(plan: Plan, stage: Stage) -> None:
    """Import the stages' libraries once before luigi forks a worker for every task; starts no threads, uses no GPU."""
    from split_matching.pipeline.run import worker as task

    task.use_threads(plan, alone=False)
    for slug, state in plan.states([stage.slug]).items():
        if not state.fresh:
            runs_clip = "clip.identity" in plan.stages[slug].reads
            for module in (plan.stages[slug].module, *(["split_matching.model.clip"] if runs_clip else [])):
                with contextlib.suppress(Exception):  # the task that needs it will say so
                    importlib.import_module(module)


def _worker_died(dead: Any, message: str) -> None:
    """Record a worker that the system killed: it could not do so itself."""
    from split_matching.pipeline.run import worker as task

    name = getattr(dead, "stage", "")
    stage = name if isinstance(name, str) else name.name
    code = message.rpartition(" ")[2]
    cause = f"signal {code[1:]}" if code.startswith("-") else f"exit code {code}"
    hint = "; memory may have run out: use fewer --workers" if code == "-9" else ""
    task.record(stage, UserError(f"a worker process died ({cause}){hint}"))


def _report_failure(stage: Stage, failures: Path, options: Options, complain: Callable[[str], None]) -> int:
    """Say what failed first and return its exit code."""
    records = _records(failures)
    if not records:
        if not any(failures.iterdir()):  # else it was said when it could not be recorded
            complain(f"{stage.name}: it did not finish; rerun with --debug")
        return 1
    first = records[0]
    if options.debug:
        print(first["traceback"], file=sys.stderr)
    if first["user"]:
        complain(f"{first['stage']}: {first['message']}")
    else:
        again = "" if options.debug else "; rerun with --debug"
        complain(f"{first['stage']}: {first['type']}: {first['message']}{again}")
    return int(first["exit_code"])


def _print_stages(plan: Plan, stage: Stage, before: Mapping[str, State]) -> None:
    width = max(len(s.name) for s in plan.closure(stage.slug))
    for member in plan.closure(stage.slug):
        artifact = plan.artifact(member.slug)
        old = before[member.slug].artifact
        if old is not None and old.manifest["digest"] == artifact.manifest["digest"]:
            did = "fresh" if before[member.slug].fresh else "fresh, its inputs came out the same"
        else:
            images = artifact.manifest["images"]
            did = f"ran in {format_duration(artifact.manifest['seconds'])}" + (f", {images} images" if images else "")
        print(f"{member.name:<{width}}  {did}, {artifact.path}")


def _result(plan: Plan, stage: Stage) -> Path:
    return plan.folder(stage.slug) / stage.output


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Make Ctrl-C and a polite kill end the run in the parent; forked workers inherit the handlers and do not act."""
    parent = os.getpid()

    def interrupt(signum: int, frame: FrameType | None) -> None:
        if os.getpid() == parent:
            raise KeyboardInterrupt
        if signum == signal.SIGTERM:
            os._exit(128 + signum)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    former = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def _end_workers() -> None:
    for process in multiprocessing.active_children():
        process.terminate()
        process.join(5)
        if process.is_alive():
            process.kill()
