"""Accepting an artifact as it is: records in its manifest that other code, or another input, gives the same result."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from split_matching.cache.artifact import Artifact
from split_matching.cache.disk_errors import explain_disk_errors
from split_matching.cache.files import parse_json, self_digest
from split_matching.cache.keys import changed_names
from split_matching.cache.names import MANIFEST
from split_matching.errors import CorruptError

INPUTS_KEPT = 16  # digests of equal inputs that are remembered; an older one is compared again


def accept_code(artifact: Artifact, code: Mapping[str, str]) -> list[str]:
    """Record the present code as that which made an artifact.

    Args:
        artifact: as it was found.
        code: fingerprint by file.

    Returns:
        The files whose fingerprints differed; nothing is written if there are none.

    Raises:
        CorruptError: the artifact was made again meanwhile.
        UserError: the cache cannot be written.
    """
    differing = changed_names(artifact.manifest["code"], code)
    if differing:
        note = {"accepted": datetime.now(UTC).isoformat(timespec="milliseconds"), "files": differing}
        _update_manifest(artifact, code=dict(code), adopted=[*artifact.manifest.get("adopted", []), note])
    return differing


def accept_input(artifact: Artifact, name: str, digest: str) -> None:
    """Record that an input of another digest was found to be the same, so that the artifact is fresh with it too.

    Args:
        artifact: as it was found.
        name: of the input, as in the manifest.
        digest: what the present recipe says of it.

    Raises:
        CorruptError: the artifact was made again meanwhile.
        UserError: the cache cannot be written.
    """
    before = artifact.manifest.get("equal_inputs", {})
    known = [*before.get(name, []), digest][-INPUTS_KEPT:]
    _update_manifest(artifact, equal_inputs={**before, name: known})


def _update_manifest(artifact: Artifact, **values: Any) -> None:
    """Set values of a manifest, with its digest."""
    manifest = {name: value for name, value in artifact.manifest.items() if name != "digest"} | values
    with explain_disk_errors(artifact.path / MANIFEST):
        _replace_manifest(artifact, {**manifest, "digest": self_digest(manifest)})


def _replace_manifest(artifact: Artifact, manifest: Mapping[str, Any]) -> None:
    """Write a manifest in one step, and never into a folder that took the place of the artifact's.

    So everything goes through a handle of the folder, which `atomic_write` cannot: it writes to a path.
    """
    temporary = f".{secrets.token_hex(8)}.tmp"
    folder = os.open(artifact.path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if _digest_in(folder) != artifact.manifest["digest"]:
            raise CorruptError(f"{artifact.path} was made again meanwhile: look at `status`")
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666, dir_fd=folder)
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


def _digest_in(folder: int) -> Any:
    """Return the digest that the manifest in a folder carries; None if there is none."""
    try:
        with os.fdopen(os.open(MANIFEST, os.O_RDONLY, dir_fd=folder), "rb") as stream:
            return parse_json(stream.read())["digest"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
