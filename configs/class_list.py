"""The classes of a data set: raw mask ids, names, which are unseen, and which ids are no class at all.

A class has a name, the label that files and pages show, and may have prompts: the words that CLIP reads in its place.
Unseen classes have both here because evaluation needs them; a training stage is never given more than the seen entries
(see `configs.slices`). A fold hides some seen classes as if they were unseen, so that settings can be chosen without a
look at the true unseen classes (choice; the practice of zero-shot recognition since Xian et al. 2017).
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, StringConstraints, ValidationError

from split_matching.configs.section import Section
from split_matching.configs.settings import DataConfig, TextConfig
from split_matching.configs.strict_yaml import read_mapping, shorten
from split_matching.configs.user_path import user_path
from split_matching.errors import ConfigError, DataError, did_you_mean

HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Unicode categories of signs that no name needs: they move the cursor of a terminal, or turn the text around."""

JOINERS = "\u200c\u200d"
"""Signs of these categories that Persian and Indian words are written with."""

FOLDER = Path(__file__).parent / "classes"
FILE_ENDINGS = (".yaml", ".yml", ".txt")

_NUMBERED = re.compile(r"(\d{1,5})\s*[:\t]\s*(.+)")

_RawId = Annotated[int, Field(ge=0, le=65535)]
_Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


