"""Downloads: interrupted and resumed, wrong checksum, 404, no room."""

from __future__ import annotations

import contextlib
import hashlib
import resource
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from split_matching.errors import UserError
from split_matching.stages.data.download import fetch as download
from split_matching.stages.data.download.fetch import Archive, fetch
from tests.cache.test_locks import locked_elsewhere
from tests.error_lines import check_error
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


def test_a_broken_connection_resumes_where_it_broke(served: Served, tmp_path: Path) -> None:
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


@pytest.mark.parametrize("length", ["abc", "-5", "9" * 5000])
def test_a_length_that_is_no_number_is_named(served: Served, tmp_path: Path, length: str) -> None:
    served.length = length
    check_error(lambda: fetch(archive(served), tmp_path, silent), served.url, f"{length[:40]!r}, no number")


def test_busy_servers_are_asked_again(served: Served, tmp_path: Path) -> None:
    served.refuse = [503, 503]
    assert fetch(archive(served), tmp_path, silent).read_bytes() == BODY
    served.refuse = [503] * download.ATTEMPTS
    check_error(lambda: fetch(archive(served), tmp_path / "b", silent), served.url, "503", "by other means")


def test_a_connection_that_keeps_breaking_says_what_is_kept(served: Served, tmp_path: Path) -> None:
    served.break_after = [1_000_000] + [0] * download.ATTEMPTS
    check_error(lambda: fetch(archive(served), tmp_path, silent), served.url, "1.0 MB", "the same command resumes")
    assert (tmp_path / "data.tgz.part").stat().st_size == 1_000_000


def test_a_wrong_checksum_is_check_error(served: Served, tmp_path: Path) -> None:
    wrong = archive(served, "0" * 32)
    check_error(lambda: fetch(wrong, tmp_path, silent), "data.tgz", MD5, "0" * 32, "run again")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "data.tgz").write_bytes(b"put there by hand")
    check_error(lambda: fetch(archive(served), tmp_path, silent), tmp_path / "data.tgz", "remove it and run again")
    assert (tmp_path / "data.tgz").exists()
    assert fetch(archive(served, None), tmp_path, silent).read_bytes() == b"put there by hand"


def test_absent_files_and_servers_are_named(served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(download.time, "sleep", pauses.append)
    gone = Archive(f"{served.url}/gone.tgz", "gone.tgz", None)
    check_error(lambda: fetch(gone, tmp_path, silent), gone.url, "404", tmp_path / "gone.tgz", "by other means")
    assert len(served.requests) == 1
    nowhere = Archive("http://127.0.0.1:9/data.tgz", "data.tgz", None)
    check_error(lambda: fetch(nowhere, tmp_path, silent), nowhere.url, "refused, try again", tmp_path / "data.tgz")
    assert len(pauses) == 1  # nobody waits long where there is no connection


def test_no_room_is_found_before_the_download(served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    check_error(lambda: fetch(archive(served), tmp_path, silent), "4 MB are to come", "1 MB are free", "data.root=PATH")


def test_a_full_disk_keeps_what_is_there(served: Served, tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, hard))
    try:
        check_error(lambda: fetch(archive(served), tmp_path, silent), "cannot write", "data.root=PATH", kind=UserError)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (tmp_path / "data.tgz.part").stat().st_size <= 2_000_000
    assert fetch(archive(served), tmp_path, silent).read_bytes() == BODY
    assert served.sent < 2 * len(BODY)


def test_two_processes_do_not_write_one_file(served: Served, tmp_path: Path) -> None:
    with locked_elsewhere(tmp_path / "data.tgz.part"):
        check_error(lambda: fetch(archive(served), tmp_path, silent), "another process")
    assert fetch(archive(served), tmp_path, silent).read_bytes() == BODY
