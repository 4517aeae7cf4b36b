"""The verb `status`, and how little it costs."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from split_matching.cache.artifact import _read_manifest
from split_matching.cache.build import open_build
from split_matching.cache.entry import Entry, Recipe
from split_matching.cache.keys import digest
from split_matching.cache.names import shard_name
from split_matching.configs.load import load_config
from split_matching.pipeline.plan import Plan, Stage
from split_matching.pipeline.stages import make_plan
from split_matching.pipeline.verbs.status import status_rows
from tests import toy
from tests.hidden import hidden
from tests.pipeline.toy_project import Toy

ROOT = Path(__file__).parents[3]
SHARDS = 1000


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
    assert project.state_of("Squares").startswith("partial 2/4, ") and project.out[2].endswith(".partial")


def test_status_as_json_holds_keys_times_and_upstream(project: Toy, status: Callable[..., Any]) -> None:
    project.run("Squares")
    found = status()
    assert found["Squares"]["state"] == "fresh" and found["Page"]["state"] == "missing"
    assert len(found["Squares"]["key"]) == 64 and found["Squares"]["seconds"] >= 0
    assert Path(found["Squares"]["path"]).is_dir() and found["Page"]["path"] is None
    assert found["Page"]["upstream"] == ["Total", "Listing"]


@pytest.mark.parametrize("place", ["", "folder", "folder/manifest.json"])
def test_status_shows_the_others_if_one_may_not_be_read(project: Toy, place: str) -> None:
    project.run("Page")
    folder = project.newest("squares")
    _read_manifest.cache_clear()  # as another process, which has not read it yet
    with hidden(folder / place.removeprefix("folder").strip("/") if place else folder.parent):
        assert project.run("status") == 0
    states = {stage: project.state_of(stage) for stage in ("Numbers", "Listing", "Squares", "Total", "Page")}
    assert states["Numbers"].startswith("fresh, ") and states["Listing"].startswith("fresh, ")
    assert states["Squares"].startswith(f"unreadable (cannot read {folder}")
    assert states["Squares"].endswith(": permission denied; check its permissions)")
    assert states["Total"] == "unreadable (waits for Squares)" and states["Page"].startswith(
        "stale (waits for Total), "
    )
    assert project.log()
    with hidden(folder):
        assert project.run("Page") == 1
    assert project.err[-1].startswith(f"error: cannot read {folder}/manifest.json: permission denied; check its perm")
    assert project.log() == []


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
        **{"content": {"train": "0" * 64}, "plan": {"train": ["0" * 64] * SHARDS}, "seconds": 1.0, "created": "2026"},
        **{"dataset": "shapes", "summary": {}, "version": 1, "force": "", "images": 0, "host": "", "versions": {}},
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
    lines = status_rows(Plan(config, toy.TABLE))
    assert "Squares" in lines[2][0] and "fresh, 1.0 kB" in lines[2][1]
    about_shards = [path for path in calls if path.endswith(".h5")]
    assert len(about_shards) == SHARDS
    assert len(calls) < SHARDS + 300


def test_status_of_1000_shards_opens_none_and_imports_nothing_heavy(tmp_path: Path) -> None:
    """Counts, not seconds: other programs may be running."""
    config = load_config("shapes", [], ["clip.weights=random", f"runtime.artifacts={tmp_path / 'cache'}"])
    artifact_of_many_shards(make_plan(config)["shapes"])
    code = (
        "import sys; opened = []\n"
        "sys.addaudithook(lambda event, words: opened.append(str(words[0])) if event == 'open' else None)\n"
        "from split_matching.pipeline.cli import main\n"
        "assert main(sys.argv[1:]) == 0\n"
        "heavy = {'torch', 'h5py', 'open_clip', 'faiss', 'luigi', 'numpy'} & set(sys.modules)\n"
        "own = [name for name in opened if name.startswith(sys.argv[3])]\n"
        "print(sorted(heavy), len(sys.modules), len(opened), len(own))\n"
    )
    words = ["status", "--artifacts", str(tmp_path / "cache"), "--set", "clip.weights=random"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code, *words], env=environment, capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert lines[0].startswith("RenderShapes ") and "fresh, 1.0 kB" in lines[0]
    heavy, counts = lines[-1].split("] ")
    modules, opened, own = map(int, counts.split())
    assert heavy == "[" and modules < 500 and opened < 800
    assert own < 40  # manifests, and what is looked for beside them; no shard


def test_status_lists_a_partial_build_of_1000_shards_without_opening_them(tmp_path: Path, calls: list[str]) -> None:
    entry, recipe = Entry(tmp_path, "toy", "squares", digest("key")), Recipe("Square")
    build = open_build(entry, recipe, {"train": [digest([str(i)]) for i in range(SHARDS)]})
    for index in range(700):
        (build.path / f"{shard_name('train', index)}.done.json").write_text("{}")
    calls.clear()
    state = entry.state(recipe)
    assert (state.name, state.done, state.total) == ("partial", 700, SHARDS)
    assert len(calls) < 20
