"""The verb `gc`: what is removed, and what is kept."""

from __future__ import annotations

import errno
import io
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from split_matching.cache.folders import Folder, remove_folder
from split_matching.cache.notes import change_note
from split_matching.pipeline.cli import main
from tests.pipeline.toy_project import Toy


def cached(project: Toy) -> set[str]:
    root = project.folder / "artifacts"
    paths = (path for path in root.glob("*/*/*") if path.parent.name not in ("logs", "notes"))
    return {path.relative_to(root).as_posix() for path in paths}


def three_more_totals(project: Toy) -> list[str]:
    """Artifacts of configs that nobody knows, oldest first."""
    made = []
    for steps in (1, 2, 3):
        project.run("Total", "--set", f"train.steps={steps}")
        made.append(f"shapes/total/{project.newest('total').name}")
    return made


def test_gc_keeps_what_the_config_reaches_and_the_newest_others(project: Toy) -> None:
    project.run("Page")
    reached = cached(project)
    made = three_more_totals(project)
    assert project.run("gc", "--yes") == 0
    assert cached(project) == reached | {made[2]}
    assert project.out[-1].startswith("removes 2 folders, ")
    assert project.run("status") == 0 and not any("corrupt" in line for line in project.out)
    assert project.run("gc", "--yes", "--keep", "0") == 0
    assert cached(project) == reached


def test_gc_keeps_runs_with_a_name_or_note(project: Toy) -> None:
    project.run("Page")
    reached = cached(project)
    made = three_more_totals(project)
    root = project.folder / "artifacts"
    change_note(root, "shapes", made[0].rpartition("/")[2], name="first", text="")
    change_note(root, "shapes", made[1].rpartition("/")[2], name="", text="see the paper")
    assert project.run("gc", "--yes", "--keep", "0") == 0
    assert cached(project) == reached | set(made[:2])
    assert any("has a name or note" in line for line in project.out)
    change_note(root, "shapes", made[0].rpartition("/")[2], name="", text="")
    project.run("gc", "--yes", "--keep", "0")
    assert cached(project) == reached | {made[1]}


def test_gc_keeps_the_evaluation_of_a_named_training(
    tiny_run: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`runs` shows it with the name of its training."""
    root = tmp_path / "cache"
    shutil.copytree(tiny_run[1], root, ignore=shutil.ignore_patterns("notes"))
    trained, scored = (next((root / "shapes" / name).glob("*/manifest.json")).parent for name in ("train", "evaluate"))

    def decide() -> list[str]:
        capsys.readouterr()
        assert main(["gc", "--dry-run", "--keep", "0", "--dataset", "shapes", "--artifacts", str(root)]) == 0
        lines = capsys.readouterr().out.splitlines()
        return [line.split()[0] for line in lines if trained.name in line or scored.name in line]

    assert set(decide()) == {"remove"}
    change_note(root, "shapes", trained.name, name="baseline")
    assert decide() == ["keep", "keep"]


def test_gc_refuses_a_cache_with_a_folder_that_may_not_be_read(project: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is in there may have been made from anything else; a test may run as root, who may read all."""
    project.run("Page")
    hidden, real = project.folder / "artifacts/shapes/total", os.scandir

    def scan(path: Any = ".") -> Any:
        if Path(path) == hidden:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scan)
    assert project.run("gc", "--yes", "--keep", "0") == 1
    assert str(hidden) in project.err[-1] and "permission denied" in project.err[-1]


def test_gc_keeps_what_each_variant_reaches(project: Toy) -> None:
    project.run("Page")
    reached = cached(project)
    made = three_more_totals(project)
    files = []
    for steps in (1, 2):
        files.append(project.folder / f"steps{steps}.yaml")
        files[-1].write_text(f"train: {{steps: {steps}}}\n")
    project.run("gc", "--yes", "--keep", "0", "--variants", *map(str, files))
    assert cached(project) == reached | set(made[:2])
    project.run("gc", "--yes", "--keep", "0", "--set-file", *map(str, files))  # each alone, too
    assert cached(project) == reached | set(made[:2])
    project.run("gc", "--yes", "--keep", "0", "--set-file", str(files[1]))
    assert cached(project) == reached | {made[1]}


