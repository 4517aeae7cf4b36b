"""A cache that is shared: artifacts at an address of fsspec, such as s3://bucket/path, gs://, ssh:// or file://.

    <address>/files/<2 digits>/<62 digits>          every file, by its sha256: once, whatever artifacts hold it
    <address>/<dataset>/<stage>/<key16>.json        the manifest of an artifact, written after all its files

So what has a manifest is complete, and what was interrupted continues with the files that are not there yet. A file
appears whole: an object store shows it when it was sent, elsewhere it is renamed. What is pulled is checked against its
checksums in a folder beside its place, and renamed when complete. Source: choice.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from split_matching.cache.artifact import Artifact, load_artifact
from split_matching.cache.build import swap_in
from split_matching.cache.disk_errors import explain_disk_errors
from split_matching.cache.entry import KEY_LENGTH
from split_matching.cache.files import MOST_BYTES, atomic_write, file_size
from split_matching.cache.folders import split_key
from split_matching.cache.keys import file_sha256
from split_matching.cache.locks import lock_file
from split_matching.cache.names import LOCK, MANIFEST
from split_matching.cache.remote_manifest import parse_manifest
from split_matching.cache.running import claim
from split_matching.errors import ConfigError, CorruptError, UserError, first_line, hide_passwords

OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss"}
"""Protocols that show an object when it was sent whole, and have no folders."""

PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "ssh": "paramiko", "sftp": "paramiko"}
"""The packages of the extra `remote`, by protocol."""

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors of a disk without room."""

FILES = "files"
"""Folder of all files, beside those of data sets."""

THREADS = 8  # files on their way at the same time, where the client can do that

BLOCK_BYTES = 1 << 24  # that are read at once of a file there

Count = Callable[[int, int], None]
"""Is told how many files are done, of how many."""


