"""The verb `adopt`."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from split_matching.cache.accept import accept_code
from split_matching.cache.artifact import load_artifact
from split_matching.errors import CorruptError
from tests.pipeline.toy_project import Toy


def test_adopt_accepts_changed_code_and_runs_nothing(project: Toy, status: Callable[..., Any]) -> None:
    project.run("Page")
    project.log()
    before = {path: path.stat().st_ino for path in project.newest("squares").glob("*.h5")}
    project.edit("squares", "a bug", "a fault")
    assert status()["Squares"]["state"] == "stale"
    assert project.run("adopt Squares") == 0
    assert "accepted the present toy_stages/squares.py" in project.out[0]
    assert project.out[1] == "Squares: fresh"
    assert {stage["state"] for stage in status().values()} == {"fresh"}
    assert project.run("Page") == 0 and project.log() == []
    assert {path: path.stat().st_ino for path in project.newest("squares").glob("*.h5")} == before
    assert project.run("verify") == 0
    note = json.loads((project.newest("squares") / "manifest.json").read_text())["adopted"]
    assert [entry["files"] for entry in note] == [["toy_stages/squares.py"]]


def test_adopt_does_not_hide_another_reason(project: Toy, status: Callable[..., Any]) -> None:
    project.run("Page")
    project.edit("numbers", "FIRST = 0", "FIRST = 1")
    project.edit("squares", "a bug", "a fault")
    assert project.run("adopt Squares") == 0
    assert project.out[1] == "Squares: stale (waits for Listing)"
    assert status()["Squares"]["state"] == "stale"


def test_adopt_needs_an_artifact_and_a_known_stage(project: Toy) -> None:
    assert project.run("adopt Squares") == 3 and len(project.err) == 1
    assert "holds nothing of Squares for this config: run Squares first" in project.err[0]
    assert project.run("adopt Squars") == 2 and "did you mean Squares?" in project.err[0]
    project.run("Squares")
    assert project.run("adopt Squares") == 0 and "its code is the present one" in project.out[0]


def test_adopt_leaves_a_folder_alone_that_took_the_place(project: Toy) -> None:
    project.run("Numbers")
    artifact = load_artifact(project.newest("shapes"))
    project.run("Numbers", "--force")
    after = (artifact.path / "manifest.json").read_bytes()
    with pytest.raises(CorruptError, match="made again meanwhile"):
        accept_code(artifact, {"stages/a.py": "1"})
    assert (artifact.path / "manifest.json").read_bytes() == after
    assert [path.name for path in artifact.path.iterdir() if path.name.startswith(".")] == []
