"""The slice of the config that one stage declared: what it may read, and what its cache key depends on.

Both come from the same declaration, so a stage cannot read a value that its key does not know. Runtime fields enter no
key, and fields that were added later enter it only if they are not neutral (see `configs.section`). What has no effect
under a config is not declared by the stage, see `pipeline.stages`. Besides sections and fields a stage may declare
virtual paths:

    classes.ids        raw ids only: all, seen (before any fold) and ignored; no names
    classes.seen_ids   raw ids of the seen classes that the fold leaves; all that training may know of the classes
    classes.seen       the same with names and prompts
    classes.all        the whole list, unseen names and prompts too: for evaluation and for pages, never for training
    classes.published  results of other methods on this class list, for pages
    clip.identity      which weights CLIP has, whatever they are called (supplied by the pipeline)
    evaluate.identity  digest of an exported decoder (supplied by the pipeline)
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from split_matching.configs.class_list import ClassEntry, ClassList, load_classes
from split_matching.configs.published_results import load_published
from split_matching.configs.schema import Config
from split_matching.configs.section import Section, is_neutral, is_runtime

IDENTITIES = ("clip.identity", "evaluate.identity")
"""Virtual paths that the pipeline supplies."""


@dataclass(frozen=True)
class ClassIds:
    """Raw ids without names.

    Args:
        all: every class, in order.
        seen: the seen classes, in order, before any fold.
        ignore: ids that are no class.
    """

    all: tuple[int, ...]
    seen: tuple[int, ...]
    ignore: tuple[int, ...]


class Part:
    """Some fields of one section: those declared, and an error for all others."""

    def __init__(self, path: str, values: Mapping[str, Any]) -> None:
        self._path = path
        self._values = dict(values)

    def __getattr__(self, name: str) -> Any:
        # Private names are never fields; answering early keeps copying and pickling from looping.
        if name.startswith("_"):
            raise AttributeError(name)
        try:
            return self._values[name]
        except KeyError:
            path = f"{self._path}.{name}" if self._path else name
            raise AttributeError(f"stage did not declare '{path}'") from None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._values!r})"


class Slice(Part):
    """What a stage declared: attribute access as on `Config`.

    A section that was declared whole is the section itself; one declared in parts is a `Part`.
    """

    def __init__(self, sections: Mapping[str, Any], recorded: Mapping[str, Any], hashed: Mapping[str, Any]) -> None:
        super().__init__("", sections)
        self._recorded, self._hashed = recorded, hashed

    def recorded_values(self) -> dict[str, Any]:
        """All semantic values, for the manifest.

        Returns:
            Nested dict of JSON types, one entry a section. Runtime fields are left out.
        """
        return copy.deepcopy(dict(self._recorded))

    def key_values(self) -> dict[str, Any]:
        """The values that enter the cache key: as recorded, without those of later fields that are neutral."""
        return copy.deepcopy(dict(self._hashed))


def build_slice(config: Config, reads: Sequence[str], identities: Mapping[str, str] | None = None) -> Slice:
    """Cut out what a stage declared.

    Args:
        config: the resolved config.
        reads: dotted paths of sections, fields or virtual values; see the module's docstring.
        identities: values that only the pipeline can know, by path: `{"clip.identity": "random:0"}`.

    Returns:
        The slice.

    Raises:
        ValueError: a path that does not exist, or an identity that was not supplied: a bug in a stage's declaration.
    """
    whole: dict[str, Section] = {}
    parts: dict[str, dict[str, Any]] = {}
    recorded: dict[str, dict[str, Any]] = {}
    for path in reads:
        section, _, name = path.partition(".")
        record = recorded.setdefault(section, {})
        if path in _VIRTUAL:
            value = _VIRTUAL[path](config, load_classes(config.data))
            parts.setdefault(section, {})[name] = value
            record[name] = _to_json(value)
        elif path in IDENTITIES:
            if identities is None or path not in identities:
                raise ValueError(f"'{path}' was declared but not supplied")
            parts.setdefault(section, {})[name] = record[name] = identities[path]
        elif name:
            model = _find_section(config, section, path)
            if name not in type(model).model_fields:
                raise ValueError(f"no such field '{path}'")
            parts.setdefault(section, {})[name] = getattr(model, name)
            record.update(_dump_semantic(model, {name}))
        else:
            whole[section] = _find_section(config, section, path)
            record.update(_dump_semantic(whole[section], set(type(whole[section]).model_fields)))
    recorded = {section: values for section, values in recorded.items() if values}
    hashed = {section: _without_neutral(config, section, values) for section, values in recorded.items()}
    return Slice(_combine(whole, parts), recorded, {section: values for section, values in hashed.items() if values})


def _without_neutral(config: Config, section: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out fields that were added later and have the value that stands for their absence."""
    fields = getattr(type(getattr(config, section, None)), "model_fields", {})  # `classes` is no section
    return {name: value for name, value in values.items() if name not in fields or not is_neutral(fields[name], value)}


