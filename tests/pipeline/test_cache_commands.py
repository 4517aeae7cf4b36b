"""The verbs that look into the cache and tidy it, through the real command line with toy stages."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from split_matching.cache.accept import accept_code
from split_matching.cache.artifact import load_artifact, shard_name
from split_matching.cache.build import open_build
from split_matching.cache.entry import Entry, Recipe, State
from split_matching.cache.folders import Folder, remove_folder
from split_matching.cache.keys import digest
from split_matching.configs.load import load_config
from split_matching.errors import CorruptError
from split_matching.pipeline.cli import main
from split_matching.pipeline.plan import Plan, Stage
from split_matching.pipeline.stages import make_plan
from split_matching.pipeline.text import describe_change, describe_state
from split_matching.pipeline.verbs.status import status_lines
from tests import toy
from tests.pipeline import test_run as test_pipeline_run
from tests.pipeline.test_run import Toy

project = test_pipeline_run.project

ROOT = Path(__file__).parents[2]
SHARDS = 1000


@pytest.fixture
def status(project: Toy) -> Callable[..., dict[str, Any]]:
    """Stages by name, as `status --json` tells of them."""

    def ask(*more: str) -> dict[str, Any]:
        assert project.run("status", "--json", *more) == 0
        return {stage["stage"]: stage for stage in json.loads("\n".join(project.out))["stages"]}

    return ask


# ---- status ----


def test_status_is_a_tree_with_reasons_sizes_and_folders(project: Toy) -> None:
    project.run("Total")
    project.edit("squares", "* ctx.config.pseudo_masks.k", "* ctx.config.pseudo_masks.k + 0")
    project.run("status")
    names = [line.rpartition("─ ")[2].split()[0] for line in project.out]
    assert names == ["Numbers", "Listing", "Squares", "Total", "Page"]
    assert [line.index(name) for line, name in zip(project.out, names, strict=True)] == [0, 3, 6, 9, 12]
    assert "  stale (code toy_stages/squares.py), " in project.out[2]
    assert "kB, " in project.out[2] and project.out[2].rpartition("/")[0].endswith("shapes/squares")
    assert project.out[4].endswith("  missing (waits for Total)")


def test_status_counts_the_shards_of_an_interrupted_build(project: Toy, status: Callable[..., Any]) -> None:
    project.trouble("data 0009")
    assert project.run("Squares") != 0
    found = status()["Squares"]
    assert (found["state"], found["shards_done"], found["shards"]) == ("partial", 2, 4)
    assert found["bytes"] > 0
    project.run("status")
    assert project.stands("Squares").startswith("partial 2/4, ") and project.out[2].endswith(".partial")


def test_status_as_json_holds_keys_times_and_upstream(project: Toy, status: Callable[..., Any]) -> None:
    project.run("Squares")
    found = status()
    assert found["Squares"]["state"] == "fresh" and found["Page"]["state"] == "missing"
    assert len(found["Squares"]["key"]) == 64 and found["Squares"]["seconds"] >= 0
    assert Path(found["Squares"]["path"]).is_dir() and found["Page"]["path"] is None
    assert found["Page"]["upstream"] == ["Total", "Listing"]


def artifact_of_many_shards(stage: Stage) -> None:
    """Write an artifact of 1,000 empty shard files by hand."""
    recipe, folder = stage.recipe, stage.entry.folder
    folder.mkdir(parents=True)
    entry = {"bytes": 1, "sha256": hashlib.sha256(b"x").hexdigest()}
    names = [shard_name("train", index) for index in range(SHARDS)]
    for name in names:
        (folder / name).write_bytes(b"x")
    manifest = {
        **{"schema": 1, "stage": recipe.stage, "key": stage.key, "code": recipe.code},
        **{"inputs": recipe.inputs, "config": recipe.config, "files": dict.fromkeys(names, entry)},
        **{"content": {"train": "0"}, "plan": {"train": names}, "seconds": 1.0, "created": "2026", "force": ""},
    }
    manifest["digest"] = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Every path whose properties were asked for, or that was opened."""
    asked: list[str] = []
    for name in ("stat", "lstat", "open"):
        real = getattr(os, name)

        def counting(path: Any, *rest: Any, real: Any = real, **named: Any) -> Any:
            asked.append(str(path))
            return real(path, *rest, **named)

        monkeypatch.setattr(os, name, counting)
    yield asked


