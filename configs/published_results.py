"""Results that the report shows beside those of the run: `configs/published/<class list>.yaml`.

Those of other methods, as published; for `shapes`, which nobody else uses, those of this project's own runs.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from split_matching.configs.class_list import load_shipped_classes
from split_matching.configs.section import Section
from split_matching.configs.strict_yaml import read_mapping
from split_matching.errors import ConfigError

FOLDER = Path(__file__).parent / "published"

Percent = Annotated[float, Field(ge=0, le=100)]


class PublishedRow(Section):
    """One method: names of the metrics as in `metrics.json`, in percent; None where it was not reported."""

    method: str
    venue: str
    pAcc: Percent | None = None
    mIoU_seen: Percent | None = None
    mIoU_unseen: Percent | None = None
    hIoU: Percent | None = None
    source: Literal["read", "second hand", "recalled", "measured"]
    note: str = ""
    unseen_set: str = Field("", exclude=True)


class _File(Section):
    unseen_sets: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    rows: tuple[PublishedRow, ...]


def load_published(name: str, unseen: Collection[str] | None = None) -> tuple[PublishedRow, ...]:
    """Read the rows of a class list; () where nothing is published for it.

    Args:
        name: of the class list, as in `data.classes`.
        unseen: names of a run's unseen classes: only rows with the same ones compare; None for all rows. A file that
            names no sets has rows for those of the class list.

    Raises:
        ConfigError: the file breaks a rule.
    """
    path = FOLDER / f"{Path(name).name}.yaml"
    if not path.is_file():
        return ()
    label = f"configs/published/{path.name}"
    try:
        file = _File.model_validate(read_mapping(path, label))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{label}: {where}: {first['msg']}, got {first['input']!r}; correct the file") from None
    if unseen is None:
        return file.rows
    usual = {"": tuple(entry.name for entry in load_shipped_classes(path.stem).unseen_entries)}
    same = {key for key, names in (file.unseen_sets or usual).items() if set(names) == set(unseen)}
    return tuple(row for row in file.rows if row.unseen_set in same)
