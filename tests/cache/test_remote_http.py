"""Artifacts on a static web server, which can only be read."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from split_matching.cache.artifact import Artifact
from split_matching.cache.entry import Entry
from split_matching.cache.remote import Remote
from split_matching.errors import CorruptError, UserError
from tests.cache.example_builds import KEY, RECIPE, make_sharded

PLACE = f"shapes/squares/{KEY[:16]}"


class Quiet(SimpleHTTPRequestHandler):
    """What `python -m http.server` runs."""

    def log_message(self, *arguments: object) -> None:
        """Keep quiet."""


@pytest.fixture
def made(tmp_path: Path) -> Artifact:
    return make_sharded(Entry(tmp_path / "a", "shapes", "squares", KEY))


@pytest.fixture
def address(made: Artifact, tmp_path: Path) -> Iterator[str]:
    """A server of a folder to which the artifact was pushed."""
    Remote(str(tmp_path / "far")).push(made)
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(tmp_path)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/far"
    server.shutdown()
    server.server_close()
    thread.join()


def test_pull(made: Artifact, address: str, tmp_path: Path) -> None:
    remote = Remote(address)
    assert remote.find(KEY[:4]) == [PLACE] and remote.manifest("shapes/squares/0123456789abcdef") is None
    manifest = remote.manifest(PLACE)
    assert manifest == made.manifest
    found = remote.pull(tmp_path / "b", PLACE, manifest)
    assert {p.name: p.read_bytes() for p in found.path.iterdir()} == {
        p.name: p.read_bytes() for p in made.path.iterdir()
    }
    assert Entry(tmp_path / "b", "shapes", "squares", KEY).state(RECIPE).fresh


def test_an_altered_file_is_not_pulled(address: str, tmp_path: Path) -> None:
    remote = Remote(address)
    manifest = remote.manifest(PLACE)
    assert manifest is not None
    path = next((tmp_path / "far" / "files").glob("*/*"))
    path.write_bytes(b"?" * path.stat().st_size)
    with pytest.raises(CorruptError, match="is not as it was written"):
        remote.pull(tmp_path / "b", PLACE, manifest)
    assert not (tmp_path / "b" / PLACE).exists()


def test_a_push_is_refused_in_one_line(made: Artifact, address: str, tmp_path: Path) -> None:
    # the server's 501, or a broken connection: it does not read what it refuses
    with pytest.raises(UserError, match=r"http://127.0.0.1:\d+/other: ") as error:
        Remote(address.replace("/far", "/other")).push(made)
    assert len(str(error.value).splitlines()) == 1
    assert not (tmp_path / "other").exists()
