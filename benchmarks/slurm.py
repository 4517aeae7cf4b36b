"""How fast Slurm takes jobs and ends empty ones, and how long an array may be: a Slurm of one node, started here.

    python -m benchmarks.slurm [--quick] [--json FILE]

Submits arrays of several lengths as `--engine slurm` does, through submitit, with a pickled job a task; and arrays of
empty tasks with sbatch alone, to see how many a second the controller starts and ends. A cluster's own limits differ:
`scontrol show config` says them. Needs Debian's slurm-wlm and munge.
"""

from __future__ import annotations

import subprocess
import tempfile
import time
from pathlib import Path

from benchmarks.measure import Check, Options, Report, Side, main
from split_matching.pipeline.run.slurm import submit_jobs
from split_matching.pipeline.run.slurm_job import Job
from tests.slurm.one_node import missing_programs, one_node

LIMITS = ("MaxArraySize", "MaxJobCount")


def limits() -> dict[str, float]:
    """What the controller allows, with Slurm's defaults."""
    text = subprocess.run(["scontrol", "show", "config"], capture_output=True, text=True, check=True).stdout
    rows = [line.split("=", 1) for line in text.splitlines() if "=" in line]
    return {name.strip(): float(value) for name, value in rows if name.strip() in LIMITS}


def submission(folder: Path, tasks: int) -> float:
    """Seconds to submit one array that is held, so that none of its tasks runs; it is removed again."""
    jobs = [Job("{}", ("Stage",), "", "", folder, _nothing, "run_pipeline.py", task, tasks) for task in range(tasks)]
    start = time.perf_counter()
    job = submit_jobs(folder, f"held-{tasks}", jobs, {"hold": True, "time": "1"})
    took = time.perf_counter() - start
    subprocess.run(["scancel", job], check=True)
    return took


def empty_tasks(tasks: int) -> float:
    """Seconds for an array of empty tasks, from its submission to its end."""
    start = time.perf_counter()
    command = ["sbatch", "--wait", f"--array=0-{tasks - 1}", "--time=1", "--output=/dev/null", "--wrap", "true"]
    subprocess.run(command, capture_output=True, check=True)
    return time.perf_counter() - start


def _nothing(stage: object, *, complain: object) -> int:
    return 0


def run(options: Options) -> Report:
    """Submit arrays of several lengths, and run empty ones."""
    if missing := missing_programs():
        raise SystemExit(f"{', '.join(missing)} not found: apt-get install slurm-wlm munge")
    lengths, empty = ((2, 5), 2) if options.quick else ((10, 100, 1000), 100)
    with tempfile.TemporaryDirectory(prefix="slurm-") as name:
        folder = Path(name)
        (folder / "daemons").mkdir()
        with one_node(folder / "daemons"):
            found = limits()
            taken = {tasks: tuple(submission(folder / f"{tasks}", tasks) for _ in range(3)) for tasks in lengths}
            ran = tuple(empty_tasks(empty) for _ in range(min(3, options.rounds)))
    sides = [Side(f"submit an array of {tasks} tasks", "s", samples) for tasks, samples in taken.items()]
    sides.append(Side(f"run an array of {empty} empty tasks", "s", ran))
    facts = {f"submit_seconds_{tasks}": side.median for tasks, side in zip(lengths, sides, strict=False)}
    facts |= {"tasks_per_second": empty / sides[-1].median, "most_tasks": found["MaxArraySize"] - 1}
    facts["most_jobs"] = found["MaxJobCount"]
    checks = [
        Check("tasks in an array, at most (Slurm's default)", facts["most_tasks"], unit="tasks"),
        Check("empty tasks that end in a second", facts["tasks_per_second"], unit="tasks"),
    ]
    return Report("one node on loopback, jobs held while they are submitted", sides, checks, facts)


if __name__ == "__main__":
    main(__doc__, run)
