"""Evaluate: label every pixel of the validation split and compute the generalised zero-shot metrics.

The first stage that learns the unseen classes' names: they are embedded here, as text, and nowhere else (paper:
inductive). With `data.fold`, the hidden seen classes play the unseen ones, and the true unseen classes stay unknown:
their pixels are ignored.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

from split_matching.cache.shard_format import Field
from split_matching.cache.shard_writer import ShardWriter
from split_matching.configs.class_list import ClassEntry
from split_matching.configs.schema import evaluates_images
from split_matching.errors import ConfigError
from split_matching.model.clip import FrozenClip
from split_matching.model.query_decoder import QueryDecoder
from split_matching.model.votes import label_map
from split_matching.stages.candidates.clustering import field_to_cluster
from split_matching.stages.data.images import IGNORE, read_all_labels, read_image
from split_matching.stages.data.source import Source, open_source
from split_matching.stages.ground.context import Features, StageContext
from split_matching.stages.ground.device import device_of
from split_matching.stages.ground.frozen_clip import frozen_clip
from split_matching.stages.inference.complexity import complexity
from split_matching.stages.inference.metrics import (
    ConfusionMatrix,
    Scores,
    image_scores,
    scores,
    write_metrics,
    write_per_image,
)
from split_matching.stages.inference.pixels import ImageScores
from split_matching.stages.inference.predictors import DecoderPredictor, dense_scores, region_scores

KIND = "predictions"


def evaluated_classes(config: Any) -> tuple[list[ClassEntry], NDArray[np.bool_]]:
    """Classes that compete for a pixel, in order, and which of them were seen in training.

    Returns:
        All classes; with a fold, the seen classes only, the hidden ones counted as unseen.
    """
    classes, fold, folds = config.classes.all, config.data.fold, config.data.folds
    if len(classes.entries) > IGNORE:
        raise ConfigError(f"{len(classes.entries)} classes: predictions are stored as uint8, at most {IGNORE} classes")
    trained = {entry.id for entry in classes.seen(fold, folds)}
    entries = list(classes.entries if fold is None else classes.seen())
    return entries, np.array([entry.id in trained for entry in entries])


def load_decoder(ctx: StageContext, features: Features, dim: int, device: str) -> QueryDecoder:
    """Build the trained decoder from the train artifact."""
    blocks = ctx.config.features.decoder_blocks
    width = features.read(features.ids[0], f"tokens_{blocks[0]}").shape[-1]
    model = QueryDecoder(ctx.config.decoder, width, len(blocks), dim, max(blocks))
    model.load_state_dict(load_file(ctx.inputs["train"].file("weights.safetensors")))
    return model.eval().to(device)


def scorer(ctx: StageContext, features: Features, text: Tensor, seen: Tensor) -> Callable[[str], Tensor]:
    """Return what gives the class scores (C, H', W') of a validation image; text (C, D), seen (C,) bool."""
    config, clip = ctx.config, frozen_clip(ctx)
    source = open_source(config.data, ctx.data_root)
    if config.evaluate.predictor != "decoder":
        return partial(training_free, config, features, source, clip, text)
    model = load_decoder(ctx, features, text.shape[1], device_of(ctx))
    predict = DecoderPredictor(model, text, seen, config, clip)
    if evaluates_images(config):
        return ImageScores(ctx, predict, model.prompts)

    def from_cache(image_id: str) -> Tensor:
        tokens = [features.read(image_id, f"tokens_{block}") for block in config.features.decoder_blocks]
        maps = [torch.from_numpy(t)[None].to(text.device).float() for t in tokens]
        return predict(maps, [lambda: read_image(source.image_path(image_id))])[0]

    return from_cache


@torch.inference_mode()
def training_free(
    config: Any, features: Features, source: Source, clip: FrozenClip, text: Tensor, image_id: str
) -> Tensor:
    """Class scores of the baselines that know the frozen CLIP only, on the token or the cluster grid. (C, h, w)."""
    dense = features.read(image_id, "dense").astype(np.float32)
    temperature = config.decoder.temperature
    if config.evaluate.predictor == "dense":
        return dense_scores(torch.from_numpy(dense).to(text.device), text, temperature)
    points = features.read(image_id, field_to_cluster(features.fields, config.pseudo_masks)).astype(np.float32)
    image = read_image(source.image_path(image_id))
    return region_scores(points, dense, image, clip, text, temperature, config.pseudo_masks, config.regions)


def run(ctx: StageContext) -> dict[str, float | int | str]:
    """Write `metrics.json`, `per_class.csv`, `per_image.csv`, `confusion.npy` and the predictions `val-00000.h5`."""
    config, device = ctx.config, device_of(ctx)
    entries, seen = evaluated_classes(config)
    text = frozen_clip(ctx).encode_classes([entry.name for entry in entries], config.text.templates).to(device)
    features = ctx.inputs["features"].shards("val")
    source = open_source(config.data, ctx.data_root)
    gammas = sorted({config.evaluate.gamma, *config.evaluate.gamma_sweep})
    confusions = {gamma: ConfusionMatrix(len(entries)) for gamma in gammas}
    seen_tensor = torch.from_numpy(seen).to(device)
    score = scorer(ctx, features, text, seen_tensor)
    images: list[tuple[str, float, float]] = []
    with ShardWriter(ctx.out / "val-00000.h5", KIND, {"labels": Field("uint8", lead=2, compress=True)}) as writer:
        for done, image_id in enumerate(features.ids, 1):
            truth = read_all_labels(source, image_id, [entry.id for entry in entries])
            votes = score(image_id)
            for gamma in gammas:
                labels = label_map(votes, seen_tensor, gamma, *truth.shape).to(torch.uint8).cpu().numpy()
                counted = ConfusionMatrix(len(entries))
                counted.update(truth, labels, IGNORE)
                confusions[gamma].merge(counted)
                if gamma == config.evaluate.gamma:
                    writer.add(image_id, labels=labels)
                    images.append((image_id, *image_scores(counted.counts)))
            ctx.progress(done, len(features.ids))
    sweep = [{"gamma": gamma, **_percent(scores(confusions[gamma], seen))} for gamma in gammas]
    write_per_image(ctx.out / "per_image.csv", images)
    side = config.features.size
    if config.evaluate.mode == "slide":
        side = min(config.evaluate.window, config.evaluate.short_side or side)
    cost = complexity(config, frozen_clip(ctx), side) if config.evaluate.predictor == "decoder" else None
    extra = {"gamma": config.evaluate.gamma, "gamma_sweep": sweep, "complexity": cost}
    result = write_metrics(ctx.out, confusions[config.evaluate.gamma], entries, seen, extra)
    return {name: value for name, value in _percent(result).items() if math.isfinite(value)}


def _percent(result: Scores) -> dict[str, float]:
    """The four headline numbers in percent."""
    return {
        "pAcc": 100 * result.pacc,
        "mIoU_seen": 100 * result.miou_seen,
        "mIoU_unseen": 100 * result.miou_unseen,
        "hIoU": 100 * result.hiou,
    }
