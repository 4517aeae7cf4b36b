"""Names and notes of results."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from split_matching.cache.entry import Entry, State
from split_matching.cache.notes import Note, read_note, write_note
from split_matching.errors import CorruptError
from tests.cache.example_builds import KEY, RECIPE, make_plain


def test_a_note_is_kept_changed_and_removed(tmp_path: Path) -> None:
    assert read_note(tmp_path, "toy", KEY) == Note()
    write_note(tmp_path, "toy", KEY, Note("base", "ä\n=1"))
    assert read_note(tmp_path, "toy", KEY) == Note("base", "ä\n=1")
    assert read_note(tmp_path, "other", KEY) == Note()
    write_note(tmp_path, "toy", KEY, Note("wide"))
    assert read_note(tmp_path, "toy", KEY) == Note("wide")
    write_note(tmp_path, "toy", KEY, Note())
    write_note(tmp_path, "toy", KEY, Note())  # once more
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_note_touches_no_result(entry: Entry) -> None:
    artifact = make_plain(entry)
    before = sorted((path.name, path.stat().st_mtime_ns) for path in artifact.path.iterdir())
    write_note(entry.root, entry.dataset, entry.key, Note("base"))
    assert sorted((path.name, path.stat().st_mtime_ns) for path in artifact.path.iterdir()) == before
    assert entry.state(RECIPE) == State("fresh", artifact=artifact)


def test_a_note_may_be_edited_by_hand(tmp_path: Path) -> None:
    write_note(tmp_path, "toy", KEY, Note("base", "one"))
    (path,) = (tmp_path / "toy/notes").iterdir()
    path.write_text(path.read_text().replace("one", "größer"))
    assert read_note(tmp_path, "toy", KEY) == Note("base", "größer")
    path.write_text('{"name": "of before", "text": "", "digest": "00"}')
    assert read_note(tmp_path, "toy", KEY) == Note("of before")


def test_a_note_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    write_note(tmp_path, "toy", KEY, Note("base"))
    (path,) = (tmp_path / "toy/notes").iterdir()
    assert stat.S_IMODE(path.stat().st_mode) & 0o444
    for text in (b"", b"[]", b'{"name"', b"\xff"):
        path.write_bytes(text)
        with pytest.raises(CorruptError, match=r"/toy/notes/.* is no note: .* correct it, or remove it"):
            read_note(tmp_path, "toy", KEY)
