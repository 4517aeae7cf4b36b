"""How the processes of one job find and talk to each other: a board of messages, and the group that trains.

A job is what torchrun starts, or anything that sets RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT for each process.
The board is the key-value store of `torch.distributed`, torchrun's own where that has one. Nothing here computes, and
nothing opens a GPU before a group is joined.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from split_matching.errors import ConfigError

POLL_SECONDS = 0.2
CONNECT_SECONDS = 300.0  # processes of one job start within minutes of each other
PREFIX = "split-matching"
LOST = ("gloo", "connection closed", "connection reset", "broken pipe", "socket")


class Board:
    """Messages of the first process to all others, and a few answers.

    Args:
        again: whether this process, or the one it was forked from, has opened the board before.

    Raises:
        ConfigError: the environment does not say where the others are, or nobody answers there.
    """

    def __init__(self, again: bool = False) -> None:
        self.rank, self.size = int(_variable("RANK")), int(_variable("WORLD_SIZE"))
        wait = timedelta(seconds=CONNECT_SECONDS)
        host, port = _variable("MASTER_ADDR"), int(_variable("MASTER_PORT"))
        try:
            if again and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
                # the store is in the process that this one was forked from
                store: Any = dist.TCPStore(host, port, self.size, False, wait, wait_for_workers=False)
            else:
                store, _, _ = next(dist.rendezvous("env://", timeout=wait))
        except (RuntimeError, ValueError) as error:
            first = (str(error).strip().splitlines() or [""])[0]
            raise ConfigError(
                f"no meeting of {self.size} processes at {host}:{port} ({first}): start all of them with torchrun"
            ) from error
        self.store = dist.PrefixStore(PREFIX, store)

    def post(self, message: dict[str, Any]) -> int:
        """Add a message for all others; returns its number, from 0."""
        number = self.store.add("messages", 1) - 1
        self.store.set(f"message/{number}", json.dumps(message))
        return number

    def message(self, number: int) -> dict[str, Any] | None:
        """Return a message, or None if there is none of that number yet."""
        return self._value(f"message/{number}")

    def count(self, name: str, more: int = 1) -> int:
        """Count something up, by every process that does it; returns how many there are now."""
        return self.store.add(f"count/{name}", more)

    def fail(self, number: int, failure: dict[str, Any]) -> None:
        """Say why this process cannot do what a message asks for; the first to say so is heard."""
        if self.count(f"failures/{number}") == 1:
            self.store.set(f"failure/{number}", json.dumps(failure | {"rank": self.rank}))

    def failure(self, number: int, seconds: float = 0.0) -> dict[str, Any] | None:
        """Return why another process could not do it, or None if none has said so within this time."""
        end = time.monotonic() + seconds
        while True:
            found = self._value(f"failure/{number}")
            if found is not None or time.monotonic() >= end:
                return found
            time.sleep(POLL_SECONDS)

    def _value(self, key: str) -> dict[str, Any] | None:
        return json.loads(self.store.get(key)) if self.store.check([key]) else None


def _variable(name: str) -> str:
    value = os.environ.get(name, "")
    if not value:
        raise ConfigError(f"WORLD_SIZE is set but {name} is not: start all processes with torchrun, or unset both")
    return value


def local_rank() -> int:
    """Number of this process on its machine."""
    return int(os.environ.get("LOCAL_RANK", os.environ.get("RANK", "0")))


def local_size() -> int:
    """How many processes of the job share this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("WORLD_SIZE", "1")))


def use_threads(count: int) -> None:
    """Set how many CPU threads torch uses."""
    torch.set_num_threads(count)


@contextlib.contextmanager
def group(board: Board, name: str, device: str) -> Iterator[None]:
    """Join the group of all processes for the time of the block: nccl on GPUs, one each, and gloo on the CPU.

    Args:
        board: where they meet.
        name: of this group; never used twice.
        device: cuda or cpu.

    Raises:
        ConfigError: there are more processes than GPUs on this machine.
    """
    if device == "cuda":
        if local_rank() >= torch.cuda.device_count():
            raise ConfigError(
                f"process {local_rank()} of this machine has no GPU, there are {torch.cuda.device_count()}: "
                "start as many processes as GPUs (torchrun --nproc-per-node)"
            )
        torch.cuda.set_device(local_rank())
    dist.init_process_group(
        "nccl" if device == "cuda" else "gloo",
        store=dist.PrefixStore(name, board.store),
        rank=board.rank,
        world_size=board.size,
        device_id=torch.device("cuda", local_rank()) if device == "cuda" else None,
    )
    try:
        yield
    finally:
        dist.destroy_process_group()


def is_loss(error: BaseException) -> bool:
    """Whether an error says that another process is not there any more."""
    if isinstance(error, dist.DistError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in LOST)
