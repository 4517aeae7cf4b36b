"""The losses of split matching one layer after the other, image by image: what the criterion is held to.

Matching, and the loss of one pair of masks, are tested elsewhere against plain numbers.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from split_matching.model.criterion import SplitCriterion, Targets
from split_matching.model.query_decoder import QueryOutput

Pairs = list[tuple[int, int, int]]
Costs = tuple[float, float, float]


def terms_layer_by_layer(loss: SplitCriterion, layers: list[QueryOutput], targets: Targets) -> dict[str, Tensor]:
    """Every term as the mean of those of the layers, and their weighted sum."""
    found = [_seen_terms(loss, output, targets) | _candidate_terms(loss, output, targets) for output in layers]
    terms = {name: sum(terms[name] for terms in found) / len(found) for name in found[0]}
    c = loss.config
    terms["loss"] = c.loss_class * terms["seen_class"] + c.loss_mask * terms["seen_mask"]
    terms["loss"] = terms["loss"] + c.loss_dice * terms["seen_dice"]
    names = {"cosine": c.loss_cosine, "nce": c.loss_nce, "mask": c.loss_mask, "dice": c.loss_dice}
    for name, weight in (names | {"quality": c.loss_quality}).items():
        terms["loss"] = terms["loss"] + c.candidate_weight * weight * terms[f"candidate_{name}"]
    return terms


def _pairs(costs: Costs, affinity: Tensor, masks: Tensor, wanted: Tensor, t: Targets) -> Pairs:
    counts = t.seen_counts if wanted is t.seen_masks else t.region_counts
    result = []
    for b, count in enumerate(counts):
        keep = t.valid[b] > 0
        x, y = masks[b][:, None, keep], wanted[b][None, :count, keep]  # (Q, 1, P), (1, T, P)
        bce = F.binary_cross_entropy_with_logits(*torch.broadcast_tensors(x, y), reduction="none").mean(2)
        p = x.sigmoid()
        dice = 1 - (2 * (p * y).sum(2) + 1) / (p.sum(2) + y.sum(2) + 1)
        cost = costs[1] * bce + costs[2] * dice - costs[0] * affinity[b][:, :count]
        result += [(b, q, k) for q, k in zip(*linear_sum_assignment(cost.detach().numpy()), strict=True)]
    return result


def _mask_terms(pairs: Pairs, masks: Tensor, wanted: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    bce = dice = masks.sum() * 0
    for b, q, k in pairs:
        x, y = masks[b, q][valid[b] > 0], wanted[b, k][valid[b] > 0]
        p = x.sigmoid()
        bce = bce + F.binary_cross_entropy_with_logits(x, y)
        dice = dice + 1 - (2 * (p * y).sum() + 1) / (p.sum() + y.sum() + 1)
    return bce / max(1, len(pairs)), dice / max(1, len(pairs))


def _seen_terms(loss: SplitCriterion, output: QueryOutput, t: Targets) -> dict[str, Tensor]:
    split = loss.seen_queries
    masks = output.masks.flatten(2)[:, :split]
    logits = torch.cat(
        [loss.temperature * output.embeddings[:, :split] @ loss.text.T, output.no_object[:, :split, None]], 2
    )
    shares = logits.softmax(2)
    affinity = torch.stack([shares[b][:, t.seen_labels[b]] for b in range(len(shares))])
    c = loss.config
    pairs = _pairs((c.cost_class, c.cost_mask, c.cost_dice), affinity, masks, t.seen_masks, t)
    matched = {(b, q): int(t.seen_labels[b, k]) for b, q, k in pairs}
    total, weights = logits.sum() * 0, 0.0
    for b, q in ((b, q) for b in range(len(logits)) for q in range(split)):
        weight = 1.0 if (b, q) in matched else loss.config.no_object
        label = matched.get((b, q), logits.shape[2] - 1)
        total, weights = total + weight * F.cross_entropy(logits[b, q], torch.tensor(label)), weights + weight
    bce, dice = _mask_terms(pairs, masks, t.seen_masks, t.valid)
    return {"seen_class": total / max(1, weights), "seen_mask": bce, "seen_dice": dice}


def _candidate_terms(loss: SplitCriterion, output: QueryOutput, t: Targets) -> dict[str, Tensor]:
    masks, named = output.masks.flatten(2)[:, loss.seen_queries :], output.embeddings[:, loss.seen_queries :]
    cosine = named @ t.region_embeddings.transpose(1, 2)
    c = loss.config
    bce = c.cost_mask if c.cost_candidate_mask is None else c.cost_candidate_mask
    dice = c.cost_dice if c.cost_candidate_dice is None else c.cost_candidate_dice
    pairs = _pairs((c.cost_cosine, bce, dice), cosine, masks, t.region_masks, t)
    regions = [t.region_embeddings[b, k] for b, _, k in pairs]
    nce = far = quality = output.embeddings.sum() * 0 + output.quality.sum() * 0
    limit = (1 - loss.config.nce_alike) * max([float(1 - one @ other) for one in regions for other in regions] or [0])
    for own, (b, q, k) in zip(regions, pairs, strict=True):
        others = torch.stack([r for r in regions if r is own or float(1 - own @ r) > limit])
        nce = nce + torch.logsumexp(others @ named[b, q] / loss.nce_temperature, 0)
        nce = nce - own @ named[b, q] / loss.nce_temperature
        far = far + 1 - named[b, q] @ own
        keep = t.valid[b] > 0
        drawn, true = masks[b, q][keep] > 0, t.region_masks[b, k][keep]
        overlap = (drawn * true).sum()
        iou = overlap / (drawn.sum() + true.sum() - overlap)
        quality = quality + F.binary_cross_entropy_with_logits(output.quality[b, loss.seen_queries + q], iou)
    count = max(1, len(pairs))
    bce, dice = _mask_terms(pairs, masks, t.region_masks, t.valid)
    values = {"cosine": far / count, "nce": nce / count, "mask": bce, "dice": dice, "quality": quality / count}
    return {f"candidate_{name}": value for name, value in values.items()}
