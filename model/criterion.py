"""Losses of split matching: turns the matcher's indices into numbers.

Source: paper (separate objectives; unmatched candidates are not pushed to "no object"); terms and weights are choices.
Void pixels are unannotated here, and so negatives of the seen masks: void also outlines unseen objects, and telling it
apart would leak them (choice). No term couples the two groups, and each has its own normaliser. An image without seen
classes, without candidates, or without either contributes zeros, never NaN.

All layers are matched and scored together: their queries stand side by side, which is how the decoder makes them. So a
batch has one transfer of costs, and as many matches in each layer; every term is then also the mean over layers.

Shapes: B images, L layers, Qs seen queries and Qc candidate queries a layer, T targets, P mask cells, M matches of all
layers, C classes, D CLIP width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from split_matching.configs.settings import DecoderConfig, TrainConfig
from split_matching.model.losses import mask_losses, nce_loss, quality_loss
from split_matching.model.matcher import CostWeights, Indices, SplitMatcher, flatten
from split_matching.model.process_group import ProcessGroup
from split_matching.model.query_decoder import LayerOutputs, draw
from split_matching.model.transfer import send


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
    """The assignments of a batch at L layers, and what they were made from; queries of a group layer after layer.

    Args:
        logits: class logits of the seen group, no-object last. Shape: (B, L * Qs, C + 1).
        probability: of every seen target's class. Shape: (B, L * Qs, T).
        cosine: of every candidate to every region embedding. Shape: (B, L * Qc, R).
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
        self.seen_queries = decoder.seen_group(train.matching)
        self.matcher = SplitMatcher(*_cost_weights(train))
        self.text: Tensor
        self.register_buffer("text", text)

    def forward(self, outputs: LayerOutputs, targets: Targets) -> dict[str, Tensor]:
        """Loss terms of a batch, averaged over the supervised layers.

        Args:
            outputs: predictions of every layer, last one last.
            targets: what to match them to.

        Returns:
            Unweighted terms: seen_class, seen_mask, seen_dice, candidate_cosine, candidate_nce, candidate_mask,
            candidate_dice, candidate_quality, and `loss`, their weighted sum. Scalars.

        Raises:
            NotFiniteError: predictions are not finite.
        """
        layers = outputs if self.config.deep_supervision else outputs.last()
        matching = self.match(layers, targets)
        split, queries = self.seen_queries, layers.kernels.shape[2]
        seen_matches = _Matches.of(matching.seen, layers, 0, split)
        candidate_matches = _Matches.of(matching.candidate, layers, split, queries - split)
        terms = self._seen_terms(matching, seen_matches, layers, targets)
        terms |= self._candidate_terms(candidate_matches, layers, targets)
        terms |= self._mask_terms(seen_matches, candidate_matches, layers, targets)
        config = self.config
        seen = config.loss_class * terms["seen_class"] + config.loss_mask * terms["seen_mask"]
        candidate = config.loss_cosine * terms["candidate_cosine"] + config.loss_nce * terms["candidate_nce"]
        candidate = candidate + config.loss_mask * terms["candidate_mask"] + config.loss_dice * terms["candidate_dice"]
        candidate = candidate + config.loss_quality * terms["candidate_quality"]
        terms["loss"] = seen + config.loss_dice * terms["seen_dice"] + config.candidate_weight * candidate
        return terms

    def match(self, outputs: LayerOutputs, targets: Targets) -> Matching:
        """Solve both assignments of every layer.

        Raises:
            NotFiniteError: predictions are not finite.
        """
        split, layers = self.seen_queries, len(outputs)
        embeddings = outputs.embeddings  # (B, L, Q, D)
        logits = self.temperature * embeddings[:, :, :split] @ self.text.T  # (B, L, Qs, C)
        logits = torch.cat([logits, outputs.no_object[:, :, :split, None]], 3).flatten(1, 2)  # (B, L * Qs, C + 1)
        with torch.no_grad():
            labels = targets.seen_labels[:, None].expand(-1, logits.shape[1], -1)
            probability = logits.softmax(-1).gather(2, labels)  # (B, L * Qs, T)
            cosine = embeddings[:, :, split:].flatten(1, 2) @ targets.region_embeddings.mT  # (B, L * Qc, R)
            masks = draw(outputs.kernels.flatten(1, 2), outputs.pixels).flatten(2).unflatten(1, (layers, -1))
            seen, candidate = self.matcher(
                (probability, masks[:, :, :split], targets.seen_masks),
                (cosine, masks[:, :, split:], targets.region_masks),
                targets.valid,
                (targets.seen_counts, targets.region_counts),
                layers,
            )
        return Matching(logits, probability, cosine, seen, candidate)

    def _seen_terms(
        self, matching: Matching, matches: _Matches, outputs: LayerOutputs, targets: Targets
    ) -> dict[str, Tensor]:
        """Cross entropy of all seen queries over the seen classes and no-object."""
        nothing = matching.logits.shape[-1] - 1
        label = torch.full(outputs.quality.shape, nothing, dtype=torch.int64, device=matches.row.device)  # (B, L, Q)
        label.view(-1)[matches.row] = targets.seen_labels[matches.image, matches.target]
        label = label[:, :, : self.seen_queries].flatten()
        weight = torch.where(label == nothing, self.config.no_object, 1.0)
        entropy = F.cross_entropy(matching.logits.flatten(0, 1), label, reduction="none")  # (B * L * Qs,)
        # clamped: with no_object 0 and no target at all, the sum of weights is 0
        return {"seen_class": (entropy * weight).sum() / self.processes.sum(weight.sum()).clamp(min=len(outputs))}

    def _candidate_terms(self, matches: _Matches, outputs: LayerOutputs, targets: Targets) -> dict[str, Tensor]:
        """Pull the embeddings of matched candidates to their region; leave the unmatched alone."""
        layers, width = len(outputs), outputs.embeddings.shape[-1]
        # regions are negatives of each other in the same layer only, and all layers have as many matches
        shape = (layers, len(matches.row) // layers, width)
        predicted = outputs.embeddings.flatten(0, 2).index_select(0, matches.row).view(shape)  # (L, M / L, D)
        wanted = targets.region_embeddings[matches.image, matches.target].view(shape)
        pool, first = self.processes.gather_rows(wanted.transpose(0, 1).flatten(1))
        pool = pool.unflatten(1, (layers, width)).transpose(0, 1)  # (L, N, D)
        nce = nce_loss(predicted, wanted, self.nce_temperature, self.config.nce_alike, pool, first)
        normaliser = self._count(matches, layers)
        return {
            "candidate_cosine": (1 - (predicted * wanted).sum(-1)).sum() / normaliser,
            "candidate_nce": nce / normaliser,
        }

    def _mask_terms(
        self, seen: _Matches, candidate: _Matches, outputs: LayerOutputs, targets: Targets
    ) -> dict[str, Tensor]:
        """Mask terms of the matched queries of both groups: only their masks are drawn with a gradient."""
        pairs = _Pairs.of(seen, candidate, outputs, targets)
        kernels = outputs.kernels.flatten(0, 2)[pairs.row]  # (B, n, f)
        masks = draw(kernels, outputs.pixels).flatten(2)  # (B, n, P)
        images = torch.arange(len(masks), device=masks.device)[:, None]
        wanted = torch.cat([targets.seen_masks, targets.region_masks], 1)[images, pairs.target]  # (B, n, P)
        valid = targets.valid[:, None]
        bce, dice = mask_losses(masks, wanted, valid)  # (B, n) each
        quality = quality_loss(outputs.quality.flatten()[pairs.row], masks, wanted, valid)
        seen_share = pairs.seen / self._count(seen, len(outputs))
        candidate_share = pairs.candidate / self._count(candidate, len(outputs))
        return {
            "seen_mask": (bce * seen_share).sum(),
            "seen_dice": (dice * seen_share).sum(),
            "candidate_mask": (bce * candidate_share).sum(),
            "candidate_dice": (dice * candidate_share).sum(),
            "candidate_quality": (quality * candidate_share).sum(),
        }

    def _count(self, matches: _Matches, layers: int) -> Tensor:
        """Matched targets of a query group in the whole batch, all layers; at least one a layer."""
        return self.processes.sum(torch.full((), float(len(matches.row)), device=matches.row.device)).clamp(min=layers)


def _cost_weights(train: TrainConfig) -> tuple[CostWeights, CostWeights]:
    """Of the seen and of the candidate group."""
    own = (train.cost_candidate_mask, train.cost_candidate_dice)
    masks = (train.cost_mask, train.cost_dice)
    candidate = (shared if weight is None else weight for weight, shared in zip(own, masks, strict=True))
    return CostWeights(train.cost_class, *masks), CostWeights(train.cost_cosine, *candidate)


@dataclass(frozen=True)
class _Matches:
    """The matches of a group in one row, layer after layer.

    Args:
        table: image, target, and row of the query among the B * L * Q of the batch. Shape: (3, M), on the CPU.
        image: Shape: (M,), int64.
        target: Shape: (M,), int64.
        row: Shape: (M,), int64.
    """

    table: NDArray[np.int64]
    image: Tensor
    target: Tensor
    row: Tensor

    @staticmethod
    def of(indices: Indices, outputs: LayerOutputs, first: int, count: int) -> _Matches:
        """Of the group whose `count` queries a layer begin with query `first`."""
        layers, queries = outputs.kernels.shape[1:3]
        image, query, target = flatten(indices)
        layer, own = np.divmod(query, max(1, count))
        table = np.stack([image, target, (image * layers + layer) * queries + first + own])
        table = table[:, np.argsort(layer, kind="stable")]
        return _Matches(table, *send(table, outputs.kernels.device))


@dataclass(frozen=True)
class _Pairs:
    """The matches of both groups by image, padded to n an image.

    Args:
        row: of the query among the B * L * Q of the batch. Shape: (B, n), int64.
        target: among the seen targets and the regions behind them. Shape: (B, n), int64.
        seen: 1 where the pair is of the seen group. Shape: (B, n), int64.
        candidate: 1 where it is of the candidate group; padding is of none. Shape: (B, n), int64.
    """

    row: Tensor
    target: Tensor
    seen: Tensor
    candidate: Tensor

    @staticmethod
    def of(seen: _Matches, candidate: _Matches, outputs: LayerOutputs, targets: Targets) -> _Pairs:
        """Put the matches of both groups together."""
        image, target, row = np.concatenate([seen.table, candidate.table], 1)
        group = np.repeat([0, 1], [seen.table.shape[1], candidate.table.shape[1]])
        target = target + group * targets.seen_masks.shape[1]
        order = np.argsort(image, kind="stable")
        counts = np.bincount(image, minlength=len(outputs.kernels))
        slot = np.arange(len(image)) - np.repeat(counts.cumsum() - counts, counts)
        table = np.zeros((4, len(counts), counts.max()), np.int64)
        table[:, image[order], slot] = np.stack([row, target, group == 0, group == 1])[:, order]
        return _Pairs(*send(table, outputs.kernels.device))
