"""Tables of colours, for masks that show each class by its colour: which id of the class list a colour stands for.

A table is `configs/colours/NAME.yaml`; or a file of the user's: YAML as there, or CVAT's labelmap.txt.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
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


def read_colours(path: Path) -> dict[int, int]:
    """Read a table.

    Returns:
        The id of the class list of each colour, as of `pack`.

    Raises:
        ConfigError: the file cannot be read, or has a colour twice.
    """
    if path.suffix.lower() == ".txt":
        rows = [(place, colour) for place, (_, colour) in enumerate(read_labelmap(path, str(path)))]
    else:
        try:
            file = _File.model_validate(read_mapping(path, str(path)))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            raise ConfigError(
                f"{path}: {where}: {format_reason(first)}, got {shorten(repr(first['input']))}; expected "
                "`colours: [{id: 7, colours: [[128, 64, 128]]}]`"
            ) from None
        rows = [(entry.id, pack(*colour)) for entry in file.colours for colour in entry.colours]
    found: dict[int, int] = {}
    for raw, colour in rows:
        if found.setdefault(colour, raw) != raw:
            raise ConfigError(
                f"{path}: colour {unpack(colour)} is that of ids {found[colour]} and {raw}; expected one id a colour"
            )
    return found


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


def find_table(colours: Mapping[int, int], share: float = 0.9) -> str:
    """Return the name of the shipped table that knows a share of some pixels or more, "" if none does.

    Args:
        colours: pixels of each colour, as of `pack`.
        share: of the pixels.
    """
    whole = sum(colours.values())
    for name, path in known_tables().items():
        known = read_colours(path)
        if len(colours) > 1 and sum(n for colour, n in colours.items() if colour in known) >= share * whole:
            return name
    return ""
