"""A sheet of which query of each group takes which target of a training image, with the trained weights.

The assignment is that of training: the criterion makes it, here it is only shown.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from split_matching.errors import DataError
from split_matching.model.criterion import Matching, SplitCriterion
from split_matching.stages.candidates.computed_features import open_training_features
from split_matching.stages.data.image_ids import check_ids_exist
from split_matching.stages.data.images import read_image
from split_matching.stages.data.source import open_source
from split_matching.stages.ground.context import StageContext
from split_matching.stages.ground.device import device_of
from split_matching.stages.inference.predictors.decoder import load_decoder
from split_matching.stages.pages.colours import class_colours, region_colours
from split_matching.stages.pages.overlays import NO_LABEL, overlay, scale_to_side
from split_matching.stages.pages.sheets.regions import SeenNames
from split_matching.stages.pages.sheets.sheet import PANEL_SIDE, Sheet, SheetRow, write_names
from split_matching.stages.pages.sheets.sources import States, describe_sources
from split_matching.stages.training.batches import CachedImages, Item, collate


@dataclass(frozen=True)
class Target:
    """One annotated class or one pseudo mask, and the query that took it.

    Args:
        group: "seen" or "candidate".
        name: of the class, or number of the region.
        mask: its coverage. Shape: (H', W'), float32.
        query: number of the query in its group; None where no query was left.
        score: probability of the class, or cosine to the region's embedding.
        drawn: mask of the query, as probabilities; zero without one. Shape: (H', W'), float32.
    """

    group: str
    name: str
    mask: NDArray[np.float32]
    query: int | None
    score: float
    drawn: NDArray[np.float32]

    @property
    def cells(self) -> tuple[str, ...]:
        """Group, target, query, score and IoU of the masks in percent, as text."""
        name = self.name if self.group == "seen" else f"region {self.name}"
        if self.query is None:
            return (self.group, name, "none left", "", "")
        score = f"{'p' if self.group == 'seen' else 'cos'} {self.score:.2f}"
        first, second = self.drawn > 0.5, self.mask > 0.5
        iou = float((first & second).sum() / max(1, (first | second).sum()))
        return (self.group, name, f"{self.group} {self.query}", score, f"{100 * iou:.0f}")


@dataclass(frozen=True)
class Matches:
    """All targets of one image.

    Args:
        targets: those of the seen group, then the candidates.
        shape: of their masks, (H', W').
        queries: how many there are in the seen group, and in the candidate group.
    """

    targets: list[Target]
    shape: tuple[int, int]
    queries: tuple[int, int]


def build_match_sheet(ctx: StageContext, image_id: str, states: States) -> Sheet:
    """Which query of each group took which target, with the trained weights and the costs of training."""
    check_ids_exist([image_id], ctx.inputs["pseudo_masks"].shards("train").ids, "training images")
    matches = match_image(ctx, image_id, SeenNames(ctx.inputs["text"]).names)
    targets = matches.targets
    image = scale_to_side(read_image(open_source(ctx.config.data, ctx.data_root).image_path(image_id)), PANEL_SIDE)
    seen = [target.name for target in targets if target.group == "seen"]
    colours = np.vstack([class_colours(ctx.config.classes.all.names, seen), region_colours(len(targets) - len(seen))])
    words = [target.name for target in targets]
    maps = (
        ("targets", _to_labels([target.mask for target in targets], matches.shape)),
        ("what the matched queries drew", _to_labels([target.drawn for target in targets], matches.shape)),
    )
    panels = [
        (caption, write_names(overlay(image, labels, colours, alpha=0.5), labels, words)) for caption, labels in maps
    ]
    rows = tuple(SheetRow(target.cells, colours[index]) for index, target in enumerate(targets))
    queries = matches.queries
    notes = (
        f"{queries[0]} seen and {queries[1]} candidate queries; a query takes one target at most",
        "score: probability of the class, or cosine to the region's embedding; IoU: of the masks, in percent",
        *describe_sources(ctx.inputs, ("train", "features", "pseudo_masks", "regions", "text"), states),
    )
    taken = sum(target.query is not None for target in targets)
    title = f"{image_id}: {taken} of {len(rows)} targets taken by a query"
    return Sheet(title, (("image", image), *panels), ("group", "target", "query", "score", "IoU"), rows, notes)


@torch.inference_mode()
def match_image(ctx: StageContext, image_id: str, names: Sequence[str]) -> Matches:
    """Match the targets of one training image as a training step would, without mirroring or augmentation.

    Args:
        ctx: inputs `features`, `pseudo_masks`, `regions`, `text`, `train`; `train.features` is "cached" in its config.
        image_id: which image.
        names: of the seen classes.

    Raises:
        DataError: the decoder's features are in no cache.
    """
    if ctx.config.decoder.prompts:
        raise DataError("matches of a decoder with prompts cannot be shown: its features are in no cache")
    known = load_file(ctx.inputs["text"].file("text.safetensors"))
    text, scale = known["seen"], float(known["logit_scale"])
    device = device_of(ctx)
    features = open_training_features(ctx)
    item = CachedImages(ctx, features).item(image_id)
    model = load_decoder(ctx, item.tokens[0].shape[-1], text.shape[1], device)
    batch = collate([item], ctx.config.decoder.upsample, device).to(device)
    outputs = model(batch.tokens, batch.valid).last()
    criterion = SplitCriterion(ctx.config.train, ctx.config.decoder, text, scale).to(device)
    masks = outputs[-1].masks[0].sigmoid().cpu().numpy()
    split = criterion.seen_queries
    found = _list_targets(item, names, criterion.match(outputs, batch.targets), masks, split)
    return Matches(list(found), masks.shape[1:], (split, len(masks) - split))


def _list_targets(
    item: Item, names: Sequence[str], matching: Matching, masks: NDArray[np.float32], split: int
) -> Iterator[Target]:
    """Yield the targets of both groups; `masks` are those of all queries, the first `split` of the seen group."""
    groups = (
        ("seen", [names[label] for label in item.seen_labels], item.seen_masks),
        ("candidate", [str(number + 1) for number in range(len(item.region_masks))], item.region_masks),
    )
    indices, scores = (matching.seen, matching.candidate), (matching.probability, matching.cosine)
    for (group, words, wanted), [pair], score, own in zip(
        groups, indices, scores, (masks[:split], masks[split:]), strict=True
    ):
        queries, taken = (side.tolist() for side in pair)
        query_of = dict(zip(taken, queries, strict=True))
        for number, (name, mask) in enumerate(zip(words, np.asarray(wanted), strict=True)):
            query = query_of.get(number)
            if query is None:
                yield Target(group, name, mask, None, np.nan, np.zeros_like(mask))
            else:
                yield Target(group, name, mask, query, float(score[0, query, number]), own[query])


def _to_labels(masks: Sequence[NDArray[np.float32]], shape: tuple[int, int]) -> NDArray[np.int32]:
    """Return the strongest mask of every cell, NO_LABEL where none reaches a half. (T, H', W') -> (H', W')."""
    if not masks:
        return np.full(shape, NO_LABEL, np.int32)
    stacked = np.stack(masks)
    return np.where(stacked.max(0) >= 0.5, stacked.argmax(0), NO_LABEL).astype(np.int32)
