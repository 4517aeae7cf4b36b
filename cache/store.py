"""The cache: folders of files that are wholly there or not at all, each with a manifest that says what made it.

    artifacts/<dataset>/<slug>/<key16>/           an artifact: its files, and manifest.json with the sha256 of each
    artifacts/<dataset>/<slug>/<key16>.partial/   a build in progress: build.json, finished shards with a sidecar
                                                  <shard>.done.json each, and whatever the stage keeps to resume

The key names the result that is meant; the manifest records the code and the inputs that it was made from. An artifact
is fresh if these equal the present ones. Asking for a state changes nothing on disk.

Commit: the manifest is written last, everything is synced, and the folder is renamed. A crash leaves either the old
artifact, or a partial folder that the next run goes on from. Locks are advisory locks on a file in the partial folder:
they vanish with their process, and need no clean-up. Source: choice.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from split_matching.cache.disk_errors import refusals_named
from split_matching.cache.files import file_size, read_json, remove, sync_folder, synced_sha256, write_json
from split_matching.cache.keys import canonical_json, changed, digest, file_sha256
from split_matching.cache.locks import LOCK, lock_file
from split_matching.errors import CorruptError

if TYPE_CHECKING:
    from split_matching.cache.shard_reader import ShardSet

SCHEMA = 1
MANIFEST = "manifest.json"
BUILD = "build.json"
DONE = ".done.json"
KEY_LENGTH = 16
PACKAGES = ("numpy", "torch", "open_clip_torch", "h5py", "faiss-cpu", "faiss-gpu", "pillow", "scipy", "luigi")

ShardPlan = Mapping[str, Sequence[str]]
"""For every split, one digest of the image ids of each shard, in order."""

Summary = Mapping[str, float | int | str]

_SHARD_FILE = re.compile(r"([A-Za-z0-9_]+)-(\d{5})\.h5")


def shard_name(split: str, index: int) -> str:
    """Return the file name of a shard, e.g. "train-00003.h5"."""
    return f"{split}-{index:05d}.h5"


@dataclass(frozen=True)
class Recipe:
    """What an artifact is to be made of.

    Args:
        dataset: name of the folder under the cache's root.
        stage: name on the command line, e.g. "ExtractFeatures".
        slug: name of the folder under the data set, e.g. "features".
        version: the stage's version; enters the key.
        key: sha256 in hex of everything that says which result is meant.
        config: the semantic config values that the stage reads, as JSON.
        code: fingerprint by file, see `cache.keys.module_closure`.
        inputs: content digest by input, e.g. {"features/train": "9f86..."}.
    """

    dataset: str
    stage: str
    slug: str
    version: int
    key: str
    config: Mapping[str, Any] = field(default_factory=dict)
    code: Mapping[str, str] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Artifact:
    """A finished folder of the cache.

    Args:
        path: the folder.
        manifest: its manifest, see `Build.commit`.
        only: the files and splits that the reader declared; empty for all.
    """

    path: Path
    manifest: Mapping[str, Any]
    only: tuple[str, ...] = ()

    @property
    def slug(self) -> str:
        """Name of the stage's folder."""
        return str(self.manifest["slug"])

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
        """What the stage function returned."""
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

    def restricted(self, names: Sequence[str]) -> Artifact:
        """Return the artifact as seen by a stage that declared these files and splits; () for all."""
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
        if not self._is_whole(name):
            raise CorruptError(f"{path} is altered: run `verify`, then the stage again")
        return path

    def json(self, name: str) -> Any:
        """Return the value of a JSON file.

        Raises:
            CorruptError: the file is missing or no JSON.
        """
        path = self.file(name)
        try:
            return json.loads(path.read_bytes())
        except ValueError as error:
            raise CorruptError(f"{path} is altered: run `verify`, then the stage again") from error

    def shards(self, split: str) -> ShardSet:
        """Return the shards of a split.

        Raises:
            LookupError: the stage did not declare the split.
            CorruptError: there is none.
        """
        from split_matching.cache.shard_reader import ShardSet

        self._check_declared(split)
        names = [name for name in self.manifest["files"] if _split_of(name) == split]
        if not names:
            raise CorruptError(f"{self.path} holds no shards of {split!r}: make it again with --force")
        return ShardSet([self.path / name for name in sorted(names)])

    def _is_whole(self, name: str) -> bool:
        found = (self.path / name).stat()
        sha256 = _known_sha256(self.path / name, found.st_mtime_ns, found.st_size, found.st_ino)
        return sha256 == self.manifest["files"][name]["sha256"]

    def _check_declared(self, name: str) -> None:
        if self.only and name not in self.only:
            raise LookupError(f"stage did not declare {self.slug}/{name}: add it to `upstream` in pipeline/plan.py")


