"""One training shared by the processes that torchrun starts; everything else is done by the first of them.

    torchrun --nproc-per-node 8 run_pipeline.py TrainDecoder --dataset voc

The first process runs the command as if it were alone. When its training begins, it orders the others, which waited
until then, to open the same inputs, join its group and take their share of every batch. They write nothing. When the
first process ends, for whatever reason, so do they, with its exit code. They need no luigi, and no key depends on them.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from split_matching.cache.keys import digest
from split_matching.configs.schema import Config
from split_matching.errors import ConfigError, UserError
from split_matching.pipeline.plan import Stage
from split_matching.pipeline.stages import make_plan
from split_matching.stages.ground.context import StageContext

if TYPE_CHECKING:
    from split_matching.stages.training.processes import Job

TRAINING = "train"  # name of the stage that is shared
CAUSE_SECONDS = 30.0  # for the first process to notice a failure, before another says it

Run = Callable[[StageContext], Any]


def run_together(work: Callable[[], int], trains: bool) -> int:
    """Do the work of a command if this process is alone or the first; else help the first one until it ends.

    Args:
        work: the command; returns its exit code.
        trains: whether the command may train. One that does not waits for nobody; the first process does it alone.

    Returns:
        The exit code of the command, in all processes.

    Raises:
        UserError: as the command, in the first process; elsewhere, the first process was lost.
    """
    if _world_size() < 2:
        return work()
    if not trains:
        return 0 if int(os.environ.get("RANK") or 0) else work()
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # else a lost process is a page of C++ frames
    from split_matching.stages.training.processes import Job

    job = Job()
    return _lead(job, work) if job.rank == 0 else _follow(job)


def share_training(run: Run, stage: Stage) -> Run:
    """Return the function of a stage; of several processes' training, one in which all of them take part."""
    if _world_size() < 2 or stage.name != TRAINING:
        return run
    return lambda ctx: _train_first(run, ctx, stage)


def _world_size() -> int:
    value = os.environ.get("WORLD_SIZE") or "1"
    if not value.isdecimal():
        raise ConfigError(f"WORLD_SIZE is {value!r}: expected the number of processes, as torchrun sets it; unset it")
    return int(value)


# --- the first process ------------------------------------------------------------------------------------------------


def _lead(job: Job, work: Callable[[], int]) -> int:
    code = 1
    try:
        code = work()
        return code
    except UserError as error:
        code = error.exit_code
        raise
    except KeyboardInterrupt:
        code = 130
        raise
    finally:
        job.end(code)


def _train_first(run: Run, ctx: StageContext, stage: Stage) -> Any:
    """Order the others to train, and train with them. luigi may have forked this process from the first."""
    from split_matching.stages.training.processes import Job

    job, config = Job(first=False), stage.config
    runtime = config.runtime.model_copy(update={"artifacts": config.runtime.artifacts.absolute()})
    data = config.data.model_copy(update={"root": config.data.root and config.data.root.absolute()})
    number = job.give_order(
        {
            "config": config.model_copy(update={"runtime": runtime, "data": data}).model_dump_json(),
            "recipe": _fingerprint(stage),
            "out": str(ctx.out.absolute()),
        }
    )
    try:
        return job.train(number, run, ctx)
    except Exception as error:
        cause = job.find_cause(number, error)
        with contextlib.suppress(RuntimeError):
            job.give_order({})  # this process says why, or begins again
        raise cause from error


# --- the other processes ----------------------------------------------------------------------------------------------


def _follow(job: Job) -> int:
    """Train whenever the first process says so, until it ends; returns its exit code."""
    from split_matching.stages.training.processes import KEPT, is_loss

    try:
        return _obey(job)
    except KeyboardInterrupt:
        return 130  # the first process says so
    except RuntimeError as error:
        if not is_loss(error):
            raise
        raise UserError(f"the first process of this training was lost, so this one ends too; {KEPT}") from None


def _obey(job: Job) -> int:
    failed: Exception | None = None
    for number in itertools.count():
        order = job.wait_for_order(number, CAUSE_SECONDS if failed else math.inf)
        if order is None:
            assert failed is not None
            raise failed
        if "code" in order:
            job.leave()
            return int(order["code"])
        failed = _take_part(job, order, number) if order else None
    raise AssertionError("numbers do not end")


def _take_part(job: Job, order: dict[str, Any], number: int) -> Exception | None:
    """Take part in one training, and write nothing; tells the first process of a failure, and returns it."""
    try:
        stage = make_plan(Config.model_validate_json(order["config"]))[TRAINING]
        if _fingerprint(stage) != order["recipe"]:
            raise ConfigError("code or cache differ from those of the first process: use the same checkout and disk")
        ctx = StageContext(stage.slice, stage.inputs(), Path(order["out"]), stage.config.runtime, stage.data_root)
        job.train(number, stage.import_module().run, ctx)
    except Exception as error:
        if "--debug" in sys.argv:
            traceback.print_exception(error)
        job.report_failure(number, error)
        return error
    return None


def _fingerprint(stage: Stage) -> str:
    """What is trained, of which inputs and with which code, as one digest."""
    return digest([stage.key, dict(stage.recipe.code), dict(stage.recipe.inputs)])
