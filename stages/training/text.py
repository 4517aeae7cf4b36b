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
    """Write `text.safetensors`.

    It holds `seen` (C, D) float32, unit length, rows in the order of `classes.seen`, and CLIP's `logit_scale` ().
    """
    seen, clip = ctx.config.classes.seen, frozen_clip(ctx)
    text = embed_classes(clip, seen, ctx.config.text)
    if not torch.isfinite(text).all():
        raise DataError("text embeddings contain NaN: the CLIP weights are damaged; give another clip.weights")
    scale = torch.tensor(clip.logit_scale)
    write_tensors(ctx.out / "text.safetensors", {"seen": text, "logit_scale": scale})
    ctx.progress(len(seen), len(seen))
    return {"classes": len(seen), "width": text.shape[1]}
