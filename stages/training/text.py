"""EmbedText: text embeddings of the seen classes.

Of the seen classes only: names and prompts of unseen ones enter no stage before Evaluate, which embeds them itself
(paper: inductive).
"""

from __future__ import annotations

import torch

from split_matching.errors import DataError
from split_matching.stages.ground.class_text import embed_classes
from split_matching.stages.ground.context import StageContext
from split_matching.stages.ground.frozen_clip import frozen_clip
from split_matching.stages.ground.tensor_files import write_tensors


def run(ctx: StageContext) -> dict[str, float | int | str]:
    """Write `text.safetensors`: `seen` (C, D) float32, unit length, rows in the order of `classes.seen`."""
    seen = ctx.config.classes.seen
    text = embed_classes(frozen_clip(ctx), seen, ctx.config.text)
    if not torch.isfinite(text).all():
        raise DataError("text embeddings contain NaN: the CLIP weights are damaged; give another clip.weights")
    write_tensors(ctx.out / "text.safetensors", {"seen": text})
    ctx.progress(len(seen), len(seen))
    return {"classes": len(seen), "width": text.shape[1]}
