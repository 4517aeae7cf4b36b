"""How the libraries use the CPU: environment variables that they read when they are loaded."""

from __future__ import annotations

from pathlib import Path

WAITING = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "1000"}
"""Environment of the CPU threads: they look for work a thousand times, some microseconds, and then sleep.

A training step of `shapes` on 2 cores, alone and with a second training beside it: 150 and 150 ms where threads sleep
at once (waking them costs more than such small products), 107 and 208 ms like this, 86 and 445 ms where they spin as
long as libgomp lets them. What the environment says already is left as it is.
"""

_CPU_INFO = Path("/proc/cpuinfo")


def reproducible_kernels(info: str | None = None) -> dict[str, str]:
    """Return what makes MKL's products the same for any number of threads, where the processor allows it.

    Its strict mode costs nothing measurable with AVX-512 (ViT-B/16's products at 512 px: 118 and 121 ms of the
    processor), and exists on Intel's processors only. Elsewhere the last bits of stages that run alone, such as
    training, depend on the number of threads.

    Args:
        info: text of /proc/cpuinfo; None to read it.
    """
    try:
        info = _CPU_INFO.read_text(encoding="utf-8") if info is None else info
    except OSError:
        return {}
    if "GenuineIntel" not in info:
        return {}
    flags = next((line for line in info.splitlines() if line.startswith("flags")), "").split()
    level = "AVX512" if "avx512f" in flags else "AVX2" if "avx2" in flags else ""
    return {"MKL_CBWR": f"{level},STRICT"} if level else {}
