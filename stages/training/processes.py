"""The processes of one torchrun job: how they meet, what they tell each other, and the group in which they train.

They meet at the key-value store of `torch.distributed`: torchrun's own, or one in the first process where something
else set RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT for each process. The first process leaves numbered orders there,
and the others carry them out. Nothing here opens a GPU before a group is joined.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from split_matching.errors import ConfigError, CorruptError, DataError, UserError, first_line
from split_matching.stages.ground.context import StageContext
from split_matching.stages.ground.device import device_of

POLL_SECONDS = 0.2
CONNECT_SECONDS = 300.0  # processes of one job start within minutes of each other
READY_SECONDS = 60.0  # for all to open the inputs; each has imported torch by then
GOODBYE_SECONDS = 5.0  # for the others to hear that it is over
KEPT = "finished stages and the last checkpoint are kept, the same command resumes from there"
LOSS_WORDS = ("gloo", "connection closed", "connection reset", "broken pipe", "socket")
ERRORS = {error.exit_code: error for error in (ConfigError, DataError, CorruptError)}


class Job:
    """The processes that torchrun started, as one of them sees them: `rank` of `size`.

    Args:
        first: whether this process connects for the first time; all processes of the job wait for each other then.
            A later connection, also of a forked process, is to a store that is there.

    Raises:
        ConfigError: the environment does not say where the others are, or nobody answers there.
    """

    def __init__(self, first: bool = True) -> None:
        self.rank, self.size = int(_variable("RANK")), int(_variable("WORLD_SIZE"))
        host, port = _variable("MASTER_ADDR"), int(_variable("MASTER_PORT"))
        serves = first and self.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
        wait = timedelta(seconds=CONNECT_SECONDS)
        try:
            store = dist.TCPStore(host, port, self.size, serves, wait, wait_for_workers=first)
        except (RuntimeError, ValueError) as error:
            raise ConfigError(
                f"the {self.size} processes do not meet at {host}:{port} ({first_line(error)}): "
                "start all of them with torchrun"
            ) from error
        self.store = dist.PrefixStore("split-matching", store)

    # -- orders of the first process ------------------------------------------------------------------------------

    def give_order(self, order: dict[str, Any]) -> int:
        """Leave an order for the other processes; returns its number, from 0."""
        number = self.store.add("orders", 1) - 1
        self.store.set(f"order/{number}", json.dumps(order))
        return number

    def wait_for_order(self, number: int, seconds: float = math.inf) -> dict[str, Any] | None:
        """Return an order as soon as it is there, or None if it is not within some seconds."""
        return self._wait_for(f"order/{number}", seconds)

    def end(self, code: int) -> None:
        """As the first process: tell the others the exit code of the job, and let them hear it."""
        with contextlib.suppress(RuntimeError):  # nobody is left to hear it
            self.give_order({"code": code})
            end = time.monotonic() + GOODBYE_SECONDS
            while self.store.add("left", 0) < self.size - 1 and time.monotonic() < end:
                time.sleep(POLL_SECONDS)

    def leave(self) -> None:
        """As another process: say that the end was heard."""
        self.store.add("left", 1)

    # -- training -------------------------------------------------------------------------------------------------

    def train(self, number: int, run: Callable[[StageContext], Any], ctx: StageContext) -> Any:
        """Run a training in one group, once all processes are ready for it.

        Args:
            number: of the order that all of them carry out.
            run: the stage's function.
            ctx: its context.

        Returns:
            What the stage returns.

        Raises:
            UserError: the stage fails, or another process cannot take part.
        """
        local_size = int(os.environ.get("LOCAL_WORLD_SIZE", self.size))
        torch.set_num_threads(ctx.runtime.threads or max(1, len(os.sched_getaffinity(0)) // local_size))
        device = device_of(ctx)
        self._wait_for_all(number)
        with self._group(f"group/{number}", device):
            return run(ctx)

    def report_failure(self, number: int, error: Exception) -> None:
        """Tell the first process why this one failed at an order; the first to tell is heard."""
        if is_loss(error) or self.store.add(f"failures/{number}", 1) > 1:
            return
        text = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        code = error.exit_code if isinstance(error, UserError) else 1
        self.store.set(f"failure/{number}", json.dumps({"code": code, "rank": self.rank, "text": text}))

    def find_cause(self, number: int, error: Exception) -> Exception:
        """Return why an order failed: the error, or what another process failed at where the error is only its loss."""
        if not is_loss(error):
            return error
        return self._failure(number, 2.0) or UserError(f"a process that takes part in the training was lost; {KEPT}")

    def _wait_for_all(self, number: int) -> None:
        self.store.add(f"ready/{number}", 1)
        end = time.monotonic() + READY_SECONDS
        while self.store.add(f"ready/{number}", 0) < self.size:
            if failure := self._failure(number, 0.0):
                raise failure
            if time.monotonic() > end:  # a process that was killed says nothing
                raise UserError(f"a process that takes part in the training was lost; {KEPT}")
            time.sleep(POLL_SECONDS / 2)

    def _failure(self, number: int, seconds: float) -> UserError | None:
        told = self._wait_for(f"failure/{number}", seconds)
        if told is None:
            return None
        return ERRORS.get(told["code"], UserError)(f"in process {told['rank']}: {told['text']}")

    def _wait_for(self, key: str, seconds: float) -> dict[str, Any] | None:
        end = time.monotonic() + seconds
        while not self.store.check([key]):
            if time.monotonic() >= end:
                return None
            time.sleep(POLL_SECONDS)
        return json.loads(self.store.get(key))

    @contextlib.contextmanager
    def _group(self, name: str, device: str) -> Iterator[None]:
        """Join all processes for the time of the block: by nccl on GPUs, one each, and by gloo on the CPU."""
        own = int(os.environ.get("LOCAL_RANK", self.rank))
        if device == "cuda":
            if own >= torch.cuda.device_count():
                raise ConfigError(
                    f"process {own} of this machine has no GPU, there are {torch.cuda.device_count()}: "
                    "start as many processes as GPUs (torchrun --nproc-per-node)"
                )
            torch.cuda.set_device(own)
        dist.init_process_group(
            "nccl" if device == "cuda" else "gloo",
            store=dist.PrefixStore(name, self.store),
            rank=self.rank,
            world_size=self.size,
            device_id=torch.device("cuda", own) if device == "cuda" else None,
        )
        try:
            yield
        finally:
            dist.destroy_process_group()


def is_loss(error: BaseException) -> bool:
    """Whether an error says that another process is not there any more."""
    if isinstance(error, dist.DistError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in LOSS_WORDS)


def _variable(name: str) -> str:
    value = os.environ.get(name, "")
    if not value:
        raise ConfigError(f"WORLD_SIZE is set but {name} is not: start all processes with torchrun, or unset both")
    return value
