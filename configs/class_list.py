"""The classes of a data set: raw mask ids, names, which are unseen, and which ids are no class at all.

A class has a name, the label that files and pages show, and may have prompts: the words that CLIP reads in its place.
Unseen classes have both here because evaluation needs them; a training stage is never given more than the seen entries
(see `configs.slices`). A fold hides some seen classes as if they were unseen, so that settings can be chosen without a
look at the true unseen classes (choice; the practice of zero-shot recognition since Xian et al. 2017).
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, Field, StringConstraints, ValidationError

from split_matching.configs.class_files import is_class_file, read_class_file
from split_matching.configs.class_names import find_alike, find_flaw
from split_matching.configs.colour_table import check_table, is_labelmap
from split_matching.configs.data_settings import DataConfig
from split_matching.configs.section import Section, format_reason
from split_matching.configs.strict_yaml import shorten
from split_matching.configs.user_path import user_path
from split_matching.errors import ConfigError, DataError, did_you_mean

FOLDER = Path(__file__).parent / "classes"
MOST_CLASSES = 255
"""Predictions are stored in 8 bits, and one value means no class."""

DEFAULT_IGNORE = (255,)
"""Mask ids that are no class where neither the list nor the config says so (choice; VOC's void)."""

_RawId = Annotated[int, Field(ge=0, le=65535)]


def _compose(name: str) -> str:
    """Return a name with accents as one sign with their letters: both forms look alike, and are one name."""
    return unicodedata.normalize("NFC", name).strip()


_Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1), AfterValidator(_compose)]


class _Entry(Section):
    id: _RawId
    name: _Name
    prompts: tuple[_Name, ...] = ()


_Model = TypeVar("_Model", bound=Section)


class _Names(Section):
    classes: tuple[_Entry, ...] = Field(min_length=1)


class _File(Section):
    ignore: tuple[_RawId, ...]
    classes: tuple[_Entry, ...] = Field(min_length=2)
    unseen: tuple[_RawId, ...] = Field(min_length=1)


@dataclass(frozen=True)
class ClassEntry:
    """One class.

    Args:
        id: raw value in the mask files, 0..65535.
        name: the label; the word that templates take where there are no prompts.
        prompts: words that templates take in place of the name.
    """

    id: int
    name: str
    prompts: tuple[str, ...] = ()


