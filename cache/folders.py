"""What is done to a cache beside building it: finding an artifact by its key, accepting new code, removing folders.

Nothing here removes what another process works on: a build is removed only while all of its locks are held.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from split_matching.cache.artifact import MANIFEST, Artifact, load_artifact, self_digest
from split_matching.cache.disk_errors import refusals_named
from split_matching.cache.entry import KEY_LENGTH, read_order
from split_matching.cache.files import remove
from split_matching.cache.keys import changed
from split_matching.cache.locks import LOCK, lock_all
from split_matching.errors import ConfigError, CorruptError, DataError

DAY = 86400.0
EQUALS_KEPT = 16  # copies of the raw files that are remembered; an older one is compared again
_KEY = re.compile(rf"[0-9a-f]{{{KEY_LENGTH}}}")
_LEFT = re.compile(rf"[0-9a-f]{{{KEY_LENGTH}}}(\.partial)?\.[0-9a-f]{{8}}\.(old|new)")


@dataclass(frozen=True)
class Folder:
    """A folder of the cache.

    Args:
        path: where it is.
        kind: "artifact", "damaged" (no readable manifest), "partial" (a build in progress) or "leftover".
        artifact: for kind "artifact".
    """

    path: Path
    kind: str
    artifact: Artifact | None = None

    @property
    def name(self) -> str:
        """Data set, stage and folder."""
        return "/".join(self.path.parts[-3:])

    @property
    def place(self) -> tuple[str, str]:
        """Data set and stage."""
        return self.path.parts[-3], self.path.parts[-2]


def folders(root: Path) -> Iterator[Folder]:
    """Walk over all folders that belong to the cache, in order; others are left out."""
    for path in sorted(root.glob("*/*/*")):
        if path.is_symlink() or not path.is_dir():
            continue
        if _KEY.fullmatch(path.name):
            try:
                yield Folder(path, "artifact", load_artifact(path))
            except CorruptError:
                yield Folder(path, "damaged")
        elif path.name.endswith(".partial") and _KEY.fullmatch(path.name.removesuffix(".partial")):
            yield Folder(path, "partial")
        elif _LEFT.fullmatch(path.name):
            yield Folder(path, "leftover")


def find_key(root: Path, prefix: str) -> Artifact:
    """Return the artifact whose key begins so; `stage/prefix` looks among those of one stage.

    Raises:
        ConfigError: several begin so, or this is no key.
        DataError: none does.
    """
    stage, _, start = prefix.rpartition("/")
    if not re.fullmatch(r"[0-9a-f]{1,64}", start):
        raise ConfigError(f"{prefix!r} is no key: expected hex digits, as `status` shows in the names of folders")
    found = [
        folder.artifact
        for folder in folders(root)
        if folder.artifact and folder.artifact.key.startswith(start) and stage in ("", folder.place[1])
    ]
    if not found:
        raise DataError(f"no artifact in {root} has a key that begins with {start}: see `status`")
    if len(found) > 1:
        names = ", ".join(f"{artifact.stage}/{artifact.key[:KEY_LENGTH]}" for artifact in found[:4])
        raise ConfigError(f"{len(found)} keys begin with {start} ({names}): give more digits, or STAGE-FOLDER/KEY")
    return found[0]


def accept_code(artifact: Artifact, code: Mapping[str, str]) -> list[str]:
    """Record the present code as that which made an artifact; in one step, and never in a folder that took its place.

    Args:
        artifact: as it was found.
        code: fingerprint by file.

    Returns:
        The files whose fingerprints differed; nothing is written if there are none.

    Raises:
        UserError: the cache cannot be written.
    """
    differing = changed(artifact.manifest["code"], code)
    if not differing:
        return []
    manifest: dict[str, Any] = {name: value for name, value in artifact.manifest.items() if name != "digest"}
    note = {"accepted": datetime.now(UTC).isoformat(timespec="milliseconds"), "files": differing}
    manifest = {**manifest, "code": dict(code), "adopted": [*manifest.get("adopted", []), note]}
    manifest["digest"] = self_digest(manifest)
    with refusals_named(artifact.path / MANIFEST):
        _replace_manifest(artifact, manifest)
    return differing


def accept_input(artifact: Artifact, name: str, digest: str) -> None:
    """Record that an input of another digest was found to be the same, so that the artifact is fresh with it too.

    Args:
        artifact: as it was found.
        name: of the input, as in the manifest.
        digest: what the present recipe says of it.

    Raises:
        UserError: the cache cannot be written.
    """
    manifest: dict[str, Any] = {name: value for name, value in artifact.manifest.items() if name != "digest"}
    before = manifest.get("equal_inputs", {})
    known = [*before.get(name, []), digest][-EQUALS_KEPT:]
    manifest = {**manifest, "equal_inputs": {**before, name: known}}
    manifest["digest"] = self_digest(manifest)
    with refusals_named(artifact.path / MANIFEST):
        _replace_manifest(artifact, manifest)


def _replace_manifest(artifact: Artifact, manifest: Mapping[str, Any]) -> None:
    """Write a manifest through a handle of its folder: if the folder was renamed meanwhile, the old one is written."""
    temporary = f".{MANIFEST}.{secrets.token_hex(4)}.tmp"
    folder = os.open(artifact.path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with os.fdopen(os.open(MANIFEST, os.O_RDONLY, dir_fd=folder), encoding="utf-8") as stream:
            if json.load(stream).get("digest") != artifact.manifest["digest"]:
                raise CorruptError(f"{artifact.path} was made again meanwhile: look at `status`")
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644, dir_fd=folder)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as stream:
                json.dump(manifest, stream, indent=1, sort_keys=True)
                stream.flush()
                os.fsync(stream.fileno())
            os.rename(temporary, MANIFEST, src_dir_fd=folder, dst_dir_fd=folder)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=folder)
        os.fsync(folder)
    finally:
        os.close(folder)


def idle_seconds(path: Path) -> float:
    """Return how long nothing was written in a folder; negative after the clock was turned back."""
    times = [path.stat().st_mtime]
    for inner in path.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            times.append(inner.lstat().st_mtime)
    return time.time() - max(times)


def inputs_of_build(partial: Path) -> dict[str, str]:
    """Return the content digests that a build in progress reads, by input; empty if it is damaged."""
    order = read_order(partial)
    return dict(order.get("inputs", {})) if isinstance(order, dict) else {}


def in_use(partial: Path) -> bool:
    """Whether a running process holds a lock of a build in progress."""
    with lock_all(_locks(partial)) as held:
        return not held


def remove_folder(folder: Folder) -> bool:
    """Remove a folder of the cache in such a way that nobody sees it half removed.

    Returns:
        False if a running process holds it; it is left as it is.

    Raises:
        UserError: the cache cannot be written.
    """
    with refusals_named(folder.path):
        if folder.kind != "partial":
            with contextlib.suppress(FileNotFoundError):
                remove(folder.path)
            return True
        with lock_all(_locks(folder.path)) as held:
            if held:
                remove(folder.path)
            return held


def _locks(partial: Path) -> list[Path]:
    """Return the lock files of a build: its own, and those of its shards."""
    return [partial / LOCK, *sorted(partial.glob("*.h5.lock"))]