@dataclass(frozen=True)
class State:
    """How an artifact stands.

    Args:
        name: "fresh", "stale", "partial", "missing" or "corrupt".
        reasons: why it is not fresh, each a few words.
        done: finished shards of the build in progress.
        total: all shards of the build in progress; 0 if it has none.
        artifact: the artifact, where there is a readable one (fresh, stale or corrupt).
    """

    name: str
    reasons: tuple[str, ...] = ()
    done: int = 0
    total: int = 0
    artifact: Artifact | None = None

    @property
    def fresh(self) -> bool:
        """Whether nothing needs to run."""
        return self.name == "fresh"

    def __str__(self) -> str:
        count = f" {self.done}/{self.total}" if self.total else ""
        why = f" ({', '.join(self.reasons)})" if self.reasons else ""
        return f"{self.name}{count}{why}"


class Store:
    """The artifacts under one root folder.

    Args:
        root: the folder; made when something is first built.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, recipe: Recipe) -> Path:
        """Return the folder of an artifact, there or not."""
        return self.root / recipe.dataset / recipe.slug / recipe.key[:KEY_LENGTH]

    def partial(self, folder: Path) -> Path:
        """Return the folder of the build in progress of an artifact's folder, there or not."""
        return _partial(folder)

    def size(self, folder: Path) -> int:
        """Return the bytes of all files below a folder; 0 for one that is not there. Follows no links."""
        size = 0
        with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    inner = entry.is_dir(follow_symlinks=False)
                    size += self.size(Path(entry.path)) if inner else entry.stat(follow_symlinks=False).st_size
        return size

    def find(self, recipe: Recipe) -> Artifact:
        """Return an artifact whatever its code and inputs.

        Raises:
            CorruptError: there is none, or its manifest is damaged.
        """
        return load_artifact(self.folder(recipe))

    def others(self, recipe: Recipe) -> list[Artifact]:
        """Return the readable artifacts of the same stage with other keys, newest first."""
        found = []
        parent = self.root / recipe.dataset / recipe.slug
        for path in sorted(parent.iterdir()) if parent.is_dir() else []:
            if len(path.name) == KEY_LENGTH and path.name != recipe.key[:KEY_LENGTH]:
                with contextlib.suppress(CorruptError):
                    found.append(load_artifact(path))
        return sorted(found, key=lambda artifact: str(artifact.manifest["created"]), reverse=True)

    def state(self, recipe: Recipe) -> State:
        """Say how an artifact stands; changes nothing and reads no file but manifests and sidecars.

        A damaged file of the right size is found by `verify`, or by the stage that reads it.
        """
        done, total = self._progress(recipe)
        folder = self.folder(recipe)
        if not (folder / MANIFEST).is_file():
            if done is not None:
                return State("partial", (), done, total)
            left = folder.is_dir() and any(folder.iterdir())
            return State("corrupt", (f"{MANIFEST} is missing",)) if left else State("missing")
        try:
            artifact = load_artifact(folder)
        except CorruptError as error:
            return State("corrupt", (str(error),), done or 0, total)
        if reasons := _outdated(artifact.manifest, recipe):
            return State("stale", tuple(reasons), done or 0, total, artifact)
        if damage := _damage(artifact):
            return State("corrupt", tuple(damage), done or 0, total, artifact)
        return State("fresh", artifact=artifact)

    def open_build(self, recipe: Recipe, plan: ShardPlan | None = None, force: str = "") -> Build:
        """Begin a build, or go on with the one in progress if it was begun from the same code, inputs and shards.

        Several processes may open the same build. A build in progress from anything else is thrown away. Intact shards
        of a damaged artifact are taken over.

        Args:
            recipe: what to make.
            plan: the shards, for a sharded stage.
            force: a name of this run if the result is to be made again though fresh; "" otherwise.

        Raises:
            UserError: the cache cannot be written.
        """
        order = _order(recipe, plan or {}, force)
        build = Build(self, recipe, order["plan"], force)
        with refusals_named(build.path):
            while True:
                build.path.parent.mkdir(parents=True, exist_ok=True)
                if not build.path.exists():
                    self._create(build, order)
                if read_order(build.path) == order:
                    return build
                with build.lock() as held:
                    if held and read_order(build.path) != order:
                        remove(build.path)

    def goes_on(self, recipe: Recipe, plan: ShardPlan, force: str = "") -> bool:
        """Whether the build in progress, if there is one, was begun from exactly this; else it will be thrown away."""
        return bool(read_order(_partial(self.folder(recipe))) == _order(recipe, plan, force))

    def is_begun(self, recipe: Recipe) -> bool:
        """Whether there is a build in progress of the present code and inputs."""
        return self._progress(recipe)[0] is not None

    def recover(self, recipe: Recipe) -> None:
        """Finish a commit that a crash cut off between the manifest and the rename. Does nothing otherwise."""
        build = Build(self, recipe, {}, "")
        if not (build.path / MANIFEST).is_file():
            return
        with refusals_named(build.path), build.lock() as held, contextlib.suppress(CorruptError):
            if held and not _outdated(load_artifact(build.path).manifest, recipe):
                _swap_in(build.path, self.folder(recipe))

    def verify(self, artifact: Artifact) -> list[str]:
        """Read every file of an artifact and return the names of those that are missing or altered."""
        return [
            name
            for name, entry in artifact.manifest["files"].items()
            if not (artifact.path / name).is_file() or file_sha256(artifact.path / name) != entry["sha256"]
        ]

    def verify_build(self, recipe: Recipe) -> list[Path]:
        """Read every finished shard of the build in progress, if there is one, and return those that are altered."""
        altered = []
        for sidecar in sorted(_partial(self.folder(recipe)).glob(f"*.h5{DONE}")):
            path, entry = sidecar.with_name(sidecar.name.removesuffix(DONE)), read_json(sidecar)
            if path.is_file() and isinstance(entry, dict) and file_sha256(path) != entry.get("sha256"):
                altered.append(path)
        return altered

    def set_aside(self, path: Path) -> Path:
        """Rename a damaged file so that its stage makes it again, and return the new path."""
        aside = path.with_name(f"{path.name}.damaged")
        with refusals_named(path), contextlib.suppress(FileNotFoundError):  # another process may be faster
            if aside.exists():
                remove(aside)
            path.rename(aside)
        return aside

    def _progress(self, recipe: Recipe) -> tuple[int | None, int]:
        """Return finished and all shards of the build in progress; None if there is none that would be gone on with."""
        partial = _partial(self.folder(recipe))
        order = read_order(partial)
        if not isinstance(order, dict):
            return None, 0
        if any(order.get(name) != getattr(recipe, name) for name in ("key", "code", "inputs")):
            return None, 0
        total = sum(len(digests) for digests in order["plan"].values())
        return sum(1 for _ in partial.glob(f"*{DONE}")), total

    def _create(self, build: Build, order: Mapping[str, Any]) -> None:
        """Make the partial folder in one step, so that no process sees it without its build.json."""
        new = build.path.with_name(f"{build.path.name}.{secrets.token_hex(4)}.new")
        try:
            new.mkdir()
            (new / LOCK).touch()
            if not build.force:
                self._take_over(build, new)
            write_json(new / BUILD, order)
            new.rename(build.path)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        finally:
            shutil.rmtree(new, ignore_errors=True)

    def _take_over(self, build: Build, new: Path) -> None:
        """Link the intact shards of a damaged artifact of the same recipe and shards into a new build."""
        try:
            artifact = load_artifact(self.folder(build.recipe))
        except CorruptError:
            return
        if not build.plan or artifact.manifest["plan"] != build.plan or _outdated(artifact.manifest, build.recipe):
            return
        damaged = set(self.verify(artifact))
        for name, entry in artifact.manifest["files"].items():
            if _split_of(name) and name not in damaged:
                try:
                    os.link(artifact.path / name, new / name)
                except OSError:  # not every file system has links
                    shutil.copyfile(artifact.path / name, new / name)
                write_json(new / f"{name}{DONE}", entry)


