"""Where CLIP weights come from, and a stable name for them in cache keys. Imports no torch: `status` uses it.

The path of a weights file is a runtime matter; its bytes are not. So a local file is known by its sha256, a tag by its
name (open_clip's tags are immutable), random weights by their seed.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

from split_matching.configs.settings import ClipConfig
from split_matching.configs.user_path import user_path
from split_matching.errors import ConfigError, DataError

REPOSITORY = Path(__file__).resolve().parent.parent
BUNDLED = REPOSITORY / "model" / "weights"
SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")


def is_file_spec(weights: str) -> bool:
    """Whether `clip.weights` names a local file rather than a tag, `random`, `bundled` or `pretrain`."""
    return weights.endswith(SUFFIXES) or "/" in weights


def is_tag(clip: ClipConfig) -> bool:
    """Whether `clip.weights` is to be an open_clip pretrained tag."""
    return clip.weights not in ("random", "bundled", "pretrain") and not is_file_spec(clip.weights)


def check_no_place(model: str) -> None:
    """Refuse open_clip's names of places: what lies there may change, and the keys of results would not.

    Raises:
        ConfigError: it is one.
    """
    kind, _, place = model.partition(":")
    if kind in ("hf-hub", "local-dir"):
        raise ConfigError(
            f"clip.model {model!r}: expected an architecture, not an address, as what lies there may change; give the "
            f"architecture that {place}/open_clip_config.json describes, and its file of weights as --set "
            "clip.weights=PATH, see docs/clip.md"
        )


def weights_file(clip: ClipConfig) -> Path | None:
    """Return the local weights file, or None for `random`, `pretrain` and open_clip tags.

    Raises:
        ConfigError: see `check_no_place`.
        DataError: the file is not there.
    """
    check_no_place(clip.model)
    if clip.weights == "bundled":
        path = BUNDLED / f"{clip.model}.safetensors"
        there = ", ".join(sorted(file.stem for file in BUNDLED.glob("*.safetensors")))
        remedy = f"bundled weights are for {there}; choose a tag or a file, or --set clip.weights=pretrain"
    elif is_file_spec(clip.weights):
        if clip.weights.startswith(("hf-hub:", "local-dir:", "http://", "https://")):
            raise DataError(
                f"clip.weights {clip.weights!r} is no file on this machine: download the file of weights, and give its "
                "path as --set clip.weights=PATH"
            )
        path = user_path(clip.weights)
        remedy = "give the path of a .pt or .safetensors file of this architecture as --set clip.weights=PATH"
    else:
        return None
    if not path.is_file():
        raise DataError(f"CLIP weights {path} for {clip.model} not found: {remedy}")
    return path


def weights_identity(clip: ClipConfig) -> str:
    """Return the name of the weights in cache keys: `random:<seed>`, `tag:<tag>` or `sha256:<digest>`."""
    if clip.weights == "random":
        return f"random:{clip.seed}"
    path = weights_file(clip)
    if path is None:
        return f"tag:{clip.weights}"
    stat = path.stat()
    return f"sha256:{_sha256(path, stat.st_size, stat.st_mtime_ns)}"


@lru_cache(maxsize=16)
def _sha256(path: Path, size: int, mtime_ns: int) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
