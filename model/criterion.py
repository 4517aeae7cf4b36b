"""Losses of split matching: turns the matcher's indices into numbers.

Source: paper (separate objectives; unmatched candidates are not pushed to "no object"); terms and weights are choices.
Void pixels are unannotated here, and so negatives of the seen masks: void also outlines unseen objects, and telling it
apart would leak them (choice). No term couples the two groups, and each has its own normaliser. An image without seen
classes, without candidates, or without either contributes zeros, never NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from split_matching.configs.schema import DecoderConfig, TrainConfig
from split_matching.model.matcher import Indices, SplitMatcher
from split_matching.model.process_group import ProcessGroup
from split_matching.model.query_decoder import QueryOutput


@dataclass(frozen=True)
class Targets:
    """A padded batch of targets; T is the largest number of seen targets, R of regions, P the mask cells.

    Args:
        seen_labels: index into the seen classes. Shape: (B, T), int64.
        seen_masks: coverage of every annotated class. Shape: (B, T, P), float in 0..1.
        seen_counts: targets of each image.
        region_embeddings: unit length. Shape: (B, R, D).
        region_masks: coverage of every pseudo mask. Shape: (B, R, P), float in 0..1.
        region_counts: regions of each image.
        valid: 1 on cells that count, 0 on padding. Shape: (B, P), float.
    """

    seen_labels: Tensor
    seen_masks: Tensor
    seen_counts: tuple[int, ...]
    region_embeddings: Tensor
    region_masks: Tensor
    region_counts: tuple[int, ...]
    valid: Tensor


@dataclass(frozen=True)
class Matching:
    """The assignment of a batch at one layer, and what it was made from.

    Args:
        logits: class logits of the seen group, no-object last. Shape: (B, Qs, C + 1).
        probability: of every seen target's class. Shape: (B, Qs, T).
        cosine: of every candidate to every region embedding. Shape: (B, Qc, R).
        seen: indices of the seen group.
        candidate: indices of the candidate group; queries are counted within the group.
    """

    logits: Tensor
    probability: Tensor
    cosine: Tensor
    seen: Indices
    candidate: Indices


def gather_matched(values: Tensor, indices: Indices, side: int) -> Tensor:
    """Rows of `values` (B, K, ...) that were matched, over the whole batch. (M, ...)."""
    batch = torch.cat([torch.full_like(pair[side], i) for i, pair in enumerate(indices)])
    rows = torch.cat([pair[side] for pair in indices])
    return values[batch.to(values.device), rows.to(values.device)]


def mask_losses(masks: Tensor, targets: Tensor, valid: Tensor, normaliser: Tensor) -> tuple[Tensor, Tensor]:
    """BCE and dice of matched masks, summed over masks and divided by `normaliser`.

    Args:
        masks: logits. Shape: (M, P).
        targets: coverage in 0..1. Shape: (M, P).
        valid: 1 on cells that count. Shape: (M, P).
        normaliser: number of targets, at least 1; a scalar.
    """
    bce = F.binary_cross_entropy_with_logits(masks, targets, reduction="none") * valid
    bce = bce.sum(1) / valid.sum(1).clamp(min=1)
    probability, targets = masks.sigmoid() * valid, targets * valid
    dice = 1 - (2 * (probability * targets).sum(1) + 1) / (probability.sum(1) + targets.sum(1) + 1)
    return bce.sum() / normaliser, dice.sum() / normaliser


def nce_loss(
    predicted: Tensor, target: Tensor, temperature: float, alike: float, pool: Tensor | None = None, first: int = 0
) -> Tensor:
    """InfoNCE of matched queries to region embeddings; the negatives are the other regions of the batch.

    Regions more alike than `alike` (lambda of the merging) are not negatives of each other: they show the same thing.

    Args:
        predicted: unit length. Shape: (M, D).
        target: unit length. Shape: (M, D).
        temperature: of the softmax.
        alike: cosine similarity above which two regions count as the same.
        pool: the targets of all processes, if several train together. Shape: (N, D), N >= M.
        first: row of `pool` where `target` begins.

    Returns:
        Sum over the M rows.
    """
    pool = target if pool is None else pool
    own = torch.arange(first, first + len(target), device=target.device)
    same = target @ pool.T > alike
    same[torch.arange(len(target), device=target.device), own] = False
    logits = (predicted @ pool.T / temperature).masked_fill(same, -torch.inf)
    return F.cross_entropy(logits, own, reduction="sum")


class SplitCriterion(nn.Module):
    """Match one batch and return its loss terms.

    Args:
        train: weights, costs and the kind of matching.
        decoder: group sizes and temperature.
        text: text embeddings of the seen classes, unit length. Shape: (C, D).
        alike: cosine similarity above which regions are not negatives of each other.
        group: the processes that share a batch; terms are then this process's part of the whole batch's.
    """

    def __init__(
        self, train: TrainConfig, decoder: DecoderConfig, text: Tensor, alike: float, group: ProcessGroup | None = None
    ) -> None:
        super().__init__()
        self.group = group or ProcessGroup()
        self.config, self.temperature, self.alike = train, decoder.temperature, alike
        # single matching (baseline): one group of all queries, matched to the annotated classes only
        single = train.matching == "single"
        self.seen_queries = decoder.seen_queries + (decoder.candidate_queries if single else 0)
        self.matcher = SplitMatcher(train.cost_class, train.cost_mask, train.cost_dice)
        self.text: Tensor
        self.register_buffer("text", text)

    def forward(self, outputs: Sequence[QueryOutput], targets: Targets) -> dict[str, Tensor]:
        """Loss terms of a batch, averaged over the supervised layers.

        Args:
            outputs: predictions of every layer, last one last.
            targets: what to match them to.

        Returns:
            Unweighted terms: seen_class, seen_mask, seen_dice, candidate_cosine, candidate_nce, candidate_mask,
            candidate_dice, and `loss`, their weighted sum. Scalars.
        """
        layers = outputs if self.config.deep_supervision else outputs[-1:]
        terms: dict[str, Tensor] = {}
        for output in layers:
            for name, value in self.layer_losses(output, targets).items():
                terms[name] = terms.get(name, 0) + value / len(layers)
        config = self.config
        seen = config.loss_class * terms["seen_class"] + config.loss_mask * terms["seen_mask"]
        candidate = config.loss_cosine * terms["candidate_cosine"] + config.loss_nce * terms["candidate_nce"]
        candidate = candidate + config.loss_mask * terms["candidate_mask"] + config.loss_dice * terms["candidate_dice"]
        terms["loss"] = seen + config.loss_dice * terms["seen_dice"] + config.candidate_weight * candidate
        return terms

    def match(self, output: QueryOutput, targets: Targets) -> Matching:
        """Solve both assignments for one layer's prediction."""
        split = self.seen_queries
        masks = output.masks.flatten(2)
        logits = self.temperature * output.embeddings[:, :split] @ self.text.T
        logits = torch.cat([logits, output.no_object[:, :split, None]], 2)  # (B, Qs, C + 1)
        probability = logits.softmax(-1).gather(2, targets.seen_labels[:, None].expand(-1, split, -1))
        cosine = output.embeddings[:, split:] @ targets.region_embeddings.transpose(1, 2)
        seen, candidate = self.matcher(
            (probability, masks[:, :split], targets.seen_masks),
            (cosine, masks[:, split:], targets.region_masks),
            targets.valid,
            (targets.seen_counts, targets.region_counts),
        )
        return Matching(logits, probability, cosine, seen, candidate)

    def layer_losses(self, output: QueryOutput, targets: Targets) -> dict[str, Tensor]:
        """Match one layer's prediction and return its unweighted terms."""
        split, masks = self.seen_queries, output.masks.flatten(2)
        matching = self.match(output, targets)
        return self._seen(matching.logits, masks[:, :split], targets, matching.seen) | self._candidate(
            output.embeddings[:, split:], masks[:, split:], targets, matching.candidate
        )

    @torch.no_grad()
    def statistics(self, output: QueryOutput, targets: Targets) -> dict[str, float | list[int]]:
        """How the queries of one layer were matched, for the log.

        Returns:
            `images` in the batch; and for each group that has a match `<group>_score`, mean class probability or cosine
            of the matched, `<group>_iou`, mean IoU of their masks, and `<group>_queries`, in how many images each query
            found a target.
        """
        split, masks = self.seen_queries, output.masks.flatten(2)
        matching = self.match(output, targets)
        groups = {
            "seen": (matching.probability, masks[:, :split], targets.seen_masks, matching.seen),
            "candidate": (matching.cosine, masks[:, split:], targets.region_masks, matching.candidate),
        }
        result: dict[str, float | list[int]] = {"images": len(masks)}
        for name, (score, predicted, wanted, indices) in groups.items():
            batch = torch.cat([torch.full_like(query, i) for i, (query, _) in enumerate(indices)])
            if len(batch) == 0:
                continue
            query, target = (torch.cat([pair[side] for pair in indices]) for side in (0, 1))
            drawn = gather_matched(predicted, indices, 0) > 0
            true = gather_matched(wanted, indices, 1) > 0.5
            union = (drawn | true).sum(1).clamp(min=1)
            picked = score.cpu()[batch, query, target]
            result[f"{name}_score"] = round(picked.mean().item(), 4)
            result[f"{name}_iou"] = round(((drawn & true).sum(1) / union).mean().item(), 4)
            result[f"{name}_queries"] = torch.bincount(query, minlength=predicted.shape[1]).tolist()
        return result

    def _seen(self, logits: Tensor, masks: Tensor, targets: Targets, indices: Indices) -> dict[str, Tensor]:
        """Cross entropy over the seen classes and no-object, mask terms of the matched."""
        nothing = logits.shape[-1] - 1
        label = torch.full(logits.shape[:2], nothing, dtype=torch.int64, device=logits.device)
        batch = torch.cat([torch.full_like(q, i) for i, (q, _) in enumerate(indices)]).to(label.device)
        rows = torch.cat([q for q, _ in indices]).to(label.device)
        label[batch, rows] = gather_matched(targets.seen_labels, indices, 1)
        weight = torch.where(label == nothing, self.config.no_object, 1.0)
        entropy = F.cross_entropy(logits.flatten(0, 1), label.flatten(), reduction="none")
        # clamped: with no_object 0 and no target at all, the sum of weights is 0
        terms = {"seen_class": (entropy * weight.flatten()).sum() / self.group.sum(weight.sum()).clamp(min=1)}
        normaliser = self._normaliser(len(rows), logits)
        terms["seen_mask"], terms["seen_dice"] = mask_losses(
            gather_matched(masks, indices, 0),
            gather_matched(targets.seen_masks, indices, 1),
            targets.valid[batch],
            normaliser,
        )
        return terms

    def _candidate(self, embeddings: Tensor, masks: Tensor, targets: Targets, indices: Indices) -> dict[str, Tensor]:
        """Pull matched candidates to their region; leave the unmatched alone."""
        batch = torch.cat([torch.full_like(q, i) for i, (q, _) in enumerate(indices)]).to(masks.device)
        normaliser = self._normaliser(len(batch), masks)
        predicted = gather_matched(embeddings, indices, 0)
        wanted = gather_matched(targets.region_embeddings, indices, 1)
        pool, first = self.group.gather_rows(wanted)
        nce = nce_loss(predicted, wanted, self.config.nce_temperature, self.alike, pool, first)
        mask, dice = mask_losses(
            gather_matched(masks, indices, 0),
            gather_matched(targets.region_masks, indices, 1),
            targets.valid[batch],
            normaliser,
        )
        return {
            "candidate_cosine": (1 - (predicted * wanted).sum(1)).sum() / normaliser,
            "candidate_nce": nce / normaliser,
            "candidate_mask": mask,
            "candidate_dice": dice,
        }

    def _normaliser(self, count: int, like: Tensor) -> Tensor:
        """Matched targets of a query group in the whole batch, at least 1."""
        return self.group.sum(like.new_tensor(float(count))).clamp(min=1)
