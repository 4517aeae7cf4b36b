"""Which device a stage computes on."""

from __future__ import annotations

import os

import torch

from split_matching.errors import ConfigError
from split_matching.stages.ground.context import StageContext


def device_of(ctx: StageContext) -> str:
    """Resolve `runtime.device`, see `resolve_device`."""
    return resolve_device(ctx.runtime.device)


def resolve_device(wanted: str) -> str:
    """Return "cpu" or "cuda"; `auto` is cuda when there is one.

    Raises:
        ConfigError: a GPU is asked for and torch sees none.
    """
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ConfigError("runtime.device is cuda, but torch sees no GPU: use auto or cpu, or install a CUDA build")
    return ("cuda" if torch.cuda.is_available() else "cpu") if wanted == "auto" else wanted


def threads_of(ctx: StageContext) -> int:
    """CPU threads of this process in a sharded stage: its part of the cores, or `runtime.threads`."""
    return ctx.runtime.threads or max(1, len(os.sched_getaffinity(0)) // ctx.runtime.workers)


def images_at_once(ctx: StageContext) -> int:
    """Images that CLIP works on side by side in a sharded stage: on the CPU one a thread, on a GPU 1.

    An operation then has one thread, set by the pipeline: with another number of threads matrix kernels may round the
    same row differently, and the bytes of a result must not depend on the number of workers.
    """
    return threads_of(ctx) if device_of(ctx) == "cpu" else 1


def images_per_batch(ctx: StageContext) -> int:
    """Images a forward pass outside training: `runtime.batch` on a GPU, 1 on the CPU.

    Matrix kernels may round the same row differently in batches of different sizes, and on the CPU the bytes of a
    result must not depend on what shares its batch.
    """
    return 1 if device_of(ctx) == "cpu" else ctx.runtime.batch
