"""Fault injection: the real pipeline on a tiny data set is killed, starved, raced and damaged.

It must then come out as if nothing had happened: every file of every artifact byte for byte, manifests and the report
included. Files from outside are altered as well: a reader returns what they mean, or one line says what is wrong.

    python -m tests.faults                        the long form: 2,000 disturbances and 24,000 files, hours
    python -m tests.faults --short                what tests/pipeline/test_faults.py runs
    python -m tests.faults --only kill --times 5
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.faults import beside, damage, disks, kills, mutations, places, races, schedulers, system_calls, users
from tests.faults.rig import Case, LeftOutError, Rig, pin, warnings_off

KINDS = (kills, races, beside, schedulers, system_calls, disks, users, damage, mutations, places)
COLUMNS = ("kind", "case", "tries", "failures", "seconds")


def repeat(rig: Rig, case: Case, name: str, wanted: int, seed: int) -> dict[str, Any]:
    """Run a case until it has disturbed often enough, or is seen never to disturb."""
    result: dict[str, Any] = {"case": name, "runs": 0, "disturbed": 0, "failures": [], "left_out": "", "seconds": 0.0}
    started = time.monotonic()
    for number in range(4 * wanted):
        if result["disturbed"] >= wanted * case.size:
            break
        try:
            problem = case.run(rig, random.Random(f"{seed}/{name}/{number}"))
        except LeftOutError as error:
            result["left_out"] = str(error)
            break
        result["runs"] += case.size
        result["disturbed"] += case.size * (problem is not None)
        if problem:
            result["failures"].append(f"{name}, seed {seed}, run {number}: {problem}")
            print(result["failures"][-1], file=sys.stderr, flush=True)
    result["seconds"] = round(time.monotonic() - started, 1)
    return result


def print_row(*values: Any) -> None:
    """Print a row of a Markdown table."""
    print(f"| {' | '.join(str(value) for value in values)} |", flush=True)


def main() -> int:
    """Run the suite; prints a table and returns 1 if anything failed."""
    parser = argparse.ArgumentParser(description="Kills, starves, races and damages runs of the pipeline.")
    parser.add_argument("--short", action="store_true", help="few repetitions, some minutes")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of all random choices (default: 0)")
    parser.add_argument(
        "--only", nargs="+", default=[""], metavar="TEXT", help="cases whose kinds or names hold one of these texts"
    )
    parser.add_argument("--times", type=int, metavar="N", help="disturbances for each case")
    parser.add_argument("--seconds", type=float, metavar="S", help="begin no case after this time")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results here")
    options = parser.parse_args()
    warnings_off()
    pin()
    folder, started = Path(tempfile.mkdtemp(prefix="faults-")), time.monotonic()
    folder.chmod(0o755)  # a case runs as another user
    results = []
    try:
        rig = Rig(folder)
        print_row(*COLUMNS)
        print_row("---", "---", "---:", "---:", "---:")
        for module in KINDS:
            kind = module.__name__.rpartition(".")[2].replace("_", " ")
            for name, case in module.cases(options.short).items():
                late = options.seconds and time.monotonic() - started > options.seconds
                if late or not any(text in f"{kind}: {name}" for text in options.only):
                    continue
                result = repeat(rig, case, name, options.times or case.wanted, options.seed)
                results.append({"kind": kind, **result})
                failures = f"left out: {result['left_out']}" if result["left_out"] else len(result["failures"])
                print_row(kind, name, result["disturbed"], failures, result["seconds"])
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if options.json:
        options.json.write_text(json.dumps(results), encoding="utf-8")
    return int(any(result["failures"] for result in results))


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    sys.exit(main())
