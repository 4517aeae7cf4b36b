"""Runs one stage with all it needs through luigi, and says in the end what became of each stage.

luigi reports success although a task failed, so the cache is asked whether the wanted artifact is fresh.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import shutil
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from split_matching.cache.entry import State
from split_matching.errors import CorruptError, DataError, UserError, one_line
from split_matching.model.weights_identity import is_tag
from split_matching.pipeline.plan import Plan, Stage
from split_matching.pipeline.repair import rename_if_damaged
from split_matching.pipeline.run.claims import claim_stages, describe_other_code
from split_matching.pipeline.run.ending import INTERRUPTED, interruptible
from split_matching.pipeline.run.machine import check_semaphores, make_temporary_folder
from split_matching.pipeline.run.progress import LOGGER, ProgressDisplay
from split_matching.pipeline.run.raw_files import compare_raw_files
from split_matching.pipeline.run.result_table import show_result
from split_matching.pipeline.run.run_log import LUIGI, NOTE, RunLog, keep_log
from split_matching.pipeline.text import NO_VALIDATION

REPAIRS = 3  # how often one damaged file is renamed in a run: on a failing disk it must end
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
    "scheduler": {"retry_count": "1", "stable_done_cooldown_secs": "0", "worker_disconnect_delay": "inf"},
}


@dataclass(frozen=True)
class Options:
    """How a run behaves towards its user.

    Args:
        force: make the wanted stage again though it is fresh.
        debug: print tracebacks and luigi's log.
        quiet: print nothing but the last line and errors.
        label: of one run among several, see `ProgressDisplay`.
        log_level: of the log file, see `keep_log`.
    """

    force: bool = False
    debug: bool = False
    quiet: bool = False
    log_level: str = "info"
    label: str = ""


def _complain(message: str) -> None:
    LOGGER.error(message)
    print(f"error: {one_line(message)}", file=sys.stderr)


def launch(stage: Stage, options: Options) -> int:
    """Make a stage's artifact fresh, and print one line for every stage on the way and the path of the result.

    Args:
        stage: the wanted stage.
        options: see Options.

    Returns:
        The exit code: 0 fresh, 1 failed, 130 interrupted, or that of a UserError.

    Raises:
        UserError: the raw files or weights that decide about keys are not there; nothing was run.
    """
    with keep_log(stage.plan, stage.command, options.log_level) as log:
        _prepare(stage, options)
        if options.force:  # names the manifest that is there now, which a comparison may have written anew
            stage = stage.plan.superseding(stage.name)[stage.name]
        before = stage.plan.states([stage.name])
        fresh = before[stage.name].fresh
        if not fresh and (code := _run(stage, before, options, log)):
            return code
        show_result(stage, before, options.quiet)
        return 0


def ensure(stage: Stage, options: Options, complain: Callable[[str], None] = _complain) -> int:
    """Make a stage's artifact fresh as `launch` does, but print nothing about the result.

    Args:
        stage: the wanted stage.
        options: see Options; `force` is not looked at.
        complain: called with the one line that says why it failed.

    Returns:
        The exit code, as of `launch`.

    Raises:
        UserError: as `launch`.
    """
    with keep_log(stage.plan, stage.command, options.log_level) as log:
        _prepare(stage, options)
        before = stage.plan.states([stage.name])
        return 0 if before[stage.name].fresh else _run(stage, before, options, log, complain)


def _prepare(stage: Stage, options: Options) -> None:
    """Fetch what others have made, and look at raw files that were copied or touched."""
    quiet = options.quiet or bool(options.label)  # several runs would draw over each other
    if stage.plan.config.runtime.remote is not None:
        from split_matching.pipeline.sharing import pull_missing

        members = stage.plan.closure(stage.name)
        display = ProgressDisplay([m.command for m in members], ["files"] * len(members), quiet=quiet)
        pull_missing(stage, display, options.force)
        display.clear()
    compare_raw_files(stage, quiet)


def _run(
    stage: Stage,
    before: Mapping[str, State],
    options: Options,
    log: RunLog,
    complain: Callable[[str], None] = _complain,
) -> int:
    """Let luigi run what is not fresh; returns the exit code.

    If a stage met a damaged file of the cache, this file is renamed, and what made it runs again.
    """
    plan = stage.plan
    log.begin()
    _check_clip(plan, [plan[name] for name, state in before.items() if not state.fresh])
    failures = make_temporary_folder()
    try:
        with interruptible(), claim_stages(stage):
            met: Counter[str] = Counter()
            while True:
                # all stages of the closure: one that was fresh may turn out to be damaged
                members = plan.closure(stage.name)
                display = ProgressDisplay(
                    [member.command for member in members],
                    [member.unit for member in members],
                    quiet=options.quiet,
                    label=options.label,
                )
                if not met:
                    _warn(stage, before, display)
                try:
                    _build(stage, display, failures, options)
                finally:
                    display.clear()
                if stage.state.fresh:
                    return 0
                if not _repair(stage, failures, display, met):
                    break
            return _report_failure(stage, failures, options, complain, log.path)
    except KeyboardInterrupt:
        line = "interrupted: finished stages, shards and steps are kept, the same command resumes there"
        LOGGER.warning(line)
        print(line, file=sys.stderr)
        return INTERRUPTED
    finally:
        shutil.rmtree(failures, ignore_errors=True)


def _warn(stage: Stage, before: Mapping[str, State], display: ProgressDisplay) -> None:
    """Say what is allowed, but hardly meant: another run that makes this one stale, and settings of what will run."""
    for line in describe_other_code(stage):
        display.say(line)
    train = stage.config.train
    if "train" in before and not before["train"].fresh and train.warmup > train.steps:
        display.say(
            f"warning: train.warmup {train.warmup} is more than train.steps {train.steps}: the learning rate does not "
            "reach train.lr; lower train.warmup"
        )


def _repair(stage: Stage, failures: Path, display: ProgressDisplay, met: Counter[str]) -> bool:
    """If damaged files made a stage fail, rename these, forget the failures, and say so.

    Args:
        stage: the wanted stage.
        failures: folder of the records.
        display: where it is said.
        met: how often each file was met in this run; counted here.

    Returns:
        Whether to try again.
    """
    from split_matching.pipeline.run.session import read_records

    records = [record for record in read_records(failures) if record["exit_code"] == CorruptError.exit_code]
    if not records:
        return False
    named = sorted({name for record in records for name in record["damaged"]})
    met.update(named or [""])
    if max(met.values()) > REPAIRS:
        return False
    for name in named:
        display.say(f"{name} could not be read: checking it")
    lines = [line for name in named if (line := rename_if_damaged(stage.plan, Path(name)))]
    for line in lines:
        display.say(line)
    corrupt = any(state.name == "corrupt" for state in stage.plan.states([stage.name]).values())
    if not (lines or corrupt):
        return False
    for path in failures.iterdir():
        path.unlink()
    return True


def _check_clip(plan: Plan, waiting: Sequence[Stage]) -> None:
    """Reject a pretrained tag that is not to be had before hours of other stages run, not after.

    Only a tag needs open_clip, which takes seconds to import; a file that is missing was found with the keys.
    """
    uses_clip = any("clip.identity" in stage.reads for stage in waiting)
    if uses_clip and is_tag(plan.config.clip):
        from split_matching.model.clip_weights import check_weights

        check_weights(plan.config.clip)


def _build(stage: Stage, display: ProgressDisplay, failures: Path, options: Options) -> None:
    """Hand the wanted stage's task to luigi. Imports luigi only here: a fresh result needs none of it."""
    if stage.config.runtime.engine == "slurm":
        from split_matching.pipeline.run import slurm

        made = partial(ensure, options=options)
        return slurm.build(stage, display, failures, made, options.quiet, options.label)
    check_semaphores()
    _set_up_luigi(options)
    import luigi

    from split_matching.pipeline.run import luigid, session, tasks
    from split_matching.pipeline.run.workers import WorkerFactory

    runtime = stage.config.runtime
    scheduler = luigid.scheduler_of(runtime)
    session.begin(session.Session(display, failures, stage.plan.force, stage.plan.supersedes))
    luigi.Task.event_handler(luigi.Event.PROCESS_FAILURE)(_worker_died)
    _preload(stage)
    # luigi starts workers with the default method, and only fork lets them share this session
    multiprocessing.set_start_method("fork", force=True)
    if _needs_validation(stage) and not _has_validation(stage, scheduler):
        return
    waited = False
    while True:
        with luigid.loss_named(runtime):
            shared = _known_shards(stage) if runtime.scheduler else []
            luigi.build([tasks.task_of(stage), *shared], WorkerFactory(), workers=runtime.workers, **scheduler)
        if not runtime.scheduler or session.has_failed() or stage.state.fresh:
            return
        if not waited:
            display.say(f"waiting for what another process makes (scheduler {runtime.scheduler})")
        waited = True
        time.sleep(luigid.PAUSE_SECONDS)


