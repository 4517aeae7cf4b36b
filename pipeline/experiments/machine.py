"""What the machine is, in a line: numbers that took hours are worth little without it."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

_CPU_INFO = Path("/proc/cpuinfo")
_GPU_INFO = Path("/proc/driver/nvidia/gpus")


def describe_machine(device: str = "auto") -> str:
    """Return processor, cores, memory, and the GPU that stages run on if there is one.

    Args:
        device: `runtime.device`; with `cpu` no GPU is named.

    Returns:
        For example "AMD EPYC 7763, 2 cores, 8 GB memory".
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parts = [_processor(), f"{cores} core{'' if cores == 1 else 's'}", *_memory(), *_gpu(device)]
    return ", ".join(parts)


def _processor() -> str:
    try:
        lines = _CPU_INFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [value.strip() for key, _, value in (line.partition(":") for line in lines) if key.strip() == "model name"]
    return next((name for name in names if name), platform.processor() or platform.machine() or "unknown processor")


def _memory() -> list[str]:
    try:
        size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError, AttributeError):
        return []
    return [f"{size / 2**30:.0f} GB memory"]


def _gpu(device: str) -> list[str]:
    if device == "cpu":
        return []
    torch = sys.modules.get("torch")  # not imported for this: a process that did not compute has no need of it
    if torch is not None:
        return [str(torch.cuda.get_device_name())] if torch.cuda.is_available() else []
    names = []
    for path in sorted(_GPU_INFO.glob("*/information")):
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        names += [line.partition(":")[2].strip() for line in lines if line.startswith("Model:")]
    return names[:1]
