"""The gammas that folds of the seen classes chose for variants, and the file that records them.

Source: choice, after the practice of zero-shot recognition (Xian et al. 2017): tune on classes held out of the seen
ones. The images are those of the validation split, of which only seen classes' labels are used.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from split_matching.configs.strict_yaml import read_mapping
from split_matching.errors import ConfigError

FILE = "gammas.yaml"


@dataclass(frozen=True)
class GammaRecord:
    """The gamma chosen for one variant.

    Args:
        gamma: the value.
        settings: key of the settings that it was chosen for, see `variants.settings_key`.
    """

    gamma: float
    settings: str


def format_gammas(records: Mapping[str, GammaRecord], comment: str) -> str:
    """Return the text of a file that `read_gammas` reads.

    Args:
        records: by name of the variant.
        comment: lines to put on top.
    """
    values = {name: {"gamma": record.gamma, "settings": record.settings} for name, record in records.items()}
    lines = "".join(f"# {line}\n" for line in comment.splitlines())
    return lines + str(yaml.safe_dump(values, sort_keys=False, allow_unicode=True))


def read_gammas(path: Path) -> dict[str, GammaRecord]:
    """Read the gammas chosen for variants, by name.

    Raises:
        ConfigError: not such a file.
    """
    records = {}
    for name, value in read_mapping(path, str(path)).items():
        gamma, settings = (value.get("gamma"), value.get("settings")) if isinstance(value, dict) else (None, None)
        if isinstance(gamma, bool) or not isinstance(gamma, (int, float)) or not isinstance(settings, str):
            raise ConfigError(f"{path}: {name} is {value!r}; expected gamma and settings, as ablate --folds writes")
        records[name] = GammaRecord(float(gamma), settings)
    return records