class Remote:
    """The artifacts at an address.

    Args:
        address: of fsspec; or a folder of this machine, by its whole path.

    Raises (from every member):
        ConfigError: the address is none, or the package for it is missing.
        UserError: it cannot be reached, read or written; or what lies there is not as it was written.
    """

    def __init__(self, address: str) -> None:
        self.address = hide_passwords(address)
        if "://" not in address and not address.startswith(("/", "~")):  # s3:/bucket would be a folder here
            raise ConfigError(
                f"{self.address} is no address: expected one such as s3://BUCKET/PATH, or the whole path of a folder"
            )
        with self._explain():
            from fsspec.core import url_to_fs

            self._fs, root = url_to_fs(address)
            self._fs.invalidate_cache()  # clients are kept for the life of the process, and so is what they have listed
            self._root = str(root).rstrip("/")
            protocols = {self._fs.protocol} if isinstance(self._fs.protocol, str) else set(self._fs.protocol)
            self._stores_objects = bool(protocols & OBJECT_STORES)
            self._threads = THREADS if getattr(self._fs, "async_impl", False) else 1

    def manifest(self, place: str) -> dict[str, Any] | None:
        """Return the manifest of an artifact; None if it is not there.

        Args:
            place: data set, folder of the stage and first digits of the key, e.g. "voc/train/49ae3f...".
        """
        path = f"{self._root}/{place}.json"
        size = self._size(path)
        if size is None:
            return None
        try:
            if size > MOST_BYTES:
                raise ValueError(f"it has {size} bytes")
            with self._explain():
                text = self._fs.cat_file(path)
            manifest = parse_manifest(text)
            dataset, _, key = place.split("/")
            if manifest["dataset"] != dataset or not manifest["key"].startswith(key):
                raise ValueError("it is of another artifact")
        except ValueError as error:
            raise CorruptError(f"{self.address}: the manifest {place}.json cannot be used: {error}") from None
        return manifest

    def find(self, prefix: str) -> list[str]:
        """Return the places of artifacts whose key begins with some digits.

        Args:
            prefix: the digits; `stage/digits` looks in one stage, `dataset/stage/digits` in one of one data set.
        """
        dataset, stage, start = split_key(prefix)
        places = []
        for first in [dataset] if dataset else self._names(self._root):
            if first == FILES and not dataset:
                continue
            for second in [stage] if stage else self._names(f"{self._root}/{first}"):
                names = self._names(f"{self._root}/{first}/{second}")
                places += [f"{first}/{second}/{name.removesuffix('.json')}" for name in names if name.endswith(".json")]
        return sorted(place for place in places if _is_place(place) and place.rpartition("/")[2].startswith(start))

    def push(self, artifact: Artifact, count: Count = lambda done, total: None, verify: bool = False) -> int:
        """Send an artifact: the files that are not there yet, then the manifest.

        Args:
            artifact: of the cache.
            count: is told how far it is.
            verify: read what is there of its files; else a file of the right size is taken for the right one.

        Returns:
            How many bytes were sent.

        Raises:
            CorruptError: a file is not as it was written, or the manifest has control characters.
        """
        files, text = artifact.manifest["files"], _text_of(artifact.manifest)
        try:
            parse_manifest(text)
        except ValueError as error:
            raise CorruptError(f"the manifest of {artifact.path} cannot be shared: {error}") from None

        def send(name: str) -> int:
            return 0 if self._is_there(files[name], verify) else self._send(artifact.path / name, files[name])

        sent = self._each(send, list(files), count)
        target = f"{self._root}/{place_of(artifact)}.json"
        with self._explain():
            self._write(target, lambda path: self._fs.pipe_file(path, text))
        return sent

    def mend(
        self,
        artifact: Artifact,
        manifest: Mapping[str, Any],
        count: Count = lambda done, total: None,
        verify: bool = False,
    ) -> int:
        """Send again the files that are missing or altered of an artifact that is there.

        Args:
            artifact: the one of the cache that was made alike.
            manifest: what `manifest` returned.
            count: is told how far it is.
            verify: see `push`.

        Returns:
            How many bytes were sent.

        Raises:
            CorruptError: a file there is missing or altered, and the artifact here has no such file.
        """
        here = {entry["sha256"]: artifact.path / name for name, entry in artifact.manifest["files"].items()}
        files = manifest["files"]

        def send(name: str) -> int:
            if self._is_there(files[name], verify):
                return 0
            if files[name]["sha256"] not in here:
                file = self._file(files[name]["sha256"]).removeprefix(f"{self._root}/")
                raise CorruptError(
                    f"{self.address}: {file} ({name}) is missing or altered, and {artifact.path} has other files: push "
                    f"from where it was made, or remove {place_of(artifact)}.json there"
                )
            return self._send(here[files[name]["sha256"]], files[name])

        return self._each(send, list(files), count)

    def pull(
        self, root: Path, place: str, manifest: Mapping[str, Any], count: Count = lambda done, total: None
    ) -> Artifact:
        """Fetch an artifact into a cache, in place of what is there under its key.

        Args:
            root: folder of the cache.
            place: see `manifest`.
            manifest: what `manifest` returned.
            count: is told how far it is.

        Raises:
            CorruptError: a file is missing there, or is not what the manifest says; the others are kept for next time.
        """
        folder = root / place
        # named as what a killed process leaves, so that `gc` knows it
        new = folder.with_name(f"{folder.name}.{manifest['digest'][:8]}.new")
        files = manifest["files"]

        def fetch(name: str) -> int:
            return self._fetch(new / name, files[name])

        with explain_disk_errors(new):
            root.mkdir(parents=True, exist_ok=True)
            with claim(root, [folder, new]):
                new.mkdir(parents=True, exist_ok=True)
                with lock_file(new / LOCK) as held:
                    if held:
                        self._each(fetch, list(files), count)
                        with atomic_write(new / MANIFEST) as temporary:
                            temporary.write_bytes(_text_of(manifest))
                        swap_in(new, folder)
        return load_artifact(folder)

    def _each(self, work: Callable[[str], int], names: list[str], count: Count) -> int:
        """Do something for every name, several at once; returns the sum."""
        total = 0
        pool = ThreadPoolExecutor(self._threads)
        try:
            for done, size in enumerate(pool.map(work, names), start=1):
                total += size
                count(done, len(names))
        finally:
            pool.shutdown(cancel_futures=True)
        return total

    def _is_there(self, entry: Mapping[str, Any], verify: bool) -> bool:
        """Whether a file is there: one of its size, or with `verify` one of its bytes."""
        path = self._file(entry["sha256"])
        if self._size(path) != entry["bytes"]:
            return False
        return not verify or self._sha256(path) == entry["sha256"]

    def _send(self, path: Path, entry: Mapping[str, Any]) -> int:
        with explain_disk_errors(path):
            if file_size(path) != entry["bytes"] or file_sha256(path) != entry["sha256"]:
                raise CorruptError(f"{path} is missing or altered: run `verify`, then the stage again", path)
        with self._explain():
            self._write(self._file(entry["sha256"]), lambda to: self._fs.put_file(str(path), to))
        return int(entry["bytes"])

    def _fetch(self, path: Path, entry: Mapping[str, Any]) -> int:
        if file_size(path) == entry["bytes"] and file_sha256(path) == entry["sha256"]:
            return 0  # of an interrupted pull
        source = self._file(entry["sha256"])
        size = self._size(source)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as temporary:
            if size == entry["bytes"]:
                with self._explain():
                    self._fs.get_file(source, str(temporary))
            if size != entry["bytes"] or file_sha256(temporary) != entry["sha256"]:
                what = "is missing" if size is None else "is not as it was written"
                file = source.removeprefix(self._root + "/")
                raise CorruptError(
                    f"{self.address}: {file} ({path.name}) {what}: push it again with --verify from where it is whole"
                )
        return int(entry["bytes"])

    def _file(self, sha256: str) -> str:
        return f"{self._root}/{FILES}/{sha256[:2]}/{sha256[2:]}"

    def _names(self, folder: str) -> list[str]:
        """Return the names in a folder; none if it is not there. In a pattern `[` would mean another thing."""
        with self._explain():
            try:
                found = self._fs.ls(folder, detail=False)
            except (FileNotFoundError, NotADirectoryError):
                return []
        return [str(path).rstrip("/").rpartition("/")[2] for path in found]

    def _size(self, path: str) -> int | None:
        with self._explain():
            try:
                return int(self._fs.info(path)["size"])
            except (FileNotFoundError, NotADirectoryError):
                return None

    def _sha256(self, path: str) -> str:
        digest = hashlib.sha256()
        with self._explain(), self._fs.open(path, "rb") as stream:
            while block := stream.read(BLOCK_BYTES):
                digest.update(block)
        return digest.hexdigest()

    def _write(self, target: str, send: Callable[[str], None]) -> None:
        """Write a file so that nobody sees a part of it under its name.

        Args:
            target: its name.
            send: writes it to a name.
        """
        if self._stores_objects:
            send(target)
            return
        self._fs.makedirs(target.rpartition("/")[0], exist_ok=True)
        temporary = f"{target}.{secrets.token_hex(8)}.part"
        try:
            send(temporary)
            if self._fs.isdir(target):  # the file would be moved into it
                name = target.removeprefix(f"{self._root}/")
                raise UserError(f"{self.address}: {name}: a folder is in the way of a file: remove it there")
            self._fs.mv(temporary, target)
        except BaseException:
            with contextlib.suppress(Exception):
                self._fs.rm_file(temporary)
            raise

    @contextlib.contextmanager
    def _explain(self) -> Iterator[None]:
        """Turn whatever a client raises into a line: each has its own kinds of errors."""
        try:
            yield
        except UserError:
            raise
        except ImportError as error:
            package = PACKAGES.get(self.address.partition("://")[0].rpartition("::")[2])
            what = f"{package}: pip install {package}, or 'split-matching[remote]'" if package else _say(error)
            raise ConfigError(f"{self.address}: a package is missing for it: {what}") from error
        except Exception as error:
            if isinstance(error, OSError) and error.errno in FULL:  # here or there: the error names the file
                raise UserError(f"{self.address}: {_say(error)}; make room where that file is") from error
            hint = "check the address, your rights and the network"
            raise UserError(f"{self.address}: {_say(error)}; {hint}") from error


def place_of(artifact: Artifact) -> str:
    """Return data set, folder of the stage and first digits of the key."""
    return "/".join(artifact.path.parts[-3:])


def _say(error: Exception) -> str:
    """Return what a client says, without a password: some quote the address."""
    return hide_passwords(first_line(error))


def _text_of(manifest: Mapping[str, Any]) -> bytes:
    return json.dumps(manifest, indent=1, sort_keys=True).encode()


def _is_place(place: str) -> bool:
    return re.fullmatch(rf"[\w.-]+/\w+/[0-9a-f]{{{KEY_LENGTH}}}", place) is not None and not place.startswith(".")
