"""How the libraries use the CPU and memory: environment variables that they read when they are loaded, and malloc."""

from __future__ import annotations

import ctypes
import os

WAITING = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "1000"}
"""Environment of the CPU threads: they look for work a thousand times, some microseconds, and then sleep.

A training step of `shapes` on 2 cores, alone and with a second training beside it: 150 and 150 ms where threads sleep
at once (waking them costs more than such small products), 107 and 208 ms like this, 86 and 445 ms where they spin as
long as libgomp lets them. What the environment says already is left as it is.
"""

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # names of mallopt's settings in glibc's malloc.h
MMAP_BYTES = 32 << 20
"""From this size on, a block goes back to the system when it is freed; the largest that glibc allows."""
TRIM_BYTES = 128 << 20
"""Freed memory at the end of the heap that the process keeps."""


def keep_memory() -> bool:
    """Let the process keep what it frees, up to `TRIM_BYTES`, instead of asking the system for zeroed pages each time.

    A training step of `shapes` had 1,200 to 4,100 page faults with glibc's own thresholds, and then about 100; it took
    4 to 9 % less CPU time (benchmarks/README.md).

    Returns:
        Whether it could be said: the C library is glibc, and `MALLOC_...` in the environment does not say otherwise.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None or any(f"MALLOC_{name}_THRESHOLD_" in os.environ for name in ("TRIM", "MMAP")):
        return False
    return bool(mallopt(_MMAP_THRESHOLD, MMAP_BYTES) and mallopt(_TRIM_THRESHOLD, TRIM_BYTES))
