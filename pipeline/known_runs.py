"""The trained and evaluated runs of a cache, known from their manifests alone: no config file needs to be there.

A run is an evaluation, with the training that it evaluates, or a training that nobody has evaluated yet. Its key is
that of the artifact. Its settings are those that its artifacts recorded, so what changes no result is not there.
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from split_matching.cache.artifact import Artifact
from split_matching.cache.entry import KEY_LENGTH
from split_matching.cache.folders import Skip, find_artifact, is_key, walk_folders
from split_matching.cache.lineage import trace
from split_matching.cache.notes import Note, read_note
from split_matching.configs.load import known_datasets, load_config
from split_matching.configs.schema import Config
from split_matching.configs.section import Section, is_runtime, neutral_values
from split_matching.configs.slices import build_slice
from split_matching.errors import ConfigError, DataError, UserError, did_you_mean
from split_matching.pipeline.outside import Outside
from split_matching.pipeline.text import flatten

TRAINED, EVALUATED, REPORTED = "train", "evaluate", "report"
"""Folders of the stages that make a run, and of the one that shows it."""
SEED = "train.seed"
METRICS = ("pAcc", "mIoU_seen", "mIoU_unseen", "hIoU")
"""Names in `metrics.json` and in the manifest of Evaluate; in percent."""

READ_WHOLE = {
    "text": ("text",),
    "pseudo_masks": ("pseudo_masks",),
    TRAINED: ("train", "decoder"),
    EVALUATED: ("evaluate",),
}
"""Sections with settings that were added later, by the stage that reads all of them that change its result: what it did
not record did not exist yet."""

LONGEST_NAME = 80  # characters

Settings = Mapping[str, Any]
"""Values by dotted name, e.g. {"train.steps": 2400}."""


@dataclass(frozen=True)
class Run:
    """A trained or evaluated run.

    Args:
        artifact: of Evaluate; of TrainDecoder, if it is not evaluated.
        artifacts: it and all that it was made from, by stage, upstream first.
        note: the user's name for it, and remark.
        usual: settings that it is compared with: its data set's own.
        report: the page about it; None if there is none.
    """

    artifact: Artifact
    artifacts: Mapping[str, Artifact]
    note: Note = field(default_factory=Note)
    usual: Settings = field(default_factory=dict)
    report: Path | None = None

    @property
    def key(self) -> str:
        """The full key, 64 hex digits."""
        return self.artifact.key

    @property
    def dataset(self) -> str:
        """Name of its data set."""
        return str(self.artifact.manifest["dataset"])

    @property
    def created(self) -> str:
        """When it was made: ISO 8601, UTC."""
        return str(self.artifact.manifest["created"])

    @property
    def metrics(self) -> dict[str, float]:
        """Results in percent by the names of `METRICS`; undefined ones, and those of a training, are absent."""
        summary = self.artifact.summary if self.artifact.stage == EVALUATED else {}
        return {name: float(summary[name]) for name in METRICS if isinstance(summary.get(name), int | float)}

    @cached_property
    def settings(self) -> dict[str, Any]:
        """All settings that it depends on, as JSON values."""
        return settings_of(self.artifacts)

    @cached_property
    def younger(self) -> dict[str, Any]:
        """Settings that are younger than it, with the values that stand for their absence."""
        found: dict[str, Any] = {}
        for stage, sections in READ_WHOLE.items():
            recorded = recorded_sections({stage: self.artifacts[stage]}) if stage in self.artifacts else {}
            for section in recorded.keys() & sections:
                neutral = neutral_values(type(Config.model_fields[section].default))
                found |= {f"{section}.{name}": value for name, value in neutral.items()}
        baseline = self.settings.get("evaluate.predictor", "decoder") != "decoder"  # reads little of `evaluate`
        return {
            name: value
            for name, value in found.items()
            if name not in self.settings and not (baseline and name.startswith("evaluate."))
        }

    @cached_property
    def differs(self) -> dict[str, tuple[Any, Any]]:
        """Settings that are not as usual, without the seed: what is usual, and its own value."""
        return {
            name: (self.usual[name], value)
            for name, value in {**self.younger, **self.settings}.items()
            if name != SEED and name in self.usual and self.usual[name] != value
        }

    @property
    def seed(self) -> int | None:
        """Seed of its training; None without one."""
        return self.settings.get(SEED)

    @property
    def own(self) -> list[Artifact]:
        """What was made for it: its training and evaluation. All else is shared with other runs."""
        return [self.artifacts[name] for name in (TRAINED, EVALUATED) if name in self.artifacts]

    @property
    def seconds(self) -> float:
        """How long its training and evaluation took."""
        return sum(float(member.manifest["seconds"]) for member in self.own)

    @property
    def size(self) -> int:
        """Bytes of its training and evaluation."""
        return sum(int(file["bytes"]) for member in self.own for file in member.manifest["files"].values())


def list_runs(root: Path, config: Config | None = None, skip: Skip | None = None) -> list[Run]:
    """Return all runs of a cache, newest first.

    Args:
        root: folder of the cache.
        config: the config of a data set that is not in `configs/`. Runs of another one are compared with what most runs
            of their data set have.
        skip: is told in a line of what cannot be read, see `cache.folders.walk_folders`.

    Raises:
        UserError: something cannot be read, and there is no `skip`.
    """
    found: dict[str, list[Artifact]] = {TRAINED: [], EVALUATED: [], REPORTED: []}
    for folder in walk_folders(root, skip):
        if folder.artifact and folder.place[1] in found:
            found[folder.place[1]].append(folder.artifact)
    runs = [Run(artifact, trace(artifact)) for artifact in found[EVALUATED]]
    evaluated = {run.artifacts[TRAINED].path for run in runs if TRAINED in run.artifacts}
    runs += [Run(artifact, trace(artifact)) for artifact in found[TRAINED] if artifact.path not in evaluated]
    runs.sort(key=lambda run: (run.created, run.key), reverse=True)
    reports = {
        artifacts[EVALUATED].path: page.path / "report.html"
        for page in sorted(found[REPORTED], key=lambda page: str(page.manifest["created"]))
        if EVALUATED in (artifacts := trace(page))
    }
    usual = _usual_settings(runs, config)
    return [
        replace(run, note=_note_of(root, run), usual=usual[run.dataset], report=reports.get(run.artifact.path))
        for run in runs
    ]


def describe_run(root: Path, artifact: Artifact) -> Run:
    """Return the run of an artifact, without a look at the other runs of the cache.

    Args:
        root: folder of the cache.
        artifact: of Evaluate or TrainDecoder. It is compared with the config of its data set in `configs/`; where there
            is none, with nothing.
    """
    run = Run(artifact, trace(artifact))
    return replace(run, note=_note_of(root, run), usual=_settings_of_dataset(run.dataset) or {})


def find_run(root: Path, words: str) -> Run:
    """Return a run by the first digits of its key, or by its name.

    Args:
        root: folder of the cache.
        words: digits, `train/digits` or `evaluate/digits`, the same behind the data set's name, or a name.

    Raises:
        ConfigError: several runs begin so or have this name.
        DataError: no run does.
        UserError: no run of those that can be read does.
    """
    skipped: list[str] = []
    runs = list_runs(root, skip=skipped.append)
    if not is_key(words):
        return _find_named(root, runs, words, skipped)
    artifact = find_artifact(root, words, (EVALUATED, TRAINED))
    for run in runs:
        if run.artifact.path == artifact.path:
            return run
    run = Run(artifact, trace(artifact))  # a training that is listed with its evaluation
    usual = next((other.usual for other in runs if other.dataset == run.dataset), {})
    return replace(run, note=_note_of(root, run), usual=usual)


def _find_named(root: Path, runs: Sequence[Run], name: str, skipped: Sequence[str]) -> Run:
    named = [run for run in runs if name and run.note.name == name]
    if not named and skipped:
        raise UserError(f"{skipped[0]}; no other run has the name {name!r}")
    if not named:
        meant = did_you_mean(name, [run.note.name for run in runs if run.note.name])
        raise DataError(f"no run in {root} has the name {name!r}: {meant or 'see `runs`'}")
    if len(named) > 1:
        keys = ", ".join(run.key[:KEY_LENGTH] for run in named[:4])
        raise ConfigError(f"{len(named)} runs have the name {name!r} ({keys}): give a key")
    return named[0]


def settings_of(artifacts: Mapping[str, Artifact]) -> dict[str, Any]:
    """Return the settings that artifacts recorded, together, by dotted names."""
    sections = recorded_sections(artifacts)
    classes: dict[str, list[str]] = {}
    with contextlib.suppress(KeyError, TypeError, AttributeError):  # a manifest from elsewhere may hold anything
        classes = _describe_classes(sections.get("classes", {}))
    return {**flatten({**sections, "classes": {}}), **classes}


def recorded_sections(artifacts: Mapping[str, Artifact]) -> dict[str, dict[str, Any]]:
    """Return the config values that artifacts recorded, together, by section; `classes` as in `configs.slices`."""
    merged: dict[str, dict[str, Any]] = {}
    for artifact in artifacts.values():
        for section, values in artifact.manifest["config"].items():
            if isinstance(values, Mapping):  # a manifest from elsewhere may hold anything
                merged.setdefault(section, {}).update(values)
    return merged


def _describe_classes(classes: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return what a run depends on of its class list, by names; what follows from that and the fold is left out."""
    if whole := classes.get("all"):
        unseen = [entry["name"] for entry in whole["entries"] if entry["id"] in whole["unseen"]]
        return {"classes": [_name(entry) for entry in whole["entries"]], "classes.unseen": unseen}
    return {"classes.seen": [_name(entry) for entry in classes["seen"]]} if "seen" in classes else {}


