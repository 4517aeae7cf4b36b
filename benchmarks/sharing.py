"""What a shared cache on S3 costs: requests and bytes to push and pull an artifact, and to read a shard where it lies.

    python -m benchmarks.sharing [--quick] [--json FILE]

The real client, s3fs, against a local server, moto; what crosses the network is counted, not timed. A shard of features
(ViT-B/16 at 512 px, two arrays an image) is opened by h5py through fsspec as it is written, and once more written with
HDF5's page aggregation: its index is read, then the tokens of one image.
"""

from __future__ import annotations

import logging
import os
import re
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import h5py
import numpy as np

from benchmarks.measure import Check, Options, Report, Side, main
from split_matching.cache import shard_writer
from split_matching.cache.build import open_build
from split_matching.cache.entry import Entry, Recipe
from split_matching.cache.keys import digest
from split_matching.cache.remote import Remote, place_of
from split_matching.cache.shard_format import Field
from split_matching.cache.shard_writer import ShardWriter

PAGE = 1 << 16
BLOCKS = {"1 MB blocks": 1 << 20, "256 kB blocks": 1 << 18}
FIELDS = {"dense": (32, 32, 512), "tokens": (32, 32, 768)}


class Requests(logging.Handler):
    """Counts what reaches the server: requests, and those of them that only ask whether something is there."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one line of the server's log."""
        self.lines += re.findall(r"(?:HEAD|GET|PUT|POST|DELETE) /[^ ]*", record.getMessage())

    def take(self) -> Counter[str]:
        """Return the counts by method since the last time."""
        found = Counter(line.split()[0] for line in self.lines)
        self.lines = []
        return found


@contextmanager
def server() -> Iterator[Requests]:
    """Run an S3 of this machine, with the bucket `bucket`."""
    import s3fs
    from moto.server import ThreadedMotoServer

    requests, log = Requests(), logging.getLogger("werkzeug")
    log.handlers, log.propagate = [requests], False
    served = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=True)
    served.start()
    address = f"http://127.0.0.1:{served.get_host_and_port()[1]}"
    keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
    with mock.patch.dict(os.environ, {**keys, "AWS_ENDPOINT_URL": address}):
        s3fs.S3FileSystem.clear_instance_cache()
        s3fs.S3FileSystem().mkdir("bucket")
        yield requests
    served.stop()


def write_shard(path: Path, images: int, paged: bool) -> float:
    """Write a shard of features; returns the seconds it took."""
    rng, plain = np.random.default_rng(0), h5py.File

    def open_paged(file: Any, mode: str, **settings: Any) -> h5py.File:
        return plain(file, mode, **settings, fs_strategy="page", fs_page_size=PAGE)

    arrays = {name: rng.standard_normal(shape).astype(np.float16) for name, shape in FIELDS.items()}
    start = time.perf_counter()
    with (
        mock.patch.object(shard_writer.h5py, "File", open_paged if paged else plain),
        ShardWriter(path, "features", {name: Field("float16", 2) for name in FIELDS}) as writer,
    ):
        for index in range(images):
            writer.add(f"image_{index:06d}", **arrays)
    return time.perf_counter() - start


def read_remote(address: str, block: int, requests: Requests) -> tuple[int, int]:
    """Requests to open a shard and read its index, and then the tokens of one image."""
    import fsspec

    client, path = fsspec.url_to_fs(address)
    with client.open(path, block_size=block, cache_type="blockcache") as stream:
        requests.take()  # the size
        with h5py.File(stream, "r") as file:
            file["ids"][:], file["digests"][:]
            offsets = [file[name]["offsets"][:] for name in FIELDS][-1]
            index = sum(requests.take().values())
            file["tokens/data"][offsets[3] : offsets[4]]
            return index, sum(requests.take().values())


def run(options: Options) -> Report:
    """Push and pull an artifact of several shards, and read one of each layout."""
    shards, images = (2, 4) if options.quick else (3, 32)
    facts: dict[str, float] = {}
    sides = []
    with tempfile.TemporaryDirectory() as name, server() as requests:
        folder = Path(name)
        build = open_build(Entry(folder / "a", "made", "features", digest("key")), Recipe("ExtractFeatures"), {})
        for index in range(shards):
            write_shard(build.shard_file(f"train{index}", 0), images, False)
            build.finish(f"train{index}", 0, 0.0)
        with build.lock():
            artifact = build.commit(1.0)
        remote = Remote("s3://bucket/cache")
        facts["manifest_bytes"] = (artifact.path / "manifest.json").stat().st_size / shards
        requests.take()
        remote.push(artifact)
        facts["push_requests"] = sum(requests.take().values()) / shards
        remote = Remote("s3://bucket/cache")
        manifest = remote.manifest(place_of(artifact))
        assert manifest is not None
        requests.take()
        remote.pull(folder / "b", place_of(artifact), manifest)
        facts["pull_requests"] = sum(requests.take().values()) / shards
        for layout in ("plain", "paged"):
            path = folder / f"{layout}.h5"
            took = tuple(write_shard(path, images, layout == "paged") for _ in range(min(3, options.rounds)))
            sides.append(Side(f"write a shard, {layout}", "s", took))
            facts[f"bytes_{layout}"] = path.stat().st_size
            remote._fs.put_file(str(path), f"bucket/{layout}.h5")
            for block in BLOCKS.values():
                found = read_remote(f"s3://bucket/{layout}.h5", block, requests)
                facts[f"index_{layout}_{block}"], facts[f"image_{layout}_{block}"] = found
    checks = [
        Check("requests to push, a shard", facts["push_requests"], unit="requests"),
        Check("requests to pull, a shard", facts["pull_requests"], unit="requests"),
        Check("size of a shard with page aggregation over without", facts["bytes_paged"] / facts["bytes_plain"]),
    ]
    for layout in ("plain", "paged"):
        for what, block in BLOCKS.items():
            for part in ("index", "image"):
                value = facts[f"{part}_{layout}_{block}"]
                checks.append(Check(f"{part} of a shard where it lies, {layout}, {what}", value, unit="requests"))
    return Report(f"{shards} shards of {images} images of {FIELDS}, moto on loopback", sides, checks, facts)


if __name__ == "__main__":
    main(__doc__, run)
