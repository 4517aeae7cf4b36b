"""How much threads take at the same time."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from split_matching.stages.ground.budget import Budget


def test_no_more_is_taken_than_the_limit() -> None:
    budget, lock, held, most = Budget(100), threading.Lock(), [0], list[int]()

    def work(amount: int) -> None:
        for _ in range(50):
            with budget.take(amount):
                with lock:
                    held[0] += amount
                    most.append(held[0])
                with lock:
                    held[0] -= amount

    threads = [threading.Thread(target=work, args=(amount,)) for amount in (10, 40, 60, 100, 250)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(most) == 250
    assert all(value <= 100 or value == 250 for value in most), "what is above the limit is alone"


@pytest.mark.parametrize(("size", "most"), [(100, 1), (40, 2), (1000, 1), (0, 8)])
def test_as_many_at_once_as_fit_and_at_least_one(size: int, most: int) -> None:
    budget, lock, inside, seen = Budget(100), threading.Lock(), 0, []
    together = threading.Barrier(most)

    def work(_: int) -> None:
        nonlocal inside
        with budget.take(size):
            with lock:
                inside += 1
                seen.append(inside)
            together.wait(timeout=10)  # as many as fit are in it at the same time
            time.sleep(0.01)
            with lock:
                inside -= 1

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert max(seen) == most and inside == 0


def test_an_error_gives_back_what_was_taken() -> None:
    budget = Budget(10)
    with pytest.raises(ValueError, match="broken"), budget.take(10):
        raise ValueError("broken")
    with budget.take(10):
        pass
