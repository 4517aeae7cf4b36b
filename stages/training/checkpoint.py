"""Checkpoints of a training stage: a kill at any moment leaves the last one whole, and resuming from it is exact.

The file is the sha256 of the rest (32 bytes) and then what `torch.save` wrote: torch itself does not notice altered
numbers. It also records the length and sha256 of each log at that step.
"""

from __future__ import annotations

import copy
import hashlib
import io
import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from split_matching.cache.files import atomic_write

CHECKPOINT = "checkpoint.pt"
LOGS = "*.jsonl"
DIGEST_BYTES = 32


def save_checkpoint(out: Path, model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    """Write a checkpoint in place of the old one.

    Args:
        out: folder of the unfinished stage.
        model: its parameters are saved.
        optimizer: its state is saved.
        step: the first step that is not done yet; the logs hold the lines of all steps before it.
    """
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step, "logs": _log_digests(out)}
    buffer = io.BytesIO()
    torch.save(state, buffer)
    with atomic_write(out / CHECKPOINT) as temporary, temporary.open("wb") as stream:
        stream.write(hashlib.sha256(buffer.getbuffer()).digest())
        stream.write(buffer.getbuffer())


def restore_checkpoint(out: Path, model: nn.Module, optimizer: torch.optim.Optimizer, device: str) -> int:
    """Load the checkpoint if there is one, and cut the logs back to what they were then.

    Returns:
        The step to continue from; 0 without a usable checkpoint (a damaged one is renamed, and costs a restart).
    """
    path = out / CHECKPOINT
    if path.exists():
        initial = copy.deepcopy(model.state_dict())
        try:
            state = _load(path, device)
            model.load_state_dict(state["model"])
            optimizer.load_state_dict(state["optimizer"])
            for name, (size, _) in state["logs"].items():
                os.truncate(out / name, size)
            return int(state["step"])
        except Exception:  # torch raises many kinds for bytes of another version
            model.load_state_dict(initial)  # it may have been half loaded
            path.rename(out / (CHECKPOINT + ".damaged"))
    for log in out.glob(LOGS):
        log.unlink()
    return 0


def _load(path: Path, device: str) -> dict[str, Any]:
    data = path.read_bytes()
    if hashlib.sha256(data[DIGEST_BYTES:]).digest() != data[:DIGEST_BYTES]:
        raise ValueError(f"{path} is altered")
    state: dict[str, Any] = torch.load(io.BytesIO(data[DIGEST_BYTES:]), map_location=device, weights_only=True)
    for name, (size, digest) in state["logs"].items():
        if hashlib.sha256((path.parent / name).read_bytes()[:size]).hexdigest() != digest:
            raise ValueError(f"{path.parent / name} is altered")
    return state


def _log_digests(out: Path) -> dict[str, tuple[int, str]]:
    """Return length and sha256 of every log, after making sure that it is on the disk."""
    digests = {}
    for path in sorted(out.glob(LOGS)):
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
            data = stream.read()
        digests[path.name] = (len(data), hashlib.sha256(data).hexdigest())
    return digests
