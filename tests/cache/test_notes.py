"""Names and notes of results."""

from __future__ import annotations

import multiprocessing
import os
import stat
from pathlib import Path

import pytest

from split_matching.cache.entry import Entry, State
from split_matching.cache.notes import Note, change_note, list_notes, read_note
from split_matching.errors import CorruptError
from tests.cache.example_builds import KEY, RECIPE, make_plain


def test_a_note_is_kept_changed_and_removed(tmp_path: Path) -> None:
    assert read_note(tmp_path, "toy", KEY) == Note()
    change_note(tmp_path, "toy", KEY, name="base", text="ä\n=1")
    assert read_note(tmp_path, "toy", KEY) == Note("base", "ä\n=1")
    assert read_note(tmp_path, "other", KEY) == Note()
    change_note(tmp_path, "toy", KEY, name="wide", text="")
    assert read_note(tmp_path, "toy", KEY) == Note("wide")
    change_note(tmp_path, "toy", KEY, name="", text="")
    change_note(tmp_path, "toy", KEY, name="", text="")  # once more
    assert list(tmp_path.rglob("*.json")) == []


def test_results_with_a_note_are_listed_by_data_set_and_first_digits_of_the_key(tmp_path: Path) -> None:
    change_note(tmp_path, "toy", KEY, name="base")
    change_note(tmp_path, "other", "0123456789abcdef0123", text="one")
    change_note(tmp_path, "other", "f" * 64, name="removed")
    change_note(tmp_path, "other", "f" * 64, name="")
    assert list_notes(tmp_path) == {("toy", KEY[:16]), ("other", "0123456789abcdef")}


def test_a_note_touches_no_result(entry: Entry) -> None:
    artifact = make_plain(entry)
    before = sorted((path.name, path.stat().st_mtime_ns) for path in artifact.path.iterdir())
    change_note(entry.root, entry.dataset, entry.key, name="base", text="")
    assert sorted((path.name, path.stat().st_mtime_ns) for path in artifact.path.iterdir()) == before
    assert entry.state(RECIPE) == State("fresh", artifact=artifact)


def test_a_note_may_be_edited_by_hand(tmp_path: Path) -> None:
    change_note(tmp_path, "toy", KEY, name="base", text="one")
    (path,) = (tmp_path / "toy/notes").glob("*.json")
    path.write_text(path.read_text().replace("one", "größer"))
    assert read_note(tmp_path, "toy", KEY) == Note("base", "größer")
    path.write_text('{"name": "of before", "text": "", "digest": "00"}')
    assert read_note(tmp_path, "toy", KEY) == Note("of before")


def test_a_note_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    change_note(tmp_path, "toy", KEY, name="base", text="")
    (path,) = (tmp_path / "toy/notes").glob("*.json")
    assert stat.S_IMODE(path.stat().st_mode) & 0o444
    for text in (b"", b"[]", b'{"name"', b"\xff"):
        path.write_bytes(text)
        with pytest.raises(CorruptError, match=r"/toy/notes/.* is no note: .* correct it, or remove it"):
            read_note(tmp_path, "toy", KEY)


def test_signs_that_no_terminal_should_get_are_replaced(tmp_path: Path) -> None:
    change_note(tmp_path, "toy", KEY, name="x\x1b[2J\ny", text="a\nb\x07\ud800")
    assert read_note(tmp_path, "toy", KEY) == Note("x\ufffd[2J\ufffdy", "a\nb\ufffd\ufffd")


def test_what_is_no_file_is_no_note(tmp_path: Path) -> None:
    change_note(tmp_path, "toy", KEY, name="base")
    (path,) = (tmp_path / "toy/notes").glob("*.json")
    for make in (os.mkfifo, os.mkdir):
        path.unlink() if path.is_file() or path.is_fifo() else path.rmdir()
        make(path)
        with pytest.raises(CorruptError, match="is no note"):
            read_note(tmp_path, "toy", KEY)


def test_two_changes_at_once_are_both_kept(tmp_path: Path) -> None:
    def change(number: int) -> None:
        with_number = {"name": f"n{number}"} if number % 2 else {"text": f"t{number}"}
        change_note(tmp_path, "toy", KEY, **with_number)

    context = multiprocessing.get_context("fork")
    for start in range(0, 20, 2):
        workers = [context.Process(target=change, args=(start + one,)) for one in (0, 1)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert read_note(tmp_path, "toy", KEY) == Note(f"n{start + 1}", f"t{start}")