@dataclass(frozen=True)
class Build:
    """A build in progress, shared by all processes that opened it."""

    store: Store
    recipe: Recipe
    plan: ShardPlan
    force: str

    @property
    def path(self) -> Path:
        """The partial folder: where the stage writes."""
        return _partial(self.store.folder(self.recipe))

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

    def done(self, split: str, index: int) -> bool:
        """Return whether a shard is finished."""
        path = self.shard_file(split, index)
        entry = read_json(path.with_name(f"{path.name}{DONE}"))
        return isinstance(entry, dict) and file_size(path) == entry.get("bytes")

    def seconds(self, split: str, index: int) -> float:
        """Return how long a finished shard took."""
        path = self.shard_file(split, index)
        return float(read_json(path.with_name(f"{path.name}{DONE}"))["seconds"])

    def finish(self, split: str, index: int, seconds: float) -> None:
        """Record a shard as finished, after it was renamed into place.

        Args:
            split: e.g. "train".
            index: number of the shard.
            seconds: how long it took.
        """
        path = self.shard_file(split, index)
        with refusals_named(path):
            entry = {"bytes": path.stat().st_size, "sha256": file_sha256(path), "seconds": round(seconds, 3)}
            write_json(path.with_name(f"{path.name}{DONE}"), entry)

    def clear(self) -> None:
        """Remove what an earlier attempt left, for a stage that does not resume. Needs the lock."""
        with refusals_named(self.path):
            for path in self.path.iterdir():
                if path.name not in (BUILD, LOCK):
                    remove(path)

    def discard(self) -> None:
        """Remove the build: somebody else committed the artifact. Needs the lock."""
        with refusals_named(self.path):
            remove(self.path)

    def commit(self, seconds: float, summary: Summary | None = None, images: int = 0) -> Artifact:
        """Make the partial folder the artifact, in place of an older one. Needs the lock.

        Args:
            seconds: how long it took in all.
            summary: what the stage function returned.
            images: number of images, for a sharded stage.

        Raises:
            UserError: the cache cannot be written; the older artifact, if any, is still there.
        """
        folder = self.store.folder(self.recipe)
        with refusals_named(self.path):
            files = self._collect()
            manifest = {
                "schema": SCHEMA,
                "dataset": self.recipe.dataset,
                "stage": self.recipe.stage,
                "slug": self.recipe.slug,
                "version": self.recipe.version,
                "key": self.recipe.key,
                "config": dict(self.recipe.config),
                "code": dict(self.recipe.code),
                "inputs": dict(self.recipe.inputs),
                "plan": {split: list(digests) for split, digests in self.plan.items()},
                "force": self.force,
                "files": files,
                "content": _contents(self.path, files),
                "seconds": round(seconds, 3),
                "images": images,
                "summary": dict(summary or {}),
                **_circumstances(),
            }
            manifest = json.loads(json.dumps(manifest))  # as it will be read back: NaN stays NaN, tuples become lists
            write_json(self.path / MANIFEST, {**manifest, "digest": self_digest(manifest)})
            _swap_in(self.path, folder)
        return load_artifact(folder)

    def _collect(self) -> dict[str, dict[str, Any]]:
        """Return size and sha256 of every output file by its relative path, after syncing them; drop what is no output.

        Raises:
            ValueError: a stage wrote a link or a special file, or nothing.
        """
        files: dict[str, dict[str, Any]] = {}
        for path in sorted(self.path.rglob("*")):
            if path.is_dir() and not path.is_symlink():
                continue
            name = path.relative_to(self.path).as_posix()
            if path.is_symlink() or not path.is_file():
                raise ValueError(f"{path} is no plain file")
            if _is_scaffold(name):
                continue
            if _is_scrap(path.name):
                path.unlink()
                continue
            done = read_json(path.with_name(f"{path.name}{DONE}"))  # of a shard: synced and summed already
            files[name] = done or {"bytes": path.stat().st_size, "sha256": synced_sha256(path)}
        if not files:
            raise ValueError(f"stage {self.recipe.stage} wrote no file")
        for folder in {(self.path / name).parent for name in files}:
            sync_folder(folder)
        return files


