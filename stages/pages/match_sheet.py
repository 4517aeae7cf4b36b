"""Which query of each group takes which target of one training image, with the trained weights.

The assignment is that of training: the criterion makes it, here it is only shown.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file

from split_matching.errors import DataError
from split_matching.model.criterion import SplitCriterion
from split_matching.stages.candidates.features import training_features
from split_matching.stages.ground.context import StageContext
from split_matching.stages.ground.device import device_of
from split_matching.stages.inference.evaluate import load_decoder
from split_matching.stages.training.batches import CachedImages, collate


@dataclass(frozen=True)
class Target:
    """One annotated class or one pseudo mask, and the query that took it.

    Args:
        short: what is written on it in the picture.
        cells: group, target, query, score (probability of the class, or cosine to the region), IoU.
        taken: whether a query took it.
    """

    short: str
    cells: tuple[str, ...]
    taken: bool


@dataclass(frozen=True)
class Matches:
    """All targets of one image.

    Args:
        targets: those of the seen group, then the candidates.
        wanted: their masks as one label map. Shape: (H', W'), -1 is none.
        drawn: the masks of the queries that took them, likewise.
        notes: what else is to be said.
    """

    targets: list[Target]
    wanted: npt.NDArray[np.int32]
    drawn: npt.NDArray[np.int32]
    notes: tuple[str, ...]


@torch.inference_mode()
def match_image(ctx: StageContext, image_id: str, names: list[str]) -> Matches:
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
    text = load_file(ctx.inputs["text"].file("text.safetensors"))["seen"]
    device = device_of(ctx)
    features = training_features(ctx)
    item = CachedImages(ctx, features).item(image_id)
    model = load_decoder(ctx, features, text.shape[1], device)
    tokens, valid, targets = collate([item], ctx.config.decoder.upsample, device)
    output = model(tokens, valid)[-1]
    criterion = SplitCriterion(ctx.config.train, ctx.config.decoder, text, ctx.config.pseudo_masks.merge).to(device)
    matching = criterion.match(output, targets)
    scores, indices = (matching.probability, matching.cosine), (matching.seen, matching.candidate)
    wanted = [np.asarray(item.seen_masks), np.asarray(item.region_masks)]
    drawn = output.masks[0].sigmoid().cpu().numpy()
    first = [f"{names[label]}" for label in item.seen_labels]
    labels = [first, [f"region {number + 1}" for number in range(len(item.region_masks))]]
    found: list[Target] = []
    chosen = np.zeros((len(first) + len(labels[1]), *drawn.shape[1:]), np.float32)
    for group, (kind, offset) in enumerate((("seen", 0), ("candidate", criterion.seen_queries))):
        queries, taken = (side.tolist() for side in indices[group][0])
        by_target = dict(zip(taken, queries, strict=True))
        for number, (name, mask) in enumerate(zip(labels[group], wanted[group], strict=True)):
            short = name.removeprefix("region ") if group else name
            query = by_target.get(number)
            if query is None:
                found.append(Target(short, (kind, name, "none left", "", ""), False))
                continue
            score = float(scores[group][0, query, number])
            chosen[len(found)] = drawn[offset + query]
            cells = (kind, name, f"{kind} {query}", f"{'cos' if group else 'p'} {score:.2f}")
            found.append(Target(short, (*cells, f"{100 * _iou(drawn[offset + query] > 0.5, mask > 0.5):.0f}"), True))
    free = [len(output.masks[0]) - criterion.seen_queries, criterion.seen_queries]
    notes = (
        f"{free[1]} seen queries, {free[0]} candidate queries; a query takes one target at most",
        "score: probability of the class, or cosine to the region's embedding; IoU: of the masks, in percent",
    )
    return Matches(found, _as_labels(np.concatenate(wanted)), _as_labels(chosen), notes)


def _iou(first: npt.NDArray[np.bool_], second: npt.NDArray[np.bool_]) -> float:
    return float((first & second).sum() / max(1, (first | second).sum()))


def _as_labels(masks: npt.NDArray[np.float32]) -> npt.NDArray[np.int32]:
    """Return the strongest mask of every cell, -1 where none reaches a half. (T, H', W') -> (H', W')."""
    if len(masks) == 0:
        return np.full(masks.shape[1:], -1, np.int32)
    return np.where(masks.max(0) >= 0.5, masks.argmax(0), -1).astype(np.int32)
