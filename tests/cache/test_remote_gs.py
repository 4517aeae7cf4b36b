"""Artifacts on Google Cloud Storage: the real client against a local emulator.

Both are 80 MB, and not in the extra `dev`: `pip install gcsfs gcp-storage-emulator`. Without them they skip.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from split_matching.cache.artifact import Artifact
from split_matching.cache.entry import Entry
from split_matching.cache.remote import Remote
from split_matching.errors import CorruptError, UserError
from tests.cache.example_builds import KEY, RECIPE, make_plain, make_sharded

PLACE = f"shapes/squares/{KEY[:16]}"
ABSENT = "needs gcsfs and gcp-storage-emulator, see CONTRIBUTING.md"


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture(scope="module")
def emulator() -> Iterator[Any]:
    """The client of an emulator that holds the bucket `bucket`."""
    create_server = pytest.importorskip("gcp_storage_emulator.server", reason=ABSENT).create_server
    port = free_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
        patch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # asks by gRPC, which the emulator does not speak
        gcsfs = pytest.importorskip("gcsfs", reason=ABSENT)
        server = create_server("127.0.0.1", port, in_memory=True)
        server.start()
        gcsfs.GCSFileSystem.clear_instance_cache()
        client = gcsfs.GCSFileSystem()
        client.mkdir("bucket")
        yield client
        gcsfs.GCSFileSystem.clear_instance_cache()
        server.stop()


@pytest.fixture
def remote(emulator: Any) -> Remote:
    """An address without any artifact."""
    if emulator.exists("bucket/cache"):
        emulator.rm("bucket/cache", recursive=True)
    return Remote("gs://bucket/cache")


@pytest.fixture
def made(tmp_path: Path) -> Artifact:
    return make_sharded(Entry(tmp_path / "a", "shapes", "squares", KEY))


def pull(root: Path) -> Artifact:
    remote = Remote("gs://bucket/cache")
    manifest = remote.manifest(PLACE)
    assert manifest is not None
    return remote.pull(root, PLACE, manifest)


def test_push_and_pull(remote: Remote, made: Artifact, tmp_path: Path) -> None:
    assert remote.manifest(PLACE) is None and remote.find(KEY[:4]) == []
    assert remote.push(made) == sum(path.stat().st_size for path in made.path.glob("*.h5"))
    assert remote.push(made) == 0  # all is there
    assert remote.find(KEY[:4]) == [PLACE] and remote.manifest(PLACE) == made.manifest
    assert bytes_of(pull(tmp_path / "b").path) == bytes_of(made.path)
    assert Entry(tmp_path / "b", "shapes", "squares", KEY).state(RECIPE).fresh


def test_a_file_that_is_sent_in_a_session(remote: Remote, tmp_path: Path) -> None:
    """The client sends what has more than 5 MB in another way, and fetches more than 16 MB in parts."""
    made = make_plain(Entry(tmp_path / "a", "shapes", "squares", KEY), text="0123456789abcdef" * (17 << 16))
    assert remote.push(made) == 17 << 20
    assert bytes_of(pull(tmp_path / "b").path) == bytes_of(made.path)


def test_an_interrupted_push_shows_nothing_and_continues(
    remote: Remote, emulator: Any, made: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    send = Remote._send

    def fail(self: Remote, path: Path, entry: Any) -> int:
        if path.name == "train-00001.h5":
            raise KeyboardInterrupt
        return send(self, path, entry)

    with monkeypatch.context() as patch:
        patch.setattr(Remote, "_send", fail)
        with pytest.raises(KeyboardInterrupt):
            remote.push(made)
    assert remote.manifest(PLACE) is None and remote.find("") == []
    there = sum(emulator.sizes(emulator.find("bucket/cache")))
    sizes = {path.name: path.stat().st_size for path in made.path.glob("*.h5")}
    assert 0 < there <= sum(sizes.values()) - sizes["train-00001.h5"]
    assert Remote("gs://bucket/cache").push(made) == sum(sizes.values()) - there


def test_an_altered_file_is_not_pulled(remote: Remote, emulator: Any, made: Artifact, tmp_path: Path) -> None:
    remote.push(made)
    name = emulator.find("bucket/cache/files")[0]
    emulator.pipe_file(name, b"?" * emulator.info(name)["size"])
    with pytest.raises(CorruptError, match="is not as it was written"):
        pull(tmp_path / "b")
    assert not (tmp_path / "b" / PLACE).exists()


def test_a_bucket_that_is_not_there_is_one_line(emulator: Any, made: Artifact) -> None:
    with pytest.raises(UserError, match=r"gs://nowhere/cache: FileNotFoundError: .*nowhere") as error:
        Remote("gs://nowhere/cache").push(made)
    assert len(str(error.value).splitlines()) == 1
