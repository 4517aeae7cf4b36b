"""How fast this machine multiplies matrices, and moves bytes in memory and to the disk: what floors are computed from.

python -m benchmarks.machine [--quick] [--json FILE]
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.measure import Check, Options, Report, Side, main, paired


def matrix_rate(size: int, dtype: torch.dtype, options: Options) -> Side:
    """Operations a second of one large square product, in GFLOP/s."""
    a = torch.randn(size, size, dtype=torch.float32).to(options.device, dtype)
    repeat = 20 if options.device == "cuda" else 1

    def work() -> None:
        for _ in range(repeat):
            torch.mm(a, a)

    [times] = paired({"mm": work}, options.rounds, 1.0, "s")
    rates = tuple(2 * size**3 * repeat / seconds / 1e9 for seconds in times.samples)
    return Side(f"matrix product, {size} x {size}, {str(dtype).removeprefix('torch.')}", "GFLOP/s", rates)


def copy_rate(size: int, options: Options) -> Side:
    """Bytes a second, read and written, of a copy in the device's memory, in GB/s."""
    source = torch.zeros(size // 4, device=options.device)
    target = torch.empty_like(source)
    [times] = paired({"copy": lambda: target.copy_(source)}, options.rounds, 1.0, "s")
    return Side("copy in memory", "GB/s", tuple(2 * size / seconds / 1e9 for seconds in times.samples))


def disk_rate(size: int, rounds: int) -> Side:
    """Bytes a second written to a new file in the working folder and synced, in GB/s."""
    data, rates = np.random.default_rng(0).bytes(size), []
    for _ in range(rounds):
        with tempfile.NamedTemporaryFile(dir=Path.cwd()) as file:
            start = time.perf_counter()
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            rates.append(size / (time.perf_counter() - start) / 1e9)
    return Side("write to disk", "GB/s", tuple(rates))


def run(options: Options) -> Report:
    """Measure the three rates."""
    size = 256 if options.quick else 8192 if options.device == "cuda" else 2048
    megabyte = 1 << 20
    sides = [matrix_rate(size, torch.float32, options)]
    if options.device == "cuda":
        sides.append(matrix_rate(size, torch.bfloat16, options))
    sides.append(copy_rate((1 if options.quick else 512) * megabyte, options))
    sides.append(disk_rate((1 if options.quick else 256) * megabyte, options.rounds))
    rate = sides[-3].median  # in the precision that the forward pass has on this device
    facts = {"matrix_gflops": rate, "copy_gb": sides[-2].median, "disk_gb": sides[-1].median}
    return Report(f"device {options.device}", sides, [Check("matrix rate", rate, unit="GFLOP/s")], facts)


if __name__ == "__main__":
    main(__doc__, run)