def test_status_asks_once_about_each_of_1000_shards(project: Toy, calls: list[str]) -> None:
    project.run("Listing")
    config = load_config("shapes", [], [a for a in project.arguments if "=" in a])
    config = config.model_copy(
        update={"runtime": config.runtime.model_copy(update={"artifacts": project.folder / "artifacts"})}
    )
    artifact_of_many_shards(Plan(config, toy.TABLE)["squares"])
    calls.clear()
    lines = status_lines(Plan(config, toy.TABLE))
    assert "Squares" in lines[2] and "fresh, 1.0 kB" in lines[2]
    about_shards = [path for path in calls if path.endswith(".h5")]
    assert len(about_shards) == SHARDS
    assert len(calls) < SHARDS + 300


def test_status_of_1000_shards_takes_less_than_a_second_and_no_torch(tmp_path: Path) -> None:
    config = load_config("shapes", [], ["clip.weights=random", f"runtime.artifacts={tmp_path / 'cache'}"])
    artifact_of_many_shards(make_plan(config)["shapes"])
    code = (
        "import resource, sys; from split_matching.pipeline.cli import main\n"
        "assert main(sys.argv[1:]) == 0\n"
        "heavy = {'torch', 'h5py', 'open_clip', 'faiss', 'luigi', 'numpy'} & set(sys.modules)\n"
        "used = resource.getrusage(resource.RUSAGE_SELF)\n"
        "print(sorted(heavy), used.ru_utime + used.ru_stime)\n"
    )
    words = ["status", "--artifacts", str(tmp_path / "cache"), "--set", "clip.weights=random"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code, *words], env=environment, capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert lines[0].startswith("RenderShapes ") and "fresh, 1.0 kB" in lines[0]
    heavy, seconds = lines[-1].split("] ")
    assert heavy == "[" and float(seconds) < 1.0  # of the processor: other programs may be running


def test_status_lists_a_partial_build_of_1000_shards_without_opening_them(tmp_path: Path, calls: list[str]) -> None:
    entry, recipe = Entry(tmp_path, "toy", "squares", digest("key")), Recipe("Square")
    build = open_build(entry, recipe, {"train": [digest([str(i)]) for i in range(SHARDS)]})
    for index in range(700):
        (build.path / f"{shard_name('train', index)}.done.json").write_text("{}")
    calls.clear()
    state = entry.state(recipe)
    assert (state.name, state.done, state.total) == ("partial", 700, SHARDS)
    assert len(calls) < 20


# ---- plan ----


def planned(project: Toy, stage: str, *more: str) -> dict[str, str]:
    """What `plan` says of each stage."""
    assert project.run(f"plan {stage}", *more) == 0
    return {line.split()[0]: line.partition(" ")[2].strip() for line in project.out[:-1]}


def test_plan_compares_with_the_nearest_artifact_and_not_with_a_later_trial(project: Toy) -> None:
    project.run("Squares")
    project.run("Squares", "--set", "shapes.train_scenes=3", "pseudo_masks.k=9")
    said = planned(project, "Total", "--set", "pseudo_masks.k=9")["Squares"]
    assert said.startswith("run    missing (config pseudo_masks.k 8 -> 9), 4 shards, took ")


def test_plan_names_the_input_that_changed_where_the_config_did_not(project: Toy) -> None:
    project.run("Total")
    project.run("Squares", "--set", "pseudo_masks.k=9")
    said = planned(project, "Total", "--set", "pseudo_masks.k=9")
    assert said["Squares"].startswith("fresh")
    assert said["Total"].startswith("run    missing (input squares/train changed), took ")


