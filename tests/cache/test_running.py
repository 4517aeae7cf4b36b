"""What running processes make and read: named while they run, also when they are killed, and never by themselves."""

from __future__ import annotations

import multiprocessing
import time
from pathlib import Path
from typing import Any

from split_matching.cache.running import FOLDER, claim, claimed_folders


def _run(root: Path, ready: Any) -> None:
    with claim(root, [root / "toy/squares/0", root / "toy/squares/0.partial"]):
        ready.set()
        time.sleep(60)


def test_claim_lasts_as_long_as_its_process(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    other = context.Process(target=_run, args=(tmp_path, ready))
    other.start()
    assert ready.wait(30)
    for _ in range(2):
        found = claimed_folders(tmp_path)
        assert set(found) == {tmp_path / "toy/squares/0", tmp_path / "toy/squares/0.partial"}
        assert next(iter(found.values())).startswith(f"process {other.pid} on ")
    other.kill()
    other.join()
    assert claimed_folders(tmp_path) == {}
    with claim(tmp_path, []):  # removes the file of the one that was killed
        assert len(list((tmp_path / FOLDER).glob("*.json"))) == 1
        assert claimed_folders(tmp_path) == {}
    assert [path.name for path in (tmp_path / FOLDER).iterdir()] == ["lock"]


def test_claims_of_one_process_leave_each_other(tmp_path: Path) -> None:
    """A claim removes the files of processes that have ended; its own process has not."""
    with claim(tmp_path, []):
        with claim(tmp_path, []):
            assert len(list((tmp_path / FOLDER).glob("*.json"))) == 2
        assert len(list((tmp_path / FOLDER).glob("*.json"))) == 1
