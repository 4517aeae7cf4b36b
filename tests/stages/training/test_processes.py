"""What the processes of one job tell each other: failures, orders and the end."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from split_matching.configs.runtime_settings import RuntimeConfig
from split_matching.errors import ConfigError, DataError, UserError
from split_matching.stages.ground.context import StageContext
from split_matching.stages.training import processes
from split_matching.stages.training.processes import Job

LOSS = RuntimeError("[gloo] Connection closed by peer")


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Job, Job]]:
    """Both processes of a job of two, in this one."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    values = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(Job)  # returns when both are there
        while socket.socket().connect_ex(("127.0.0.1", port)):
            time.sleep(0.05)
        monkeypatch.setenv("RANK", "1")
        second = Job()
        yield first.result(60), second


def context(tmp_path: Path) -> StageContext:
    return StageContext(None, {}, tmp_path, RuntimeConfig(device="cpu", threads=torch.get_num_threads()))


def test_a_process_that_cannot_take_part_says_why(jobs: tuple[Job, Job], tmp_path: Path) -> None:
    jobs[1].report_failure(4, DataError("the weights are not there"))
    with pytest.raises(DataError, match=r"^in process 1: the weights are not there$"):
        jobs[0].train(4, lambda ctx: None, context(tmp_path))


def test_a_process_that_says_nothing_is_lost(
    jobs: tuple[Job, Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "READY_SECONDS", 0.5)
    with pytest.raises(UserError, match=r"was lost; .* the same command resumes from there"):
        jobs[0].train(0, lambda ctx: None, context(tmp_path))


def test_the_cause_of_a_loss_is_what_the_lost_process_said(jobs: tuple[Job, Job]) -> None:
    first, second = jobs
    own = ConfigError("train.batch 3 cannot be shared")
    assert first.find_cause(0, own) is own
    assert "was lost" in str(first.find_cause(0, LOSS))
    second.report_failure(0, LOSS)  # says nothing: it lost the other one itself
    second.report_failure(0, ZeroDivisionError("division by zero"))
    second.report_failure(0, DataError("too late"))
    assert str(first.find_cause(0, LOSS)) == "in process 1: ZeroDivisionError: division by zero"


def test_orders_are_heard_until_the_end(jobs: tuple[Job, Job]) -> None:
    first, second = jobs
    assert second.wait_for_order(0, 0.1) is None
    assert first.give_order({"config": "x"}) == 0
    assert second.wait_for_order(0) == {"config": "x"}
    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(first.end, 3)
        assert second.wait_for_order(1) == {"code": 3}
        second.leave()
        ended.result(processes.GOODBYE_SECONDS)


def test_an_environment_that_says_too_little(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(ConfigError, match=r"^WORLD_SIZE is set but RANK is not"):
        Job()
