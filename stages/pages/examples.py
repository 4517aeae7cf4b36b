"""Validation images for the report: which are shown, and what is drawn of each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from split_matching.errors import format_count
from split_matching.stages.candidates.clustering import cluster, field_to_cluster
from split_matching.stages.data.images import read_image
from split_matching.stages.data.source import Source, open_source
from split_matching.stages.ground.context import Features, StageContext
from split_matching.stages.pages.class_scores import ClassScores, draw_classes, mark_unlabelled, read_truth
from split_matching.stages.pages.colours import region_colours
from split_matching.stages.pages.overlays import NO_LABEL, jpeg_data_uri, overlay, scale_to_side

EXAMPLE_SIDE = 400
"""Longer side of an example picture, pixels (choice: sharp on a phone, and can be enlarged)."""

_MIN_SHARE = 0.005  # predicted classes under this share of an image's labelled pixels get no chip


def choose_examples(images: Sequence[Mapping[str, Any]], unseen: Iterable[int], count: int) -> list[str]:
    """Choose validation images to show: deterministic, spread out, every unseen class first.

    While an unseen class is not shown yet, the image with the most such classes is taken; then images with unseen
    classes, then the others. Among equals the one farthest from all chosen ones in sorted order wins (choice).

    Args:
        images: entries of `val.json`, each with `id` and `classes` (raw ids).
        unseen: raw ids that count as unseen.
        count: how many to choose; fewer when there are not as many.

    Returns:
        Ids in sorted order.
    """
    entries = sorted(images, key=lambda entry: str(entry["id"]))
    members = [set(entry["classes"]) & set(unseen) for entry in entries]
    missing = set().union(*members)
    distance = np.full(len(entries), float(len(entries)))
    free = set(range(len(entries)))
    while free and len(entries) - len(free) < count:
        best = max(free, key=lambda i: (len(members[i] & missing), bool(members[i]), distance[i], -i))
        free.remove(best)
        missing -= members[best]
        distance = np.minimum(distance, np.abs(np.arange(len(entries)) - best))
    return [str(entry["id"]) for index, entry in enumerate(entries) if index not in free]


def draw_examples(ctx: StageContext, rows: Sequence[ClassScores], ids: Sequence[str]) -> list[dict[str, Any]]:
    """Draw validation images, in the given order.

    Args:
        ctx: inputs `evaluate`, and `features` or what it takes to compute them; reads `data` and `pseudo_masks`.
        rows: the classes.
        ids: of the images.

    Returns:
        For each image its `id`, `width` and `height` of the pictures, `pictures`, and `chips` (see `count_classes`).
    """
    if not ids:
        return []
    source, features = open_source(ctx.config.data, ctx.data_root), _open_features(ctx)
    examples = []
    for done, image_id in enumerate(ids):
        ctx.progress(done, len(ids))
        examples.append(_draw_example(ctx, source, features, image_id, rows))
    ctx.progress(len(ids), len(ids))
    return examples


def _open_features(ctx: StageContext) -> Features:
    """Return the features of the validation images, computed where no stage needed them cached."""
    if "features" in ctx.inputs:
        return ctx.inputs["features"].shards("val")
    # by name: the code of a report that finds them does not hold that of CLIP
    module: Any = import_module("split_matching.stages.candidates.computed_features")
    return cast(Features, module.ComputedFeatures(ctx, "val"))


def _draw_example(
    ctx: StageContext, source: Source, features: Features, image_id: str, rows: Sequence[ClassScores]
) -> dict[str, Any]:
    """Draw the four pictures of one validation image and count its pixels."""
    image = scale_to_side(read_image(source.image_path(image_id)), EXAMPLE_SIDE)
    truth = read_truth(source, image_id, rows)
    prediction = mark_unlabelled(ctx.inputs["evaluate"].shards("val").read(image_id, "labels"), rows)
    regions = _cluster_features(ctx, features, image_id)
    number = int(regions.max()) + 1
    labelled = truth != NO_LABEL
    pictures = [
        ("image", image, ""),
        (
            "pseudo mask",
            overlay(image, regions, region_colours(number), alpha=0.5),
            format_count(number, "region"),
        ),
        ("truth", draw_classes(image, truth, rows), ""),
        (
            "prediction",
            draw_classes(image, prediction, rows, scored=labelled),
            f"{100 * (truth == prediction)[labelled].mean():.0f} % right" if labelled.any() else "",
        ),
    ]
    return {
        "id": image_id,
        "width": image.shape[1],
        "height": image.shape[0],
        "pictures": [{"name": name, "uri": jpeg_data_uri(picture), "note": note} for name, picture, note in pictures],
        "chips": count_classes(truth, prediction, rows),
    }


def _cluster_features(ctx: StageContext, features: Features, image_id: str) -> NDArray[np.int32]:
    """Cluster the features of a validation image, which has no pseudo masks. Shape: (h, w), regions from 0."""
    points = features.read(image_id, field_to_cluster(features.fields, ctx.config.pseudo_masks)).astype(np.float32)
    return np.asarray(cluster(points, ctx.config.pseudo_masks)).astype(np.int32) - 1  # 0 is no region


def count_classes(
    truth: NDArray[np.int32], prediction: NDArray[np.int32], rows: Sequence[ClassScores]
) -> list[dict[str, Any]]:
    """Return the classes of one image with their IoU in it, those of the truth first, then wrongly predicted ones.

    Args:
        truth: (H, W) indices into `rows`, or NO_LABEL.
        prediction: likewise.
        rows: the classes.

    Returns:
        For each class its `row`, whether it is `present` in the truth, its `iou` in percent, and `pixels` of the union.
    """
    labelled = truth != NO_LABEL
    true, predicted = truth[labelled], prediction[labelled]
    chips = []
    for index, row in enumerate(rows):
        in_truth, in_prediction = true == index, predicted == index
        present = bool(in_truth.any())
        if present or in_prediction.sum() > _MIN_SHARE * max(1, len(true)):
            union = int((in_truth | in_prediction).sum())
            iou = 100.0 * int((in_truth & in_prediction).sum()) / union
            chips.append({"row": row, "present": present, "iou": iou, "pixels": union})
    return sorted(chips, key=lambda chip: (not chip["present"], -chip["pixels"], chip["row"].id))
