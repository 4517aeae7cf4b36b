"""What runs inside a job of Slurm: the shards of one task of an array, or some whole stages.

Some time before a job's limit Slurm sends SIGUSR1. A training saves its step then, and the job asks to be started
again; of shards, the one in progress is lost. When Slurm takes the machine for another job, it sends SIGTERM and starts
the job again by itself.
"""

from __future__ import annotations

import shlex
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from split_matching.configs.schema import Config
from split_matching.errors import UserError
from split_matching.pipeline.plan import Stage
from split_matching.pipeline.run import ending, session
from split_matching.pipeline.run.claims import claim_stages
from split_matching.pipeline.run.progress import ProgressDisplay
from split_matching.pipeline.run.work import is_made, make_shard
from split_matching.pipeline.stages import make_plan
from split_matching.stages.ground.context import Shard

NOTICE = signal.SIGUSR1
FAILURES = "failures"
SETTLE_SECONDS = 60.0  # for which NFS may go on to say that a new file is not there


class Ensure(Protocol):
    """`launch.ensure` with its options, which this module cannot import: that imports the engines."""

    def __call__(self, stage: Stage, *, complain: Callable[[str], None]) -> int:
        """Make a stage fresh; returns the exit code."""


@dataclass(frozen=True)
class Job:
    """The work of one job or task.

    Args:
        config: as JSON.
        commands: the stages to make, in order.
        force: name of the stage to make again.
        supersedes: digest of the manifest that it supersedes.
        failures: folder in which a failure leaves a record.
        ensure: makes a whole stage.
        command: what the user typed, as `environment.command_line` has it; manifests name it.
        task: which task of the array it is; it makes every `tasks`-th shard.
        tasks: how many there are; 0 for a job that makes whole stages.
    """

    config: str
    commands: tuple[str, ...]
    force: str
    supersedes: str
    failures: Path
    ensure: Ensure
    command: str
    task: int = 0
    tasks: int = 0

    def __call__(self) -> None:
        """Do the work; ends the process with an exit code if it is not done."""
        sys.argv = shlex.split(self.command)  # in place of submitit's
        plan = make_plan(Config.model_validate_json(self.config), self.force, self.supersedes)
        stages = [plan.stage(command) for command in self.commands]
        code = 0
        try:
            needed = [m for stage in stages for m in plan.closure(stage.name) if m.command not in self.commands]
            wait_until(lambda: all(is_done(member) for member in needed))
            # what an array before this one left is committed by whoever needs it
            wholes = [plan[name] for name in stages[0].upstream] if self.tasks else stages
            for stage in wholes:
                code = code or self._make(stage)
            if self.tasks and not code:
                code = self._make_shards(stages[0])
        except UserError as error:
            code = self._record(stages[0], str(error), error.exit_code)
        if code == ending.INTERRUPTED and ending.received == NOTICE:
            signal.raise_signal(NOTICE)  # submitit has this job started again
        if code:
            sys.exit(code)

    def checkpoint(self) -> Any:
        """What submitit starts again after a notice: the same, which continues from what is in the cache."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    def _make(self, stage: Stage) -> int:
        messages: list[str] = []
        code = self.ensure(stage, complain=messages.append)
        return self._record(stage, messages[0], code) if messages else code

    def _record(self, stage: Stage, message: str, code: int) -> int:
        error = UserError(message.removeprefix(f"{stage.command}: "))
        error.exit_code = code
        session.begin(session.Session(failures=self.failures))
        session.record(stage.command, error)
        print(f"error: {stage.command}: {error}", file=sys.stderr)
        return code

    def _make_shards(self, stage: Stage) -> int:
        """Make this task's part of the shards; returns the exit code."""
        try:
            with ending.interruptible(), claim_stages(stage):
                display = ProgressDisplay([stage.command], [stage.unit])
                session.begin(session.Session(display, self.failures, self.force, self.supersedes))
                for shard in stage.shards()[self.task :: self.tasks]:
                    with session.record_failures(stage.command):
                        make_shard(stage, shard)
        except KeyboardInterrupt:
            return ending.INTERRUPTED
        except session.SkippedError:
            return 1
        except Exception:  # recorded
            traceback.print_exc()
            return 1
        return 0


def pending_shards(stage: Stage) -> list[Shard]:
    """Return the shards that are not finished. Needs all that the stage reads to be fresh."""
    return [shard for shard in stage.shards() if not is_made(stage, shard)]


def is_done(stage: Stage) -> bool:
    """Whether nothing of a stage is left to do but to commit its shards."""
    if stage.state.fresh or not stage.splits:
        return stage.state.fresh
    return all(stage.plan[name].state.fresh for name in stage.upstream) and not pending_shards(stage)


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds that another machine has made true, or for a minute."""
    end = time.monotonic() + SETTLE_SECONDS
    while not condition() and time.monotonic() < end:
        time.sleep(1.0)
