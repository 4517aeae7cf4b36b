"""The verb `verify`."""

from __future__ import annotations

import errno
import os
import re

import pytest

from split_matching.cache.artifact import Artifact
from tests.hidden import hidden
from tests.pipeline.toy_project import Toy


def test_verify_all_reads_what_other_configs_made(project: Toy) -> None:
    project.run("Squares", "--set", "pseudo_masks.k=9")
    shard = project.newest("squares") / "train-00001.h5"
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


def test_a_result_that_is_made_again_meanwhile_is_left_alone(project: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    project.run("Total")
    folder, real = project.newest("total"), Artifact.is_damaged

    def make_again(artifact: Artifact, name: str) -> bool:
        """Another process does so while this one reads the files."""
        if artifact.path != folder:
            return real(artifact, name)
        monkeypatch.setattr(Artifact, "is_damaged", real)
        assert project.run("Total", "--force") == 0
        return True

    monkeypatch.setattr(Artifact, "is_damaged", make_again)
    assert project.run("verify") == 0
    assert not list(folder.glob("*.damaged"))


FILES = {"Numbers": "1 file", "Listing": "1 file", "Squares": "4 files", "Total": "1 file", "Page": "1 file"}


def test_verify_reads_all_but_what_may_not_be_read(project: Toy) -> None:
    """One line says so; the others are read, and damage among them is found."""
    project.run("Page")
    folder = project.newest("squares")
    others = [f"{stage}: {what} as written" for stage, what in FILES.items() if stage != "Squares"]
    for path in (folder.parent, folder):
        with hidden(path):
            assert project.run("verify") == 1
        assert re.fullmatch(rf"Squares: cannot read {folder}\S*: permission denied; check its perm.*", project.out[2])
        assert [*project.out[:2], *project.out[3:]] == others
    with hidden(folder / "train-00001.h5"):
        assert project.run("verify", "--all") == 1
        line = f"Squares: cannot read {folder}/train-00001.h5: permission denied; check its permissions"
        assert project.out == [*others[:2], line, *others[2:]]
        (folder / "train-00002.h5").write_bytes(b"?")
        assert project.run("verify") == 4
    assert project.out[2].startswith(f"Squares: {folder}/train-00002.h5 is altered, renamed to ")
    assert project.out[3] == line
    with hidden(folder / "train-00000.h5"), hidden(folder / "train-00001.h5"):
        assert project.run("verify") == 4
    line = f"Squares: cannot read {folder}/train-00000.h5: permission denied; check its permissions"
    assert project.out[3] == f"{line}; nor can 1 other file"
    assert sorted(path.name for path in folder.glob("*.damaged")) == ["train-00002.h5.damaged"]


def test_verify_all_names_a_folder_that_may_not_be_read(project: Toy) -> None:
    project.run("Page")
    project.run("Squares", "--set", "pseudo_masks.k=9")
    with hidden(project.newest("squares")):
        assert project.run("verify", "--all") == 1
    folder = project.newest("squares")
    assert project.out[5:] == [f"cannot read {folder}/manifest.json: permission denied; check its permissions"]


def test_verify_of_a_cache_that_may_not_be_written_reads_all_of_it(
    project: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A damaged file is named though it cannot be renamed, and so is the next one."""
    project.run("Page")
    shard, page = project.newest("squares") / "train-00001.h5", project.newest("page") / "page.html"
    for path in (shard, page):
        path.write_bytes(b"?")

    def replace(*names: object, **folders: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "replace", replace)
    assert project.run("verify") == 4
    damaged = [line for line in project.out if "altered" in line]
    assert [line.split()[:4] for line in damaged] == [
        ["Squares:", str(shard), "is", "altered,"],
        ["Page:", str(page), "is", "altered,"],
    ]
    assert all("but not renamed (cannot write " in line and "read-only file system" in line for line in damaged)
    assert len([line for line in project.out if line.endswith(" as written")]) == 3