class _Entry(Section):
    id: _RawId
    name: _Name
    prompts: tuple[_Name, ...] = ()


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
    """

    name: str
    entries: tuple[ClassEntry, ...]
    unseen_ids: frozenset[int]
    ignore: tuple[int, ...]

    @property
    def ids(self) -> tuple[int, ...]:
        """Raw ids of all classes, in order."""
        return tuple(entry.id for entry in self.entries)

    @property
    def unseen_entries(self) -> tuple[ClassEntry, ...]:
        """The unseen classes, in order."""
        return tuple(entry for entry in self.entries if entry.id in self.unseen_ids)

    def seen(self, fold: int | None = None, folds: int = 3) -> tuple[ClassEntry, ...]:
        """The seen classes, in order.

        Args:
            fold: leave out the classes that this fold hides; None leaves out none.
            folds: number of folds.

        Returns:
            The seen classes that remain.
        """
        seen = tuple(entry for entry in self.entries if entry.id not in self.unseen_ids)
        if fold is None:
            return seen
        return tuple(entry for place, entry in enumerate(seen) if place % folds != fold)

    def hidden(self, fold: int | None, folds: int = 3) -> tuple[ClassEntry, ...]:
        """The seen classes that a fold hides: every `folds`-th one, starting with number `fold` (choice).

        Args:
            fold: 0..folds-1; None hides none.
            folds: number of folds.

        Returns:
            The hidden classes; the folds together hide every seen class once.
        """
        return () if fold is None else self.seen()[fold::folds]


def prompts_of(entries: Iterable[ClassEntry], text: TextConfig) -> dict[str, tuple[str, ...]]:
    """Return the prompts of the classes that have some, by name; none with `text.prompts=false`."""
    return {entry.name: entry.prompts for entry in entries if entry.prompts and text.prompts}


def is_own_file(name: str) -> bool:
    """Whether `data.classes` names a file of the user's and not a list in `configs/classes/`."""
    return name.endswith(FILE_ENDINGS)


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

    A list is YAML with `ignore`, `classes` (each `{id, name}` or `{id, name, prompts}`, or a plain name) and `unseen`
    (ids or names); or plain text with one name a line, or `ID: NAME` on every line. Plain names get the ids
    `data.first_id`, and so on.

    Args:
        data: the `data` section.

    Returns:
        The class list.

    Raises:
        ConfigError: no such list, or it breaks a rule.
        DataError: the list is a file below the root, and no root is set.
    """
    path, label = _locate(data)
    values = _read_text_list(path, label) if path.suffix == ".txt" else read_mapping(path, label)
    values = _fill_in(values, data, label)
    try:
        file = _File.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        got = shorten(repr(first["input"]))
        raise ConfigError(f"{label}: {where}: {first['msg']}, got {got}; correct the file") from None
    _check(file, label)
    return ClassList(
        name=path.stem,
        entries=tuple(ClassEntry(entry.id, entry.name, entry.prompts) for entry in file.classes),
        unseen_ids=frozenset(file.unseen),
        ignore=tuple(sorted(set(file.ignore))),
    )


def _locate(data: DataConfig) -> tuple[Path, str]:
    """Return the file of a class list, and how errors name it."""
    if not is_own_file(data.classes):
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
        path = data.root / path
    if not path.is_file():
        raise ConfigError(
            f"data.classes: {path}: no such file; expected one class name a line (.txt), or ids and names (.yaml)"
        )
    return path, str(path)


def _read_text_list(path: Path, label: str) -> dict[str, Any]:
    """Read a text list as the mapping that a YAML list holds."""
    try:
        lines = path.read_text(encoding="utf-8-sig").rstrip().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{label}: cannot be read ({error}); expected UTF-8 text, one class name a line") from None
    blank = next((number for number, line in enumerate(lines, start=1) if not line.strip()), None)
    if blank is not None:
        raise ConfigError(f"{label}, line {blank}: empty; expected a class name on every line, as its place is its id")
    matches = [_NUMBERED.fullmatch(line.strip()) for line in lines]
    if lines and all(matches):
        return {"classes": [{"id": int(found[1]), "name": found[2]} for found in matches if found]}
    return {"classes": [line.strip() for line in lines]}


def _fill_in(values: Mapping[str, Any], data: DataConfig, label: str) -> dict[str, Any]:
    """Give plain names their ids, and put the config's own `unseen` and `ignore` in place of those of the list."""
    values = dict(values)
    if data.ignore is not None or label.endswith(".txt"):
        values["ignore"] = (255,) if data.ignore is None else data.ignore
    classes = values.get("classes")
    if isinstance(classes, list) and classes and all(isinstance(entry, str) for entry in classes):
        classes = [{"id": data.first_id + place, "name": name} for place, name in enumerate(classes)]
        # a plain list names background too if it has an id; that it is no class is said by the config
        ignored = set(values["ignore"]) if isinstance(values.get("ignore"), list | tuple) else set()
        classes = values["classes"] = [entry for entry in classes if entry["id"] not in ignored]
    elif data.first_id:
        raise ConfigError(f"data.first_id is {data.first_id}, but {label} gives ids itself; leave data.first_id out")
    unseen = list(data.unseen) or values.get("unseen", [])
    if not unseen:
        raise ConfigError(f"{label}: no class is unseen; expected some: --set 'data.unseen=[NAME, NAME]'")
    if isinstance(unseen, list) and isinstance(classes, list):
        values["unseen"] = [_find_id(name, classes, label) if isinstance(name, str) else name for name in unseen]
    return values


def _find_id(name: str, classes: Sequence[Any], label: str) -> Any:
    """Return the id of an unseen class that is given by its name."""
    ids = {entry.get("name"): entry.get("id") for entry in classes if isinstance(entry, dict)}
    if name not in ids:
        names = [other for other in ids if isinstance(other, str)]
        meant = did_you_mean(name, names) or f"expected one of: {', '.join(names)}"
        raise ConfigError(f"{label}: unseen class {name!r} is not in the list; {meant}")
    return ids[name]


def _check(file: _File, label: str) -> None:
    """Raise for a list that contradicts itself."""
    ids = [entry.id for entry in file.classes]
    names = [entry.name for entry in file.classes]
    texts = [*names, *(prompt for entry in file.classes for prompt in entry.prompts)]
    hidden = [text for text in texts if any(unicodedata.category(s) in HIDDEN and s not in JOINERS for s in text)]
    if hidden:
        raise ConfigError(f"{label}: name {hidden[0]!r} has a control or direction character; remove it")
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