def _needs_validation(stage: Stage) -> bool:
    """Whether this is a trial on some images that cannot do without one for validation, itself or upstream."""
    closure = stage.plan.closure(stage.name) if stage.config.data.images else []
    return any("val.json" in files for member in closure for files in member.upstream.values())


def _has_validation(stage: Stage, scheduler: Mapping[str, Any]) -> bool:
    """Make the lists of a trial's images before all else, and record a failure if none of them is for validation."""
    import luigi

    from split_matching.pipeline.run import session, tasks
    from split_matching.pipeline.run.workers import WorkerFactory

    dataset = stage.plan["dataset"]
    luigi.build([tasks.task_of(dataset)], WorkerFactory(), workers=1, **scheduler)
    if session.has_failed():
        return False
    if dataset.own_state.fresh and not dataset.artifact().json("images.json")["val"]:
        session.record(stage.command, DataError(NO_VALIDATION))
        return False
    return True


def _set_up_luigi(options: Options) -> None:
    """Give luigi our settings, and keep it quiet unless it is to be debugged."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import luigi.configuration
    settings = luigi.configuration.get_config()
    for section, values in SETTINGS.items():
        for name, value in values.items():
            settings.set(section, name, value)
    level = logging.DEBUG if options.debug or options.log_level == "debug" else logging.CRITICAL
    logging.basicConfig(level=level)
    for name in LUIGI:
        logging.getLogger(name).setLevel(level)
        logging.getLogger(name).propagate = options.debug  # to the terminal


def _known_shards(stage: Stage) -> list[Any]:
    """Return the tasks of all shards that can be made now: of a stage that another process works on, too."""
    from split_matching.pipeline.run.tasks import shard_tasks

    states = stage.plan.states([stage.name])
    members = [stage.plan[name] for name, state in states.items() if not state.fresh]
    ready = [m for m in members if m.splits and all(states[up].fresh for up in m.upstream)]
    return [task for member in ready for task in shard_tasks(member)]


def _preload(stage: Stage) -> None:
    """Import the code of all stages that may run before any task does, so that an edit during the run changes nothing.

    Workers that luigi forks for every task then have it already. Starts no threads, and uses no GPU.

    Raises:
        UserError: a file was edited after its fingerprint was taken.
    """
    from split_matching.pipeline.run.work import set_up_cpu

    set_up_cpu(stage.config.runtime, alone=False)
    for name, state in stage.plan.states([stage.name]).items():
        member = stage.plan[name]
        if not state.fresh:
            with contextlib.suppress(ImportError, SyntaxError):  # the task that needs it will say so
                member.import_module()


def _worker_died(dead: Any, message: str) -> None:
    """Record a worker that the system killed: it could not do so itself."""
    from split_matching.pipeline.run.session import record

    code = message.rpartition(" ")[2]
    cause = f"signal {code[1:]}" if code.startswith("-") else f"exit code {code}"
    hint = "; memory may have run out: use fewer --workers" if code == "-9" else ""
    record(dead.stage.command, UserError(f"a worker process died ({cause}){hint}"))


def _report_failure(
    stage: Stage, failures: Path, options: Options, complain: Callable[[str], None], log: Path | None
) -> int:
    """Say what failed first, and where the log with the traceback is; returns its exit code."""
    from split_matching.pipeline.run.session import read_records

    records = read_records(failures)
    where = f" ({NOTE}{log})" if log else ""
    if not records:
        if not any(failures.iterdir()):  # else it was said when it could not be recorded
            waiting = next((m for m in stage.plan.closure(stage.name) if not m.state.fresh), stage)
            complain(f"{stage.command}: it did not finish: {waiting.command} is {waiting.state}; run it again{where}")
        return 1
    first = records[0]
    if options.debug:
        print(first["traceback"], file=sys.stderr)
    kind = "" if first["user"] else f"{first['type']}: "
    complain(f"{first['stage']}: {kind}{first['message']}{where}")
    return int(first["exit_code"])
