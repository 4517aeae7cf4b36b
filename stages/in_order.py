"""Work on many images in threads, with results in order and memory that does not grow with their number."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")


def in_order(work: Callable[[Job], Result], jobs: Iterable[Job], threads: int = 0) -> Iterator[Result]:
    """Yield `work(job)` for every job, in the order of the jobs.

    Args:
        work: called in threads; decoding images releases the interpreter lock.
        jobs: taken as they are needed, a few ahead.
        threads: how many; 0 for one a core.
    """
    threads = threads or os.cpu_count() or 1
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[Result]] = deque()
        for job in jobs:
            if len(waiting) >= 4 * threads:
                yield waiting.popleft().result()
            waiting.append(pool.submit(work, job))
        while waiting:
            yield waiting.popleft().result()
