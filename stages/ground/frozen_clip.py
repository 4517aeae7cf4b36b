"""The frozen CLIP of a stage, loaded once a process."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from split_matching.configs.schema import ClipConfig
from split_matching.errors import ConfigError
from split_matching.model.weights_identity import weights_file
from split_matching.stages.ground.context import StageContext

if TYPE_CHECKING:  # open_clip takes seconds to import, and training on cached features does without
    from split_matching.model.clip import FrozenClip
    from split_matching.model.token_tower import TokenTower


def device_of(ctx: StageContext) -> str:
    """Resolve `runtime.device`, see `resolve_device`."""
    return resolve_device(ctx.runtime.device)


def resolve_device(wanted: str) -> str:
    """Return "cpu" or "cuda"; `auto` is cuda when there is one.

    Raises:
        ConfigError: a GPU is asked for and torch sees none.
    """
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ConfigError("runtime.device is cuda, but torch sees no GPU: use auto or cpu, or install a CUDA build")
    return ("cuda" if torch.cuda.is_available() else "cpu") if wanted == "auto" else wanted


def frozen_clip(ctx: StageContext) -> FrozenClip:
    """Return the CLIP that `ctx.config.clip` names; a stage given the `pretrain` artifact loads that one."""
    clip = ClipConfig(**{name: getattr(ctx.config.clip, name) for name in ClipConfig.model_fields})
    trained = ctx.inputs["pretrain"].file("clip.safetensors") if "pretrain" in ctx.inputs else None
    path = trained or weights_file(clip)
    stamp = (path.stat().st_mtime_ns, path.stat().st_size) if path else ()  # a file may be replaced in a long run
    return _load(clip, device_of(ctx), trained, stamp)


def token_tower(ctx: StageContext) -> TokenTower:
    """Return the visual tower that turns the patches of a batch into the token maps that the decoder reads."""
    from split_matching.model.token_tower import TokenTower

    return TokenTower(frozen_clip(ctx), ctx.config.features.decoder_blocks)


@lru_cache(maxsize=1)
def _load(clip: ClipConfig, device: str, weights: Path | None, stamp: tuple[int, ...]) -> FrozenClip:
    from split_matching.model.clip import FrozenClip

    return FrozenClip(clip, device, weights)
