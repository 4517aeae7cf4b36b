"""Atomic writes: content, mode, links, and what errors leave behind."""

import os
import stat
from pathlib import Path

import pytest

from split_matching.cache import files
from split_matching.cache.files import (
    atomic_write,
    file_size,
    folder_size,
    move_folder,
    parse_json,
    read_json,
    read_regular,
    remove,
    rename_damaged,
    replace_file,
    synced_sha256,
    write_json,
)
from split_matching.cache.keys import file_sha256


def write(path: Path, content: bytes) -> None:
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_content_appears_at_the_end(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with atomic_write(path) as temporary:
        assert temporary.parent == tmp_path and temporary.read_bytes() == b""
        temporary.write_bytes(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["a.bin"]


def test_longest_name(tmp_path):
    path = tmp_path / ("n" * 255)
    write(path, b"x")
    assert path.read_bytes() == b"x"


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
@pytest.mark.parametrize("replaced", [False, True])
def test_mode_is_that_of_an_ordinary_file(tmp_path, umask, mode, replaced):
    """Also for libraries that put a private file of their own in place of the one they were given."""
    before = os.umask(umask)
    try:
        with atomic_write(tmp_path / "a") as temporary:
            if replaced:
                private = tmp_path / "private"
                private.touch()
                private.chmod(0o640)
                private.replace(temporary)
            else:
                temporary.write_bytes(b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == mode


@pytest.mark.parametrize("name", [".a.json.tmp", "a.json.tmp", ".a.json.1234.tmp"])
def test_a_link_at_a_name_that_can_be_guessed_is_not_followed(tmp_path, name):
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / name).symlink_to(victim)
    write_json(folder / "a.json", {"a": 1})
    assert victim.read_text() == "untouched"
    assert read_json(folder / "a.json", bool) == {"a": 1}


def test_a_link_at_the_temporary_name_is_not_followed(tmp_path, monkeypatch):
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    monkeypatch.setattr(files.secrets, "token_hex", lambda count: "guessed")
    (tmp_path / ".guessed.tmp").symlink_to(victim)
    with pytest.raises(FileExistsError):
        write(tmp_path / "a", b"x")
    assert victim.read_text() == "untouched"
    assert not (tmp_path / "a").exists()


def test_a_link_at_the_target_is_replaced(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    (tmp_path / "a").symlink_to(victim)
    write(tmp_path / "a", b"x")
    assert victim.read_text() == "untouched"
    assert not (tmp_path / "a").is_symlink()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_error_in_the_block_leaves_the_old_file(tmp_path, error):
    path = tmp_path / "a"
    path.write_bytes(b"old")
    with pytest.raises(error), atomic_write(path) as temporary:
        temporary.write_bytes(b"half")
        raise error
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_error_of_the_disk_leaves_the_old_file(tmp_path, monkeypatch, call):
    path = tmp_path / "a"
    path.write_bytes(b"old")

    def fail(*arguments: object) -> None:
        raise OSError(28, "no space left")

    monkeypatch.setattr(*((os, "fsync", fail) if call == "fsync" else (Path, "replace", fail)))
    with pytest.raises(OSError, match="no space left"):
        write(path, b"new")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("sync", [True, False])
def test_target_that_is_a_folder(tmp_path, sync):
    (tmp_path / "a").mkdir()
    with pytest.raises(IsADirectoryError), atomic_write(tmp_path / "a", sync=sync):
        pass
    assert names(tmp_path) == ["a"]


def test_errors_name_the_target(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        write(tmp_path / "absent/a", b"x")
    assert caught.value.filename == str(tmp_path / "absent/a")


@pytest.mark.parametrize("number", files.NO_FOLDER_SYNC)
def test_file_system_that_cannot_sync_folders(tmp_path, monkeypatch, number):
    whole = os.fsync

    def fsync(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(number, "not here")
        whole(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    write(tmp_path / "a", b"x")
    assert (tmp_path / "a").read_bytes() == b"x"


def test_everything_is_synced_in_order(tmp_path, monkeypatch):
    """The file before the rename, the folder after it; the folder may be renamed by others once the file is there."""
    calls = []
    folder = tmp_path / "folder"
    folder.mkdir()
    fsync, replace = os.fsync, Path.replace

    def rename(path: Path, target: Path) -> None:
        calls.append("rename")
        replace(path, target)
        folder.rename(tmp_path / "elsewhere")

    def sync(handle: int) -> None:
        calls.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        fsync(handle)

    monkeypatch.setattr(Path, "replace", rename)
    monkeypatch.setattr(os, "fsync", sync)
    write(folder / "a", b"x")
    assert calls == ["file", "rename", "folder"]
    assert names(tmp_path / "elsewhere") == ["a"]


def test_a_file_may_have_just_as_many_bytes_as_are_allowed(tmp_path):
    (tmp_path / "a").write_bytes(b"12345")
    assert read_regular(tmp_path / "a", 5) == read_regular(tmp_path / "a", None) == b"12345"
    with pytest.raises(ValueError, match="far too large"):
        read_regular(tmp_path / "a", 4)


def test_without_sync(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda handle: pytest.fail("synced"))
    with atomic_write(tmp_path / "a", sync=False) as temporary:
        temporary.write_bytes(b"x")
    assert (tmp_path / "a").read_bytes() == b"x"
    assert names(tmp_path) == ["a"]


def test_file_that_was_written_elsewhere_takes_its_place(tmp_path):
    write(tmp_path / "a", b"old")
    write(tmp_path / "a.part", b"new")
    replace_file(tmp_path / "a.part", tmp_path / "a")
    assert names(tmp_path) == ["a"] and (tmp_path / "a").read_bytes() == b"new"


def test_folder_moves_without_what_killed_writers_left(tmp_path):
    (tmp_path / "new/inner").mkdir(parents=True)
    for name in ("a", "inner/b", ".1234.tmp", "inner/.b.png.tmp", "c.tmp", ".d"):
        write(tmp_path / "new" / name, b"x")
    move_folder(tmp_path / "new", tmp_path / "folder")
    assert names(tmp_path) == ["folder"]
    assert names(tmp_path / "folder") == [".d", "a", "c.tmp", "inner"]
    assert names(tmp_path / "folder/inner") == ["b"]


def test_json(tmp_path):
    path = tmp_path / "a.json"
    assert read_json(path, bool) is None
    path.write_text("{")
    assert read_json(path, bool) is None
    write_json(path, {"b": [1.5, float("inf")], "a": None})
    assert read_json(path, bool) == {"a": None, "b": [1.5, float("inf")]}
    text = path.read_text()
    assert text.startswith('{\n "a": null')
    for other in (text.replace("1.5", "2.5"), text.replace("digest", "digist"), "[]", '{"a": null}', text[:-1]):
        path.write_text(other)
        assert read_json(path, bool) is None, other


def test_size_and_digest(tmp_path):
    write(tmp_path / "a", b"four")
    assert file_size(tmp_path / "a") == 4
    assert file_size(tmp_path) is None and file_size(tmp_path / "b") is None
    assert synced_sha256(tmp_path / "a") == file_sha256(tmp_path / "a")


def test_size_of_a_folder_is_that_of_its_own_files(tmp_path):
    inner = tmp_path / "folder/inner"
    inner.mkdir(parents=True)
    for path, length in ((tmp_path / "folder/a", 10), (inner / "b", 200), (tmp_path / "outside", 3000)):
        path.write_bytes(b"x" * length)
    assert folder_size(tmp_path / "folder") == 210
    (inner / "file").symlink_to(tmp_path / "outside")
    (inner / "loop").symlink_to(tmp_path)
    links = sum((inner / name).lstat().st_size for name in ("file", "loop"))
    assert folder_size(tmp_path / "folder") == 210 + links
    assert folder_size(tmp_path / "absent") == 0


def test_damaged_file_is_renamed_once(tmp_path):
    path = tmp_path / "a"
    write(path, b"as it was written")
    sha256 = file_sha256(path)
    assert rename_damaged(path, sha256) is None and names(tmp_path) == ["a"]
    write(path, b"altered")
    assert rename_damaged(path, sha256) == tmp_path / "a.damaged"
    assert names(tmp_path) == ["a.damaged"]
    rename_damaged(path, sha256)  # another process was faster
    write(path, b"certainly damaged")
    rename_damaged(path)
    assert names(tmp_path) == ["a.damaged"] and (tmp_path / "a.damaged").read_bytes() == b"certainly damaged"


def test_folder_at_the_name_of_a_damaged_file_makes_room(tmp_path):
    (tmp_path / "a.damaged/inner").mkdir(parents=True)
    write(tmp_path / "a", b"x")
    rename_damaged(tmp_path / "a")
    assert names(tmp_path) == ["a.damaged"] and (tmp_path / "a.damaged").read_bytes() == b"x"


def test_remove(tmp_path):
    (tmp_path / "folder/inner").mkdir(parents=True)
    write(tmp_path / "file", b"x")
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    for name in ("link", "folder", "file", "absent"):
        remove(tmp_path / name)
    assert names(tmp_path) == []


def test_json_with_half_a_sign_is_none() -> None:
    """A surrogate without its other half: `json` takes it, and no file in UTF-8 can hold it."""
    assert parse_json(b'{"a": "\\ud83d\\ude00"}') == parse_json('{"a": "\\uD83D\\uDE00"}') == {"a": "\U0001f600"}
    for text in ('["\\ud800"]', '{"a": {"x\\uDFFF": 1}}', '["\\ude00\\ud83d"]'):
        for given in (text, text.encode()):
            with pytest.raises(ValueError, match="surrogates not allowed"):
                parse_json(given)
    with pytest.raises(ValueError, match="can't decode byte 0xed"):
        parse_json('["\ud800"]'.encode(errors="surrogatepass"))
