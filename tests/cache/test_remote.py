"""Artifacts at a shared address: complete or not there at both ends, whatever happens on the way or lies there."""

from __future__ import annotations

import copy
import importlib
import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from split_matching.cache.artifact import Artifact
from split_matching.cache.build import open_build
from split_matching.cache.entry import Entry
from split_matching.cache.files import self_digest
from split_matching.cache.folders import walk_folders
from split_matching.cache.keys import digest
from split_matching.cache.remote import Remote
from split_matching.cache.remote_manifest import parse_manifest
from split_matching.errors import ConfigError, CorruptError, UserError
from tests.cache.example_builds import IDS, KEY, RECIPE, make_plain, make_sharded

PLACE = f"shapes/squares/{KEY[:16]}"


@pytest.fixture
def made(tmp_path: Path) -> Artifact:
    return make_sharded(Entry(tmp_path / "a", "shapes", "squares", KEY))


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def pull(remote: Remote, root: Path) -> Artifact:
    manifest = remote.manifest(PLACE)
    assert manifest is not None
    return remote.pull(root, PLACE, manifest)


def test_what_is_pulled_is_what_was_pushed(made: Artifact, tmp_path: Path) -> None:
    remote = Remote(f"file://{tmp_path}/far")
    assert remote.manifest(PLACE) is None and remote.find(KEY[:4]) == []
    seen: list[tuple[int, int]] = []
    sent = remote.push(made, lambda done, total: seen.append((done, total)))
    assert sent == sum(path.stat().st_size for path in made.path.glob("*.h5"))
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert remote.push(made) == 0  # all is there
    assert remote.find(KEY[:4]) == remote.find(f"squares/{KEY[:4]}") == [PLACE] and remote.find("features/") == []
    found = pull(remote, tmp_path / "b")
    assert bytes_of(found.path) == bytes_of(made.path)
    assert found.path == tmp_path / "b" / PLACE
    assert Entry(tmp_path / "b", "shapes", "squares", KEY).state(RECIPE).fresh
    assert [found.shards("train").read(i, "x").tolist() for i in IDS[:3]] == [[], [0], [0, 1]]
    assert [path.name for path in found.path.parent.iterdir()] == [KEY[:16]]  # nothing left over


def test_files_by_their_sha256_and_a_manifest(made: Artifact, tmp_path: Path) -> None:
    Remote(str(tmp_path / "far")).push(made)
    files = {entry["sha256"]: made.path / name for name, entry in made.manifest["files"].items()}
    expected = {f"files/{sha[:2]}/{sha[2:]}": path.read_bytes() for sha, path in files.items()}
    assert bytes_of(tmp_path / "far") == {**expected, f"{PLACE}.json": (made.path / "manifest.json").read_bytes()}


def test_the_address_is_no_pattern(made: Artifact, tmp_path: Path) -> None:
    remote = Remote(str(tmp_path / "far [a]*?"))
    remote.push(made)
    other = make_sharded(Entry(tmp_path / "a", "copy", "squares", KEY))
    remote.push(other)
    assert remote.find(KEY[:4]) == remote.find(f"squares/{KEY}"[:20]) == [f"copy/squares/{KEY[:16]}", PLACE]
    assert remote.find(f"shapes/squares/{KEY[:4]}") == [PLACE] and remote.find("shapes/cubes/") == []


