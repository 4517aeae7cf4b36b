"""What running processes make and read: named while they run, also when they are killed, and never by themselves."""

from __future__ import annotations

import multiprocessing
import time
from pathlib import Path
from typing import Any

from split_matching.cache.running import FOLDER, claim, claimed_folders, other_code


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


def test_only_who_has_other_code_for_the_same_folder_is_named(tmp_path: Path) -> None:
    here, there = tmp_path / "toy/squares/0", tmp_path / "toy/total/0"
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    other = context.Process(target=_run_code, args=(tmp_path, {here: "1", there: "2"}, ready))
    other.start()
    assert ready.wait(30)
    with claim(tmp_path, [here], {here: "3"}):  # of this process: it does not disagree with itself
        for code, found in (
            ({here: "1", there: "2"}, []),
            ({here: "1", there: "3"}, [there]),
            ({here: "3"}, [here]),
            ({tmp_path / "toy/page/0": "4"}, []),
            ({}, []),
        ):
            assert list(other_code(tmp_path, code)) == found
    assert other_code(tmp_path, {here: "3"})[here].startswith(f"process {other.pid} on ")
    third = context.Process(target=_run_code, args=(tmp_path, {here: "3"}, ready))
    ready.clear()
    third.start()
    assert ready.wait(30)
    for code, process in (("3", other), ("1", third)):  # who has the same code does not hide who has not
        assert other_code(tmp_path, {here: code})[here].startswith(f"process {process.pid} on ")
    for process in (other, third):
        process.kill()
        process.join()
    assert other_code(tmp_path, {here: "3"}) == {}


def _run_code(root: Path, code: dict[Path, str], ready: Any) -> None:
    with claim(root, list(code), code):
        ready.set()
        time.sleep(60)
