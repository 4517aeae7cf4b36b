"""The short form of the fault injection suite, see tests/faults/; `make long` runs it, `make faults` the whole."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What came of every case; run in a process of its own, which may fork because no thread of torch has run in it."""
    path = tmp_path_factory.mktemp("faults") / "results.json"
    command = [sys.executable, "-m", "tests.faults", "--short", "--json", str(path)]
    done = subprocess.run(command, cwd=ROOT, env=dict(os.environ), capture_output=True, text=True, timeout=1200)
    assert path.exists(), done.stdout + done.stderr
    found: list[dict[str, Any]] = json.loads(path.read_text())
    return found


def test_every_fault_ends_with_the_undisturbed_result(results: list[dict[str, Any]]) -> None:
    assert [failure for result in results for failure in result["failures"]] == []


def test_faults_disturbed(results: list[dict[str, Any]]) -> None:
    """Guards the suite: a fault that comes too late shows nothing."""
    assert len(results) > 20
    idle = [result["case"] for result in results if not result["left_out"] and not result["disturbed"]]
    assert idle == []


def test_what_this_machine_cannot_show(results: list[dict[str, Any]]) -> None:
    left_out = {result["left_out"] for result in results if result["left_out"]}
    if left_out:
        pytest.skip("; ".join(sorted(left_out)))
