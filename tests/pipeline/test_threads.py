"""How many CPU threads a run has, and whether it waits for other processes."""

from __future__ import annotations

import pytest

from split_matching.configs.load import load_config
from split_matching.pipeline import arguments
from split_matching.pipeline.cli import main


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
