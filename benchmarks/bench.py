"""Runs every benchmark, on the GPU too where there is one, and renders the tables of benchmarks/README.md.

    python -m benchmarks.bench [--quick] [--only NAME ...] [--results DIR]

Each benchmark is a process of its own. One that fails, or whose extra package (the extra `bench`) is not
installed, is named at the end; the others are measured all the same. Results of --quick go to a temporary folder.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.measure import ROOT
from benchmarks.render import README, RESULTS, update
from split_matching.pipeline.run.cpu import WAITING

NAMES = (
    "machine",
    "forward",
    "extraction",
    "clustering",
    "chain",
    "regions",
    "matcher",
    "training",
    "step_parts",
    "reads",
    "confusion",
    "evaluation",
    "scheduler",
    "slurm",
    "sharing",
    "status",
    "growth",
    "cold",
)
ON_GPU = ("machine", "forward", "extraction", "clustering", "chain", "regions", "matcher", "training")
NEEDS = {"matcher": "transformers", "confusion": "torchmetrics", "slurm": "submitit", "sharing": "moto"}


def jobs(names: list[str]) -> list[tuple[str, str]]:
    """Which benchmarks to run on which device."""
    found = [(name, "cpu") for name in names]
    probe = "import sys, torch; sys.exit(not torch.cuda.is_available())"
    if subprocess.run([sys.executable, "-c", probe], check=False).returncode == 0:
        found += [(name, "cuda") for name in names if name in ON_GPU]
    return found


def main() -> int:
    """Run them; returns 0 if all ran, else 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny sizes: shows that all run, measures nothing")
    parser.add_argument("--only", nargs="+", choices=NAMES, default=list(NAMES), metavar="NAME")
    parser.add_argument("--results", type=Path, help=f"folder of the JSON files (default: {RESULTS.relative_to(ROOT)})")
    given = parser.parse_args()
    results = given.results or (Path(tempfile.mkdtemp(prefix="split-matching-bench-")) if given.quick else RESULTS)
    environment = {**WAITING, **os.environ}
    trouble, start = [], time.monotonic()
    for name, device in jobs(given.only):
        missing = NEEDS.get(name)
        if missing and importlib.util.find_spec(missing) is None:
            trouble.append(f"{name}: not run, {missing} is not installed (pip install -e '.[bench]')")
            continue
        file = results / f"{name}{'' if device == 'cpu' else '-cuda'}.json"
        print(f"\n== {name} ({device}), after {time.monotonic() - start:.0f} s", flush=True)
        command = [sys.executable, "-m", f"benchmarks.{name}", "--device", device, "--json", str(file)]
        code = subprocess.run([*command, *(["--quick"] if given.quick else [])], cwd=ROOT, env=environment, check=False)
        if code.returncode:
            trouble.append(f"{name} ({device}): ended with {code.returncode}")
    print(f"\nall in {time.monotonic() - start:.0f} s, results in {results}")
    if results == RESULTS:
        update(README, results)
    for line in trouble:
        print(f"error: {line}", file=sys.stderr)
    return 1 if trouble else 0


if __name__ == "__main__":
    sys.exit(main())
