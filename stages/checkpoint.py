"""Checkpoints of a training stage: a kill at any moment leaves the last one whole, and resuming from it is exact."""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path

import torch
from torch import nn

CHECKPOINT = "checkpoint.pt"


def save_checkpoint(out: Path, model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    """Write the checkpoint beside the old one, then replace it.

    Args:
        out: folder of the unfinished stage.
        model: its parameters are saved.
        optimizer: its state is saved.
        step: first step that is still to be made.
    """
    temporary = out / (CHECKPOINT + ".tmp")
    with temporary.open("wb") as stream:
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}, stream)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(out / CHECKPOINT)


def resume(out: Path, model: nn.Module, optimizer: torch.optim.Optimizer, device: str) -> int:
    """Load the checkpoint if there is one.

    Returns:
        The step to go on from; 0 without a usable checkpoint (a damaged one is set aside, and costs a restart).
    """
    path = out / CHECKPOINT
    if not path.exists():
        return 0
    initial = copy.deepcopy(model.state_dict())
    try:
        state = torch.load(path, map_location=device, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        return int(state["step"])
    except Exception:  # torch raises many kinds for damaged bytes
        model.load_state_dict(initial)  # it may have been half loaded
        path.rename(out / (CHECKPOINT + ".damaged"))
        return 0


def lines_before(path: Path, step: int) -> list[str]:
    """Metric lines (JSON with a `step`) of an interrupted run, up to its checkpoint; a torn last line is dropped."""
    if step == 0 or not path.exists():
        return []
    whole = [line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]
    return [line for line in whole if json.loads(line)["step"] < step]
