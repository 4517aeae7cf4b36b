"""Unpacking: files as a whole, and nothing outside the target folder."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from split_matching.stages.data.download.archives import explain_damage, unpack
from tests.error_lines import check_error

BODY = np.random.default_rng(0).integers(0, 256, 200_000, np.uint8).tobytes()


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
def test_paths_out_of_the_folder_are_errors(make: Callable[..., Path], name: str, evil: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    path = make(tmp_path / "in" / name, (evil, b"evil"))
    check_error(lambda: unpack(path, tmp_path / "in" / "out", lambda member: member, quiet), path, "leads out")
    check_error(lambda: unpack(path, tmp_path / "in" / "out", lambda member: None, quiet), path, "leads out")
    assert not list(tmp_path.rglob("evil.txt")) and not Path("/evil.txt").exists()


@pytest.mark.parametrize(("make", "name"), MAKERS)
def test_links_are_errors(make: Callable[..., Path], name: str, tmp_path: Path) -> None:
    path = make(tmp_path / name, ("link.txt", None))
    check_error(lambda: unpack(path, tmp_path / "out", lambda member: member, quiet), path, "link.txt is a link")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("make", "name"), MAKERS)
def test_damaged_archives_are_named(make: Callable[..., Path], name: str, tmp_path: Path) -> None:
    path = make(tmp_path / name, ("a.txt", BODY[:100_000]), ("b.txt", BODY[:100_000]))
    path.write_bytes(path.read_bytes()[:60_000])
    check_error(lambda: unpack(path, tmp_path / "out", lambda member: member, quiet), path, "damaged", "run again")
    assert not (tmp_path / "out" / "a.txt").exists()
    path.write_bytes(b"<html>moved</html>")
    check_error(lambda: unpack(path, tmp_path / "out", lambda member: member, quiet), path, "damaged")


def test_an_altered_zip_is_found_by_its_checksums(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "a.zip", ("a.txt", BODY[:1000]))
    path.write_bytes(path.read_bytes().replace(BODY[100:110], b"0123456789"))
    check_error(lambda: unpack(path, tmp_path / "out", lambda member: member, quiet), path, "damaged", "CRC")


@pytest.mark.parametrize(
    "error", [OSError("Invalid data stream"), OSError(22, "Invalid argument"), RuntimeError("needs a password")]
)
def test_what_libraries_raise_for_damaged_bytes_names_the_archive(tmp_path: Path, error: Exception) -> None:
    def read() -> None:
        with explain_damage(tmp_path / "a.zip"):
            raise error

    check_error(read, tmp_path / "a.zip", "is damaged")


def test_an_error_of_the_disk_is_not_called_damage(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="Input/output"), explain_damage(tmp_path / "a.zip"):
        raise OSError(5, "Input/output error")
