"""Jobs of Slurm, submitted through submitit, make what is not fresh.

    python run_pipeline.py Report --dataset voc --engine slurm --workers 64 --set runtime.slurm="--time=240"

Every stage that is split into shards becomes a job array, and the stages between two of them become one job. All are
submitted at once, each to begin when the one before has ended well. The command then waits. It may be ended: the jobs
go on, and since a job is named by what it makes, the same command finds them and waits again.

As with luigi, whoever is told to make something asks the cache first, and works under its locks. A shared file system
may show a file some seconds after another machine wrote it, so what must be there is waited for.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from split_matching.cache.entry import KEY_LENGTH, read_progress
from split_matching.environment import command_line
from split_matching.errors import ConfigError, UserError, first_line, one_line
from split_matching.pipeline.plan import Stage
from split_matching.pipeline.run import session
from split_matching.pipeline.run.progress import ProgressDisplay
from split_matching.pipeline.run.run_log import LOGS
from split_matching.pipeline.run.slurm_job import FAILURES, NOTICE, Ensure, Job, is_done, pending_shards, wait_until
from split_matching.pipeline.run.tasks import job_of
from split_matching.pipeline.run.work import make_artifact

POLL_SECONDS = 5.0
PATIENCE_SECONDS = 300.0  # for which the controller may be busy or restarting
ACTIVE = ("PENDING", "CONFIGURING", "RUNNING", "SUSPENDED", "REQUEUED", "REQUEUE_HOLD", "STOPPED")
REQUEUES = 1_000_000  # how often a job may reach its time limit: every time it continues from a checkpoint


def build(
    stage: Stage, display: ProgressDisplay, failures: Path, ensure: Ensure, quiet: bool = False, label: str = ""
) -> None:
    """Make a stage, and all it needs, by jobs of Slurm; wait until they have ended.

    Args:
        stage: the wanted stage.
        display: where is said what was submitted.
        failures: folder for the records of what failed.
        ensure: makes one stage fresh within a job.
        quiet: show no progress.
        label: of one run among several, see `ProgressDisplay`.

    Raises:
        ConfigError: there is no Slurm here, or no submitit.
        UserError: Slurm refused a job, or does not answer.
    """
    works = [Work(group, ensure) for group in _groups(stage)]
    try:
        before = ""
        for work in works:
            before = work.find() or work.submit(before)
            display.say(f"{work.label}: job {before}")
        shown = ProgressDisplay([w.label for w in works], [_unit(w) for w in works], quiet=quiet, label=label)
        _wait(stage, works, shown)
    except KeyboardInterrupt:
        ids = " ".join(work.job for work in works if work.job)
        display.say(f"the jobs go on, and the same command waits for them; to end them: scancel {ids}")
        raise
    wait_until(
        lambda: any(work.failed() for work in works) or all(is_done(member) for w in works for member in w.stages)
    )
    session.begin(session.Session(display, failures, stage.plan.force, stage.plan.supersedes))
    for work in works:
        work.hand_over(failures)
    if stage.splits and not session.has_failed() and not stage.state.fresh and is_done(stage):
        make_artifact(stage)
    if not session.has_failed() and not stage.state.fresh:
        lost = next((work for work in works if not all(map(is_done, work.stages))), works[-1])
        error = UserError(f"job {lost.job} ended before its work ({lost.end()}); what it printed: {lost.folder}")
        session.record(lost.stages[-1].command, error)


class Work:
    """What one job, or one job array, makes.

    Args:
        stages: in order; one stage if that is split into shards.
        ensure: see `build`.
    """

    def __init__(self, stages: Sequence[Stage], ensure: Ensure) -> None:
        self.stages = stages
        self.job = ""
        self.before = 0  # how far it was when it was first seen
        self.shown: int | None = None
        self._ensure = ensure

    @property
    def label(self) -> str:
        """The names of its stages."""
        return ", ".join(stage.command for stage in self.stages)

    @cached_property
    def name(self) -> str:
        """Name of the job: two commands may wait for one job if it is the same."""
        return f"{self.stages[-1].command}-{job_of(self.stages[-1])[:KEY_LENGTH]}"

    @property
    def folder(self) -> Path:
        """Where submitit keeps the job and what it prints."""
        plan = self.stages[0].plan
        return plan.root.absolute() / plan.config.dataset / LOGS / "slurm" / self.name

    def find(self) -> str:
        """Return the id of the job if somebody has submitted it, and it has not ended; else ""."""
        self.job = next((job for job, state in _squeue(self.name) if state in ACTIVE), "")
        return self.job

    def submit(self, before: str) -> str:
        """Submit it, to begin when a job has ended well, and return its id.

        Args:
            before: id of that job; "" for at once.
        """
        failures = self.folder / FAILURES
        shutil.rmtree(failures, ignore_errors=True)
        failures.mkdir(parents=True)
        first = self.stages[0]
        workers = first.config.runtime.workers
        # the shards are not known before PrepareDataset has run: a task without any ends at once
        tasks = (min(workers, len(pending_shards(first))) if _has_inputs(first) else workers) if first.splits else 0
        jobs = [self._describe(failures, task, tasks) for task in range(max(1, tasks))]
        options = {"requeue": True, "kill-on-invalid-dep": "yes", **first.config.runtime.slurm_options}
        if before:
            options["dependency"] = f"afterok:{before}"
        self.job = submit_jobs(self.folder, self.name, jobs, options)
        return self.job

    def _describe(self, failures: Path, task: int, tasks: int) -> Job:
        plan = self.stages[0].plan
        runtime = plan.config.runtime.model_copy(
            update={"artifacts": plan.root.absolute(), "engine": "processes", "slurm": "", "workers": 1, "remote": None}
        )
        data = plan.config.data.model_copy(update={"root": plan.config.data.root and plan.config.data.root.absolute()})
        config = plan.config.model_copy(update={"runtime": runtime, "data": data}).model_dump_json()
        commands = tuple(stage.command for stage in self.stages)
        return Job(config, commands, plan.force, plan.supersedes, failures, self._ensure, command_line(), task, tasks)

    def is_active(self) -> bool:
        """Whether it is waiting, running or about to end."""
        return bool(_squeue(self.name))

    def failed(self) -> bool:
        """Whether it has left a record of a failure."""
        return any((self.folder / FAILURES).glob("*.json"))

    def hand_over(self, failures: Path) -> None:
        """Copy the records of what failed."""
        for path in (self.folder / FAILURES).glob("*.json"):
            with contextlib.suppress(OSError):
                shutil.copy(path, failures)

    def end(self) -> str:
        """Return how it ended, in Slurm's words."""
        states = {state for _, state in _squeue(self.name, "--states=all")} - {"COMPLETED"}
        return ", ".join(sorted(state.lower().replace("_", " ") for state in states)) or "Slurm says nothing of it"


