"""Workers on a machine with several GPUs; the GPUs are made up."""

import multiprocessing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from split_matching.pipeline.run import gpus as gpus_module


def machine(gpus: int) -> tuple[Any, list[int]]:
    """A stand-in of torch on a machine with some GPUs, and the devices that were set."""
    chosen: list[int] = []
    cuda = SimpleNamespace(is_available=lambda: gpus > 0, device_count=lambda: gpus, set_device=chosen.append)
    return SimpleNamespace(cuda=cuda), chosen


def _worker(folder: Path, gpus: int, found: Any, end: Any) -> None:
    torch, chosen = machine(gpus)
    found.put((gpus_module.take_gpu(torch, "auto", folder), chosen))
    end.wait(30)


@pytest.mark.parametrize(("workers", "gpus"), [(3, 3), (2, 4), (5, 2)])
def test_every_worker_has_a_gpu_of_its_own_while_there_are_enough(tmp_path: Path, workers: int, gpus: int) -> None:
    context = multiprocessing.get_context("fork")
    found, end = context.Queue(), context.Event()
    processes = [context.Process(target=_worker, args=(tmp_path, gpus, found, end)) for _ in range(workers)]
    for process in processes:
        process.start()
    results = [found.get(timeout=30) for _ in processes]
    end.set()
    for process in processes:
        process.join()
    assert all(chosen == [index] for index, chosen in results)
    taken = [index for index, _ in results]
    assert len(set(taken)) == min(workers, gpus) and set(taken) <= set(range(gpus))
    # the locks ended with their processes
    torch, chosen = machine(gpus)
    assert gpus_module.take_gpu(torch, "cuda", tmp_path) == 0 and chosen == [0]
    gpus_module._held.pop().close()


@pytest.mark.parametrize(("device", "gpus"), [("cpu", 4), ("auto", 0), ("auto", 1), ("cuda", 1)])
def test_there_is_nothing_to_choose(tmp_path: Path, device: str, gpus: int) -> None:
    torch, chosen = machine(gpus)
    assert gpus_module.take_gpu(torch, device, tmp_path) is None and chosen == [] and list(tmp_path.iterdir()) == []
