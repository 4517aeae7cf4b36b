"""The file of an exported decoder: its weights as safetensors, with the settings of its run in the metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from split_matching.errors import DataError
from split_matching.stages.ground.tensor_files import write_tensors

FORMAT = 3
METADATA = "split_matching"


def write_export(path: Path, about: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
    """Write a decoder and what is to be known about it, in one step.

    Args:
        path: the file; folders above it are made.
        about: JSON values.
        weights: by name.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_tensors(path, weights, {METADATA: json.dumps({"format": FORMAT, **about}, sort_keys=True)})


def read_export(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read what `write_export` wrote.

    Raises:
        DataError: no such file, no export, or one of another version.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file; write one with: run_pipeline.py export --dataset NAME --out {path}")
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {})[METADATA])
        if about["format"] != FORMAT:
            raise DataError(f"{path}: format {about['format']}, expected {FORMAT}: export it with this version")
        return about, load_file(path)
    except DataError:
        raise
    except Exception as error:  # safetensors and json raise many kinds for damaged bytes
        raise DataError(
            f"{path} is no exported decoder, or is damaged ({type(error).__name__}): export it again"
        ) from error