def _combine(whole: Mapping[str, Section], parts: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """Return whole sections as they are; one with a virtual value beside it becomes a part with every field."""
    sections: dict[str, Any] = dict(whole)
    for name, values in parts.items():
        fields = {key: getattr(whole[name], key) for key in type(whole[name]).model_fields} if name in whole else {}
        if name not in whole or not set(values) <= set(fields):
            sections[name] = Part(name, {**fields, **values})
    return sections


def _find_section(config: Config, name: str, path: str) -> Section:
    value = getattr(config, name, None) if name in type(config).model_fields else None
    if not isinstance(value, Section):
        raise ValueError(f"no such section or field '{path}'")
    return value


def _dump_semantic(model: Section, names: set[str]) -> dict[str, Any]:
    """Return the named fields that are not runtime, as JSON types."""
    fields = type(model).model_fields
    return model.model_dump(mode="json", include={name for name in names if not is_runtime(fields[name])})


def _class_ids(config: Config, classes: ClassList) -> ClassIds:
    return ClassIds(classes.ids, tuple(entry.id for entry in classes.seen()), classes.ignore)


def _seen(config: Config, classes: ClassList) -> tuple[ClassEntry, ...]:
    return classes.seen(config.data.fold, config.data.folds)


def _seen_ids(config: Config, classes: ClassList) -> tuple[int, ...]:
    return tuple(entry.id for entry in _seen(config, classes))


def _all(config: Config, classes: ClassList) -> ClassList:
    return classes


def _published(config: Config, classes: ClassList) -> Any:
    return load_published(config.data.classes, {entry.name for entry in classes.unseen_entries})


_VIRTUAL: dict[str, Callable[[Config, ClassList], Any]] = {
    "classes.ids": _class_ids,
    "classes.seen_ids": _seen_ids,
    "classes.seen": _seen,
    "classes.all": _all,
    "classes.published": _published,
}


def _to_json(value: Any) -> Any:
    """Return values of classes as JSON types."""
    if isinstance(value, ClassList):
        # The list's own name is left out: a copy of the file under another name gives the same results.
        return {
            "entries": _to_json(value.entries),
            "unseen": sorted(value.unseen_ids),
            "ignore": list(value.ignore),
        }
    if isinstance(value, ClassIds):
        return {"all": list(value.all), "seen": list(value.seen), "ignore": list(value.ignore)}
    if isinstance(value, Section):
        return value.model_dump(mode="json")
    if isinstance(value, ClassEntry):
        # prompts are left out where there are none: lists from before they existed keep their keys
        prompts = {"prompts": list(value.prompts)} if value.prompts else {}
        return {"id": value.id, "name": value.name, **prompts}
    if isinstance(value, tuple):
        return [_to_json(item) for item in value]
    return value
