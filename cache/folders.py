"""The folders of a cache: walking over them, finding an artifact by its key, removing them.

A build that another process works on is not removed: all of its locks must be held for that.
"""

from __future__ import annotations

import contextlib
import re
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from split_matching.cache.artifact import Artifact, load_artifact
from split_matching.cache.disk_errors import explain_disk_errors, explain_read_errors
from split_matching.cache.entry import KEY_LENGTH, read_order
from split_matching.cache.files import remove
from split_matching.cache.locks import lock_all
from split_matching.cache.names import LOCK, SHARD_LOCK
from split_matching.errors import ConfigError, CorruptError, DataError, UserError

_KEY = re.compile(rf"[0-9a-f]{{{KEY_LENGTH}}}")
_PREFIX = re.compile(r"(([\w.-]+/)?\w+/)?[0-9a-f]{1,64}")
_LEFTOVER = re.compile(rf"[0-9a-f]{{{KEY_LENGTH}}}(\.partial)?\.[0-9a-f]{{8}}\.(old|new)")


Skip = Callable[[str], None]
"""Is told in a line what cannot be read."""


@dataclass(frozen=True)
class Folder:
    """A folder of the cache.

    Args:
        path: where it is.
        kind: "artifact", "damaged" (no readable manifest), "partial" (a build in progress) or "leftover" (of a process
            that was killed while it renamed or removed a folder); for `gc` also "events" (of TensorBoard).
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


def walk_folders(root: Path, skip: Skip | None = None) -> Iterator[Folder]:
    """Yield all folders that belong to the cache, in order of their names; others are left out.

    Args:
        root: folder of the cache.
        skip: is told in a line of each folder and manifest that cannot be read, and the others are gone through.

    Raises:
        UserError: one cannot be read, and there is no `skip`.
    """
    for dataset in _list(root, skip):
        for stage in _list(dataset, skip):
            for path in _list(stage, skip):
                try:
                    folder = _open(path)
                except CorruptError:
                    folder = Folder(path, "damaged")
                except UserError as error:
                    if skip is None:
                        raise
                    skip(str(error))
                    continue
                if folder is not None:
                    yield folder


def _list(folder: Path, skip: Skip | None) -> list[Path]:
    try:
        with explain_read_errors(folder):
            return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError:  # it is no folder, or gone
        return []
    except UserError as error:
        if skip is None:
            raise
        skip(str(error))
        return []


def _open(path: Path) -> Folder | None:
    """Return what a path of the third level is; None if it does not belong to the cache."""
    try:
        with explain_read_errors(path):
            found = path.lstat()
    except OSError:  # it is gone
        return None
    if not stat.S_ISDIR(found.st_mode):
        return None
    if _KEY.fullmatch(path.name):
        return Folder(path, "artifact", load_artifact(path))
    if path.name.endswith(".partial") and _KEY.fullmatch(path.name.removesuffix(".partial")):
        return Folder(path, "partial")
    return Folder(path, "leftover") if _LEFTOVER.fullmatch(path.name) else None


def is_key(words: str) -> bool:
    """Whether a user means a key by this: first digits of one, `stage/digits` or `dataset/stage/digits`."""
    return bool(_PREFIX.fullmatch(words))


def split_key(words: str) -> tuple[str, str, str]:
    """Return data set, stage and first digits of what `is_key`; "" for what is not named."""
    *place, digits = words.split("/")
    dataset, stage = ["", "", *place][-2:]
    return dataset, stage, digits


def find_artifact(root: Path, prefix: str, stages: Sequence[str] = ()) -> Artifact:
    """Return the artifact with a key.

    Args:
        root: folder of the cache.
        prefix: first digits of the key; `stage/digits` looks among the artifacts of one stage, `dataset/stage/digits`
            among those of one data set: a copy of a config under another name has the same keys.
        stages: the only stages to look at, by their folders; none for all.

    Raises:
        ConfigError: several keys begin so, or this is no key.
        DataError: no key does.
        UserError: no key of those that can be read does.
    """
    if not is_key(prefix):
        raise ConfigError(f"{prefix!r} is no key: expected hex digits, as `status` shows in the names of folders")
    dataset, stage, start = split_key(prefix)
    skipped: list[str] = []
    found = [
        folder.artifact
        for folder in walk_folders(root, skipped.append)
        if folder.artifact and folder.artifact.key.startswith(start)
        if dataset in ("", folder.place[0]) and stage in ("", folder.place[1])
        if not stages or folder.place[1] in stages
    ]
    if not found and skipped:
        raise UserError(f"{skipped[0]}; no other artifact has a key that begins with {start}")
    if not found:
        raise DataError(f"no artifact in {root} has a key that begins with {start}: see `status`")
    if len(found) > 1:
        names = ", ".join("/".join(artifact.path.parts[-3:]) for artifact in found[:4])
        raise ConfigError(f"{len(found)} keys begin with {start} ({names}): give one of these, or more digits")
    return found[0]


def idle_seconds(path: Path) -> float:
    """Return for how many seconds nothing was written in a folder; negative after the clock was turned back."""
    times = [path.stat().st_mtime]
    for inner in path.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            times.append(inner.lstat().st_mtime)
    return time.time() - max(times)


def read_inputs(partial: Path) -> dict[str, str]:
    """Return the content digests that a build in progress reads, by input; empty if it is damaged."""
    order = read_order(partial)
    return dict(order["inputs"]) if order else {}


def is_in_use(partial: Path) -> bool:
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
    with explain_disk_errors(folder.path):
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
    return [partial / LOCK, *sorted(partial.glob(f"*{SHARD_LOCK}"))]
