"""Artifacts on S3: the real client against a local server."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import s3fs
from moto.server import ThreadedMotoServer

from split_matching.cache.entry import Entry
from split_matching.cache.remote import Remote
from split_matching.errors import CorruptError, UserError
from tests.cache.example_builds import KEY, RECIPE, make_sharded

PLACE = f"shapes/squares/{KEY[:16]}"


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


class Requests(logging.Handler):
    """Counts what reaches the server, by method."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def emit(self, record: logging.LogRecord) -> None:
        self.found.update(re.findall(r"(HEAD|GET|PUT|POST|DELETE) /", record.getMessage()))

    def take(self) -> dict[str, int]:
        found, self.found = dict(self.found), Counter()
        return found


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[s3fs.S3FileSystem, Requests]]:
    requests = Requests()
    log = logging.getLogger("werkzeug")
    log.addHandler(requests)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=True)
    server.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "key")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.get_host_and_port()[1]}")
        s3fs.S3FileSystem.clear_instance_cache()
        client = s3fs.S3FileSystem()
        client.mkdir("bucket")
        yield client, requests
        s3fs.S3FileSystem.clear_instance_cache()
    server.stop()
    log.removeHandler(requests)


def test_push_and_pull(server: tuple[s3fs.S3FileSystem, Requests], tmp_path: Path) -> None:
    client, requests = server
    made = make_sharded(Entry(tmp_path / "a", "shapes", "squares", KEY))
    remote = Remote("s3://bucket/cache")
    assert remote.manifest(PLACE) is None and remote.find(KEY[:4]) == []
    requests.take()
    remote.push(made)
    assert requests.take() == {"HEAD": 3, "GET": 3, "PUT": 4}  # of each shard: is it there, alone or as a folder?
    assert remote.find(KEY[:4]) == [PLACE]
    manifest = remote.manifest(PLACE)
    assert manifest == made.manifest
    remote = Remote("s3://bucket/cache")
    requests.take()
    found = remote.pull(tmp_path / "b", PLACE, manifest)
    assert requests.take() == {"HEAD": 3, "GET": 3}
    assert {p.name: p.read_bytes() for p in found.path.iterdir()} == {
        p.name: p.read_bytes() for p in made.path.iterdir()
    }
    assert Entry(tmp_path / "b", "shapes", "squares", KEY).state(RECIPE).fresh
    name = next(path for path in client.find("bucket/cache/files"))
    client.pipe_file(name, b"?" * client.info(name)["size"])
    with pytest.raises(CorruptError, match="is not as it was written"):
        remote.pull(tmp_path / "c", PLACE, manifest)


def test_a_bucket_that_is_not_there_is_one_line(server: object, tmp_path: Path) -> None:
    made = make_sharded(Entry(tmp_path / "a", "shapes", "squares", KEY))
    with pytest.raises(UserError, match=r"s3://nowhere/cache: .*bucket") as error:
        Remote("s3://nowhere/cache").push(made)
    assert len(str(error.value).splitlines()) == 1
