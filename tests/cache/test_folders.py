"""Folders of a cache: which belong to it, finding by a key, and removing none that a process works on."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from split_matching.cache.build import open_build
from split_matching.cache.entry import Entry
from split_matching.cache.folders import (
    Folder,
    find_artifact,
    idle_seconds,
    is_in_use,
    read_inputs,
    remove_folder,
    walk_folders,
)
from split_matching.cache.keys import digest
from split_matching.cache.names import LOCK
from split_matching.errors import ConfigError, DataError, UserError
from tests.cache.example_builds import KEY, RECIPE, make_plain
from tests.cache.test_locks import locked_elsewhere
from tests.hidden import hidden


def test_folders_of_the_cache_are_told_from_others(entry: Entry) -> None:
    artifact = make_plain(entry)
    parent = artifact.path.parent
    damaged = make_plain(replace(entry, key=digest("damaged"))).path
    (damaged / "manifest.json").write_text("{}")
    partial = open_build(replace(entry, key=digest("partial")), RECIPE).path
    leftover = parent / f"{KEY[:16]}.01234567.old"
    for path in (leftover, parent / "mine", parent / f"{KEY[:16]}.old"):
        path.mkdir()
    (parent / ("0" * 16)).symlink_to(artifact.path)
    (parent / ("1" * 16)).write_text("a file")
    found = {folder.path: folder for folder in walk_folders(entry.root)}
    assert {path: folder.kind for path, folder in found.items()} == {
        artifact.path: "artifact",
        damaged: "damaged",
        partial: "partial",
        leftover: "leftover",
    }
    assert found[artifact.path].artifact == artifact
    assert found[partial].name == f"toy/squares/{partial.name}" and found[partial].place == ("toy", "squares")


def test_artifact_is_found_by_the_first_digits(entry: Entry) -> None:
    artifact = make_plain(entry)
    make_plain(replace(entry, stage="cubes"), name="other.txt")
    assert find_artifact(entry.root, f"squares/{KEY[:3]}") == artifact
    with pytest.raises(ConfigError, match=r"2 keys begin with .* \(toy/cubes/\w{16}, toy/squares/\w{16}\): give one"):
        find_artifact(entry.root, KEY)
    copy = make_plain(replace(entry, dataset="toy.copy-2"))
    with pytest.raises(ConfigError, match=r"\(toy/squares/\w{16}, toy.copy-2/squares/\w{16}\): give one"):
        find_artifact(entry.root, f"squares/{KEY}")
    assert find_artifact(entry.root, f"toy/squares/{KEY}") == artifact
    assert find_artifact(entry.root, f"toy.copy-2/squares/{KEY[:4]}") == copy
    with pytest.raises(DataError, match=r"no artifact .* has a key that begins with"):
        find_artifact(entry.root, f"roots/{KEY}")
    with pytest.raises(ConfigError, match="is no key"):
        find_artifact(entry.root, "squares/xyz")


def test_build_in_use_is_left_alone(entry: Entry) -> None:
    build = open_build(entry, RECIPE)
    folder = Folder(build.path, "partial")
    assert read_inputs(build.path) == RECIPE.inputs
    with locked_elsewhere(build.path / LOCK):
        assert is_in_use(build.path)
        assert not remove_folder(folder) and build.path.is_dir()
    assert not is_in_use(build.path)
    assert remove_folder(folder) and not build.path.exists()
    assert list(build.path.parent.iterdir()) == []


def test_folder_that_is_gone_counts_as_removed(tmp_path: Path) -> None:
    assert remove_folder(Folder(tmp_path / "none", "damaged"))
    assert read_inputs(tmp_path / "none") == {}


def test_idle_time_is_that_of_the_newest_file(entry: Entry) -> None:
    path = make_plain(entry).path
    for inner in [path, *path.rglob("*")]:
        os.utime(inner, (0, 0))
    assert idle_seconds(path) > 1e9
    (path / "new").touch()
    os.utime(path, (0, 0))
    assert idle_seconds(path) < 60


def test_what_cannot_be_read_is_told_and_the_rest_gone_through(entry: Entry) -> None:
    """What begins with a dot is not of the cache: `.running` of another user is no reason to say anything."""
    found = make_plain(entry).path
    other = make_plain(replace(entry, key=digest("other"), stage="other")).path
    (entry.root / ".running").mkdir()
    with hidden(entry.root / ".running"):
        assert {folder.path for folder in walk_folders(entry.root)} == {found, other}
    skipped: list[str] = []
    with hidden(other.parent):
        assert [folder.path for folder in walk_folders(entry.root, skipped.append)] == [found]
        with pytest.raises(UserError, match=r"cannot read .*other: permission denied"):
            list(walk_folders(entry.root))
    assert skipped == [f"cannot read {other.parent}: permission denied; check its permissions"]
