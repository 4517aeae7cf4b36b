"""Losses of split matching: turns the matcher's indices into numbers.

Source: paper (separate objectives; unmatched candidates are not pushed to "no object"); terms and weights are choices.
Void pixels are unannotated here, and so negatives of the seen masks: void also outlines unseen objects, and telling it
apart would leak them (choice). No term couples the two groups, and each has its own normaliser. An image without seen
classes, without candidates, or without either contributes zeros, never NaN.

Shapes: B images, Qs seen queries and Qc candidate queries, T targets, P mask cells, M matches, C classes, D CLIP width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from split_matching.configs.settings import DecoderConfig, TrainConfig
from split_matching.model.losses import mask_losses, nce_loss, quality_loss
from split_matching.model.matcher import Indices, SplitMatcher, flatten
from split_matching.model.process_group import ProcessGroup
from split_matching.model.query_decoder import QueryOutput


@dataclass(frozen=True)
class Targets:
    """A padded batch of targets; T is the largest number of seen targets, R of regions.

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


class SplitCriterion(nn.Module):
    """Match one batch and return its loss terms.

    Args:
        train: weights, costs and the kind of matching.
        decoder: group sizes and temperature.
        text: text embeddings of the seen classes, unit length. Shape: (C, D).
        clip_scale: logit scale of CLIP.
        processes: those that share a batch; terms are then this process's part of the whole batch's.
    """

    def __init__(
        self,
        train: TrainConfig,
        decoder: DecoderConfig,
        text: Tensor,
        clip_scale: float,
        processes: ProcessGroup | None = None,
    ) -> None:
        super().__init__()
        self.processes = processes or ProcessGroup()
        self.config, self.temperature = train, decoder.temperature
        self.nce_temperature = train.nce_temperature or 1 / clip_scale
        # single matching (baseline): one group of all queries, matched to the annotated classes only
        single = train.matching == "single"
        self.seen_queries = decoder.seen_queries + (decoder.candidate_queries if single else 0)
        self.matcher = SplitMatcher((train.cost_class, train.cost_cosine), train.cost_mask, train.cost_dice)
        self.text: Tensor
        self.register_buffer("text", text)

    def forward(self, outputs: Sequence[QueryOutput], targets: Targets) -> dict[str, Tensor]:
        """Loss terms of a batch, averaged over the supervised layers.

        Args:
            outputs: predictions of every layer, last one last.
            targets: what to match them to.

        Returns:
            Unweighted terms: seen_class, seen_mask, seen_dice, candidate_cosine, candidate_nce, candidate_mask,
            candidate_dice, candidate_quality, and `loss`, their weighted sum. Scalars.
        """
        layers = outputs if self.config.deep_supervision else outputs[-1:]
        terms: dict[str, Tensor] = {}
        for output in layers:
            for name, value in self._layer_terms(output, targets).items():
                terms[name] = terms.get(name, 0) + value / len(layers)
        config = self.config
        seen = config.loss_class * terms["seen_class"] + config.loss_mask * terms["seen_mask"]
        candidate = config.loss_cosine * terms["candidate_cosine"] + config.loss_nce * terms["candidate_nce"]
        candidate = candidate + config.loss_mask * terms["candidate_mask"] + config.loss_dice * terms["candidate_dice"]
        candidate = candidate + config.loss_quality * terms["candidate_quality"]
        terms["loss"] = seen + config.loss_dice * terms["seen_dice"] + config.candidate_weight * candidate
        return terms

    def match(self, output: QueryOutput, targets: Targets) -> Matching:
        """Solve both assignments for one layer's prediction."""
        split = self.seen_queries
        masks = output.masks.flatten(2)  # (B, Q, P)
        logits = self.temperature * output.embeddings[:, :split] @ self.text.T  # (B, Qs, C)
        logits = torch.cat([logits, output.no_object[:, :split, None]], 2)  # (B, Qs, C + 1)
        probability = logits.softmax(-1).gather(2, targets.seen_labels[:, None].expand(-1, split, -1))  # (B, Qs, T)
        cosine = output.embeddings[:, split:] @ targets.region_embeddings.transpose(1, 2)  # (B, Qc, R)
        seen, candidate = self.matcher(
            (probability, masks[:, :split], targets.seen_masks),
            (cosine, masks[:, split:], targets.region_masks),
            targets.valid,
            (targets.seen_counts, targets.region_counts),
        )
        return Matching(logits, probability, cosine, seen, candidate)

    def _layer_terms(self, output: QueryOutput, targets: Targets) -> dict[str, Tensor]:
        """Match one layer's prediction and return its unweighted terms."""
        split, masks = self.seen_queries, output.masks.flatten(2)
        matching = self.match(output, targets)
        return self._seen_terms(matching, masks[:, :split], targets) | self._candidate_terms(
            matching, output.embeddings[:, split:], output.quality[:, split:], masks[:, split:], targets
        )

    def _seen_terms(self, matching: Matching, masks: Tensor, targets: Targets) -> dict[str, Tensor]:
        """Cross entropy of all seen queries over the seen classes and no-object; mask terms of the matched ones."""
        logits = matching.logits
        image, query, target = flatten(matching.seen, logits.device)  # (M,) each
        nothing = logits.shape[-1] - 1
        label = torch.full(logits.shape[:2], nothing, dtype=torch.int64, device=logits.device)  # (B, Qs)
        label[image, query] = targets.seen_labels[image, target]
        weight = torch.where(label == nothing, self.config.no_object, 1.0)
        entropy = F.cross_entropy(logits.flatten(0, 1), label.flatten(), reduction="none")  # (B * Qs,)
        normaliser = self._count_matches(image, logits)
        mask, dice = mask_losses(
            masks[image, query], targets.seen_masks[image, target], targets.valid[image], normaliser
        )
        # clamped: with no_object 0 and no target at all, the sum of weights is 0
        total_weight = self.processes.sum(weight.sum()).clamp(min=1)
        return {
            "seen_class": (entropy * weight.flatten()).sum() / total_weight,
            "seen_mask": mask,
            "seen_dice": dice,
        }

    def _candidate_terms(
        self, matching: Matching, embeddings: Tensor, quality: Tensor, masks: Tensor, targets: Targets
    ) -> dict[str, Tensor]:
        """Pull matched candidates to their region; leave the unmatched alone."""
        image, query, target = flatten(matching.candidate, masks.device)  # (M,) each
        normaliser = self._count_matches(image, masks)
        predicted, wanted = embeddings[image, query], targets.region_embeddings[image, target]  # (M, D)
        pool, first = self.processes.gather_rows(wanted)
        nce = nce_loss(predicted, wanted, self.nce_temperature, self.config.nce_alike, pool, first)
        pairs = masks[image, query], targets.region_masks[image, target], targets.valid[image]
        mask, dice = mask_losses(*pairs, normaliser)
        return {
            "candidate_cosine": (1 - (predicted * wanted).sum(1)).sum() / normaliser,
            "candidate_nce": nce / normaliser,
            "candidate_mask": mask,
            "candidate_dice": dice,
            "candidate_quality": quality_loss(quality[image, query], *pairs, normaliser),
        }

    def _count_matches(self, image: Tensor, like: Tensor) -> Tensor:
        """Matched targets of a query group in the whole batch, at least 1."""
        return self.processes.sum(like.new_tensor(float(len(image)))).clamp(min=1)
