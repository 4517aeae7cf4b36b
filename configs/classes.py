"""The classes of a data set: raw mask ids, names, which are unseen, and which ids are no class at all.

Unseen classes have names here because evaluation needs them; a training stage is never given more than the seen entries
(see `configs.slices`). A fold hides some seen classes as if they were unseen, so that settings can be chosen without a
look at the true unseen classes (choice; the practice of zero-shot recognition since Xian et al. 2017).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field, StringConstraints, ValidationError

from configs.errors import ConfigError
from configs.schema import Section
from configs.strict_yaml import read_mapping

FOLDER = Path(__file__).parent / "classes"

_RawId = Annotated[int, Field(ge=0, le=65535)]
_Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


class _Entry(Section):
    id: _RawId
    name: _Name


class _File(Section):
    ignore: tuple[_RawId, ...]
    classes: tuple[_Entry, ...] = Field(min_length=2)
    unseen: tuple[_RawId, ...] = Field(min_length=1)


@dataclass(frozen=True)
class ClassEntry:
    """One class.

    Args:
        id: raw value in the mask files, 0..65535.
        name: the word that the prompt takes.
    """

    id: int
    name: str


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


def load_classes(name: str) -> ClassList:
    """Read `configs/classes/<name>.yaml`.

    Args:
        name: name of the list, without folder or ending.

    Returns:
        The class list.

    Raises:
        ConfigError: no such list, or the file breaks a rule (ids or names twice, an unseen id that is no class, ...).
    """
    known = sorted(path.stem for path in FOLDER.glob("*.yaml"))
    if name not in known:
        raise ConfigError(f"data.classes: no class list {name!r}; expected one of: {', '.join(known)}")
    label = f"configs/classes/{name}.yaml"
    values = read_mapping(FOLDER / f"{name}.yaml", label)
    try:
        file = _File.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{label}: {where}: {first['msg']}, got {first['input']!r}; mend the file") from None
    _check(file, label)
    return ClassList(
        name=name,
        entries=tuple(ClassEntry(entry.id, entry.name) for entry in file.classes),
        unseen_ids=frozenset(file.unseen),
        ignore=tuple(sorted(set(file.ignore))),
    )


def _check(file: _File, label: str) -> None:
    """Refuse a list that contradicts itself."""
    ids = [entry.id for entry in file.classes]
    names = [entry.name for entry in file.classes]
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