def _is_scaffold(name: str) -> bool:
    """Whether a file belongs to the build and goes when it is swapped in."""
    return name in (BUILD, LOCK, MANIFEST) or name.endswith((DONE, ".h5.lock"))


def _is_scrap(name: str) -> bool:
    """Whether a file only serves to resume, was set aside, or was left by a killed writer."""
    return name.startswith("checkpoint") or name.endswith(".damaged") or (name[0] == "." and name.endswith(".tmp"))


def _split_of(name: str) -> str | None:
    found = _SHARD_FILE.fullmatch(name)
    return found[1] if found else None


def _partial(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.partial")


def _outdated(manifest: Mapping[str, Any], recipe: Recipe) -> list[str]:
    """Return what an artifact was made from otherwise than the recipe says."""
    reasons = [f"code {name}" for name in changed(manifest["code"], recipe.code)]
    equal = manifest.get("equal_inputs", {})  # see `cache.folders.accept_input`
    others = changed(manifest["inputs"], recipe.inputs)
    reasons += [f"input {name} changed" for name in others if recipe.inputs.get(name) not in equal.get(name, ())]
    return reasons if manifest["key"] == recipe.key else ["key", *reasons]


def _damage(artifact: Artifact) -> list[str]:
    """Return what is visibly wrong with an artifact's files, by their sizes alone."""
    reasons = []
    for name, entry in artifact.manifest["files"].items():
        size = file_size(artifact.path / name)
        if size is None:
            reasons.append(f"{name} is missing")
        elif size != entry["bytes"]:
            reasons.append(f"{name} has {size} bytes, expected {entry['bytes']}")
    return reasons


def _contents(folder: Path, files: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Return a content digest for every plain file, and one for all shards of a split together.

    A split's digest runs over its images in order, so it does not depend on how they are cut into shards.
    """
    contents = {name: str(entry["sha256"]) for name, entry in files.items() if not _split_of(name)}
    splits: dict[str, list[Path]] = {}
    for name in sorted(files):
        if split := _split_of(name):
            splits.setdefault(split, []).append(folder / name)
    for split, paths in splits.items():
        contents[split] = _split_content(paths)
    return dict(sorted(contents.items()))


def _split_content(paths: Sequence[Path]) -> str:
    from split_matching.cache.shard_reader import SCHEMA as H5_SCHEMA
    from split_matching.cache.shard_reader import ShardReader

    content = hashlib.sha256()
    for number, path in enumerate(paths):
        reader = ShardReader(path)
        if number == 0:
            content.update(canonical_json([H5_SCHEMA, reader.kind, reader.attrs]).encode())
        for image_id, image_digest in zip(reader.ids, reader.digests, strict=True):
            content.update(canonical_json(image_id).encode() + image_digest.tobytes())
        reader.close()
    return content.hexdigest()


@lru_cache(maxsize=1)
def _circumstances_of_process() -> dict[str, Any]:
    packages = {}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            packages[name] = importlib.metadata.version(name)
    return {"host": platform.node(), "versions": {"python": platform.python_version(), **packages}}


def _circumstances() -> dict[str, Any]:
    return {"created": datetime.now(UTC).isoformat(timespec="milliseconds"), **_circumstances_of_process()}


def self_digest(manifest: Mapping[str, Any]) -> str:
    """Return the digest that a manifest carries of itself."""
    body = {name: value for name, value in manifest.items() if name != "digest"}
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def load_artifact(folder: Path) -> Artifact:
    """Return the artifact of a folder.

    Raises:
        CorruptError: there is none, or its manifest is damaged.
    """
    path = folder / MANIFEST
    try:
        found = path.stat()
        return Artifact(folder, _read_manifest(path, found.st_mtime_ns, found.st_size, found.st_ino))
    except FileNotFoundError:
        raise CorruptError(f"{path} is missing: run the stage again") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptError(f"{path} is altered: run the stage again") from error


@lru_cache(maxsize=256)
def _known_sha256(path: Path, mtime_ns: int, size: int, inode: int) -> str:
    return file_sha256(path)


@lru_cache(maxsize=256)
def _read_manifest(path: Path, mtime_ns: int, size: int, inode: int) -> Mapping[str, Any]:
    manifest = json.loads(path.read_bytes())
    if manifest["schema"] != SCHEMA or manifest["digest"] != self_digest(manifest):
        raise ValueError("the manifest's own digest does not fit")
    return dict(manifest)


def _order(recipe: Recipe, plan: ShardPlan, force: str) -> dict[str, Any]:
    """Return what a build is begun from: the content of build.json."""
    return {
        "schema": SCHEMA,
        "key": recipe.key,
        "code": dict(recipe.code),
        "inputs": dict(recipe.inputs),
        "plan": {split: list(digests) for split, digests in plan.items()},
        "force": force,
    }


def read_order(partial: Path) -> Any:
    """Return what a build in progress was begun from, or None if that cannot be read."""
    return read_json(partial / BUILD)


def _swap_in(partial: Path, folder: Path) -> None:
    """Rename a partial folder with a manifest to its final name; an older artifact goes."""
    sync_folder(partial)
    for path in [*partial.glob(f"*{DONE}"), *partial.glob("*.h5.lock"), partial / BUILD]:
        path.unlink(missing_ok=True)
    old = folder.with_name(f"{folder.name}.{secrets.token_hex(4)}.old")
    if folder.exists():
        folder.rename(old)
    partial.rename(folder)
    (folder / LOCK).unlink(missing_ok=True)
    sync_folder(folder.parent)
    if old.is_dir():
        shutil.rmtree(old, ignore_errors=True)
    else:
        old.unlink(missing_ok=True)
