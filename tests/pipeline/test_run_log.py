"""The log file of a run: what it holds, whatever the terminal shows, and that it costs nothing."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from split_matching.pipeline.run import run_log
from tests.cache.test_locks import locked_elsewhere
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


def lines_of(log: Path) -> list[str]:
    """Lines of a log without time and level."""
    return [line.split(" ", 3)[-1] for line in log.read_text().splitlines()]


@pytest.mark.parametrize("workers", ["1", "2"])
def test_log_holds_every_line_of_the_result(project: Toy, workers: str) -> None:
    assert project.run("Page", "--workers", workers) == 0
    [path] = logs(project)
    assert lines_of(path)[-len(project.out) :] == project.out and len(project.out) == 6
    assert set(project.err) <= set(lines_of(path))


@pytest.mark.parametrize(("trouble", "code"), [("data 0005", 3), ("bug 0005", 1)])
def test_every_error_line_names_the_log_which_holds_it(project: Toy, trouble: str, code: int) -> None:
    project.trouble(trouble)
    assert project.run("Page") == code
    [path] = logs(project)
    line = project.err[-1].removeprefix("error: ")
    assert line.endswith(f"(log: {path})")
    assert line in lines_of(path)
    assert "Traceback" in path.read_text()


def test_an_error_before_the_first_task_is_in_the_log(project: Toy) -> None:
    project.run("Squares")
    lock = project.folder / "artifacts/.running/lock"
    lock.unlink()
    lock.mkdir()
    assert project.run("Page") == 1
    assert project.err[-1].endswith(f"(log: {logs(project)[-1]})")
    assert "Traceback" in logs(project)[-1].read_text()


def test_waiting_for_the_build_of_another_run_is_said_and_logged(project: Toy) -> None:
    project.trouble("total")
    assert project.run("Page") == 1
    project.trouble("")
    [partial] = (project.folder / "artifacts/shapes/total").iterdir()
    waits = "Total: waiting for another process that makes it"
    with locked_elsewhere(partial / "build.lock") as holder:
        run = project.start("Page")
        deadline = time.monotonic() + 60
        while len(logs(project)) < 2 or waits not in lines_of(logs(project)[1]):
            assert time.monotonic() < deadline and run.poll() is None
            time.sleep(0.02)
        holder.kill()
        out, err = run.communicate(timeout=60)
    assert run.returncode == 0, err
    assert err.splitlines().count(waits) == 1 and out.splitlines()[-1].endswith("page.html")


def test_other_verbs_keep_a_log_too(project: Toy) -> None:
    project.run("Page")
    shard = next((project.folder / "artifacts/shapes/squares").glob("*/train-00001.h5"))
    shard.write_bytes(shard.read_bytes()[:-1])
    assert project.run("verify", "--log-level", "info") == 4
    path = logs(project)[-1]
    assert path.name.endswith("-verify.log")
    assert lines_of(path)[-len(project.out) :] == project.out
    assert "key of Squares: " in path.read_text()


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


def test_logs_of_a_clock_in_the_future_do_not_cost_the_run_its_own(
    project: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_log, "KEPT", 2)
    folder = project.folder / "artifacts/shapes/logs"
    folder.mkdir(parents=True)
    for number in range(4):
        (folder / f"20991231-00000{number}-000000-Page.log").touch()
    assert project.run("Page") == 0
    assert "key of Page" in logs(project)[0].read_text()


def test_log_level_debug_adds_what_luigi_says(project: Toy) -> None:
    assert project.run("Page", "--log-level", "debug") == 0
    assert "Informed scheduler" in logs(project)[0].read_text()
    assert not any("Informed scheduler" in line for line in project.err)
    assert project.run("Page", "--log-level", "error", "--force") == 0
    lines = logs(project)[1].read_text().splitlines()
    assert lines[0].split(" ", 2)[2].startswith("INFO command: ") and "versions: " in lines[-1]


def test_a_log_that_cannot_be_written_ends_no_run(project: Toy) -> None:
    (project.folder / "artifacts/shapes").mkdir(parents=True)
    (project.folder / "artifacts/shapes/logs").write_text("a file")
    assert project.run("Page") == 0
    assert project.run("gc") == 0
