"""Tables of colours, for masks that show each class by its colour: which id of the class list a colour stands for.

A table is `configs/colours/NAME.yaml`; or a file of the user's: YAML as there, or CVAT's labelmap.txt.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from split_matching.configs.section import Section, format_reason
from split_matching.configs.strict_yaml import read_mapping, shorten
from split_matching.configs.user_path import user_path
from split_matching.errors import ConfigError

FOLDER = Path(__file__).parent / "colours"

LABELMAP = re.compile(r"([^:]+):(\d{1,3}),(\d{1,3}),(\d{1,3}):[^:]*:[^:]*")
"""A line of CVAT's labelmap.txt: `label:color_rgb:parts:actions`."""

FORM = "`colours: [{id: 7, colours: [[128, 64, 128]]}]`"

KNOWN_SHARE = 0.9
"""Of the pixels whose colours a table knows, if masks may have been drawn with it (choice)."""

_Channel = Annotated[int, Field(ge=0, le=255)]


class _Entry(Section):
    id: Annotated[int, Field(ge=0, le=65535)]
    colours: tuple[tuple[_Channel, _Channel, _Channel], ...] = Field(min_length=1)
    name: str = ""


class _File(Section):
    colours: tuple[_Entry, ...] = Field(min_length=1)


def pack(red: int, green: int, blue: int) -> int:
    """Return a colour as one number, 0xRRGGBB."""
    return red << 16 | green << 8 | blue


def known_tables() -> dict[str, Path]:
    """Return the tables that are there, by name."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.yaml"))}


def locate_colours(name: str, root: Path) -> Path:
    """Return the file of a table.

    Args:
        name: as in `data.colours`: the name of a table that is there, or a file below the root.
        root: folder of the data set.

    Raises:
        ConfigError: there is none.
    """
    if name in known_tables():
        return known_tables()[name]
    path = root / user_path(name)
    if not path.is_file():
        raise ConfigError(
            f"data.colours: {path}: no such file; expected a .yaml with the colours of each id, CVAT's labelmap.txt, "
            f"or one of: {', '.join(known_tables())}"
        )
    return path


@dataclass(frozen=True)
class ColourTable:
    """What colours of masks mean.

    Args:
        ids: the id of the class list of each colour, as of `pack`.
        names: what the table calls an id, where it does.
    """

    ids: Mapping[int, int]
    names: Mapping[int, str]

    def find_contradiction(self, names: Mapping[int, str]) -> str:
        """Return what the table and a class list say differently, in words; "" if nothing.

        Other words for a class are none: only a name that the list gives to another id.

        Args:
            names: of the class list, by id.
        """
        ids = {name.casefold(): raw for raw, name in names.items()}
        for raw, name in self.names.items():
            listed = ids.get(name.casefold(), raw)
            if listed != raw:
                return f"{name} has id {raw} there, and {listed} in the class list"
        return ""


def read_colours(path: Path) -> ColourTable:
    """Read a table.

    Raises:
        ConfigError: the file cannot be read, or has a colour twice.
    """
    if path.suffix.lower() == ".txt":
        rows = [(place, name, colour) for place, (name, colour) in enumerate(read_labelmap(path, str(path)))]
    else:
        try:
            file = _File.model_validate(read_mapping(path, str(path), FORM))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            raise ConfigError(
                f"{path}: {where}: {format_reason(first)}, got {shorten(repr(first['input']))}; expected {FORM}"
            ) from None
        rows = [(entry.id, entry.name, pack(*colour)) for entry in file.colours for colour in entry.colours]
    found: dict[int, int] = {}
    for raw, _, colour in rows:
        if found.setdefault(colour, raw) != raw:
            raise ConfigError(
                f"{path}: colour {unpack(colour)} is that of ids {found[colour]} and {raw}; expected one id a colour"
            )
    return ColourTable(found, {raw: name for raw, name, _ in rows if name})


def check_table(name: str, root: Path | None, names: Mapping[int, str], label: str) -> None:
    """Reject a table that gives the name of a class another id.

    Args:
        name: as in `data.colours`; "" for no table.
        root: folder of the data set; None where that is not known.
        names: of the class list, by id.
        label: how errors name the list.

    Raises:
        ConfigError: it does, or cannot be read.
    """
    if name and root is not None and root.is_dir():
        path = locate_colours(name, root)
        if contradiction := read_colours(path).find_contradiction(names):
            raise ConfigError(f"data.colours: {path}: {contradiction}, {label}: correct one of them")


def unpack(colour: int) -> tuple[int, int, int]:
    """Return the channels of a colour, as of `pack`."""
    return colour >> 16, colour >> 8 & 255, colour & 255


def read_labelmap(path: Path, label: str) -> list[tuple[str, int]]:
    """Read CVAT's labelmap.txt.

    Returns:
        Name and colour of each label; its id is its place.

    Raises:
        ConfigError: a line is no label.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{label}: cannot be read ({error}); expected CVAT's labelmap.txt") from None
    found = []
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        row = LABELMAP.fullmatch(line.strip())
        if row is None or any(int(channel) > 255 for channel in row.groups()[1:]):
            raise ConfigError(f"{label}, line {number}: {line!r}; expected `NAME:RED,GREEN,BLUE::`")
        found.append((row[1].strip(), pack(int(row[2]), int(row[3]), int(row[4]))))
    return found


def is_labelmap(path: Path) -> bool:
    """Whether every label of a text file, that can be read, is one of CVAT's labelmap.txt."""
    if path.suffix.lower() != ".txt":
        return False
    lines = path.read_text(encoding="utf-8-sig").rstrip().split("\n")
    return all(LABELMAP.fullmatch(line.strip()) for line in lines if line[:1] != "#")


def find_tables(colours: Mapping[int, int], names: Mapping[int, str], ignore: Iterable[int]) -> list[str]:
    """Return the names of the shipped tables that some masks may have been drawn with.

    Args:
        colours: pixels of each colour, as of `pack`.
        names: of the class list, by id.
        ignore: ids that are no class.
    """
    allowed = {*names, *ignore}
    found = []
    for name, path in known_tables().items():
        table = read_colours(path)
        known = {colour: pixels for colour, pixels in colours.items() if table.ids.get(colour) in allowed}
        most = sum(known.values()) >= KNOWN_SHARE * sum(colours.values())  # edges may have been smoothed
        if len(known) > 1 and most and not table.find_contradiction(names):
            found.append(name)
    return found
