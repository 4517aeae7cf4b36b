"""One training shared by the processes that torchrun starts; everything else is done by the first of them.

    torchrun --nproc-per-node 8 run_pipeline.py Evaluate --dataset voc

The first process runs the command as if it were alone. When its training begins, it posts what is to be trained; the
others, which slept until then, open the same inputs, join its group and take their share of every batch. They write
nothing. When the first process ends, for whatever reason, so do they, with its exit code. No luigi in them, and nothing
of this enters a key.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from split_matching.cache.keys import digest
from split_matching.configs.schema import Config
from split_matching.errors import ConfigError, CorruptError, DataError, UserError
from split_matching.pipeline.plan import Plan, Stage
from split_matching.stages.ground.context import StageContext

if TYPE_CHECKING:
    from split_matching.model.rendezvous import Board

TRAINING = "train"  # slug of the stage that is shared
IDLE_SECONDS = 0.5  # how often a waiting process looks for a message
GOODBYE_SECONDS = 5.0  # for the others to hear that it is over
READY_SECONDS = 60.0  # for all to open the inputs, once training is called for; each has imported torch by then
CAUSE_SECONDS = 30.0  # for the first process to notice a failure, before another says it
KEPT = "finished stages and the last checkpoint are kept, the same command goes on from there"
ERRORS = {error.exit_code: error for error in (ConfigError, DataError, CorruptError)}

Run = Callable[[StageContext], Any]


@dataclass(frozen=True)
class _Lead:
    """This process is the first of several; workers that luigi forks inherit that, but not the connection."""

    board: Board
    pid: int


_lead: _Lead | None = None


def together(work: Callable[[], int]) -> int:
    """Do the work of a command if this process is alone or the first; else help the first one until it ends.

    Args:
        work: the command; returns its exit code.

    Returns:
        The exit code of the command, in all processes.

    Raises:
        UserError: as the command, in the first process; elsewhere, the first process was lost.
    """
    if int(os.environ.get("WORLD_SIZE") or 1) < 2:
        return work()
    from split_matching.model.rendezvous import Board

    board = Board()
    return _leading(board, work) if board.rank == 0 else _following(board)


def shared(run: Run, plan: Plan, stage: Stage) -> Run:
    """Return the function of a stage, for training in the first of several processes one that all take part in."""
    if _lead is None or stage.slug != TRAINING:
        return run
    return lambda ctx: _train_first(run, ctx, plan)


# --- the first process ------------------------------------------------------------------------------------------------


def _leading(board: Board, work: Callable[[], int]) -> int:
    global _lead
    _lead, code = _Lead(board, os.getpid()), 1
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
        _lead = None
        with contextlib.suppress(RuntimeError):  # nobody is left to hear it
            board.post({"do": "end", "code": code})
            end = time.monotonic() + GOODBYE_SECONDS
            while board.count("gone", 0) < board.size - 1 and time.monotonic() < end:
                time.sleep(IDLE_SECONDS / 5)


def _train_first(run: Run, ctx: StageContext, plan: Plan) -> Any:
    """Call the others to train, and train with them."""
    from split_matching.model.rendezvous import Board

    assert _lead is not None
    board = _lead.board if os.getpid() == _lead.pid else Board(again=True)
    config = plan.config
    roots = {"artifacts": config.runtime.artifacts.absolute()}
    data = {"root": config.data.root.absolute()} if config.data.root else {}
    updates = {
        "runtime": config.runtime.model_copy(update=roots),
        "data": config.data.model_copy(update=data),
    }
    number = board.post(
        {
            "do": "train",
            "config": config.model_copy(update=updates).model_dump_json(),
            "recipe": _fingerprint(plan),
            "out": str(ctx.out.absolute()),
        }
    )
    try:
        return _join(board, run, ctx, number)
    except Exception as error:
        cause = _cause(board, error, number)
        with contextlib.suppress(RuntimeError):
            board.post({"do": "failed"})
        raise cause from error


def _cause(board: Board, error: Exception, number: int) -> Exception:
    """Return what another process says went wrong, if this one only lost it."""
    from split_matching.model.rendezvous import is_loss

    if not is_loss(error):
        return error
    failure = board.failure(number, 2.0)
    if failure is None:
        return UserError(f"a process that takes part in the training was lost; {KEPT}")
    return _failed(failure)


def _failed(failure: dict[str, Any]) -> UserError:
    return ERRORS.get(failure["code"], UserError)(f"in process {failure['rank']}: {failure['message']}")


# --- the other processes ----------------------------------------------------------------------------------------------


class _EndedError(Exception):
    """torchrun ends this process because another one is gone."""


def _following(board: Board) -> int:
    """Train whenever the first process says so, until it ends; returns its exit code."""
    lost = UserError(f"the first process of this training was lost, so this one ends too; {KEPT}")
    try:
        with _endable():
            return _obey(board)
    except KeyboardInterrupt:
        return 130  # the first process says so
    except _EndedError:
        code = _last_word(board, 0.0)
        if code is None:
            raise lost from None
        return code
    except UserError:
        raise
    except RuntimeError as error:
        from split_matching.model.rendezvous import is_loss

        raise (lost if is_loss(error) else error) from None


def _obey(board: Board) -> int:
    number, failed, until = 0, None, 0.0
    while True:
        message = board.message(number)
        if message is None:
            if failed and time.monotonic() > until:
                raise failed
            time.sleep(IDLE_SECONDS)
            continue
        number += 1
        if message["do"] == "end":
            board.count("gone")
            return int(message["code"])
        if message["do"] == "failed":  # the first process says why, or begins again
            failed = None
        else:
            failed, until = _attempt(board, message, number - 1), time.monotonic() + CAUSE_SECONDS


def _attempt(board: Board, message: dict[str, Any], number: int) -> Exception | None:
    """Take part in one training; tells the first process of a failure, and returns it."""
    from split_matching.model.rendezvous import is_loss

    try:
        _train_other(board, message, number)
    except Exception as error:
        if "--debug" in sys.argv:
            traceback.print_exception(error)
        if not is_loss(error):
            user = isinstance(error, UserError)
            text = " ".join(str(error).split())
            code = error.exit_code if isinstance(error, UserError) else 1
            board.fail(number, {"code": code, "message": text if user else f"{type(error).__name__}: {text}"})
        return error
    return None


def _train_other(board: Board, message: dict[str, Any], number: int) -> None:
    """Take part in one training; writes nothing."""
    plan = Plan(Config.model_validate_json(message["config"]))
    if _fingerprint(plan) != message["recipe"]:
        raise ConfigError("code or cache differ from those of the first process: use the same checkout and disk")
    inputs, root = plan.inputs(TRAINING), plan.data_root(TRAINING)
    module = importlib.import_module(plan.stages[TRAINING].module)
    ctx = StageContext(plan.slice(TRAINING), inputs, Path(message["out"]), plan.config.runtime, root)
    _join(board, module.run, ctx, number)


def _last_word(board: Board, seconds: float) -> int | None:
    """Return the exit code that the first process posted, or None if it does not within this time."""
    end = time.monotonic() + seconds
    with contextlib.suppress(RuntimeError):
        while True:
            last = board.message(board.store.add("messages", 0) - 1)
            if last and last["do"] == "end":
                return int(last["code"])
            if time.monotonic() >= end:
                return None
            time.sleep(IDLE_SECONDS)
    return None


@contextlib.contextmanager
def _endable() -> Iterator[None]:
    """Turn a polite kill into an exception, so that a process which waits or computes ends with one line."""

    def end(signum: int, frame: FrameType | None) -> None:
        raise _EndedError

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    former = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former)


# --- all of them ------------------------------------------------------------------------------------------------------


def _fingerprint(plan: Plan) -> str:
    """What is trained, of which inputs and with which code, as one digest."""
    recipe = plan.recipe(TRAINING)
    return digest([recipe.key, dict(recipe.code), dict(recipe.inputs)])


def _join(board: Board, run: Run, ctx: StageContext, number: int) -> Any:
    """Wait until all are ready, which is when one that cannot be says so, then train in one group."""
    from split_matching.model.rendezvous import group, local_size, use_threads
    from split_matching.stages.ground.device import device_of

    use_threads(ctx.runtime.threads or max(1, len(os.sched_getaffinity(0)) // local_size()))
    device = device_of(ctx)
    board.count(f"ready/{number}")
    end = time.monotonic() + READY_SECONDS
    while board.count(f"ready/{number}", 0) < board.size:
        if failure := board.failure(number):
            raise _failed(failure)
        if time.monotonic() > end:  # a process that was killed says nothing
            raise UserError(f"a process that takes part in the training was lost; {KEPT}")
        time.sleep(IDLE_SECONDS / 5)
    with group(board, f"group/{number}", device):
        return run(ctx)
