"""Files of the experiments: the grid that tuning searches, the choice it writes, and the gammas it records.

A grid file names config keys and the values to try, and how:

    mode: coordinate        # one key at a time, in this order, around the best so far; `product`: every combination
    pseudo_masks.merge: [0.8, 0.85, 0.9]
    pseudo_masks.windows: [[4, 8, 16], [2, 4, 8]]
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from split_matching.configs.strict_yaml import read_mapping
from split_matching.errors import ConfigError

MODES = ("coordinate", "product")

FIXED = ("data.", "shapes.", "runtime.", "dataset", "train.seed", "evaluate.gamma")
"""Keys that no grid may hold: they say what is measured and where, or are set by the tuning itself."""


@dataclass(frozen=True)
class Grid:
    """What to search.

    Args:
        path: the file.
        mode: `coordinate` or `product`.
        values: the values to try of each dotted key, in the order of the file.
    """

    path: Path
    mode: Literal["coordinate", "product"]
    values: Mapping[str, tuple[Any, ...]]


@dataclass(frozen=True)
class GammaRecord:
    """The gamma chosen for one variant.

    Args:
        gamma: the value.
        settings: key of the settings that it was chosen for, without seed, fold and gamma.
    """

    gamma: float
    settings: str


def read_grid(path: Path) -> Grid:
    """Read a grid file; that its keys and values exist is checked when they are laid over a config.

    Raises:
        ConfigError: no list of values for a key, an unknown mode, or a key that tuning may not change.
    """
    found = read_mapping(path, str(path))
    mode = found.pop("mode", MODES[0])
    if mode not in MODES:
        raise ConfigError(f"{path}: mode is {mode!r}; expected one of: {', '.join(MODES)}")
    if not found:
        raise ConfigError(f"{path}: no key to search; expected lines such as pseudo_masks.merge: [0.8, 0.9]")
    for key, values in found.items():
        if not isinstance(values, list) or not values:
            raise ConfigError(f"{path}: {key} is {values!r}; expected a list of the values to try, such as [0.8, 0.9]")
        if key.count(".") != 1:
            raise ConfigError(f"{path}: unknown key {key}; expected section.field, such as pseudo_masks.merge")
        if key.startswith(FIXED):
            raise ConfigError(f"{path}: {key} cannot be searched: tuning sets it or measures by it; remove it")
    return Grid(path, mode, {key: tuple(values) for key, values in found.items()})


def override(key: str, value: Any) -> str:
    """Return `key=value` as `--set` takes it; JSON is YAML, so any value survives."""
    return f"{key}={json.dumps(value)}"


def set_file(values: Mapping[str, Any], comment: str) -> str:
    """Return values by dotted key as the text of a `--set-file`.

    Args:
        values: JSON values by section and field, e.g. {"pseudo_masks.merge": 0.85}.
        comment: lines to put on top.
    """
    sections: dict[str, list[str]] = {}
    for path, value in values.items():
        section, _, name = path.rpartition(".")
        sections.setdefault(section, []).append(f"  {name}: {json.dumps(value)}\n")
    return _commented(comment) + "".join(f"{section}:\n{''.join(lines)}" for section, lines in sections.items())


def write_gammas(records: Mapping[str, GammaRecord], comment: str) -> str:
    """Return the text of a file that `read_gammas` reads."""
    values = {name: {"gamma": record.gamma, "settings": record.settings} for name, record in records.items()}
    return _commented(comment) + str(yaml.safe_dump(values, sort_keys=False, allow_unicode=True))


def read_gammas(path: Path) -> dict[str, GammaRecord]:
    """Read the gammas chosen for variants, by name.

    Raises:
        ConfigError: not such a file.
    """
    records = {}
    for name, value in read_mapping(path, str(path)).items():
        gamma, settings = (value.get("gamma"), value.get("settings")) if isinstance(value, dict) else (None, None)
        if isinstance(gamma, bool) or not isinstance(gamma, (int, float)) or not isinstance(settings, str):
            raise ConfigError(f"{path}: {name} is {value!r}; expected gamma and settings, as tune --gamma-only writes")
        records[name] = GammaRecord(float(gamma), settings)
    return records


def opening_comment(path: Path) -> str:
    """Return the comment that a YAML file opens with, as one line; "" if there is none."""
    words = []
    for line in path.read_text(encoding="utf-8-sig").splitlines():
        if not line.startswith("#"):
            break
        words.append(line.lstrip("#").strip())
    return " ".join(word for word in words if word)


def _commented(text: str) -> str:
    return "".join(f"# {line}\n" for line in text.splitlines())
