"""How many shards luigi's scheduler can handle: empty shards, in this process, up to 100,000 of them.

    python -m benchmarks.scheduler [--quick] [--json FILE]

Registers one stage and its shards as a worker does, then asks for work and reports it done, a sample of 20 times, at
several numbers of shards. luigi looks at every open task each time it is asked for work, so the sample is enough: the
whole run costs about half of (shards x one request at the start). Network and processes are left out.
"""

from __future__ import annotations

import time
import warnings
from typing import Any

from benchmarks.measure import Check, Options, Report, Side, main

SAMPLE = 20
WORKER = "bench"


def open_scheduler() -> Any:
    """A scheduler as the pipeline sets it up."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import luigi.scheduler

    return luigi.scheduler.Scheduler(retry_count=1, stable_done_cooldown_secs=0, worker_disconnect_delay=10**9)


def cost(shards: int) -> tuple[float, float, float]:
    """Milliseconds to register one shard, to ask for work, and to report it done."""
    scheduler = open_scheduler()
    ids = [f"ShardTask_ExtractFeatures_{index:06d}" for index in range(shards)]
    start = time.perf_counter()
    scheduler.add_task(worker=WORKER, task_id="ExtractFeatures", status="PENDING", deps=ids, family="ExtractFeatures")
    for index, shard in enumerate(ids):
        scheduler.add_task(worker=WORKER, task_id=shard, status="PENDING", family="ShardTask", priority=shards - index)
    registered = time.perf_counter()
    asking = telling = 0.0
    for _ in range(min(SAMPLE, shards)):
        before = time.perf_counter()
        found = scheduler.get_work(worker=WORKER)
        asked = time.perf_counter()
        scheduler.add_task(worker=WORKER, task_id=found["task_id"], status="DONE", family="ShardTask")
        asking += asked - before
        telling += time.perf_counter() - asked
    sample = min(SAMPLE, shards)
    return 1000 * (registered - start) / shards, 1000 * asking / sample, 1000 * telling / sample


def run(options: Options) -> Report:
    """Measure at several numbers of shards."""
    sizes = (10, 100) if options.quick else (100, 1000, 10_000, 100_000)
    found = {size: cost(size) for size in sizes}
    sides = [
        Side(f"{what}, {size} shards", "ms", (found[size][column],))
        for column, what in enumerate(("register a shard", "ask for work", "report done"))
        for size in sizes
    ]
    whole = {size: size * (register + ask / 2 + tell) / 1000 for size, (register, ask, tell) in found.items()}
    checks = [Check(f"scheduler time of a whole run, {size} shards", whole[size], unit="s") for size in sizes]
    facts = {f"seconds_{size}": whole[size] for size in sizes}
    facts |= {
        f"{name}_ms_{size}": found[size][column] for size in sizes for column, name in enumerate(("add", "ask", "done"))
    }
    return Report("one stage, one worker, calls without a network", sides, checks, facts)


if __name__ == "__main__":
    main(__doc__, run)
