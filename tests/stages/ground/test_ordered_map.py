"""Work in threads beside a main thread that computes with all cores."""

import torch

from split_matching.stages.ground.ordered_map import ordered_map, worker_threads


def test_worker_threads_compute_with_one_cpu_thread_each() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with worker_threads(2) as pool:
            assert list(pool.map(lambda _: torch.get_num_threads(), range(6))) == [1] * 6
            assert torch.get_num_threads() == 3
        assert list(ordered_map(lambda _: torch.get_num_threads(), range(6), threads=2)) == [1] * 6
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_results_come_in_the_order_of_the_jobs() -> None:
    assert list(ordered_map(lambda job: job * job, range(50), threads=3)) == [job * job for job in range(50)]
