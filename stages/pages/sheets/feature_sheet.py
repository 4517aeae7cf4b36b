"""A sheet of an image's dense features: principal components, and the nearest seen class of every token."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from split_matching.stages.candidates.clustering.steps import to_unit_length
from split_matching.stages.candidates.computed_features import ComputedFeatures, open_training_features
from split_matching.stages.data.image_ids import check_ids_exist
from split_matching.stages.data.images import read_image
from split_matching.stages.data.resize import resize_labels
from split_matching.stages.data.source import open_source
from split_matching.stages.ground.context import Features, StageContext
from split_matching.stages.pages.colours import class_colours
from split_matching.stages.pages.overlays import overlay, scale_to_side
from split_matching.stages.pages.sheets.regions import SeenNames
from split_matching.stages.pages.sheets.sheet import PANEL_SIDE, Sheet, SheetRow
from split_matching.stages.pages.sheets.sources import States, describe_sources


def build_feature_sheet(ctx: StageContext, image_id: str, states: States) -> Sheet:
    """Dense features of an image: principal components as colours, and the nearest seen class of every token."""
    split, features = _find_features(ctx, image_id)
    dense = features.read(image_id, "dense").astype(np.float32)
    image = scale_to_side(read_image(open_source(ctx.config.data, ctx.data_root).image_path(image_id)), PANEL_SIDE)
    components, share = principal_colours(dense)
    enlarged = resize_labels(np.arange(dense[..., 0].size).reshape(dense.shape[:2]), image.shape[:2])
    panels = [("image", image), ("principal components", components.reshape(-1, 3)[enlarged])]
    rows: list[SheetRow] = []
    if "text" in ctx.inputs:
        names = SeenNames(ctx.inputs["text"])
        best = (dense @ names.embeddings.T).argmax(-1)
        colours = class_colours(ctx.config.classes.all.names, names.names)
        panels.append(("nearest seen class of every token", overlay(image, best, colours)))
        counts = np.bincount(best.ravel(), minlength=len(names.names))
        order = [int(i) for i in np.argsort(-counts, kind="stable") if counts[i]]
        rows = [SheetRow((names.names[i], f"{counts[i] / best.size:.1%}"), colours[i]) for i in order]
    height, width, dim = dense.shape
    notes = [
        f"{height} x {width} tokens of width {dim}; three components hold {share:.0%} of the variance",
        f"cosine between two tokens: {_mean_cosine(dense):.2f} on average",
        *describe_sources(ctx.inputs, ("features", "text"), states),
    ]
    title = f"{image_id}: dense features ({split})"
    return Sheet(title, tuple(panels), ("nearest seen class", "tokens"), tuple(rows), tuple(notes))


def _find_features(ctx: StageContext, image_id: str) -> tuple[str, Features]:
    """Return the split that holds an image, and the features of that split.

    Raises:
        DataError: there is no such image.
    """
    splits: dict[str, Features] = {"train": open_training_features(ctx)}
    if "features" not in ctx.inputs:
        splits["val"] = ComputedFeatures(ctx, "val")
    elif "val" in ctx.inputs["features"].manifest["content"]:  # a trial may have no validation image
        splits["val"] = ctx.inputs["features"].shards("val")
    check_ids_exist([image_id], [known for features in splits.values() for known in features.ids], "images")
    return next((split, features) for split, features in splits.items() if image_id in features.ids)


def principal_colours(dense: NDArray[np.floating]) -> tuple[NDArray[np.uint8], float]:
    """Return the first three principal components of an image's dense features as red, green and blue.

    Args:
        dense: Shape: (h, w, D).

    Returns:
        (h, w, 3) uint8, and the share of the variance that the three hold.
    """
    points = dense.reshape(-1, dense.shape[-1]).astype(np.float64)
    points = points - points.mean(0)
    _, sizes, axes = np.linalg.svd(points, full_matrices=False)
    axes = axes * np.where(axes[np.arange(len(axes)), np.abs(axes).argmax(1)] < 0, -1, 1)[:, None]  # a fixed sign
    parts = np.zeros((len(points), 3))
    parts[:, : min(3, len(axes))] = points @ axes[:3].T
    low, high = np.percentile(parts, [2, 98], axis=0)
    scaled = ((parts - low) / np.maximum(high - low, 1e-9)).clip(0, 1) * 255
    total = float((sizes**2).sum())
    return scaled.round().astype(np.uint8).reshape(*dense.shape[:2], 3), float((sizes[:3] ** 2).sum()) / (total or 1.0)


def _mean_cosine(dense: NDArray[np.float32]) -> float:
    points = to_unit_length(dense.reshape(-1, dense.shape[-1]))
    return float((points.mean(0) ** 2).sum())
