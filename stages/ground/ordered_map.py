"""Work on many images in threads, with results in order and memory that does not grow with their number."""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from threadpoolctl import threadpool_limits

Job = TypeVar("Job")
Result = TypeVar("Result")


def worker_threads(count: int) -> ThreadPoolExecutor:
    """Pool of threads that compute with one CPU thread each, beside a main thread that uses all of them.

    Otherwise each of them would start an OpenMP team of its own at torch's first parallel loop. These teams share the
    cores with the main thread's: a training step of `shapes` took twice as long, 213 against 100 ms on 2 cores, beside
    a thread that had once resized a mask. See also `pipeline.run.cpu.WAITING`.

    Args:
        count: how many threads.
    """
    return ThreadPoolExecutor(count, initializer=_use_one_thread)


def _use_one_thread() -> None:
    """Limit OpenMP to one thread, for the calling thread alone."""
    if torch := sys.modules.get("torch"):
        torch.get_num_threads()  # torch sets the limit anew at a thread's first call, so that call comes first
    threadpool_limits(1, "openmp")


def ordered_map(work: Callable[[Job], Result], jobs: Iterable[Job], threads: int = 0) -> Iterator[Result]:
    """Yield `work(job)` for every job, in the order of the jobs.

    Args:
        work: called in threads; decoding images releases the interpreter lock.
        jobs: taken as they are needed, a few ahead.
        threads: how many; 0 for one a core.
    """
    threads = threads or len(os.sched_getaffinity(0))
    with worker_threads(threads) as pool:
        waiting: deque[Future[Result]] = deque()
        for job in jobs:
            if len(waiting) >= 4 * threads:
                yield waiting.popleft().result()
            waiting.append(pool.submit(work, job))
        while waiting:
            yield waiting.popleft().result()
