"""Files of class lists, text and YAML: what they hold, before a config says which classes are unseen.

Text has one name a line, or `ID: NAME` on every line, or is CVAT's labelmap.txt. Lines with # in front are comments.
YAML has `classes` (each `{id, name}` or `{id, name, prompts}`, or a plain name), and may have `ignore` and `unseen`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

from split_matching.configs.colour_table import LABELMAP, read_labelmap
from split_matching.configs.strict_yaml import read_mapping, shorten
from split_matching.errors import ConfigError

FILE_ENDINGS = (".yaml", ".yml", ".txt")

_NUMBERED = re.compile(r"(\d{1,5})\s*[:\t]\s*(\S.*)")
_NAMES_ALONE = "expected names alone, one a line"
_OR_YAML = "or give a .yaml list, which takes any name"
_NUMBER_LAST = re.compile(r"(.*\S)\s+\d{1,5}")
_KIND = "(?:class|label|category|object)"
_HEAD_WORD = rf"(?:(?:{_KIND}[ _-]?)?(?:names?|ids?|index)|class(?:es)?|labels?|categor(?:y|ies)|objects?)"
_HEAD = rf"\d+|__ignore__|.*:|{_HEAD_WORD}(?:[\s,;|:]+{_HEAD_WORD})*"
"""A first line that is no class: `name` or `id,name` of a table, `classes:` of YAML, LabelMe's `__ignore__` (id -1)."""
_QUOTED = r"""(["']).*\1,?"""
_WITH_MORE = {
    r"[\[{].*[\]}]": f"{_NAMES_ALONE}, without brackets",
    r"\d{1,5}(\s*[,;=).|\uff1a-]\s*|\s+)\S.*": "expected numbers as `ID: NAME`, or names alone",
    r".*\S\s*[,;=:\t]\s*\d{1,5}": "expected numbers in front, as `ID: NAME`, or names alone",
    r"[^,]+(,[^,]*)+|[^;]+(;[^;]*)+|[^\t]+(\t[^\t]*)+": f"these are columns of a table; {_NAMES_ALONE}",
    _QUOTED: f"{_NAMES_ALONE}, without quotes",
    r"\d+": "expected names, or `ID: NAME`, not numbers alone",
    r"[-*\u2022]\s+.*": f"{_NAMES_ALONE}, without marks in front",
}
"""What every line of a list may hold beside names, as a pattern, and what is said then."""


def is_class_file(name: str) -> bool:
    """Whether a text names a file of classes by its ending; case does not matter."""
    return name.lower().endswith(FILE_ENDINGS)


def is_text_file(name: str) -> bool:
    """Whether a class list is plain text."""
    return name.lower().endswith(".txt")


def read_class_file(path: Path, label: str, blank_lines: bool = False) -> dict[str, Any]:
    """Read a class list as the mapping that a YAML list holds; its values are checked for what YAML makes of words.

    Args:
        path: the file.
        label: how errors name it.
        blank_lines: allow them in text; else one is an error, as all later ids would shift.

    Returns:
        `classes`, and whatever else the file has. An entry of `classes` is a name, or a mapping.

    Raises:
        ConfigError: the file cannot be read, or names the guilty line or entry.
    """
    if is_text_file(path.name):
        return {"classes": _read_text(path, label, blank_lines)}
    values = read_mapping(path, label, "`classes: [NAME, NAME]`, or {id, name} of each")
    classes = values.get("classes")
    if not isinstance(classes, list):
        raise ConfigError(f"{label}: no list `classes`; expected `classes: [NAME, NAME]`, or {{id, name}} of each")
    for number, entry in enumerate(classes, start=1):
        name = entry.get("name") if isinstance(entry, dict) else entry
        if isinstance(name, bool | int | float | date) or (name is None and (entry is None or "name" in entry)):
            raise ConfigError(
                f"{label}: class {number} is {_yaml_word(name)}, which YAML does not take as text; quote it: 'no', '7'"
            )
        held = (entry.get("id"), name) if isinstance(entry, dict) else (entry,)
        if any(isinstance(value, list | dict | bool) for value in held):
            raise ConfigError(
                f"{label}: class {number} is {shorten(repr(entry))}; expected a name, or {{id: NUMBER, name: NAME}}"
            )
        if isinstance(entry, dict) != isinstance(classes[0], dict):
            raise ConfigError(
                f"{label}: class {number} is {shorten(repr(entry))}; expected all plain names, or all {{id, name}}"
            )
    return values


