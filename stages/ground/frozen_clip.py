"""The frozen CLIP of a stage, loaded once a process."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from split_matching.configs.settings import ClipConfig
from split_matching.model.weights_identity import weights_file
from split_matching.stages.ground.context import StageContext
from split_matching.stages.ground.device import device_of

if TYPE_CHECKING:  # open_clip takes seconds to import, and training on cached features does without
    from split_matching.model.clip import FrozenClip


def frozen_clip(ctx: StageContext) -> FrozenClip:
    """Return the CLIP that `ctx.config.clip` names; a stage given the `pretrain` artifact loads that one."""
    clip = ClipConfig(**{name: getattr(ctx.config.clip, name) for name in ClipConfig.model_fields})
    trained = ctx.inputs["pretrain"].file("clip.safetensors") if "pretrain" in ctx.inputs else None
    path = trained or weights_file(clip)
    stamp = (path.stat().st_mtime_ns, path.stat().st_size) if path else ()  # a file may be replaced in a long run
    return _load(clip, device_of(ctx), trained, stamp)


@lru_cache(maxsize=1)
def _load(clip: ClipConfig, device: str, weights: Path | None, stamp: tuple[int, ...]) -> FrozenClip:
    from split_matching.model.clip import FrozenClip

    return FrozenClip(clip, device, weights)