def test_plan_says_when_a_config_upstream_changed_and_its_result_did_not(project: Toy) -> None:
    project.run("Listing")
    project.run("Numbers", "--set", "shapes.seed=5")
    said = planned(project, "Listing", "--set", "shapes.seed=5")
    assert said["Listing"].startswith("run    missing (config upstream changed), took ")


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (8, 12, "8 -> 12"),
        (None, [1], "None -> [1]"),
        ([4, 8], [4], "[4, 8] -> [4]"),
        (list(range(9)), [*range(1, 9), 30, 31], "without 0; with 30, 31"),
        (list(range(9)), list(range(200)), "with 9, 10, 11, 12, 13, 14, and 185 more"),
        ([1, 2, 3, 4, 5, 6, 7], [7, 6, 5, 4, 3, 2, 1], "[1, 2, 3, 4, 5, 6, 7] -> [7, 6, 5, 4, 3, 2, 1]"),
        ([{"id": i, "name": f"n{i}"} for i in range(9)], [{"id": i, "name": f"n{i}"} for i in range(8)], "without n8"),
    ],
)
def test_long_lists_are_compared_by_what_differs(before: Any, after: Any, said: str) -> None:
    assert describe_change(before, after) == said


def test_of_very_many_reasons_the_first_are_said() -> None:
    state = State("corrupt", (*(f"train-{i:05d}.h5 is missing" for i in range(1000)), "waits for A", "waits for B"))
    said = describe_state(state)
    assert said.endswith("train-00005.h5 is missing, and 994 more, waits for A, B)") and len(said) < 250


# ---- verify ----


def test_verify_all_reads_what_other_configs_made(project: Toy) -> None:
    project.run("Squares", "--set", "pseudo_masks.k=9")
    shard = folder_of(project, "squares") / "train-00001.h5"
    project.run("Total")
    shard.write_bytes(shard.read_bytes()[:-1] + b"?")
    assert project.run("verify") == 0  # the present config does not reach it
    assert project.run("verify", "--all") == 4
    name = f"shapes/squares/{shard.parent.name}"
    assert [line for line in project.out if "altered" in line] == [
        f"{name}: {shard} is altered, renamed to {shard}.damaged: run its config again"
    ]
    assert len([line for line in project.out if line.endswith(" as written")]) == 4
    project.run("Squares", "--set", "pseudo_masks.k=9")
    assert project.run("verify", "--all") == 0
    (shard.parent / "manifest.json").write_text("{}")
    assert project.run("verify", "--all") == 4
    assert f"{name}: its manifest is damaged or absent: `gc` removes it" in project.out


# ---- diff ----


def folder_of(project: Toy, slug: str) -> Path:
    """The newest artifact of a toy stage."""
    found = [path for path in (project.folder / "artifacts/shapes" / slug).iterdir() if len(path.name) == 16]
    return max(found, key=lambda path: json.loads((path / "manifest.json").read_text())["created"])


def test_diff_names_config_code_environment_and_results(project: Toy) -> None:
    project.run("Squares")
    first = folder_of(project, "squares").name
    project.edit("squares", "* ctx.config.pseudo_masks.k", "* ctx.config.pseudo_masks.k * 2")
    project.run("Squares", "--set", "pseudo_masks.k=12")
    second = folder_of(project, "squares").name
    assert project.run(f"diff {first[:8]} {second}") == 0
    assert project.out[0].startswith(f"- Squares {first} (shapes), made ")
    assert "  pseudo_masks.k: 8 -> 12" in project.out
    assert "  toy_stages/squares.py" in project.out
    assert "inputs: the same" in project.out and "environment: the same" in project.out
    assert project.out[-1] == "contents: different"
    assert project.run(f"diff {first} {first}") == 0
    assert project.out[-1] == "the same artifact"


