"""The place of one result in the cache, and what there is: nothing, a build in progress, or an artifact.

    artifacts/<dataset>/<stage>/<key16>/           an artifact: its files, and manifest.json with the sha256 of each
    artifacts/<dataset>/<stage>/<key16>.partial/   a build in progress: build.json, finished shards with a sidecar
                                                   <shard>.done.json each, and whatever the stage keeps to resume

The key names the result that is meant. A recipe says what it is to be made of now: config, code and inputs. An artifact
is fresh if it was made of the same. Asking for a state changes nothing on disk. Source: choice.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from split_matching.cache.artifact import SCHEMA, Artifact, load_artifact
from split_matching.cache.disk_errors import explain_read_errors
from split_matching.cache.fields import ORDER_FIELDS, PROGRESS_FIELDS, has_fields, is_done
from split_matching.cache.files import file_size, read_json
from split_matching.cache.keys import changed_names, file_sha256
from split_matching.cache.names import BUILD, DONE, MANIFEST, shard_name
from split_matching.errors import CorruptError, UserError

PROGRESS = "checkpoint.json"
"""How far a stage that saves itself has come: step, steps, and the seconds that it took."""

KEY_LENGTH = 16

Shards = Mapping[str, Sequence[str]]
"""For every split, one digest of the image ids of each shard, in order."""


@dataclass(frozen=True)
class Recipe:
    """What a result is to be made of.

    Args:
        stage: its stage's name on the command line, e.g. "ExtractFeatures".
        version: the stage's version; enters the key.
        config: the config values that the stage reads and that may change a result, as JSON.
        code: fingerprint by file, see `cache.code`.
        inputs: content digest by input, e.g. {"features/train": "9f86..."}; "" for one that is not there.
        upstream: key of each stage that it builds on, e.g. {"features": "b28a..."}; for those who follow a result back.
    """

    stage: str
    version: int = 1
    config: Mapping[str, Any] = field(default_factory=dict)
    code: Mapping[str, str] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)
    upstream: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class State:
    """The state of an entry.

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