def _name(entry: Mapping[str, Any]) -> str:
    return f"{entry['name']} ({', '.join(entry['prompts'])})" if entry.get("prompts") else str(entry["name"])


def _usual_settings(runs: Sequence[Run], config: Config | None) -> dict[str, Settings]:
    """Return for each data set the settings that its runs are compared with."""
    usual: dict[str, Settings] = {}
    for dataset in {run.dataset for run in runs}:
        if config is not None and config.dataset == dataset:
            usual[dataset] = settings_of_config(config)
        else:
            own = [run.settings for run in runs if run.dataset == dataset]
            usual[dataset] = _settings_of_dataset(dataset) or _most_common(own)
    return usual


def _settings_of_dataset(dataset: str) -> Settings | None:
    """Return the settings of a config in `configs/`; None if there is none, or if it cannot be read."""
    if dataset in known_datasets():
        with contextlib.suppress(UserError):  # an error in one file is no reason to say nothing of other runs
            return settings_of_config(load_config(dataset))
    return None


def _most_common(all_settings: Sequence[Settings]) -> dict[str, Any]:
    """Return the value that most runs have of each setting; of equals that of the earliest run."""
    counts: dict[str, Counter[str]] = {}
    for settings in reversed(all_settings):  # they come newest first
        for name, value in settings.items():
            counts.setdefault(name, Counter())[json.dumps(value)] += 1
    return {name: json.loads(count.most_common(1)[0][0]) for name, count in counts.items()}


