"""A build in progress: written beside the result's place, finished shard by shard, and renamed into place when whole.

Commit: the manifest is written last, everything is synced, and the folder is renamed. A crash leaves either the old
artifact, or a partial folder that the next run resumes. Locks are advisory locks on a file in the partial folder: they
vanish with their process, and need no clean-up. Source: choice.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from split_matching.cache.artifact import SCHEMA, Artifact, load_artifact
from split_matching.cache.disk_errors import explain_disk_errors
from split_matching.cache.entry import Entry, Recipe, Shards, read_done, read_order
from split_matching.cache.files import (
    file_size,
    move_folder,
    remove,
    remove_temporary_files,
    sync_folder,
    synced_sha256,
    write_json,
)
from split_matching.cache.keys import digest
from split_matching.cache.locks import lock_all, lock_file
from split_matching.cache.manifest import circumstances, contents
from split_matching.cache.names import (
    BUILD,
    DONE,
    LOCK,
    MANIFEST,
    SHARD_LOCK,
    belongs_to_build,
    check_names,
    is_temporary,
    shard_name,
    split_of,
)
from split_matching.cache.running import build_users, has_claim, hold_cache, note_build, own_builds
from split_matching.cache.shard_layout import describe_shard
from split_matching.errors import CorruptError, UserError

WAITS = "waits for another process that makes {} from other code or inputs"
WAIT_SECONDS = 0.2  # between two looks at a build that another process holds

Summary = Mapping[str, float | int | str]


class OtherShardsError(UserError):
    """A build in progress is the wanted one, but is cut into other shards."""


def open_build(
    entry: Entry,
    recipe: Recipe,
    shards: Shards | None = None,
    force: str = "",
    say: Callable[[str], None] = lambda line: None,
) -> Build:
    """Start a build, or resume the one in progress if it was started from the same code, inputs and shards.

    Several processes may open the same build. A build in progress of anything else is thrown away, when no process
    works on it any more. Intact shards of a damaged artifact are taken over.

    Args:
        entry: where.
        recipe: what to make.
        shards: of a sharded stage.
        force: a name of this run if the result is to be made again though fresh; "" otherwise.
        say: is told what is waited for, and what is thrown away.

    Raises:
        OtherShardsError: the build in progress is the same, but cut into other shards.
        UserError: the cache cannot be written; or a process works on a build of anything else, and cannot be waited
            for, because it may wait for a build of this run.
    """
    order = entry.order(recipe, shards or {}, force)
    build = Build(entry, recipe, order["plan"], force)
    said: list[str] = []

    def say_waiting() -> None:
        if not said:
            said.append(WAITS.format(build.path))
            say(said[0])

    with explain_disk_errors(build.path):
        while True:
            build.path.parent.mkdir(parents=True, exist_ok=True)
            if not build.path.exists():
                _create(build, order)
            found = read_order(build.path)
            if found == order:
                if _join(build, order):
                    return build
                continue
            if found and {**found, "plan": order["plan"]} == order:
                raise OtherShardsError(
                    f"{build.path} is cut into other shards: remove it, or give its runtime.shard_size"
                )
            if not _throw_away(build, order, say, say_waiting):
                _check_waiting(build, found)
                say_waiting()
                time.sleep(WAIT_SECONDS)


def _join(build: Build, order: Mapping[str, Any]) -> bool:
    """Note that this run works on a build; returns False if the build was thrown away meanwhile."""
    root, note = build.entry.root, (build.path, digest(order))
    if not has_claim(root) or note in own_builds(root):
        return True
    with hold_cache(root):
        note_build(root, *note)
        return bool(read_order(build.path) == order)


def _check_waiting(build: Build, found: Any) -> None:
    """Refuse to wait for a process while it may wait for a build of this run.

    Raises:
        UserError: a process works on the build, and this run has another one that is not finished.
    """
    root = build.entry.root
    own = [path for path, order in own_builds(root) if path != build.path and digest(read_order(path)) == order]
    if own and (users := build_users(root, build.path, digest(found))):
        raise UserError(f"{users[0]} makes {build.path} from other code or inputs: run this again when that has ended")


def _throw_away(
    build: Build, order: Mapping[str, Any], say: Callable[[str], None], waiting: Callable[[], None]
) -> bool:
    """Remove a build of anything else unless a process works on it; say so if that costs finished shards.

    Args:
        build: with the wanted recipe.
        order: what its build.json would be.
        say: is told what is removed.
        waiting: called if another process holds the build.

    Returns:
        False if a process works on it.
    """
    with build.lock(waiting) as held:
        found = read_order(build.path)
        if not held or found == order:
            return True
        with lock_all(sorted(build.path.glob(f"*{SHARD_LOCK}"))) as alone, hold_cache(build.entry.root):
            if not alone or build_users(build.entry.root, build.path, digest(found)):
                return False
            if count := len(list(build.path.glob(f"*.h5{DONE}"))):
                shards = f"{count} finished shard{'s' * (count > 1)}"
                say(f"removes {shards} of other code or inputs from {build.path}")
            remove(build.path)
            return True


def recover(entry: Entry, recipe: Recipe) -> None:
    """Finish a commit that a crash cut off between the manifest and the rename. Does nothing otherwise."""
    if not (entry.partial / MANIFEST).is_file():
        return
    lock = lock_file(entry.partial / LOCK)
    with explain_disk_errors(entry.partial), lock as held, contextlib.suppress(CorruptError):
        if held and not entry.differences(load_artifact(entry.partial).manifest, recipe):
            swap_in(entry.partial, entry.folder)


@dataclass(frozen=True)
class Build:
    """A build in progress, shared by all processes that opened it; see `open_build`."""

    entry: Entry
    recipe: Recipe
    shards: Shards
    force: str

    @property
    def path(self) -> Path:
        """The partial folder: where the stage writes."""
        return self.entry.partial

    def lock(self, waiting: Callable[[], None] = lambda: None) -> contextlib.AbstractContextManager[bool]:
        """Hold the build alone: to commit, or to run an unsharded stage.

        Args:
            waiting: called once if another process holds it.

        Returns:
            A context manager whose value is False if the build was committed or thrown away meanwhile.
        """
        return lock_file(self.path / LOCK, waiting)

    def lock_shard(
        self, split: str, index: int, waiting: Callable[[], None] = lambda: None
    ) -> contextlib.AbstractContextManager[bool]:
        """Hold one shard alone while it is made; see `lock`."""
        return lock_file(self.path / f"{shard_name(split, index)}.lock", waiting)

    def shard_file(self, split: str, index: int) -> Path:
        """Return where a shard belongs."""
        return self.path / shard_name(split, index)

    def is_done(self, split: str, index: int) -> bool:
        """Whether a shard is finished."""
        return self.entry.is_done(split, index)

    def shard_seconds(self) -> float:
        """Return how long finished shards took, over all sessions; a time in which several were made counts once."""
        sidecars = sorted(self.path.glob(f"*{DONE}"))
        ends = [(path.stat().st_mtime, read_done(_shard_of(path))) for path in sidecars]
        spans = sorted((end - done.get("seconds", 0.0), end) for end, done in ends if done)
        total, until = 0.0, 0.0
        for start, end in spans:
            total += max(0.0, end - max(start, until))
            until = max(until, end)
        return total

    def finish(self, split: str, index: int, seconds: float) -> None:
        """Record a shard as finished, after it was renamed into place.

        Args:
            split: e.g. "train".
            index: number of the shard.
            seconds: how long it took.
        """
        path = self.shard_file(split, index)
        with explain_disk_errors(path):
            write_json(_sidecar(path), {**describe_shard(path), "seconds": round(seconds, 3)})

    def clear(self, resume: bool = False) -> None:
        """Remove what an earlier attempt left. Needs the lock.

        Args:
            resume: keep its files, and remove only those that it was writing when it was killed.
        """
        with explain_disk_errors(self.path):
            if resume:
                remove_temporary_files(self.path)
                return
            for path in self.path.iterdir():
                if path.name not in (BUILD, LOCK):
                    remove(path)

    def discard(self) -> None:
        """Remove the build: somebody else committed the artifact. Needs the lock."""
        with explain_disk_errors(self.path):
            remove(self.path)

    def commit(self, seconds: float, summary: Summary | None = None, images: int = 0) -> Artifact:
        """Make the partial folder the artifact, in place of an older one. Needs the lock.

        Args:
            seconds: how long it took in all.
            summary: what the stage's function returned.
            images: number of images, for a sharded stage.

        Raises:
            UserError: the cache cannot be written; the older artifact, if any, is still there.
        """
        with explain_disk_errors(self.path):
            files = self._collect()
            manifest = {
                "schema": SCHEMA,
                "dataset": self.entry.dataset,
                "stage": self.recipe.stage,
                "version": self.recipe.version,
                "key": self.entry.key,
                "config": dict(self.recipe.config),
                "code": dict(self.recipe.code),
                "inputs": dict(self.recipe.inputs),
                "upstream": dict(self.recipe.upstream),
                "plan": {split: list(digests) for split, digests in self.shards.items()},
                "force": self.force,
                "files": files,
                "content": contents(self.path, files),
                "seconds": round(seconds, 3),
                "images": images,
                "summary": dict(summary or {}),
                **circumstances(),
            }
            manifest = json.loads(json.dumps(manifest))  # as it will be read back: NaN stays NaN, tuples become lists
            write_json(self.path / MANIFEST, manifest)
            swap_in(self.path, self.entry.folder)
        return load_artifact(self.entry.folder)

    def _collect(self) -> dict[str, dict[str, Any]]:
        """Return size and sha256 of every output file by its relative path, after syncing them; drop what is no output.

        Raises:
            ValueError: a stage wrote a link or a special file, a file of a strange name, or nothing.
        """
        files: dict[str, dict[str, Any]] = {}
        for path in sorted(self.path.rglob("*")):
            if path.is_dir() and not path.is_symlink():
                continue
            name = path.relative_to(self.path).as_posix()
            if path.is_symlink() or not path.is_file():
                raise ValueError(f"{path} is no plain file")
            if belongs_to_build(name):
                continue
            if _is_left_over(path.name):
                path.unlink()
                continue
            done = read_done(path)  # of a shard: synced and summed already
            files[name] = done or {"bytes": path.stat().st_size, "sha256": synced_sha256(path)}
        if not files:
            raise ValueError(f"stage {self.recipe.stage} wrote no file")
        check_names(files)
        for folder in {(self.path / name).parent for name in files}:
            sync_folder(folder)
        return files


def _shard_of(sidecar: Path) -> Path:
    return sidecar.with_name(sidecar.name.removesuffix(DONE))


def _sidecar(shard: Path) -> Path:
    return shard.with_name(f"{shard.name}{DONE}")


def _is_left_over(name: str) -> bool:
    """Whether a file only serves to resume, was found damaged, or was left by a killed writer."""
    return name.startswith("checkpoint") or name.endswith(".damaged") or is_temporary(name)


def _create(build: Build, order: Mapping[str, Any]) -> None:
    """Make the partial folder in one step, so that no process sees it without its build.json."""
    new = build.path.with_name(f"{build.path.name}.{secrets.token_hex(4)}.new")
    try:
        new.mkdir()
        (new / LOCK).touch()
        if not build.force:
            _take_over(build, new)
        write_json(new / BUILD, order)
        new.rename(build.path)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _take_over(build: Build, new: Path) -> None:
    """Link the intact shards of a damaged artifact of the same recipe and shards into a new build."""
    try:
        artifact = build.entry.artifact()
    except CorruptError:
        return
    manifest = artifact.manifest
    if not build.shards or manifest["plan"] != build.shards or build.entry.differences(manifest, build.recipe):
        return
    for name, entry in manifest["files"].items():
        # no shard is read here: a damaged one was renamed by the run that met it, or is found at the commit
        if split_of(name) and file_size(artifact.path / name) == entry["bytes"]:
            try:
                os.link(artifact.path / name, new / name)
            except OSError:  # not every file system has links
                shutil.copyfile(artifact.path / name, new / name)
            write_json(_sidecar(new / name), entry)


def swap_in(partial: Path, folder: Path) -> None:
    """Rename a complete folder with a manifest to its final name beside it; an older artifact is removed."""
    for path in [*partial.glob(f"*{DONE}"), *partial.glob(f"*{SHARD_LOCK}"), partial / BUILD]:
        path.unlink(missing_ok=True)
    old = folder.with_name(f"{folder.name}.{secrets.token_hex(4)}.old")
    if folder.exists():
        folder.rename(old)
    try:
        move_folder(partial, folder)
    except OSError:
        if old.exists() and not folder.exists():
            old.rename(folder)  # the next run finishes the commit; until then the older artifact is there
        raise
    (folder / LOCK).unlink(missing_ok=True)
    if old.is_dir():
        shutil.rmtree(old, ignore_errors=True)
    else:
        old.unlink(missing_ok=True)