def _groups(stage: Stage) -> list[list[Stage]]:
    """Return what is to be made: a sharded stage alone, the stages between two of them together."""
    groups: list[list[Stage]] = []
    for name, state in stage.plan.states([stage.name]).items():
        member = stage.plan[name]
        if state.fresh or is_done(member):
            continue
        if not groups or member.splits or groups[-1][0].splits:
            groups.append([])
        groups[-1].append(member)
    return groups


def _has_inputs(stage: Stage) -> bool:
    return all(stage.plan[name].state.fresh for name in stage.upstream)


def _wait(stage: Stage, works: Sequence[Work], shown: ProgressDisplay) -> None:
    """Wait until the jobs have ended, and show how far they are."""
    missed = 0 if works else 2
    while missed < 2:  # a job that is requeued may not be listed for a moment
        time.sleep(POLL_SECONDS)
        for work in works:
            with contextlib.suppress(UserError):
                _show(work, shown)
        missed = 0 if any(work.is_active() for work in works) else missed + 1
        if stage.state.fresh:
            return


def _unit(work: Work) -> str:
    return "shards" if work.stages[0].splits else "steps"


def _show(work: Work, display: ProgressDisplay) -> None:
    """Show the shards or steps of a job, when there are more than before."""
    stage = work.stages[0]
    if stage.splits:
        state = stage.own_state
        done, total = state.done, state.total
    else:
        done, total, _ = next(filter(None, map(_steps, work.stages)), (0, 0, 0.0))
    if total and done != work.shown:
        work.before = done if work.shown is None else work.before
        work.shown = done
        display.start(work.label, total, work.before)
        display.counter(work.label)(max(0, done - work.before), total)


def _steps(stage: Stage) -> tuple[int, int, float] | None:
    found = read_progress(stage.entry.partial)
    return found if found[1] else None


def _squeue(name: str, *more: str) -> list[tuple[str, str]]:
    """Return id and state of the jobs of a name; that of an array once for each of its tasks.

    Raises:
        ConfigError: there is no Slurm here.
        UserError: squeue did not succeed for some minutes.
    """
    command = ["squeue", "--noheader", f"--name={name}", "--format=%F %T", *more]
    end, said = time.monotonic() + PATIENCE_SECONDS, False
    while True:
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=60)
            if done.returncode == 0:
                break
            why = one_line(" ".join(done.stderr.split())) or f"exit code {done.returncode}"
        except FileNotFoundError:
            raise ConfigError(
                "there is no Slurm here (no squeue): run this where sbatch works, or without --engine slurm"
            ) from None
        except subprocess.TimeoutExpired:
            why = "no answer within a minute"
        if time.monotonic() >= end:
            raise UserError(
                f"Slurm does not answer, squeue: {why}; jobs that were submitted go on: run this again when it works"
            )
        if not said:
            ProgressDisplay().say(f"Slurm does not answer, squeue: {why}; trying again for {PATIENCE_SECONDS:.0f} s")
            said = True
        time.sleep(POLL_SECONDS)
    return [(job, state) for job, _, state in (line.partition(" ") for line in done.stdout.splitlines())]


def submit_jobs(folder: Path, name: str, jobs: Sequence[Job], options: Mapping[str, Any]) -> str:
    """Hand jobs to submitit, several as one array, and return the id."""
    try:
        import submitit
    except ModuleNotFoundError:
        raise ConfigError("engine slurm needs submitit: pip install 'split-matching[slurm]'") from None
    try:
        executor = submitit.SlurmExecutor(folder, max_num_timeout=REQUEUES)
        executor.update_parameters(
            job_name=name,
            array_parallelism=len(jobs),
            setup=[f"export SUBMITIT_PREEMPT_SIGNAL={NOTICE.name.removeprefix('SIG')}"],
            additional_parameters={"signal": f"{NOTICE.name.removeprefix('SIG')}@90", **options},
        )
        submitted = [executor.submit(jobs[0])] if len(jobs) == 1 else executor.submit_array(jobs)
    except (RuntimeError, subprocess.CalledProcessError, submitit.core.utils.FailedJobError) as error:
        raise UserError(f"Slurm refused a job: {first_line(error)}") from None
    return str(submitted[0].job_id).partition("_")[0]
