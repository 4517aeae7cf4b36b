"""EmbedText: text embeddings of the seen classes.

Of the seen classes only: unseen names enter no stage before Evaluate, which embeds them itself (paper: inductive).
"""

from __future__ import annotations

import torch
from safetensors.torch import save_file

from split_matching.errors import DataError
from split_matching.stages.ground.context import StageContext
from split_matching.stages.ground.frozen_clip import frozen_clip


def run(ctx: StageContext) -> dict[str, float | int | str]:
    """Write `text.safetensors`: `seen` (C, D) float32, unit length, rows in the order of `classes.seen`."""
    names = [entry.name for entry in ctx.config.classes.seen]
    text = frozen_clip(ctx).encode_classes(names, ctx.config.text.templates)
    if not torch.isfinite(text).all():
        raise DataError("text embeddings contain NaN: the CLIP weights are damaged; give another clip.weights")
    save_file({"seen": text.contiguous()}, ctx.out / "text.safetensors")
    ctx.progress(len(names), len(names))
    return {"classes": len(names), "width": text.shape[1]}
