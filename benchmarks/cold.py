"""How long the demo takes from an empty cache: what `make demo` does after the installation.

python -m benchmarks.cold [--quick] [--json FILE]
"""

from __future__ import annotations

import tempfile

from benchmarks.measure import Check, Options, Report, Side, child, main

TINY = ("shapes.train_scenes=8", "shapes.val_scenes=4", "train.steps=2", "features.shifts=1")


def run(options: Options) -> Report:
    """Run the pipeline once, in a process and a cache of its own."""
    workers = min(4, options.threads)
    with tempfile.TemporaryDirectory() as folder:
        settings = ["--set", *TINY] if options.quick else []
        command = ["Report", "--dataset", "shapes", "--quiet", "--workers", str(workers), "--artifacts", folder]
        seconds, _, _ = child([*command, "--device", options.device, *settings])
    side = Side("Report from an empty cache", "s", (seconds,))
    goal = None if options.quick else 180.0
    return Report(f"shapes, {workers} workers", [side], [Check("cold demo", seconds, goal, unit="s")])


if __name__ == "__main__":
    main(__doc__, run)