def test_diff_refuses_unknown_and_impossible_keys_in_one_line(project: Toy) -> None:
    project.run("Numbers")
    key = folder_of(project, "shapes").name
    for words, code, message in ((f"{key} {'0' * 16}", 3, "no artifact in "), (f"{key} xyz", 2, "'xyz' is no key")):
        assert project.run(f"diff {words}") == code
        assert len(project.err) == 1 and message in project.err[0]


def test_diff_refuses_the_beginning_of_several_keys(project: Toy) -> None:
    for scenes in range(17):  # two of 17 keys begin alike
        assert project.run("Numbers", "--set", f"shapes.train_scenes={scenes + 1}") == 0
    first = [path.name[0] for path in (project.folder / "artifacts/shapes/shapes").iterdir()]
    start = next(digit for digit in first if first.count(digit) > 1)
    assert project.run(f"diff {start} {start}") == 2
    assert len(project.err) == 1 and f"{first.count(start)} keys begin with {start} (shapes/" in project.err[0]


def test_a_prefix_may_name_the_stage(project: Toy) -> None:
    project.run("Page")
    key = folder_of(project, "total").name
    assert project.run(f"diff total/{key[:2]} squares/{folder_of(project, 'squares').name[:2]}") == 0
    assert project.run(f"diff squares/{key} {key}") == 3


# ---- adopt ----


def test_adopt_accepts_changed_code_and_runs_nothing(project: Toy, status: Callable[..., Any]) -> None:
    project.run("Page")
    project.log()
    before = {path: path.stat().st_ino for path in folder_of(project, "squares").glob("*.h5")}
    project.edit("squares", "a bug", "a fault")
    assert status()["Squares"]["state"] == "stale"
    assert project.run("adopt Squares") == 0
    assert "accepted the present toy_stages/squares.py" in project.out[0]
    assert project.out[1] == "Squares: fresh"
    assert {stage["state"] for stage in status().values()} == {"fresh"}
    assert project.run("Page") == 0 and project.log() == []
    assert {path: path.stat().st_ino for path in folder_of(project, "squares").glob("*.h5")} == before
    assert project.run("verify") == 0
    note = json.loads((folder_of(project, "squares") / "manifest.json").read_text())["adopted"]
    assert [entry["files"] for entry in note] == [["toy_stages/squares.py"]]


def test_adopt_does_not_hide_another_reason(project: Toy, status: Callable[..., Any]) -> None:
    project.run("Page")
    project.edit("numbers", "FIRST = 0", "FIRST = 1")
    project.edit("squares", "a bug", "a fault")
    assert project.run("adopt Squares") == 0
    assert project.out[1] == "Squares: stale (waits for Listing)"
    assert status()["Squares"]["state"] == "stale"


def test_adopt_needs_an_artifact_and_a_known_stage(project: Toy) -> None:
    assert project.run("adopt Squares") == 4 and len(project.err) == 1
    assert project.run("adopt Squars") == 2 and "did you mean Squares?" in project.err[0]
    project.run("Squares")
    assert project.run("adopt Squares") == 0 and "its code is the present one" in project.out[0]


def test_adopt_leaves_a_folder_alone_that_took_the_place(project: Toy) -> None:
    project.run("Numbers")
    artifact = load_artifact(folder_of(project, "shapes"))
    project.run("Numbers", "--force")
    after = (artifact.path / "manifest.json").read_bytes()
    with pytest.raises(CorruptError, match="made again meanwhile"):
        accept_code(artifact, {"stages/a.py": "1"})
    assert (artifact.path / "manifest.json").read_bytes() == after
    assert [path.name for path in artifact.path.iterdir() if path.name.startswith(".")] == []


# ---- gc ----


def cached(project: Toy) -> set[str]:
    root = project.folder / "artifacts"
    return {path.relative_to(root).as_posix() for path in root.glob("*/*/*")}


