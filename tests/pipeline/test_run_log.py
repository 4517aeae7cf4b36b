"""The log file of a run: what it holds, whatever the terminal shows, and that it costs nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from split_matching.pipeline.run import run_log
from tests.pipeline.toy_project import Toy


def logs(project: Toy) -> list[Path]:
    return sorted((project.folder / "artifacts/shapes/logs").glob("*"))


@pytest.mark.parametrize("workers", ["1", "2"])
def test_log_holds_the_command_the_keys_the_lines_and_the_traceback(project: Toy, workers: str) -> None:
    project.trouble("bug 0005")
    assert project.run("Page", "--workers", workers, "--quiet") == 1
    [path] = logs(project)
    assert path.name.endswith("-Page.log") and str(path) in project.err[-1]
    text = path.read_text()
    for part in ("command: ", "key of Squares: ", "versions: python ", "Squares: 13 images, stage 3 of 5"):
        assert text.count(part) == 1, part
    assert text.count("Traceback (most recent call last)") == 1 and 'raise ZeroDivisionError("a bug' in text


def test_a_line_names_the_number_of_the_stage(project: Toy) -> None:
    project.run("Page")
    assert "Total: started, stage 4 of 5" in project.err


def test_a_fresh_result_leaves_no_log_and_old_ones_are_removed(project: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_log, "KEPT", 2)
    for k in (7, 8, 9):
        assert project.run("Page", "--set", f"pseudo_masks.k={k}") == 0
        assert project.run("Page", "--set", f"pseudo_masks.k={k}") == 0
    kept = logs(project)
    assert len(kept) == 2
    assert "key of Page" in kept[-1].read_text()


def test_log_level_debug_adds_what_luigi_says(project: Toy) -> None:
    assert project.run("Page", "--log-level", "debug") == 0
    assert "Informed scheduler" in logs(project)[0].read_text()
    assert not any("Informed scheduler" in line for line in project.err)
    assert project.run("Page", "--log-level", "error", "--force") == 0
    assert logs(project)[1].read_text() == ""


def test_a_log_that_cannot_be_written_ends_no_run(project: Toy) -> None:
    (project.folder / "artifacts/shapes").mkdir(parents=True)
    (project.folder / "artifacts/shapes/logs").write_text("a file")
    assert project.run("Page") == 0
    assert project.run("gc") == 0
