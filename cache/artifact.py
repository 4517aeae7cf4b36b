"""A finished result in the cache: a folder of files, and a manifest that says what they are and what made them.

`manifest.json` is written last. It holds the sha256 of every file, the config, code and inputs that the result was made
from, and a digest of itself. What is not in the manifest is no part of the result. Source: choice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from split_matching.cache.disk_errors import explain_read_error, explain_read_errors
from split_matching.cache.fields import check_manifest
from split_matching.cache.files import file_size, parse_json, read_regular, self_digest
from split_matching.cache.keys import digest, file_sha256, known_sha256
from split_matching.cache.names import MANIFEST, split_of
from split_matching.errors import CorruptError

if TYPE_CHECKING:  # `status` does without NumPy
    from split_matching.cache.shard_reader import ShardSet

SCHEMA = 1


@dataclass(frozen=True)
class Artifact:
    """A finished folder of the cache.

    Args:
        path: the folder.
        manifest: its manifest, see `cache.build.Build.commit`.
        only: the files and splits that the reader declared; empty for all.
    """

    path: Path
    manifest: Mapping[str, Any]
    only: tuple[str, ...] = ()

    @property
    def stage(self) -> str:
        """Name of the stage, which is the name of the folder above."""
        return self.path.parent.name

    @property
    def key(self) -> str:
        """The full key, 64 hex digits."""
        return str(self.manifest["key"])

    @property
    def content(self) -> str:
        """Digest of all contents; equal for equal results, whatever the size of the shards."""
        return self.content_of(())

    @property
    def summary(self) -> dict[str, Any]:
        """What the stage's function returned."""
        return dict(self.manifest["summary"])

    def content_of(self, names: Sequence[str]) -> str:
        """Return one digest over some files or splits ("images.json", "train"); over everything for ().

        Raises:
            CorruptError: a name is not in the artifact.
        """
        contents = self.manifest["content"]
        for name in names:
            if name not in contents:
                raise CorruptError(f"{self.path} holds no {name!r}: make it again with --force")
        if len(names) == 1:
            return str(contents[names[0]])
        return digest({name: contents[name] for name in (names or contents)})

    def restrict(self, names: Sequence[str]) -> Artifact:
        """Return the artifact as a stage sees it that declared these files and splits; () for all."""
        return replace(self, only=tuple(names))

    def file(self, name: str) -> Path:
        """Return the path of a file.

        Raises:
            LookupError: the stage did not declare it.
            CorruptError: it is not there, or not as it was written.
        """
        self._check_declared(name)
        path = self.path / name
        if name not in self.manifest["files"] or not path.is_file():
            raise CorruptError(f"{path} is missing: run the stage {self.manifest['stage']} again")
        try:
            sha256 = known_sha256(path)
        except OSError as error:
            raise explain_read_error(error, path) or error from error
        if sha256 != self.manifest["files"][name]["sha256"]:
            raise CorruptError(f"{path} is altered: run `verify`, then the stage again", path)
        return path

    def json(self, name: str) -> Any:
        """Return the value of a JSON file.

        Raises:
            CorruptError: the file is missing or no JSON.
        """
        path = self.file(name)
        try:
            return parse_json(read_regular(path, most=None))  # a list of 10 M images has gigabytes
        except ValueError as error:
            raise CorruptError(f"{path} is altered: run `verify`, then the stage again", path) from error

    def shards(self, split: str) -> ShardSet:
        """Return the shards of a split.

        Raises:
            LookupError: the stage did not declare the split.
            CorruptError: there is none.
        """
        from split_matching.cache.shard_reader import ShardSet

        self._check_declared(split)
        names = [name for name in self.manifest["files"] if split_of(name) == split]
        if not names:
            raise CorruptError(f"{self.path} holds no shards of {split!r}: make it again with --force")
        files = self.manifest["files"]
        return ShardSet([self.path / name for name in sorted(names)], [files[name] for name in sorted(names)])

    def is_damaged(self, name: str) -> bool:
        """Read a file, and return whether it is missing or altered.

        Raises:
            UserError: it cannot be read, so nobody knows.
        """
        path = self.path / name
        with explain_read_errors(path):
            return file_size(path) is None or file_sha256(path) != self.manifest["files"][name]["sha256"]

    def damaged_files(self) -> list[str]:
        """Read every file, and return the names of those that are missing or altered; raises as `is_damaged`."""
        return [name for name in self.manifest["files"] if self.is_damaged(name)]

    def visible_damage(self) -> list[str]:
        """Return what is wrong with the files by their sizes alone, each in a few words.

        Raises:
            UserError: a folder cannot be read, so nobody knows.
        """
        reasons = []
        for name, entry in self.manifest["files"].items():
            with explain_read_errors(self.path / name):
                size = file_size(self.path / name)
            if size is None:
                reasons.append(f"{name} is missing")
            elif size != entry["bytes"]:
                reasons.append(f"{name} has {size} bytes, expected {entry['bytes']}")
        return reasons

    def _check_declared(self, name: str) -> None:
        if self.only and name not in self.only:
            raise LookupError(
                f"the stage did not declare {self.stage}/{name}: add it to what it builds on, in pipeline/stages.py"
            )


def load_artifact(folder: Path) -> Artifact:
    """Return the artifact of a folder.

    Raises:
        CorruptError: there is none, or its manifest is damaged.
        UserError: the disk cannot be read.
    """
    path = folder / MANIFEST
    try:
        found = path.stat()
        return Artifact(folder, _read_manifest(path, found.st_mtime_ns, found.st_size, found.st_ino))
    except FileNotFoundError:
        raise CorruptError(f"{path} is missing: run the stage again") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, OSError) and (explained := explain_read_error(error, path)):
            raise explained from error
        raise CorruptError(f"{path} is altered: run the stage again") from error


@lru_cache(maxsize=256)
def _read_manifest(path: Path, mtime_ns: int, size: int, inode: int) -> Mapping[str, Any]:
    manifest = parse_json(read_regular(path))
    if manifest["schema"] != SCHEMA or manifest["digest"] != self_digest(manifest):
        raise ValueError("the manifest's own digest does not fit")
    check_manifest(manifest)
    return dict(manifest)