def _yaml_word(value: object) -> str:
    words = {True: "yes, on or true", False: "no, off or false", None: "empty, null or ~"}
    if isinstance(value, date):
        return f"the date {value}"
    return words[value] if value is None or isinstance(value, bool) else f"the number {value}"


def _read_text(path: Path, label: str, blank_lines: bool) -> list[Any]:
    try:
        # not `splitlines`: that breaks a line at a form feed and at U+0085, and all later ids would shift
        lines = path.read_text(encoding="utf-8-sig").rstrip().split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{label}: cannot be read ({error}); expected UTF-8 text, one class name a line") from None
    rows = [(number, line.strip(" \t\r")) for number, line in enumerate(lines, start=1)]
    rows = [(number, line) for number, line in rows if line[:1] != "#"]
    if blank_lines:
        rows = [(number, line) for number, line in rows if line]
    if not any(line for _, line in rows):
        raise ConfigError(f"{label}: holds no class; {_NAMES_ALONE}")
    if any(LABELMAP.fullmatch(line) for _, line in rows):
        return [name for name, _ in read_labelmap(path, label)]
    _check_lines(rows, label)
    matches = [_NUMBERED.fullmatch(line) for _, line in rows]
    if all(matches):
        if all(found and re.fullmatch(_QUOTED, found[2]) for found in matches):
            raise ConfigError(f"{label}, line {rows[0][0]}: {shorten(repr(rows[0][1]))}; {_WITH_MORE[_QUOTED]}")
        return [{"id": int(found[1]), "name": found[2]} for found in matches if found]
    odd = next((row for row, found in zip(rows, matches, strict=True) if not found), None)
    if odd and any(matches):
        raise ConfigError(f"{label}, line {odd[0]}: {odd[1]!r}; expected `ID: NAME` as on other lines, or on none")
    _check_names_alone(rows, label)
    return [line for _, line in rows]


def _check_names_alone(rows: Sequence[tuple[int, str]], label: str) -> None:
    """Raise where every line of a list, but for a head, holds more than a name; and where there is a head."""
    has_head = len(rows) > 1 and re.fullmatch(_HEAD, rows[0][1], re.IGNORECASE)
    classes = rows[1:] if has_head else rows
    row, expected = classes[0], ""
    for pattern, meaning in _WITH_MORE.items():
        if not expected and all(re.fullmatch(pattern, line) for _, line in classes):
            row, expected = next(row for row in rows if re.fullmatch(pattern, row[1])), meaning
    ends = [_NUMBER_LAST.fullmatch(line) for _, line in classes]
    words = {end[1] for end in ends if end}
    if not expected and len(words) == len(classes) > 1:  # `organ 1`, `organ 2` are names
        expected = "expected numbers in front, as `ID: NAME`, or names alone"
    if not expected and has_head:
        row, expected = rows[0], "the head of a table, no class: leave the line out"
    if expected:
        raise ConfigError(f"{label}, line {row[0]}: {shorten(repr(row[1]))}; {expected}, {_OR_YAML}")


def _check_lines(rows: Sequence[tuple[int, str]], label: str) -> None:
    """Raise for a line that would shift all later ids, or whose end would become a part of a name."""
    for number, line in rows:
        if not line:
            expected = "empty; expected a class name on every line, as its place is its id"
        elif line.endswith((",", ";")):
            expected = f"ends with a comma; {_NAMES_ALONE}, {_OR_YAML}"
        elif line.startswith((",", "]", "}")) or re.fullmatch(r"[\[{][^\]}]*", line):
            expected = f"{shorten(repr(line))}; {_NAMES_ALONE}, without brackets, {_OR_YAML}"
        elif line.startswith(("//", "%", "--")):
            expected = f"{shorten(repr(line))}; expected # in front of a comment, {_OR_YAML}"
        elif re.search(r"\s#", line):
            expected = f"{shorten(repr(line))}; expected a comment on a line of its own, {_OR_YAML}"
        else:
            continue
        raise ConfigError(f"{label}, line {number}: {expected}")
