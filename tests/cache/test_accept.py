"""Accepting other code or inputs: the artifact is fresh with them, and nothing else of it changes."""

from __future__ import annotations

import os
import stat
from dataclasses import replace

import pytest

from split_matching.cache.accept import INPUTS_KEPT, accept_code, accept_input
from split_matching.cache.entry import Entry
from split_matching.errors import CorruptError, UserError
from tests.cache.example_builds import RECIPE, make_plain

NEWER = replace(RECIPE, code={"stages/a.py": "2"})


def test_accepted_code_is_fresh_and_noted(entry: Entry) -> None:
    before = make_plain(entry)
    assert accept_code(before, NEWER.code) == ["stages/a.py"]
    assert entry.state(NEWER).fresh and not entry.state(RECIPE).fresh
    after = entry.artifact()
    changes = {name for name in after.manifest if after.manifest[name] != before.manifest.get(name)}
    assert changes == {"code", "adopted", "digest"}
    assert [note["files"] for note in after.manifest["adopted"]] == [["stages/a.py"]]
    assert sorted(path.name for path in after.path.iterdir()) == ["manifest.json", "out.txt"]
    assert accept_code(after, NEWER.code) == []


def test_accepted_input_is_fresh_beside_the_first(entry: Entry) -> None:
    make_plain(entry)
    newer = [replace(RECIPE, inputs={"numbers/train": str(number)}) for number in range(1, INPUTS_KEPT + 2)]
    for recipe in newer:
        accept_input(entry.artifact(), "numbers/train", recipe.inputs["numbers/train"])
    assert entry.state(RECIPE).fresh
    assert [entry.state(recipe).fresh for recipe in newer] == [False] + [True] * INPUTS_KEPT


def test_artifact_that_was_made_again_is_not_touched(entry: Entry) -> None:
    old = make_plain(entry)
    new = make_plain(entry, "new", NEWER)
    with pytest.raises(CorruptError, match="was made again meanwhile"):
        accept_code(old, {"stages/a.py": "3"})
    assert entry.artifact() == new


def test_full_disk_leaves_the_manifest(entry: Entry, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = make_plain(entry)

    def fail(handle: int) -> None:
        raise OSError(28, "full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(UserError, match=r"cannot write .*manifest\.json: no space left on device"):
        accept_code(artifact, NEWER.code)
    assert entry.artifact() == artifact
    assert sorted(path.name for path in artifact.path.iterdir()) == ["manifest.json", "out.txt"]


def test_mode_is_that_of_an_ordinary_file(entry: Entry) -> None:
    before = os.umask(0o027)
    try:
        accept_code(make_plain(entry), NEWER.code)
    finally:
        os.umask(before)
    assert stat.S_IMODE((entry.folder / "manifest.json").stat().st_mode) == 0o640
