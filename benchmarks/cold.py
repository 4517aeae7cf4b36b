"""How long the demo takes from an empty cache: what `make demo` does after the installation.

    python -m benchmarks.cold [--quick] [--json FILE]

Also where the seconds went: those of each stage, as its manifest says, and the rest: starts, imports and what lies
between, less what ran side by side.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from benchmarks.measure import Check, Options, Report, Side, child, main

TINY = ("shapes.train_scenes=8", "shapes.val_scenes=4", "train.steps=2", "features.shifts=1")


def run(options: Options) -> Report:
    """Run the pipeline once, in a process and a cache of its own."""
    workers = min(4, options.threads)
    with tempfile.TemporaryDirectory() as folder:
        settings = ["--set", *TINY] if options.quick else []
        command = ["Report", "--dataset", "shapes", "--quiet", "--workers", str(workers), "--artifacts", folder]
        seconds, _, _ = child([*command, "--device", options.device, *settings])
        stages = stage_seconds(Path(folder))
    took = {"Report from an empty cache": seconds, **stages, "starts and all between": seconds - sum(stages.values())}
    sides = [Side(name, "s", (value,)) for name, value in took.items()]
    goal = None if options.quick else 100.0
    return Report(f"shapes, {workers} workers", sides, [Check("cold demo", seconds, goal, unit="s")])


def stage_seconds(artifacts: Path) -> dict[str, float]:
    """Seconds of each stage that was made in a cache, the longest first."""
    manifests = [json.loads(path.read_text(encoding="utf-8")) for path in artifacts.glob("*/*/*/manifest.json")]
    found = {manifest["stage"]: float(manifest["seconds"]) for manifest in manifests}
    return dict(sorted(found.items(), key=lambda item: -item[1]))


if __name__ == "__main__":
    main(__doc__, run)