def test_to_find_a_key_no_files_are_listed(made: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remote, listed = Remote(str(tmp_path)), list[str]()
    remote.push(made)
    ls = type(remote._fs).ls

    def log(self: Any, path: str, **more: Any) -> Any:
        listed.append(path.removeprefix(str(tmp_path)))
        return ls(self, path, **more)

    monkeypatch.setattr(type(remote._fs), "ls", log)
    assert remote.find(f"shapes/squares/{KEY[:4]}") == [PLACE] and listed == ["/shapes/squares"]
    assert PLACE in remote.find(KEY[:4]) and not [path for path in listed if path.startswith("/files")]


def test_a_summary_may_hold_anything(tmp_path: Path) -> None:
    build = open_build(Entry(tmp_path / "a", "shapes", "squares", KEY), RECIPE)
    (build.path / "out.txt").write_text("text")
    with build.lock():
        made = build.commit(1.0, {"curve": [[0.1, 2], [0.3, float("nan")]], "name": "x", "none": None})  # type: ignore
    Remote(str(tmp_path / "far")).push(made)
    assert bytes_of(pull(Remote(str(tmp_path / "far")), tmp_path / "b").path) == bytes_of(made.path)


def test_a_result_may_have_taken_no_time(made: Artifact) -> None:
    written = rewrite(lambda m: m.update(seconds=0))(copy.deepcopy(dict(made.manifest)))
    assert parse_manifest(written)["seconds"] == 0


def test_nested_files_and_equal_ones(tmp_path: Path) -> None:
    made = make_plain(Entry(tmp_path / "a", "shapes", "squares", KEY), name="deep/er/out.txt")
    Remote(str(tmp_path / "far")).push(made)
    assert bytes_of(pull(Remote(str(tmp_path / "far")), tmp_path / "b").path) == bytes_of(made.path)


@pytest.mark.parametrize("after", [0, 1, 2])
def test_an_interrupted_push_shows_nothing_and_continues(
    made: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    remote = Remote(str(tmp_path / "far"))
    moved = type(remote._fs).mv
    calls: list[str] = []

    def fail(self: Any, one: str, two: str, **more: Any) -> None:
        calls.append(two)
        if len(calls) == after + 1:
            raise KeyboardInterrupt
        moved(self, one, two, **more)

    with monkeypatch.context() as patch:
        patch.setattr(type(remote._fs), "mv", fail)
        with pytest.raises(KeyboardInterrupt):
            remote.push(made)
    assert remote.manifest(PLACE) is None
    there = bytes_of(tmp_path / "far")
    assert after <= len(there) < 3
    assert all(sha256(data).hexdigest() == name[6:].replace("/", "") for name, data in there.items())  # no part of one
    whole = sum(path.stat().st_size for path in made.path.glob("*.h5"))
    assert remote.push(made) == whole - sum(map(len, there.values()))


@pytest.mark.parametrize("after", [0, 1, 2])
def test_an_interrupted_pull_leaves_what_was_there_and_continues(
    made: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    remote, calls = Remote(str(tmp_path / "far")), list[str]()
    remote.push(made)
    old = make_sharded(Entry(tmp_path / "b", "shapes", "squares", KEY), scale=7)
    before, get = bytes_of(old.path), type(remote._fs).get_file

    def fail(self: Any, one: str, two: str, **more: Any) -> None:
        calls.append(one)
        if len(calls) == after + 1:
            Path(two).write_bytes(b"half")
            raise KeyboardInterrupt
        get(self, one, two, **more)

    with monkeypatch.context() as patch:
        patch.setattr(type(remote._fs), "get_file", fail)
        with pytest.raises(KeyboardInterrupt):
            pull(remote, tmp_path / "b")
        assert bytes_of(old.path) == before
        assert [f.kind for f in walk_folders(tmp_path / "b")] == ["artifact", "leftover"]  # known to gc
        here = len(list(old.path.parent.glob("*.new/*.h5")))
        assert after <= here < 3
        calls[:] = [""] * 4
        assert bytes_of(pull(remote, tmp_path / "b").path) == bytes_of(made.path)
        assert len(calls) == 4 + 3 - here
    assert [path.name for path in old.path.parent.iterdir()] == [KEY[:16]]


def test_a_damaged_file_is_not_pushed(made: Artifact, tmp_path: Path) -> None:
    path = made.path / "train-00001.h5"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(CorruptError, match=r"train-00001.h5 is missing or altered") as error:
        Remote(str(tmp_path / "far")).push(made)
    assert error.value.damaged == (path,)
    assert Remote(str(tmp_path / "far")).manifest(PLACE) is None


def test_what_nobody_could_pull_is_not_pushed(tmp_path: Path) -> None:
    recipe = replace(RECIPE, config={"text": "two\nlines"})
    made = make_plain(Entry(tmp_path / "a", "shapes", "squares", KEY), recipe=recipe)
    with pytest.raises(CorruptError, match="cannot be shared: it has control characters"):
        Remote(str(tmp_path / "far")).push(made)


@pytest.mark.parametrize("harm", ["altered", "cut", "longer", "missing", "folder"])
def test_a_file_that_is_not_as_it_was_written_is_not_pulled(made: Artifact, tmp_path: Path, harm: str) -> None:
    remote = Remote(str(tmp_path / "far"))
    remote.push(made)
    path = next((tmp_path / "far" / "files").glob("*/*"))
    data = path.read_bytes()
    path.unlink()
    if harm == "folder":
        path.mkdir()
    elif harm != "missing":
        path.write_bytes({"altered": data[:-1] + b"?", "cut": data[:-1], "longer": data + b"?"}[harm])
    with pytest.raises(CorruptError, match="is missing" if harm == "missing" else "is not as it was written"):
        pull(remote, tmp_path / "b")
    assert not (tmp_path / "b" / PLACE).exists()


@pytest.mark.parametrize("of", ["file", "manifest"])
def test_a_folder_in_place_of_a_file_is_one_line_and_nothing_is_put_into_it(
    made: Artifact, tmp_path: Path, of: str
) -> None:
    """A client that renames a file to the name of a folder moves it there, and all would seem well."""
    remote = Remote(str(tmp_path / "far"))
    remote.push(made)
    path = next((tmp_path / "far" / "files").glob("*/*")) if of == "file" else tmp_path / "far" / f"{PLACE}.json"
    path.unlink()
    path.mkdir()
    name = path.relative_to(tmp_path / "far")
    with pytest.raises(UserError, match=f"{name}: a folder is in the way of a file: remove it there"):
        remote.push(made, verify=True)
    assert list(path.iterdir()) == [] and not list((tmp_path / "far").rglob("*.part"))


def rewrite(change: Callable[[dict[str, Any]], object]) -> Callable[[dict[str, Any]], bytes]:
    """The manifest with a change, and a digest that fits."""

    def write(manifest: dict[str, Any]) -> bytes:
        change(manifest)
        manifest["digest"] = self_digest(manifest)
        return json.dumps(manifest).encode()

    return write


def rename(name: str) -> Callable[[dict[str, Any]], bytes]:
    """The manifest with another name for one of its files, and all else as it must be."""

    def change(manifest: dict[str, Any]) -> None:
        files = manifest["files"]
        files[name] = files.pop("train-00000.h5")
        manifest["content"][name] = digest("x")

    return rewrite(change)


HOSTILE = {
    "parent": rename("../../../../escaped"),
    "inner parent": rename("a/../../../escaped"),
    "absolute": rename("/tmp/escaped"),
    "empty part": rename("a//b"),
    "backslash": rename("..\\..\\escaped"),
    "hidden": rename(".bashrc"),
    "dot": rename("."),
    "empty": rename(""),
    "NUL": rename("a\0b"),
    "line break": rename("a\nb"),
    "escape sequence": rename("\x1b[2Ja"),
    "too long": rename("é" * 128),
    "the manifest's own": rename("manifest.json"),
    "the lock's": rename("build.lock"),
    "a folder that is a file": rename("train-00001.h5/a"),
    "a sidecar": rename("train-00001.h5.done.json"),
    "no files": rewrite(lambda m: m.update(files={}, content={})),
    "negative size": rewrite(lambda m: m["files"]["train-00000.h5"].update(bytes=-1)),
    "no digest": rewrite(lambda m: m["files"]["train-00000.h5"].update(sha256="../../x")),
    "data beyond the file": rewrite(lambda m: m["files"]["train-00000.h5"].update(data=[[0, 1 << 50]])),
    "files no mapping": rewrite(lambda m: m.update(files=["a"])),
    "content of others": rewrite(lambda m: m["content"].update(other=digest("x"))),
    "another key": rewrite(lambda m: m.update(key="0" * 64)),
    "another data set": rewrite(lambda m: m.update(dataset="../x")),
    "escape sequence in a value": rewrite(lambda m: m["config"].update(x=["\x1b[31m"])),
    "negative seconds": rewrite(lambda m: m.update(seconds=-0.001)),
    "seconds no number": rewrite(lambda m: m.update(seconds="long")),
    "NaN": rewrite(lambda m: m.update(seconds=float("nan"))),
    "missing field": rewrite(lambda m: m.pop("inputs")),
    "command no text": rewrite(lambda m: m.update(command=["x"])),
    "upstream no names": rewrite(lambda m: m.update(upstream={"a": 1})),
    "schema": rewrite(lambda m: m.update(schema=2)),
    "digest": lambda manifest: json.dumps({**manifest, "images": 11}).encode(),
    "deep": lambda manifest: b"[" * 100_000,
    "no JSON": lambda manifest: b"\xff\xfe",
    "a list": lambda manifest: b"[]",
    "empty file": lambda manifest: b"",
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_manifest_is_one_line_and_nothing_is_written(made: Artifact, tmp_path: Path, kind: str) -> None:
    remote = Remote(str(tmp_path / "far"))
    remote.push(made)
    (tmp_path / "far" / f"{PLACE}.json").write_bytes(HOSTILE[kind](copy.deepcopy(dict(made.manifest))))
    with pytest.raises(CorruptError, match="cannot be used") as error:
        pull(remote, tmp_path / "b" / "root")
    assert str(error.value).isprintable()
    assert not (tmp_path / "b").exists()


def test_a_huge_manifest_is_not_read(made: Artifact, tmp_path: Path) -> None:
    remote = Remote(str(tmp_path / "far"))
    remote.push(made)
    os.truncate(tmp_path / "far" / f"{PLACE}.json", 1 << 40)
    with pytest.raises(CorruptError, match="has 1099511627776 bytes"):
        remote.manifest(PLACE)


def test_names_at_the_address_that_are_no_artifacts_are_left_out(made: Artifact, tmp_path: Path) -> None:
    far = tmp_path / "far"
    Remote(str(far)).push(made)
    for name in ("..x/squares/0123456789abcdef", "shapes/a b/0123456789abcdef", "shapes/squares/0123", "a/b/c"):
        (far / name).parent.mkdir(parents=True, exist_ok=True)
        (far / f"{name}.json").write_text("{}")
    assert Remote(str(far)).find("") == [PLACE]


@pytest.mark.parametrize(
    ("address", "kind", "says"),
    [
        ("s3:/bucket/cache", ConfigError, "is no address: expected one such as s3://BUCKET/PATH, or the whole path"),
        ("cache", ConfigError, "is no address"),
        ("nosuch://x/y", UserError, "Protocol not known: nosuch"),
        ("dropbox://x/y", ConfigError, "a package is missing for it: ImportError: .*dropboxdrivefs"),
        ("file:///proc/nowhere", UserError, "check the address"),
    ],
)
def test_an_address_that_does_not_work_is_one_line(
    made: Artifact, address: str, kind: type[UserError], says: str
) -> None:
    with pytest.raises(kind, match=says) as error:
        Remote(address).push(made)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("protocol", "package", "client"),
    [
        ("s3", "s3fs", "s3fs"),
        ("gs", "gcsfs", "gcsfs"),
        ("ssh", "paramiko", "fsspec.implementations.sftp"),
        ("sftp", "paramiko", "fsspec.implementations.sftp"),
    ],
)
def test_a_missing_client_is_one_line_that_says_what_to_install(
    protocol: str, package: str, client: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(importlib.import_module("fsspec.registry")._registry, protocol, raising=False)
    monkeypatch.delitem(sys.modules, client, raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError) as error:
        Remote(f"{protocol}://place/cache")
    what = f"a package is missing for it: {package}: pip install {package}, or 'split-matching[remote]'"
    assert str(error.value) == f"{protocol}://place/cache: {what}"


def test_a_password_is_not_shown() -> None:
    remote = Remote.__new__(Remote)
    with pytest.raises(UserError) as error:
        remote.__init__("nosuch://me:secret@host/path")  # type: ignore[misc]
    assert "nosuch://me:***@host/path" in str(error.value) and "secret" not in str(error.value)


def test_a_password_that_a_client_quotes_is_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remote = Remote(str(tmp_path))

    def fail(path: str) -> None:
        raise OSError("cannot open s3://KEY:SE/CRET@bucket")

    monkeypatch.setattr(remote._fs, "info", fail)
    with pytest.raises(UserError, match=r"OSError: cannot open s3://KEY:\*\*\*@bucket; check"):
        remote.manifest(PLACE)