def test_gc_shows_sizes_and_removes_nothing_when_dry_or_not_asked(
    project: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.run("Page")
    three_more_totals(project)
    before = cached(project)
    assert project.run("gc", "--dry-run", "--keep", "0") == 0
    gone = [line for line in project.out if line.startswith("remove ")]
    assert len(gone) == 3 and all("shapes/total/" in line and " kB " in line for line in gone)
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert project.run("gc", "--keep", "0") == 2
    assert "--yes" in project.err[0]
    monkeypatch.setattr("split_matching.pipeline.verbs.gc._ask", lambda: False)
    assert project.run("gc", "--keep", "0") == 0
    assert cached(project) == before


def test_gc_removes_the_events_of_trainings_that_are_gone(project: Toy) -> None:
    project.run("Page")
    kept, *gone = [*three_more_totals(project)[::-1], "shapes/total/0123456789abcdef"]  # the newest one is kept
    board = project.folder / "artifacts/shapes/tensorboard"
    folders = [board / f"train.steps=3_{Path(name).name[:8]}" for name in (kept, *gone)]
    others = [board / "mine", board / "notes_01234567"]  # no key; not only events
    for folder in (*folders, *others):
        folder.mkdir(parents=True)
        (folder / "events.out.tfevents.1.2").write_bytes(b"12345")
    (others[1] / "note.txt").write_text("why")
    assert project.run("gc", "--dry-run") == 0
    assert f"remove       5 B  shapes/tensorboard/{folders[1].name}  (of no training that is kept)" in project.out
    assert all(folder.exists() for folder in folders)
    assert project.run("gc", "--yes") == 0
    assert [folder.exists() for folder in (*folders, *others)] == [True, False, False, False, True, True]


def leftover(project: Toy, name: str, days: float, slug: str = "total") -> Path:
    path = project.folder / "artifacts/shapes" / slug / name
    path.mkdir(parents=True)
    (path / "build.json").write_text("{}")
    (path / "build.lock").touch()
    for each in (path / "build.json", path / "build.lock", path):
        os.utime(each, (time.time() - days * 86400,) * 2)
    return path


def test_gc_removes_leftovers_and_builds_that_nobody_wrote_to_for_a_day(project: Toy) -> None:
    project.run("Numbers")
    key = "0" * 16
    gone = [leftover(project, name, days) for name, days in ((f"{key}.01234567.old", 0), (f"{key}.partial", 1.1))]
    gone.append(leftover(project, f"{key}.partial.01234567.new", 2))
    kept = [leftover(project, f"{'1' * 16}.partial", 0.9), leftover(project, "notes", 9)]
    kept.append(leftover(project, f"{'2' * 16}.partial.01234567.new", 0.1))
    assert project.run("gc", "--yes") == 0
    assert [path.exists() for path in gone] == [False] * 3
    assert [path.exists() for path in kept] == [True] * 3


def test_gc_keeps_a_build_that_the_next_run_goes_on_from(project: Toy, status: Callable[..., Any]) -> None:
    project.trouble("data 0009")
    project.run("Squares")
    (partial,) = (project.folder / "artifacts/shapes/squares").glob("*.partial")
    for path in [*partial.iterdir(), partial]:
        os.utime(path, (time.time() - 9 * 86400,) * 2)
    project.run("gc", "--yes")
    assert status()["Squares"]["shards_done"] == 2
    project.edit("squares", "a bug", "a fault")  # now the next run would begin anew
    project.run("gc", "--yes")
    assert not partial.exists()


def test_gc_leaves_a_build_alone_that_a_process_holds(project: Toy) -> None:
    project.run("Numbers")
    partial = leftover(project, f"{'0' * 16}.partial", 5)
    (partial / "train-00000.h5.lock").touch()
    os.utime(partial / "train-00000.h5.lock", (0, 0))
    code = (
        "import fcntl, sys; f = open(sys.argv[1], 'r+'); fcntl.lockf(f, fcntl.LOCK_EX); "
        "print(flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(partial / "train-00000.h5.lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout and holder.stdout.readline()
        project.run("gc", "--yes")
        assert any("in use" in line for line in project.out) and partial.exists()
        assert not remove_folder(Folder(partial, "partial")) and partial.exists()
        holder.communicate()
    os.utime(partial, (0, 0))
    project.run("gc", "--yes")
    assert not partial.exists()


def test_gc_keeps_what_a_build_in_progress_reads(project: Toy) -> None:
    project.run("Squares", "--set", "pseudo_masks.k=3")
    squares = project.newest("squares")
    project.trouble("total")
    project.run("Total", "--set", "pseudo_masks.k=3")
    project.trouble("")
    project.run("Page")
    project.run("gc", "--yes", "--keep", "0")
    assert squares.exists()
    assert any("read by an unfinished build" in line for line in project.out)


def test_gc_keeps_everything_of_a_stage_whose_key_cannot_be_told(project: Toy) -> None:
    """The raw files of voc are not there, so nobody knows what its config reaches."""
    project.run("Numbers")
    (project.folder / "artifacts/voc").mkdir()
    shutil.copytree(project.newest("shapes"), project.folder / "artifacts/voc/dataset" / ("0" * 16))
    project.run("gc", "--yes", "--keep", "0")
    assert (project.folder / "artifacts/voc/dataset" / ("0" * 16)).exists()


def test_gc_leaves_what_a_running_process_reads(project: Toy) -> None:
    project.run("Squares", "--set", "pseudo_masks.k=3")
    project.trouble("")
    project.edit(
        "total", '    if trouble() == "total"', '    import time; log("waiting"); time.sleep(60)\n    if trouble()'
    )
    squares = project.newest("squares")
    run = project.start("Total", "--set", "pseudo_masks.k=3")
    while run.poll() is None and "waiting" not in project.log():
        time.sleep(0.1)
    assert project.run("gc", "--yes", "--keep", "0") == 0
    assert squares.exists() and any(f"in use by process {run.pid}" in line for line in project.out)
    run.kill()
    run.communicate()


def test_gc_looks_again_after_the_answer(project: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    made = three_more_totals(project)

    def answer() -> bool:
        monkeypatch.setattr(
            "split_matching.pipeline.verbs.gc.claimed_folders",
            lambda root: {project.folder / "artifacts" / made[0]: "process 1 on here"},
        )
        return True

    monkeypatch.setattr("split_matching.pipeline.verbs.gc._ask", answer)
    assert project.run("gc", "--keep", "0") == 0
    assert made[0] in cached(project) and made[1] not in cached(project)
    assert any(f"{made[0]} is in use: left as it is" in line for line in project.err)


def test_gc_takes_other_data_sets_only_if_told_and_not_their_newest(project: Toy) -> None:
    project.run("Page")
    own = project.folder / "artifacts/mine/total"
    for number, path in enumerate(project.newest(stage) for stage in ("total", "page")):
        shutil.copytree(path, own / (str(number) * 16))
    project.run("gc", "--yes", "--keep", "0")
    assert len(list(own.iterdir())) == 2
    project.run("gc", "--yes", "--keep", "0", "--all")
    assert len(list(own.iterdir())) == 1


def test_gc_keeps_what_the_newest_was_made_from(project: Toy) -> None:
    project.run("Total", "--set", "pseudo_masks.k=3")
    needed = project.newest("squares")
    project.run("Squares", "--set", "pseudo_masks.k=4")
    project.run("gc", "--yes")
    assert needed.exists()
    assert any("what is kept was made from it" in line for line in project.out)