@dataclass(frozen=True)
class Entry:
    """The place of one result.

    Args:
        root: folder of the cache; made when something is first built.
        dataset: name of the folder below it.
        stage: name of the folder below that, e.g. "features".
        key: sha256 in hex of everything that says which result is meant; its first digits name the last folder.
    """

    root: Path
    dataset: str
    stage: str
    key: str

    @property
    def folder(self) -> Path:
        """Where the artifact is, or would be."""
        return self.root / self.dataset / self.stage / self.key[:KEY_LENGTH]

    @property
    def partial(self) -> Path:
        """Where the build in progress is, or would be."""
        return self.folder.with_name(f"{self.folder.name}.partial")

    def artifact(self) -> Artifact:
        """Return the artifact, whatever it was made of.

        Raises:
            CorruptError: there is none, or its manifest is damaged.
        """
        return load_artifact(self.folder)

    def others(self) -> list[Artifact]:
        """Return the readable artifacts of the same stage with other keys, newest first."""
        found = []
        for path in sorted(self.folder.parent.glob("*")):
            if len(path.name) == KEY_LENGTH and path != self.folder:
                with contextlib.suppress(UserError):
                    found.append(load_artifact(path))
        return sorted(found, key=lambda artifact: str(artifact.manifest["created"]), reverse=True)

    def state(self, recipe: Recipe) -> State:
        """Return the state against a recipe; changes nothing and reads no file but manifests and sidecars.

        A damaged file of the right size is found by `verify`, or by the stage that reads it.

        Raises:
            UserError: a folder or manifest cannot be read, so nobody knows.
        """
        with explain_read_errors(self.folder):
            return self._state(recipe)

    def _state(self, recipe: Recipe) -> State:
        done, total = self._progress(recipe)
        unused = self._unused(recipe) if done is None else ()
        if file_size(self.folder / MANIFEST) is None:
            if done is not None:
                step, steps, _ = read_progress(self.partial)
                return State("partial", (f"step {step} of {steps}",) if step else (), done, total)
            left = self.folder.is_dir() and any(self.folder.iterdir())
            return State("corrupt", (f"{MANIFEST} is missing", *unused)) if left else State("missing", unused)
        try:
            artifact = self.artifact()
        except CorruptError as error:
            return State("corrupt", (str(error),), done or 0, total)
        if reasons := self.differences(artifact.manifest, recipe):
            return State("stale", (*reasons, *unused), done or 0, total, artifact)
        if damage := artifact.visible_damage():
            return State("corrupt", tuple(damage), done or 0, total, artifact)
        return State("fresh", artifact=artifact)

    def differences(self, manifest: Mapping[str, Any], recipe: Recipe) -> list[str]:
        """Return what a manifest was made of otherwise than the recipe says, each in a few words."""
        reasons = [f"code {name}" for name in changed_names(manifest["code"], recipe.code)]
        equal = manifest.get("equal_inputs", {})  # see `cache.accept.accept_input`
        others = changed_names(manifest["inputs"], recipe.inputs)
        reasons += [f"input {name} changed" for name in others if recipe.inputs.get(name) not in equal.get(name, ())]
        return reasons if manifest["key"] == self.key else ["key", *reasons]

    def order(self, recipe: Recipe, shards: Shards, force: str = "") -> dict[str, Any]:
        """Return what a build is started from: the content of its build.json."""
        return {
            "schema": SCHEMA,
            "key": self.key,
            "code": dict(recipe.code),
            "inputs": dict(recipe.inputs),
            "plan": {split: list(digests) for split, digests in shards.items()},
            "force": force,
        }

    def resumes(self, recipe: Recipe, shards: Shards, force: str = "") -> bool:
        """Whether a build in progress was started from exactly this; one of anything else would be thrown away."""
        return bool(read_order(self.partial) == self.order(recipe, shards, force))

    def cuts(self, recipe: Recipe, force: str = "") -> list[Shards]:
        """Return how what the next run continues from is cut: a build in progress, a damaged artifact; [] for none."""
        found: list[Shards] = []
        order = read_order(self.partial)
        if order and order == self.order(recipe, order["plan"], force):
            found.append(order["plan"])
        with contextlib.suppress(CorruptError):
            artifact = self.artifact()
            if not force and artifact.visible_damage() and not self.differences(artifact.manifest, recipe):
                found.append(artifact.manifest["plan"])
        return found

    def has_build(self, recipe: Recipe) -> bool:
        """Whether there is a build in progress of the present code and inputs."""
        return self._progress(recipe)[0] is not None

    def is_done(self, split: str, index: int) -> bool:
        """Whether a shard of the build in progress is finished."""
        path = self.partial / shard_name(split, index)
        done = read_done(path)
        return done is not None and file_size(path) == done["bytes"]

    def damaged_shards(self) -> list[Path]:
        """Read every finished shard of the build in progress, if there is one, and return those that are altered."""
        altered = []
        for sidecar in sorted(self.partial.glob(f"*.h5{DONE}")):
            path = sidecar.with_name(sidecar.name.removesuffix(DONE))
            if file_size(path) is not None and (done := read_done(path)) and file_sha256(path) != done["sha256"]:
                altered.append(path)
        return altered

    def _unused(self, recipe: Recipe) -> tuple[str, ...]:
        """Say which finished shards the next run would remove."""
        order, count = read_order(self.partial), sum(1 for _ in self.partial.glob(f"*.h5{DONE}"))
        if not count:
            return ()
        of = f"other {'code' if order['code'] != recipe.code else 'inputs'}" if order else "a damaged build"
        return (f"would remove {count} finished shard{'s' * (count > 1)} of {of}",)

    def _progress(self, recipe: Recipe) -> tuple[int | None, int]:
        """Return finished and all shards of the build in progress; None if there is none that would be resumed."""
        order = read_order(self.partial)
        present = {"key": self.key, "code": recipe.code, "inputs": recipe.inputs}
        if not order or any(order[name] != value for name, value in present.items()):
            return None, 0
        total = sum(len(digests) for digests in order["plan"].values())
        return sum(1 for _ in self.partial.glob(f"*{DONE}")), total


def read_progress(partial: Path) -> tuple[int, int, float]:
    """Return the step that a stage was saved at, all its steps, and the seconds it took; zeros if that is not known."""
    value = read_json(partial / PROGRESS, has_fields(PROGRESS_FIELDS))
    return (value["step"], value["steps"], value["seconds"]) if value else (0, 0, 0.0)


def read_order(partial: Path) -> dict[str, Any] | None:
    """Return what a build in progress was started from, as of `Entry.order`; None if that is absent or damaged."""
    return read_json(partial / BUILD, has_fields(ORDER_FIELDS))


def read_done(shard: Path) -> dict[str, Any] | None:
    """Return what is known of a finished shard, see `cache.build.Build.finish`; None if it is not finished."""
    return read_json(shard.with_name(f"{shard.name}{DONE}"), is_done)
