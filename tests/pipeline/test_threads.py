"""How many CPU threads a run has, whether it waits for other processes, and what it does with freed memory."""

from __future__ import annotations

import resource

import pytest

from split_matching.configs.load import load_config
from split_matching.pipeline import arguments
from split_matching.pipeline.cli import main
from split_matching.pipeline.run.cpu import keep_memory


@pytest.mark.parametrize(
    ("variable", "setting", "expected"),
    [("", 0, 0), ("3", 0, 3), ("3,2", 0, 3), ("3", 2, 2), ("many", 0, 0), ("-1", 0, 0)],
)
def test_threads_of_the_user_are_honoured(
    variable: str, setting: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arguments, "OMP_NUM_THREADS", variable)
    config = load_config("shapes", [], [f"runtime.threads={setting}"])
    assert arguments.with_user_threads(config).runtime.threads == expected


def test_torchrun_sets_the_variable_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arguments, "OMP_NUM_THREADS", "1")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    assert arguments.with_user_threads(load_config("shapes")).runtime.threads == 0


@pytest.mark.parametrize(("rank", "says"), [("", True), ("0", True), ("1", False)])
def test_only_training_waits_for_other_processes(
    rank: str, says: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", rank)
    assert main(["config", "--dataset", "shapes"]) == 0
    assert bool(capsys.readouterr().out) == says


def test_a_process_keeps_what_it_frees(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight blocks of 8 MB are 16,384 pages of 4 kB: they are asked for once, and not at every turn."""
    monkeypatch.delenv("MALLOC_TRIM_THRESHOLD_", raising=False)
    monkeypatch.delenv("MALLOC_MMAP_THRESHOLD_", raising=False)
    if not keep_memory():
        pytest.skip("the C library is not glibc")
    faults = []
    for _ in range(4):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        blocks = [bytearray(8 << 20) for _ in range(8)]
        del blocks
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    assert sum(faults[1:]) < 8000  # of 49,152 that would be asked for again


def test_thresholds_of_the_user_are_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "131072")
    assert not keep_memory()
