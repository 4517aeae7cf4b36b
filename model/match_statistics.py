"""How well the queries of a layer were matched, for the log and its curves. Nothing is learnt from it."""

from __future__ import annotations

import torch
from torch import Tensor

from split_matching.model.criterion import Matching, Targets
from split_matching.model.matcher import Indices, flatten
from split_matching.model.query_decoder import LayerOutputs


def match_statistics(matching: Matching, outputs: LayerOutputs, targets: Targets) -> dict[str, float | list[int]]:
    """Describe the matching of a batch.

    Args:
        matching: of `outputs` with `targets`, as of `SplitCriterion.match`.
        outputs: the prediction of one layer, L = 1.
        targets: what it was matched to.

    Returns:
        `images` in the batch; and for each group that has a match `<group>_score`, mean class probability or cosine of
        the matched, `<group>_iou`, mean IoU of their masks, and `<group>_queries`, in how many images each query found
        a target; with candidate queries `candidate_without_query`, how many regions of the batch no query could take,
        because an image has more regions than candidate queries.
    """
    masks, split = outputs[-1].masks.flatten(2), matching.logits.shape[1]  # (B, Q, P), Qs
    seen = _describe_group(matching.seen, matching.probability, masks[:, :split], targets.seen_masks)
    candidate = _describe_group(matching.candidate, matching.cosine, masks[:, split:], targets.region_masks)
    named = {f"seen_{name}": value for name, value in seen.items()}
    if candidates := masks.shape[1] - split:
        named["candidate_without_query"] = sum(max(0, count - candidates) for count in targets.region_counts)
    return {"images": len(masks)} | named | {f"candidate_{name}": value for name, value in candidate.items()}


def _describe_group(indices: Indices, score: Tensor, masks: Tensor, wanted: Tensor) -> dict[str, float | list[int]]:
    """Score, IoU and use of the queries of one group; empty if nothing was matched.

    Args:
        indices: the matches.
        score: of every query for every target. Shape: (B, Q, T).
        masks: logits. Shape: (B, Q, P).
        wanted: coverage in 0..1. Shape: (B, T, P).
    """
    image, query, target = torch.from_numpy(flatten(indices)).to(masks.device)
    if len(image) == 0:
        return {}
    drawn, true = masks[image, query] > 0, wanted[image, target] > 0.5  # (M, P)
    union = (drawn | true).sum(1).clamp(min=1)
    return {
        "score": round(score[image, query, target].mean().item(), 4),
        "iou": round(((drawn & true).sum(1) / union).mean().item(), 4),
        "queries": torch.bincount(query, minlength=masks.shape[1]).tolist(),
    }
