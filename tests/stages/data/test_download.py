"""Downloads and archives: interrupted and resumed, wrong checksum, 404, no room; nothing outside its folder."""

from __future__ import annotations

import contextlib
import hashlib
import io
import resource
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from split_matching.errors import DataError, UserError
from split_matching.stages.data.download import fetch as download
from split_matching.stages.data.download.archives import unpack
from split_matching.stages.data.download.fetch import Archive, fetch
from tests.cache.test_locks import locked_elsewhere
from tests.served import Served, serving

BODY = np.random.default_rng(0).integers(0, 256, 3_500_000, np.uint8).tobytes()
MD5 = hashlib.md5(BODY).hexdigest()


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    monkeypatch.setattr(download, "PAUSE", 0.0)
    with serving({"data.tgz": BODY}) as server:
        yield server


@contextlib.contextmanager
def silent(name: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    yield lambda done, total: None


def archive(served: Served, md5: str | None = MD5) -> Archive:
    return Archive(f"{served.url}/data.tgz", "data.tgz", md5)


def refused(call: Callable[[], object], *words: object, error: type[UserError] = DataError) -> None:
    with pytest.raises(error) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    assert all(str(word) in message for word in words), message


def test_a_file_comes_whole_with_progress_and_once(served: Served, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []

    @contextlib.contextmanager
    def phase(name: str, unit: str) -> Iterator[Callable[[int, int], None]]:
        assert (name, unit) == ("data.tgz", "MB")
        yield lambda done, total: seen.append((done, total))

    path = fetch(archive(served), tmp_path / "new" / "folder", phase)
    assert path.read_bytes() == BODY and [p.name for p in path.parent.iterdir()] == ["data.tgz"]
    assert seen[0] == (0, 3) and seen[-1] == (3, 3)
    assert fetch(archive(served), tmp_path / "new" / "folder", silent) == path
    assert len(served.requests) == 1


def test_a_broken_connection_goes_on_where_it_broke(served: Served, tmp_path: Path) -> None:
    served.break_after = [1_000_000, 700_000]
    assert fetch(archive(served), tmp_path, silent).read_bytes() == BODY
    assert [wanted for _, wanted in served.requests] == ["", "bytes=1000000-", "bytes=1700000-"]
    assert served.sent == len(BODY)


def test_an_interrupted_download_is_taken_up_by_the_next_run(served: Served, tmp_path: Path) -> None:
    @contextlib.contextmanager
    def interrupted(name: str, unit: str) -> Iterator[Callable[[int, int], None]]:
        def count(done: int, total: int) -> None:
            if done >= 2:
                raise KeyboardInterrupt

        yield count

    with pytest.raises(KeyboardInterrupt):
        fetch(archive(served), tmp_path, interrupted)
    kept = (tmp_path / "data.tgz.part").stat().st_size
    assert 2_000_000 <= kept < len(BODY) and not (tmp_path / "data.tgz").exists()
    assert fetch(archive(served), tmp_path, silent).read_bytes() == BODY
    assert served.requests[1] == ("data.tgz", f"bytes={kept}-")
    assert [p.name for p in tmp_path.iterdir()] == ["data.tgz"]


def test_a_server_without_ranges_starts_again(served: Served, tmp_path: Path) -> None:
    served.ranges, served.break_after = False, [1_000_000]
    assert fetch(archive(served), tmp_path, silent).read_bytes() == BODY
    assert served.sent == 1_000_000 + len(BODY)


def test_half_of_another_version_is_not_kept(served: Served, tmp_path: Path) -> None:
    (tmp_path / "data.tgz.part").write_bytes(b"old" * 1000)
    (tmp_path / "data.tgz.part.json").write_text('"\\"0\\""')
    assert fetch(archive(served), tmp_path, silent).read_bytes() == BODY
    (tmp_path / "data.tgz").rename(tmp_path / "data.tgz.part")  # whole, but of nobody knows which version
    assert fetch(archive(served), tmp_path, silent).read_bytes() == BODY


def test_a_part_that_is_whole_needs_no_more_bytes(served: Served, tmp_path: Path) -> None:
    (tmp_path / "data.tgz.part").write_bytes(BODY)
    (tmp_path / "data.tgz.part.json").write_text('"\\"1\\""')
    assert fetch(archive(served), tmp_path, silent).read_bytes() == BODY
    assert served.sent == 0


def test_busy_servers_are_asked_again(served: Served, tmp_path: Path) -> None:
    served.refuse = [503, 503]
    assert fetch(archive(served), tmp_path, silent).read_bytes() == BODY
    served.refuse = [503] * download.ATTEMPTS
    refused(lambda: fetch(archive(served), tmp_path / "b", silent), served.url, "503", "by other means")


def test_a_connection_that_keeps_breaking_says_what_is_kept(served: Served, tmp_path: Path) -> None:
    served.break_after = [1_000_000] + [0] * download.ATTEMPTS
    refused(lambda: fetch(archive(served), tmp_path, silent), served.url, "1.0 MB", "the same command resumes")
    assert (tmp_path / "data.tgz.part").stat().st_size == 1_000_000


def test_a_wrong_checksum_is_refused(served: Served, tmp_path: Path) -> None:
    wrong = archive(served, "0" * 32)
    refused(lambda: fetch(wrong, tmp_path, silent), "data.tgz", MD5, "0" * 32, "run again")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "data.tgz").write_bytes(b"put there by hand")
    refused(lambda: fetch(archive(served), tmp_path, silent), tmp_path / "data.tgz", "remove it and run again")
    assert (tmp_path / "data.tgz").exists()
    assert fetch(archive(served, None), tmp_path, silent).read_bytes() == b"put there by hand"


def test_absent_files_and_servers_are_named(served: Served, tmp_path: Path) -> None:
    gone = Archive(f"{served.url}/gone.tgz", "gone.tgz", None)
    refused(lambda: fetch(gone, tmp_path, silent), gone.url, "404", tmp_path / "gone.tgz", "by other means")
    assert len(served.requests) == 1
    nowhere = Archive("http://127.0.0.1:9/data.tgz", "data.tgz", None)
    refused(lambda: fetch(nowhere, tmp_path, silent), nowhere.url, "refused", tmp_path / "data.tgz")


def test_no_room_is_found_before_the_download(served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    refused(lambda: fetch(archive(served), tmp_path, silent), "4 MB are to come", "1 MB are free", "data.root=PATH")


def test_a_full_disk_keeps_what_is_there(served: Served, tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, hard))
    try:
        refused(lambda: fetch(archive(served), tmp_path, silent), "cannot write", "data.root=PATH", error=UserError)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (tmp_path / "data.tgz.part").stat().st_size <= 2_000_000
    assert fetch(archive(served), tmp_path, silent).read_bytes() == BODY
    assert served.sent < 2 * len(BODY)


def test_two_processes_do_not_write_one_file(served: Served, tmp_path: Path) -> None:
    with locked_elsewhere(tmp_path / "data.tgz.part"):
        refused(lambda: fetch(archive(served), tmp_path, silent), "another process")
    assert fetch(archive(served), tmp_path, silent).read_bytes() == BODY


# ---- archives ----


def tar_of(path: Path, *infos: tuple[str, bytes | None]) -> Path:
    """A tar; None for the content makes a link to /etc/passwd."""
    with tarfile.open(path, "w:gz") as tar:
        for name, content in infos:
            info = tarfile.TarInfo(name)
            if content is None:
                info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
            else:
                info.size = len(content)
            tar.addfile(info, io.BytesIO(content or b""))
    return path


def zip_of(path: Path, *infos: tuple[str, bytes | None]) -> Path:
    with zipfile.ZipFile(path, "w") as bundle:
        for name, content in infos:
            info = zipfile.ZipInfo(name)
            info.external_attr = (0o120777 if content is None else 0o100644) << 16
            bundle.writestr(info, content or b"/etc/passwd")
    return path


MAKERS = [(tar_of, "a.tgz"), (zip_of, "a.zip")]


def quiet(done: int, total: int) -> None:
    """No progress."""


@pytest.mark.parametrize(("make", "name"), MAKERS)
def test_wanted_files_come_out_and_stay(make: Callable[..., Path], name: str, tmp_path: Path) -> None:
    path = make(tmp_path / name, ("x/a.txt", b"one"), ("x/b.txt", b"two"), ("y/c.txt", b"three"), ("x/l", None))

    def place(member: str) -> str | None:
        return member.removeprefix("x/") if member.endswith(".txt") and member.startswith("x/") else None

    assert unpack(path, tmp_path / "out", place, quiet) == 2
    assert {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()} == {"a.txt": b"one", "b.txt": b"two"}
    before = (tmp_path / "out/a.txt").stat().st_mtime_ns
    (tmp_path / "out/b.txt").write_bytes(b"cut")  # equal size: taken to be whole
    (tmp_path / "out/b.txt").write_bytes(b"tw")  # half of it: unpacked again
    assert unpack(path, tmp_path / "out", place, quiet) == 2
    assert (tmp_path / "out/a.txt").stat().st_mtime_ns == before and (tmp_path / "out/b.txt").read_bytes() == b"two"


@pytest.mark.parametrize(("make", "name"), MAKERS)
@pytest.mark.parametrize("evil", ["../evil.txt", "/evil.txt", "a/../../evil.txt", "C:/evil.txt"])
def test_paths_out_of_the_folder_are_refused(make: Callable[..., Path], name: str, evil: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    path = make(tmp_path / "in" / name, (evil, b"evil"))
    refused(lambda: unpack(path, tmp_path / "in" / "out", lambda member: member, quiet), path, "leads out")
    refused(lambda: unpack(path, tmp_path / "in" / "out", lambda member: None, quiet), path, "leads out")
    assert not list(tmp_path.rglob("evil.txt")) and not Path("/evil.txt").exists()


@pytest.mark.parametrize(("make", "name"), MAKERS)
def test_links_are_refused(make: Callable[..., Path], name: str, tmp_path: Path) -> None:
    path = make(tmp_path / name, ("link.txt", None))
    refused(lambda: unpack(path, tmp_path / "out", lambda member: member, quiet), path, "link.txt is a link")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("make", "name"), MAKERS)
def test_damaged_archives_are_named(make: Callable[..., Path], name: str, tmp_path: Path) -> None:
    path = make(tmp_path / name, ("a.txt", BODY[:100_000]), ("b.txt", BODY[:100_000]))
    path.write_bytes(path.read_bytes()[:60_000])
    refused(lambda: unpack(path, tmp_path / "out", lambda member: member, quiet), path, "damaged", "run again")
    assert not (tmp_path / "out" / "a.txt").exists()
    path.write_bytes(b"<html>moved</html>")
    refused(lambda: unpack(path, tmp_path / "out", lambda member: member, quiet), path, "damaged")


def test_an_altered_zip_is_found_by_its_checksums(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "a.zip", ("a.txt", BODY[:1000]))
    path.write_bytes(path.read_bytes().replace(BODY[100:110], b"0123456789"))
    refused(lambda: unpack(path, tmp_path / "out", lambda member: member, quiet), path, "damaged", "CRC")