@dataclass(frozen=True)
class ClassList:
    """All classes of a data set, in the order of the file: a class's index is its place in `entries`.

    Args:
        name: name of the list, as in `data.classes`.
        entries: every class, seen and unseen.
        unseen_ids: raw ids of the unseen classes.
        ignore: raw ids that are no class (background, void).
        ignored_names: names that a list without ids gives to ignored ids, by id.
        by_place: ids are the places in the list, counted from `data.first_id`.
    """

    name: str
    entries: tuple[ClassEntry, ...]
    unseen_ids: frozenset[int]
    ignore: tuple[int, ...]
    ignored_names: Mapping[int, str] = field(default_factory=dict)
    by_place: bool = False

    @property
    def ids(self) -> tuple[int, ...]:
        """Raw ids of all classes, in order."""
        return tuple(entry.id for entry in self.entries)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all classes, in order."""
        return tuple(entry.name for entry in self.entries)

    @property
    def names_by_id(self) -> dict[int, str]:
        """Names of all classes, and of ignored ids that a list without ids names."""
        return {**self.ignored_names, **{entry.id: entry.name for entry in self.entries}}

    @property
    def unseen_entries(self) -> tuple[ClassEntry, ...]:
        """The unseen classes, in order."""
        return tuple(entry for entry in self.entries if entry.id in self.unseen_ids)

    @property
    def alike(self) -> list[tuple[str, str]]:
        """Names of pairs of classes that CLIP reads as the same text."""
        return [(first.name, second.name) for first, second in _find_alike(self.entries)]

    def seen(self, fold: int | None = None, folds: int = 3) -> tuple[ClassEntry, ...]:
        """The seen classes, in order.

        Args:
            fold: leave out the classes that this fold hides; None leaves out none.
            folds: number of folds.

        Returns:
            The seen classes that remain.
        """
        hidden = {entry.id for entry in self.hidden(fold, folds)}
        return tuple(entry for entry in self.entries if entry.id not in self.unseen_ids | hidden)

    def hidden(self, fold: int | None, folds: int = 3) -> tuple[ClassEntry, ...]:
        """The seen classes that a fold hides: one of every `folds` classes in a row, each time the next one (choice).

        So each fold hides some of every kind, as classes of a kind stand together in a list; and it does not hide a
        whole kind that comes at equal steps: every third seen class of `shapes` would be all checked ones.

        Args:
            fold: 0..folds-1; None hides none.
            folds: number of folds.

        Returns:
            The hidden classes, in order; the folds together hide every seen class once.
        """
        if fold is None:
            return ()
        return tuple(entry for place, entry in enumerate(self.seen()) if (place - place // folds) % folds == fold)


def load_shipped_classes(name: str) -> ClassList:
    """Read a list of this project, `configs/classes/<name>.yaml`, as it is.

    Args:
        name: name of the list, without folder or ending.

    Returns:
        The class list.

    Raises:
        ConfigError: no such list, or the file breaks a rule (ids or names twice, an unseen id that is no class, ...).
    """
    return load_classes(DataConfig(classes=name))


def load_classes(data: DataConfig) -> ClassList:
    """Read the class list that a config names; the config's own `unseen` and `ignore` replace those of the list.

    What files may hold says `configs.class_files`. Names without ids get `data.first_id`, and so on.

    Args:
        data: the `data` section.

    Returns:
        The class list.

    Raises:
        ConfigError: no such list, or it breaks a rule.
        DataError: the list is a file below the root, and no root is set.
    """
    path, label = _locate(data)
    listed = read_class_file(path, label)
    values, ignored_names = _fill_in(listed, data, path, label)
    file = _validate(_File, values, label)
    _check(file, label)
    found = ClassList(
        name=path.stem,
        entries=tuple(ClassEntry(entry.id, entry.name, entry.prompts) for entry in file.classes),
        unseen_ids=frozenset(file.unseen),
        ignore=tuple(sorted(set(file.ignore))),
        ignored_names=ignored_names,
        by_place=isinstance(listed["classes"][0], str) and not is_labelmap(path),
    )
    check_table(data.colours, data.root, found.names_by_id, label)
    return found


def read_classes(path: Path, label: str) -> tuple[ClassEntry, ...]:
    """Read the classes of a list for naming alone, whatever its ids are and whichever are unseen.

    Args:
        path: the file, see `configs.class_files`.
        label: how errors name it.

    Returns:
        The classes, in order; the id of a plain name is its place.

    Raises:
        ConfigError: it cannot be read.
    """
    classes = read_class_file(path, label, blank_lines=True)["classes"]
    named = [{"id": place, "name": e} if isinstance(e, str) else e for place, e in enumerate(classes)]
    file = _validate(_Names, {"classes": named}, label)
    return tuple(ClassEntry(entry.id, entry.name, entry.prompts) for entry in file.classes)


def _validate(model: type[_Model], values: Mapping[str, Any], label: str) -> _Model:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        got = shorten(repr(first["input"]))
        raise ConfigError(f"{label}: {where}: {format_reason(first)}, got {got}; correct the file") from None


def _locate(data: DataConfig) -> tuple[Path, str]:
    """Return the file of a class list, and how errors name it."""
    if not is_class_file(data.classes):
        known = sorted(path.stem for path in FOLDER.glob("*.yaml"))
        if data.classes not in known:
            raise ConfigError(
                f"data.classes: no class list {data.classes!r}; expected one of: {', '.join(known)}, or a .yaml or "
                ".txt file below data.root"
            )
        return FOLDER / f"{data.classes}.yaml", f"configs/classes/{data.classes}.yaml"
    path = user_path(data.classes)
    if not path.is_absolute():
        if data.root is None:
            raise DataError("data.root is not set; expected the folder of the data set: --set data.root=PATH")
        if not data.root.is_dir():
            raise DataError(
                f"data.root: {data.root}: no such folder; expected that of the data set: --set data.root=PATH"
            )
        path = data.root / path
    if not path.is_file():
        raise ConfigError(
            f"data.classes: {path}: no such file; expected one class name a line (.txt), or ids and names (.yaml)"
        )
    return path, str(path)


def _fill_in(
    values: Mapping[str, Any], data: DataConfig, path: Path, label: str
) -> tuple[dict[str, Any], dict[int, str]]:
    """Give plain names their ids, and put the config's own `unseen` and `ignore` in place of those of the list.

    Returns:
        The filled values; and the names of a plain list that are no classes, as their ids are ignored.
    """
    values, dropped = dict(values), dict[int, str]()
    classes, by_default = values["classes"], data.ignore is None and "ignore" not in values
    if data.ignore is not None:
        values["ignore"] = data.ignore
    elif by_default:
        numbered = {entry.get("id") for entry in classes if isinstance(entry, dict)}
        values["ignore"] = tuple(value for value in DEFAULT_IGNORE if value not in numbered)
    if classes and all(isinstance(entry, str) for entry in classes):
        if data.first_id and is_labelmap(path):
            raise ConfigError(
                f"data.first_id is {data.first_id}, but {label} gives ids by place; leave data.first_id out"
            )
        values["classes"], dropped = _number_names(classes, values["ignore"], by_default, data.first_id, label)
    elif data.first_id:
        raise ConfigError(f"data.first_id is {data.first_id}, but {label} gives ids itself; leave data.first_id out")
    values["unseen"] = _choose_unseen(values, dropped, data, label)
    return values, dropped


def _number_names(
    names: Sequence[str], ignore: Any, by_default: bool, first_id: int, label: str
) -> tuple[list[dict[str, Any]], dict[int, str]]:
    """Give each name of a plain list the id of its place.

    Background is in such a list if it has an id; that it is no class is said by `ignore`, which may be the default.

    Returns:
        The classes; and the names of ignored ids, by id.
    """
    named = dict(enumerate(names, first_id))
    ignored = {raw for raw in ignore if isinstance(raw, int)} if isinstance(ignore, list | tuple) else set()
    dropped = {raw: name for raw, name in named.items() if raw in ignored}
    if dropped and by_default and len(named) <= MOST_CLASSES + len(dropped):  # else that is said, later
        raw, name = next(iter(dropped.items()))
        raise ConfigError(
            f"{label}: {name!r} has id {raw}, which is ignored unless told: say which ids are no class, "
            + (f"--set 'data.ignore=[{raw}]'" if len(named) > MOST_CLASSES else "--set 'data.ignore=[]' if none")
        )
    return [{"id": raw, "name": name} for raw, name in named.items() if raw not in dropped], dropped


def _choose_unseen(values: Mapping[str, Any], dropped: Mapping[int, str], data: DataConfig, label: str) -> Any:
    """Ids of the unseen classes: those of the config, or of the list; what is no list is refused later."""
    classes = values["classes"]
    unseen = list(data.unseen) or values.get("unseen", [])
    if data.seen_share is not None:
        unseen = draw_unseen([entry["id"] for entry in classes if isinstance(entry.get("id"), int)], data)
    if not unseen:
        raise ConfigError(f"{label}: no class is unseen; expected some: --set 'data.unseen=[NAME, NAME]'")
    if not isinstance(unseen, list):
        return unseen
    # YAML makes no number of one with zeros in front
    given = [int(name) if isinstance(name, str) and re.fullmatch("0[0-9]{1,5}", name) else name for name in unseen]
    return [_find_id(name, classes, dropped, label) if isinstance(name, str) else name for name in given]


def draw_unseen(ids: Sequence[int], data: DataConfig) -> list[int]:
    """Draw the unseen classes of `data.seen_share`: of all classes, whatever split the list has (choice).

    The order is that of a digest of seed and id, so that it is the same on every machine, and the seen classes of a
    smaller share are among those of a larger one with the same seed.

    Args:
        ids: raw ids of all classes.
        data: reads `seen_share` and `seen_seed`.

    Returns:
        Raw ids; at least one, and never all.
    """
    order = sorted(ids, key=lambda raw: hashlib.sha256(f"{data.seen_seed} {raw}".encode()).hexdigest())
    seen = min(max(round((data.seen_share or 1.0) * len(ids)), 1), len(ids) - 1)
    return sorted(order[seen:])


def _find_id(name: str, classes: Sequence[Any], dropped: Mapping[int, str], label: str) -> Any:
    """Return the id of an unseen class that is given by its name; `dropped` are the names of ignored ids."""
    ids = {_compose(e["name"]): e.get("id") for e in classes if isinstance(e, dict) and isinstance(e.get("name"), str)}
    name = _compose(name)
    if name in ids:
        return ids[name]
    names = list(ids)
    meant = did_you_mean(name, names) or f"expected one of: {', '.join(names)}"
    if whole := next((other for other in names if "," in other and name in map(str.strip, other.split(","))), ""):
        meant = f"a comma ends a name, so quote {whole}: --set 'data.unseen=[\"{whole}\"]'"
    if same := next((other for other in names if name == str(ids[other])), ""):
        meant = f"expected a name: id {name} is {same}"
    if raw := next((str(raw) for raw, other in dropped.items() if _compose(other) == name), ""):
        meant = f"its id, {raw}, is one of `ignore`"
    raise ConfigError(f"{label}: unseen class {name!r} is not in the list; {meant}")


def _check(file: _File, label: str) -> None:
    """Raise for a list that contradicts itself."""
    ids = [entry.id for entry in file.classes]
    names = [entry.name for entry in file.classes]
    texts = [*names, *(prompt for entry in file.classes for prompt in entry.prompts)]
    flaw = next(filter(None, map(find_flaw, texts)), "")
    if flaw:
        raise ConfigError(f"{label}: name {flaw}")
    if len(ids) > MOST_CLASSES:
        raise ConfigError(
            f"{label}: {len(ids)} classes; expected at most {MOST_CLASSES}, as predictions are stored in 8 bits: "
            "leave rare classes out, and add their ids to data.ignore"
        )
    template = next((prompt for entry in file.classes for prompt in entry.prompts if "{}" in prompt), None)
    if template is not None:
        raise ConfigError(f"{label}: prompt {template!r} is a template; expected the words that text.templates take")
    groups: tuple[tuple[str, Sequence[int | str]], ...] = (("id", ids), ("name", names), ("unseen id", file.unseen))
    for what, values in groups:
        twice = [value for value, count in Counter(values).items() if count > 1]
        if twice:
            raise ConfigError(f"{label}: {what} {twice[0]} appears twice; expected each once")
    both = sorted(set(ids) & set(file.ignore))
    if both:
        raise ConfigError(f"{label}: id {both[0]} is a class and in `ignore`; remove one")
    stray = sorted(set(file.unseen) - set(ids))
    if stray:
        raise ConfigError(f"{label}: unseen id {stray[0]} is no class; expected ids of `classes`")
    if len(file.unseen) == len(ids):
        raise ConfigError(f"{label}: every class is unseen; expected at least one seen class to train on")
    for first, second in _find_alike(file.classes):
        if (first.id in file.unseen) != (second.id in file.unseen):
            raise ConfigError(
                f"{label}: CLIP reads {first.name!r} and {second.name!r} as the same text, and one is seen, the other "
                "unseen: rename one, or give it prompts"
            )


def _find_alike(entries: Sequence[Any]) -> list[tuple[Any, Any]]:
    """Return pairs of entries that CLIP cannot tell apart."""
    pairs = find_alike([entry.prompts or (entry.name,) for entry in entries])
    return [(entries[first], entries[second]) for first, second in pairs]