def three_more_totals(project: Toy) -> list[str]:
    """Artifacts of configs that nobody knows, oldest first."""
    made = []
    for steps in (1, 2, 3):
        project.run("Total", "--set", f"train.steps={steps}")
        made.append(f"shapes/total/{folder_of(project, 'total').name}")
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


def test_gc_keeps_what_each_set_file_reaches(project: Toy) -> None:
    project.run("Page")
    reached = cached(project)
    made = three_more_totals(project)
    files = []
    for steps in (1, 2):
        files.append(project.folder / f"steps{steps}.yaml")
        files[-1].write_text(f"train: {{steps: {steps}}}\n")
    project.run("gc", "--yes", "--keep", "0", "--set-file", *map(str, files))
    assert cached(project) == reached | set(made[:2])


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
    code = "import fcntl, sys; f = open(sys.argv[1], 'r+'); fcntl.lockf(f, fcntl.LOCK_EX); print(); sys.stdin.read()"
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
    squares = folder_of(project, "squares")
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
    shutil.copytree(folder_of(project, "shapes"), project.folder / "artifacts/voc/dataset" / ("0" * 16))
    project.run("gc", "--yes", "--keep", "0")
    assert (project.folder / "artifacts/voc/dataset" / ("0" * 16)).exists()


# ---- --images ----


@pytest.fixture
def prepare(
    tmp_path: Path, voc_tree: Callable[..., Any], make_mask: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """Prepares four training and two validation images, or some of them; returns the exit code and what was said."""
    tree = voc_tree(train={f"t{i}": make_mask(0, 1 + i) for i in range(4)}, val={f"v{i}": make_mask(2) for i in (0, 1)})

    def run(*more: str) -> tuple[int, str]:
        capsys.readouterr()
        place = ["--dataset", "voc", "--artifacts", str(tmp_path / "cache"), "--quiet"]
        code = main(["PrepareDataset", *place, "--set", f"data.root={tree.root}", *more])
        captured = capsys.readouterr()
        return code, captured.err if code else captured.out.splitlines()[-1]

    return run


def ids_in(folder: str) -> dict[str, list[str]]:
    images = json.loads((Path(folder) / "images.json").read_text())
    return {split: [image["id"] for image in members] for split, members in images.items()}


def test_trial_is_cut_to_its_images_and_kept_apart(prepare: Callable[..., tuple[int, str]]) -> None:
    _, whole = prepare()
    _, trial = prepare("--images", "t2,v1,t0")
    assert trial != whole
    assert ids_in(trial) == {"train": ["t0", "t2"], "val": ["v1"]}
    assert ids_in(whole) == {"train": ["t0", "t1", "t2", "t3"], "val": ["v0", "v1"]}
    assert prepare("--images", "v1, t0,t2,t0")[1] == trial  # order and repetition do not matter
    assert prepare()[1] == whole


@pytest.mark.parametrize(
    ("images", "code", "message"),
    [
        ("t0,t9", 3, "no image 't9' among the 6 images: did you mean t"),
        ("t00", 3, "no image 't00' among the 6 images: did you mean t0?"),
        ("v0", 3, "a trial needs a training image: add one to --images, for example t0"),
        ("t0,,v0", 2, "expected ids with commas between them"),
        ("", 2, "expected ids with commas between them"),
    ],
)
def test_trial_on_images_that_cannot_be_is_one_line(
    images: str, code: int, message: str, prepare: Callable[..., tuple[int, str]]
) -> None:
    found, said = prepare("--images", images)
    lines = [line for line in said.splitlines() if line.startswith("error: ")]
    assert found == code and len(lines) == 1 and message in lines[0]


def test_key_of_the_whole_data_set_does_not_hold_the_field() -> None:
    """It came later than the first caches; and a field that is never used makes nothing stale."""
    plans = [make_plan(load_config("voc", [], ["clip.weights=random", *more])) for more in ((), ("data.images=[a]",))]
    assert ["data.images" in plan["dataset"].reads for plan in plans] == [False, True]
