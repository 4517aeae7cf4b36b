"""Toy stages through the real command line and luigi: what reruns and why, what a failure leaves, how it ends."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from split_matching.cache.artifact import Artifact
from tests.pipeline.toy_project import Toy

ROOT = Path(__file__).parents[2]
ALL = ["Numbers", "Listing", "Squares", "Total", "Page"]


def test_runs_everything_and_prints_the_result_last(project: Toy) -> None:
    assert project.run("Page") == 0
    assert project.ran() == ALL
    assert Path(project.out[-1]).name == "page.html"
    assert Path(project.out[-1]).read_text() == f"<p>{8 * sum(i * i for i in range(10))}</p>"
    assert any("Squares" in line and "13 images" in line for line in project.out)
    assert "Squares: 13 images, stage 3 of 5" in project.err


def test_second_run_runs_nothing(project: Toy) -> None:
    project.run("Page")
    project.log()
    assert project.run("Page") == 0
    assert project.log() == []
    assert project.ran() == []
    assert project.err == []


def test_a_stage_runs_only_what_it_needs(project: Toy) -> None:
    assert project.run("Listing") == 0
    assert project.log() == ["numbers", "listing"]
    assert project.out[-1].startswith(str(project.folder / "artifacts/shapes/dataset"))


def test_several_workers_make_the_same(project: Toy, tmp_path: Path) -> None:
    project.run("Page")
    alone = {p.name: p.read_bytes() for p in (tmp_path / "artifacts/shapes/squares").glob("*/*.h5")}
    assert project.run("Page", "--artifacts", str(tmp_path / "other"), "--workers", "2") == 0
    together = {p.name: p.read_bytes() for p in (tmp_path / "other/shapes/squares").glob("*/*.h5")}
    assert alone == together
    assert len(alone) == 4


@pytest.mark.parametrize("setting", ["runtime.shard_size=3", "runtime.batch=2", "runtime.threads=1"])
def test_runtime_settings_rerun_nothing(project: Toy, setting: str) -> None:
    project.run("Page")
    assert project.run("Page", "--set", setting) == 0
    assert project.ran() == []


def test_changed_config_reruns_what_reads_it_and_keeps_the_old(project: Toy) -> None:
    project.run("Page")
    assert project.run("plan Page", "--set", "pseudo_masks.k=9") == 0
    assert [re.sub(r"\d+\.\d+ s", "T", line) for line in project.out] == [
        "Numbers  fresh  took T",
        "Listing  fresh  took T",
        "Squares  run    missing (config pseudo_masks.k 8 -> 9), 4 shards, took T before",
        "Total    run    missing (waits for Squares), took T before",
        "Page     run    missing (waits for Total), took T before",
        "3 of 5 stages would run; they took T before",
    ]
    project.run("Page", "--set", "pseudo_masks.k=9")
    assert project.ran() == ["Squares", "Total", "Page"]
    project.run("Page")
    assert project.ran() == []


def test_cosmetic_edit_reruns_nothing(project: Toy) -> None:
    project.run("Page")
    project.edit("numbers", '"""Doc."""', '"""Another text."""')
    project.edit("numbers", "    log(", "    # a comment\n    log(")
    assert project.run("Page") == 0
    assert project.ran() == []


def test_changed_constant_is_named_and_reruns_everything_below(project: Toy) -> None:
    project.run("Page")
    before = project.total()
    project.edit("numbers", "FIRST = 0", "FIRST = 1")
    project.run("status")
    assert project.state_of("Numbers").startswith("stale (code toy_stages/numbers.py)")
    assert project.state_of("Squares").startswith("stale (waits for Listing)")
    project.run("Page")
    assert project.ran() == ALL
    assert project.total() != before


def test_equal_bytes_stop_the_rerun(project: Toy) -> None:
    project.run("Page")
    project.edit("listing", 'log("listing")', 'log("listing");log("again")')
    project.log()
    assert project.run("Page") == 0
    assert project.log() == ["listing", "again"]
    assert project.ran() == ["Listing"]
    assert sum("fresh, its inputs came out the same" in line for line in project.out) == 3


def test_change_in_val_does_not_touch_what_reads_train(project: Toy) -> None:
    project.run("Page")
    project.edit("listing", "ids[:3]", "ids[:4]")
    project.run("Page")
    assert project.ran() == ["Listing", "Squares", "Page"]


def test_force_reruns_one_stage(project: Toy) -> None:
    project.run("Page")
    project.log()
    for _ in range(2):
        assert project.run("Squares", "--force") == 0
        assert project.ran() == ["Squares"]
        assert len(project.log()) == 13
    project.run("Page")
    assert project.ran() == []


def test_force_with_several_workers(project: Toy) -> None:
    project.run("Page")
    assert project.run("Total", "--force", "--workers", "2") == 0
    assert project.ran() == ["Total"]


@pytest.mark.parametrize("workers", ["1", "2"])
def test_user_error_is_one_line_with_its_exit_code(project: Toy, workers: str) -> None:
    project.trouble("data 0005")
    assert project.run("Page", "--workers", workers) == 3
    [log] = (project.folder / "artifacts/shapes/logs").iterdir()
    assert project.err[-1] == f"error: Squares: image 0005 is unreadable: mend it (log: {log})"
    assert not any("Traceback" in line for line in project.err)
    project.trouble("")
    project.log()
    assert project.run("Page", "--workers", workers) == 0
    assert "numbers" not in project.log()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_bug_is_one_line_and_a_traceback_with_debug(project: Toy, workers: str) -> None:
    project.trouble("bug 0005")
    assert project.run("Squares", "--workers", workers) == 1
    [log] = (project.folder / "artifacts/shapes/logs").iterdir()
    assert project.err[-1] == f"error: Squares: ZeroDivisionError: a bug of two lines (log: {log})"
    assert not any("Traceback" in line for line in project.err)
    assert project.run("Squares", "--workers", workers, "--debug") == 1
    assert any("Traceback" in line for line in project.err)


def test_finished_shards_are_not_made_again(project: Toy) -> None:
    project.trouble("data 0005")
    project.run("Page")
    project.run("status")
    assert project.state_of("Squares").startswith("partial 1/4")
    project.trouble("")
    project.log()
    project.run("Page")
    again = project.log()
    assert "square train 0001" not in again
    assert "square train 0005" in again


def test_killed_worker_is_one_line(project: Toy) -> None:
    project.trouble("kill 0005")
    assert project.run("Page", "--workers", "2") == 1
    assert project.err[-1].startswith("error: Squares: a worker process died (signal 9)")
    project.trouble("")
    assert project.run("Page", "--workers", "2") == 0


def test_a_stage_that_resumes_sees_its_files_and_commits_no_checkpoint(project: Toy) -> None:
    project.trouble("total")
    assert project.run("Page") == 1
    project.trouble("")
    project.log()
    assert project.run("Page") == 0
    assert "total from 5" in project.log()
    files = next((project.folder / "artifacts/shapes/total").glob("*")).iterdir()
    assert sorted(p.name for p in files) == ["manifest.json", "total.txt"]


@pytest.mark.parametrize(
    ("workers", "number"),
    [("1", signal.SIGINT), ("2", signal.SIGINT), ("1", signal.SIGTERM), ("2", signal.SIGUSR1), ("2", signal.SIGHUP)],
)
def test_ctrl_c_and_a_notice_end_with_130_and_are_resumed(project: Toy, workers: str, number: int) -> None:
    project.trouble("wait 0005")
    process = project.start("Page", "--workers", workers)
    deadline = time.monotonic() + 40
    log = project.folder / "log.txt"
    while not log.exists() or "waiting" not in log.read_text():
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    time.sleep(0.3)
    os.killpg(process.pid, number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.splitlines()[-1].startswith("interrupted: finished stages, shards and steps are kept")
    assert "Traceback" not in err
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, 0)
        pytest.fail("a worker lives on")
    project.trouble("")
    project.log()
    assert project.run("Page") == 0
    again = project.log()
    assert "numbers" not in again
    assert "square train 0001" not in again


def test_two_processes_at_once_make_it_once(project: Toy) -> None:
    both = [project.start("Page") for _ in range(2)]
    for process in both:
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        assert out.splitlines()[-1].endswith("page.html")
    made = project.log()
    assert len(made) == len(set(made)) == 13 + 4
    folders = [p.name for p in (project.folder / "artifacts/shapes").glob("*/*") if p.suffix != ".log"]
    assert len(folders) == 5
    assert all(len(name) == 16 for name in folders)


def test_verify_names_damage_and_only_that_shard_is_made_again(project: Toy) -> None:
    project.run("Page")
    assert project.run("verify") == 0
    shard = next((project.folder / "artifacts/shapes/squares").glob("*/train-00001.h5"))
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    assert project.run("verify") == 4
    assert any("train-00001.h5" in line and "renamed to" in line for line in project.out)
    project.log()
    assert project.run("Page") == 0
    assert project.log() == [f"square train {i:04d}" for i in range(4, 8)]
    assert project.run("verify") == 0


@pytest.mark.parametrize("workers", ["1", "2"])
def test_unreadable_shard_is_renamed_and_made_again(project: Toy, workers: str) -> None:
    project.run("Squares")
    shard = next((project.folder / "artifacts/shapes/squares").glob("*/train-00001.h5"))
    shard.write_bytes(b"x" * shard.stat().st_size)
    project.log()
    assert project.run("Page", "--workers", workers) == 0
    assert sum("train-00001.h5 is altered, renamed to" in line for line in project.err) == 1
    made = [line for line in project.log() if line.startswith("square")]
    assert made == [f"square train {i:04d}" for i in range(4, 8)]
    assert project.run("verify") == 0


def test_a_file_that_is_altered_again_and_again_ends_with_4(project: Toy) -> None:
    project.run("Page")
    project.edit("page", "import log\n", "import log\nfrom pathlib import Path\n")
    spoil = 'for p in Path(ctx.inputs["total"].path).glob("total.txt"): p.write_bytes(p.read_bytes()[::-1] + b" ")'
    project.edit("page", '    log("page")', f'    log("page")\n    {spoil}')
    assert project.run("Page") == 4
    assert "total.txt is altered" in project.err[-1]
    assert sum("renamed to" in line for line in project.err) == 3


def test_quiet_prints_the_path_only(project: Toy) -> None:
    assert project.run("Page", "--quiet") == 0
    assert len(project.out) == 1
    assert project.err == []


def test_luigi_runs_a_stage_by_its_own_command_line(tmp_path: Path) -> None:
    settings = ["shapes.train_scenes=2", "shapes.val_scenes=1", "clip.weights=random", f"runtime.artifacts={tmp_path}"]
    command = [
        *(sys.executable, "-m", "luigi", "--module", "split_matching.pipeline.run.tasks", "PrepareDataset"),
        *("--dataset", "shapes", "--settings", json.dumps(settings), "--local-scheduler", "--workers", "2"),
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "2 ran successfully" in done.stderr
    assert len(list(tmp_path.glob("shapes/dataset/*/train.json"))) == 1
    again = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert "1 complete ones were encountered" in again.stderr


@pytest.mark.parametrize("workers", ["1", "4"])
def test_repair_reads_the_file_that_was_named_and_no_other(
    project: Toy, workers: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.run("Squares")
    shard = next((project.folder / "artifacts/shapes/squares").glob("*/train-00001.h5"))
    data = bytearray(shard.read_bytes())
    data[0] ^= 1
    shard.write_bytes(data)
    project.log()

    read = Artifact.damaged_files

    def read_others(artifact: Artifact) -> list[str]:
        assert artifact.stage != "squares", "an artifact of shards is read whole"
        return read(artifact)

    monkeypatch.setattr(Artifact, "damaged_files", read_others)
    assert project.run("Page", "--workers", workers) == 0
    assert [line for line in project.log() if line.startswith("square")] == [
        f"square train {i:04d}" for i in range(4, 8)
    ]
    assert sum("could not be read: checking it" in line for line in project.err) == 1


def test_every_shard_damaged_is_made_again_in_one_run(project: Toy) -> None:
    project.run("Page")
    before = project.total()
    for shard in (project.folder / "artifacts/shapes/squares").glob("*/*.h5"):
        data = bytearray(shard.read_bytes())
        data[0] ^= 1
        shard.write_bytes(data)
    project.log()
    project.edit("total", 'log(f"total', 'log("other");log(f"total')
    assert project.run("Page") == 0
    assert sum(line.startswith("square") for line in project.log()) == 13
    assert project.total() == before


@pytest.mark.parametrize("edited", [False, True])
def test_a_run_with_other_code_beside_another_is_told_at_its_start(project: Toy, edited: bool) -> None:
    """What one of them makes is stale for the other, so that a long training may be in vain."""
    project.trouble("wait 0005")
    process = project.start("Page")
    deadline = time.monotonic() + 40
    log = project.folder / "log.txt"
    while not log.exists() or "waiting" not in log.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    project.trouble("")
    if edited:
        project.edit("numbers", "FIRST = 0", "FIRST = 1")
    assert project.run("Listing", "--force") == 0  # so that there is something to run, also without an edit
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    warned = [line for line in project.err if line.startswith("warning: ")]
    assert len(warned) == edited
    if edited:
        assert warned[0].startswith(f"warning: process {process.pid} on ")
        assert " works on Numbers with other code: each of the two runs makes stale what the other makes" in warned[0]
    assert project.run("Page", "--set", "pseudo_masks.k=9") == 0
    assert not any(line.startswith("warning: ") for line in project.err)  # nobody works there any more