def settings_of_config(config: Config) -> dict[str, Any]:
    """Return every setting of a config that may change a result, named as in `settings_of`."""
    found: dict[str, Any] = {}
    for name in Config.model_fields:
        section = getattr(config, name)
        if isinstance(section, Section):
            fields = {key for key, info in type(section).model_fields.items() if not is_runtime(info)}
            values = section.model_dump(mode="json", include=fields)
            found |= {f"{name}.{key}": value for key, value in values.items()}
    with contextlib.suppress(UserError):  # a class list below a root that is not there
        classes = build_slice(config, ("classes.all", "classes.seen")).recorded_values()["classes"]
        found |= _describe_classes(classes) | _describe_classes({"seen": classes["seen"]})
    if config.clip.weights != "pretrain":  # a stage makes those, by settings that are compared
        with contextlib.suppress(UserError):  # weights that are not there
            found["clip.identity"] = Outside(config).clip_identity
    return found


def _note_of(root: Path, run: Run) -> Note:
    """Return the note of a run; of an evaluation without a name that of its training."""
    own, *others = [_readable_note(root, run.dataset, member.key) for member in reversed(run.own)]
    return Note(own.name or next((note.name for note in others), ""), own.text)


def _readable_note(root: Path, dataset: str, key: str) -> Note:
    """Return a note; an empty one for one that cannot be read: the verb `note` says so, and runs are listed."""
    try:
        return read_note(root, dataset, key)
    except UserError:
        return Note()


def check_run_name(name: str) -> str:
    """Return a name for a run.

    Raises:
        ConfigError: it is no line of text, or would be taken for a key.
    """
    if not name.strip() or not name.isprintable() or len(name) > LONGEST_NAME:
        raise ConfigError(f"the name {name[:LONGEST_NAME]!r}: expected one line of at most {LONGEST_NAME} characters")
    if is_key(name):
        raise ConfigError(f"the name {name!r} reads as the digits of a key: add another letter")
    return name
