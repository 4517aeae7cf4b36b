"""A look at what the cache holds about one image: a sheet with pictures, and the same as text.

Names come from the text artifact, so from the seen classes only; predictions alone show unseen names, which the
evaluation wrote beside its numbers. What is shown is what the artifacts hold, stale or not: the notes say which.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file

from split_matching.cache.shard_reader import ShardSet
from split_matching.cache.store import KEY_LENGTH, Artifact
from split_matching.errors import DataError
from split_matching.stages.candidates.features import training_features
from split_matching.stages.candidates.pseudo_masks import clustered_field
from split_matching.stages.candidates.regions import region_crops
from split_matching.stages.data.image_ids import refuse_unknown
from split_matching.stages.data.images import read_all_labels, read_image
from split_matching.stages.data.layouts import open_source
from split_matching.stages.data.resize import resize_share
from split_matching.stages.ground.context import Features, StageContext
from split_matching.stages.ground.region_map import masks_of
from split_matching.stages.pages import figures
from split_matching.stages.pages.class_rows import read_per_class
from split_matching.stages.pages.report import UNDEFINED, format_time
from split_matching.stages.pages.sheet import PANEL_SIDE, Row, Sheet, numbered, write_sheet

NEAREST = 3  # names a region
_NOWHERE = -1
_GREY = np.array([128, 128, 128], np.uint8)

States = Mapping[str, str]
"""How each artifact stands, by slug, e.g. "fresh" or "stale (code model/clip.py)"."""


def inspect_image(ctx: StageContext, kind: str, image_id: str, states: States, path: Path) -> list[str]:
    """Draw one image's sheet into a file.

    Args:
        ctx: inputs are the artifacts that there are; those in `NEEDS[kind]` are.
        kind: "pseudo_masks", "regions", "features", "matches" or "predictions".
        image_id: which image.
        states: how the artifacts stand.
        path: the PNG file to write.

    Returns:
        The sheet as text.

    Raises:
        DataError: there is no such image.
    """
    sheet = SHEETS[kind](ctx, image_id, states)
    write_sheet(sheet, path)
    return sheet.lines()


def provenance(inputs: Mapping[str, Artifact], slugs: Sequence[str], states: States) -> list[str]:
    """Return a line for each artifact that is shown, and of the first its settings and the libraries that made it."""
    shown = [inputs[slug] for slug in slugs if slug in inputs]
    lines = [
        f"{artifact.manifest['stage']} {artifact.key[:KEY_LENGTH]}, {states.get(artifact.slug, 'fresh')}, "
        f"made {format_time(artifact.manifest.get('created'))}"
        for artifact in shown
    ]
    first = shown[0].manifest
    settings = {name: values for name, values in first["config"].items() if name in (slugs[0], "features")}
    versions = ", ".join(f"{name} {version}" for name, version in (first.get("versions") or {}).items())
    return [*lines, *(f"{name}: {_settings(values)}" for name, values in settings.items()), versions]


def _settings(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {json.dumps(value)}" for name, value in values.items())


class Names:
    """Seen class names and their text embeddings, as the text artifact has them.

    Args:
        text: the text artifact.
    """

    def __init__(self, text: Artifact) -> None:
        self.names = [str(entry["name"]) for entry in text.manifest["config"]["classes"]["seen"]]
        self.embeddings = load_file(text.file("text.safetensors"))["seen"].astype(np.float32)

    def nearest(self, embeddings: npt.NDArray[Any]) -> list[list[tuple[int, float]]]:
        """Return for each row of (R, D) all classes by falling cosine: index and similarity."""
        similar = embeddings.astype(np.float32) @ self.embeddings.T
        return [[(int(i), float(row[i])) for i in np.argsort(-row, kind="stable")] for row in similar]

    def words(self, ranked: Sequence[tuple[int, float]], count: int = NEAREST) -> str:
        """Return the nearest names with their similarities as text."""
        return ", ".join(f"{self.names[index]} {similarity:.2f}" for index, similarity in ranked[:count])


def matching_regions(inputs: Mapping[str, Artifact]) -> ShardSet | None:
    """Return the region embeddings, or None where there are none of exactly the pseudo masks at hand."""
    if not {"regions", "text"} <= inputs.keys():
        return None
    if inputs["regions"].manifest["inputs"]["pseudo_masks/train"] != inputs["pseudo_masks"].content_of(("train",)):
        return None
    return inputs["regions"].shards("train")


def region_embeddings(inputs: Mapping[str, Artifact], image_id: str) -> npt.NDArray[Any] | None:
    """Return (R, D) embeddings of an image's pseudo masks; None as `matching_regions`."""
    regions = matching_regions(inputs)
    return regions.read(image_id, "embeddings") if regions else None


def separation(dense: npt.NDArray[Any], labels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """How well the regions of an image stand apart in feature space, without any label.

    For every token the cosine to the mean of its own region less that to the most similar other region's mean; the mean
    over the tokens of each region.

    Args:
        dense: the clustered features. Shape: (h, w, D).
        labels: 0 is no region. Shape: (H', W'), uint8.

    Returns:
        One number a region, 0 to 2 where clustering did well; NaN for a region that is smaller than a token, and for
        all when there is only one. Shape: (R,).

    Source: choice; the simplified silhouette with cosines.
    """
    shares = resize_share(masks_of(labels).astype(np.float32), *dense.shape[:2]).reshape(-1, dense[..., 0].size)
    result = np.full(len(shares), np.nan)
    owner = np.where(shares.max(0, initial=0) >= 0.5, shares.argmax(0), _NOWHERE) if len(shares) else np.array([])
    present = np.array([region for region in range(len(shares)) if (owner == region).any()], np.intp)
    if len(present) < 2:
        return result
    points = _unit(dense.reshape(-1, dense.shape[-1]).astype(np.float32))
    cosines = points @ _unit(np.stack([points[owner == region].mean(0) for region in present])).T
    for column, region in enumerate(present):
        own = cosines[owner == region]
        result[region] = (own[:, column] - np.delete(own, column, 1).max(1)).mean()
    return result


def _unit(rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12)


def region_labels(labels: npt.NDArray[np.uint8]) -> npt.NDArray[np.int32]:
    """Return a label map that counts regions from 0, -1 outside of them."""
    return labels.astype(np.int32) - 1


def region_colours(count: int) -> figures.Bytes:
    """Return a colour for each region; region numbers follow areas, so colours mean nothing."""
    return figures.palette(count)


# --- pseudo masks and regions -----------------------------------------------------------------------------------------


def pseudo_mask_sheet(ctx: StageContext, image_id: str, states: States) -> Sheet:
    """Regions of an image: numbers, areas, how well each stands apart, nearest seen classes."""
    masks = ctx.inputs["pseudo_masks"].shards("train")
    refuse_unknown([image_id], masks.ids, "training images")
    labels = masks.read(image_id, "labels")
    features = training_features(ctx)
    dense = features.read(image_id, clustered_field(features.fields, ctx.config.pseudo_masks))
    apart = separation(dense, labels)
    embeddings = region_embeddings(ctx.inputs, image_id)
    names = Names(ctx.inputs["text"]) if embeddings is not None else None
    ranked = names.nearest(embeddings) if names is not None and embeddings is not None else []
    rows = [
        (
            str(number),
            _share(labels == number),
            _decimal(apart[number - 1]),
            *((names.words(ranked[number - 1]),) if names else ()),
        )
        for number in range(1, len(apart) + 1)
    ]
    notes = [f"unassigned (annotated, or too small): {_share(labels == 0)}"]
    if names is None:
        notes.append("no names: there are no region embeddings of exactly these masks; run EmbedRegions")
    quality = f", quality {np.nanmean(apart):.3f}" if np.isfinite(apart).any() else ""
    title = f"{image_id}: {len(rows)} pseudo mask{'s' * (len(rows) != 1)}{quality}"
    slugs = ("pseudo_masks", "features", "regions", "text")
    return _region_sheet(
        ctx,
        image_id,
        title,
        labels,
        ("region", "area", "apart", *(("nearest seen classes",) if names else ())),
        rows,
        [],
        [
            *notes,
            *provenance(ctx.inputs, slugs, states),
        ],
    )


def regions_sheet(ctx: StageContext, image_id: str, states: States) -> Sheet:
    """What CLIP says of every region: the crop, the nearest seen classes, and the region most like it."""
    masks = ctx.inputs["pseudo_masks"].shards("train")
    refuse_unknown([image_id], masks.ids, "training images")
    labels = masks.read(image_id, "labels")
    embeddings = region_embeddings(ctx.inputs, image_id)
    if embeddings is None:
        raise DataError("the region embeddings are of other pseudo masks: run EmbedRegions again")
    names = Names(ctx.inputs["text"])
    ranked = names.nearest(embeddings)
    alike = embeddings.astype(np.float32) @ embeddings.astype(np.float32).T
    np.fill_diagonal(alike, -np.inf)
    rows = []
    for region in range(len(embeddings)):
        twin = int(alike[region].argmax())
        most = f"{twin + 1} ({alike[region, twin]:.2f})" if len(embeddings) > 1 else UNDEFINED
        rows.append((str(region + 1), _share(labels == region + 1), names.words(ranked[region], 5), most))
    image = read_image(_source(ctx).image_path(image_id))
    crops = region_crops(image, masks_of(labels), 112, ctx.config.regions.expand, _GREY)
    title = f"{image_id}: {len(rows)} region embedding{'s' * (len(rows) != 1)}, method {ctx.config.regions.method}"
    notes = provenance(ctx.inputs, ("regions", "pseudo_masks", "text"), states)
    head = ("region", "area", "nearest seen classes", "most alike")
    return _region_sheet(ctx, image_id, title, labels, head, rows, list(crops), notes)


def _region_sheet(
    ctx: StageContext,
    image_id: str,
    title: str,
    labels: npt.NDArray[np.uint8],
    head: tuple[str, ...],
    rows: Sequence[tuple[str, ...]],
    thumbnails: Sequence[figures.Bytes],
    notes: Sequence[str],
) -> Sheet:
    image = figures.resize_image(read_image(_source(ctx).image_path(image_id)), PANEL_SIDE)
    colours = region_colours(len(rows))
    numbers = [str(number + 1) for number in range(len(rows))]
    painted = figures.overlay(image, region_labels(labels), colours, alpha=0.5, none=_NOWHERE)
    painted = numbered(painted, region_labels(labels), numbers)
    table = tuple(
        Row(cells, colours[index], thumbnails[index] if thumbnails else None) for index, cells in enumerate(rows)
    )
    return Sheet(title, (("image", image), ("pseudo masks", painted)), head, table, tuple(notes))


# --- features ---------------------------------------------------------------------------------------------------------


def principal_colours(dense: npt.NDArray[Any]) -> tuple[figures.Bytes, float]:
    """The first three principal components of an image's dense features as red, green and blue.

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


def features_sheet(ctx: StageContext, image_id: str, states: States) -> Sheet:
    """Dense features of an image: principal components as colours, and the nearest seen class of every token."""
    splits: dict[str, Features] = {"train": training_features(ctx)}
    if "val" in ctx.inputs["features"].manifest["content"]:  # a trial may have no validation image
        splits["val"] = ctx.inputs["features"].shards("val")
    refuse_unknown([image_id], [i for features in splits.values() for i in features.ids], "images")
    split = next(name for name, features in splits.items() if image_id in features.ids)
    dense = splits[split].read(image_id, "dense").astype(np.float32)
    image = figures.resize_image(read_image(_source(ctx).image_path(image_id)), PANEL_SIDE)
    colours, share = principal_colours(dense)
    enlarged = figures.resize_labels(np.arange(dense[..., 0].size).reshape(dense.shape[:2]), image.shape[:2])
    panels = [("image", image), ("principal components", colours.reshape(-1, 3)[enlarged])]
    rows: list[Row] = []
    if "text" in ctx.inputs:
        names = Names(ctx.inputs["text"])
        best = (dense @ names.embeddings.T).argmax(-1)
        palette = figures.palette(len(names.names))
        panels.append(("nearest seen class of every token", figures.overlay(image, best, palette, none=_NOWHERE)))
        counts = np.bincount(best.ravel(), minlength=len(names.names))
        order = [int(i) for i in np.argsort(-counts, kind="stable") if counts[i]]
        rows = [Row((names.names[i], f"{counts[i] / best.size:.1%}"), palette[i]) for i in order]
    height, width, dim = dense.shape
    notes = [
        f"{height} x {width} tokens of width {dim}; three components hold {share:.0%} of the variance",
        f"cosine between two tokens: {_mean_cosine(dense):.2f} on average",
    ]
    slugs = ("features", "text")
    notes += provenance(ctx.inputs, slugs, states)
    title = f"{image_id}: dense features ({split})"
    return Sheet(title, tuple(panels), ("nearest seen class", "tokens"), tuple(rows), tuple(notes))


def _mean_cosine(dense: npt.NDArray[np.float32]) -> float:
    points = _unit(dense.reshape(-1, dense.shape[-1]))
    return float((points.mean(0) ** 2).sum())


# --- predictions ------------------------------------------------------------------------------------------------------


def predictions_sheet(ctx: StageContext, image_id: str, states: States) -> Sheet:
    """Truth and prediction of a validation image, with the IoU of every class in it."""
    predictions = ctx.inputs["evaluate"].shards("val")
    refuse_unknown([image_id], predictions.ids, "validation images")
    classes = read_per_class(ctx.inputs["evaluate"].file("per_class.csv"))
    truth = read_all_labels(_source(ctx), image_id, [row.id for row in classes]).astype(np.int32)
    truth[truth >= len(classes)] = _NOWHERE
    predicted = predictions.read(image_id, "labels").astype(np.int32)
    image = read_image(_source(ctx).image_path(image_id))
    colours = figures.palette(len(classes))
    unseen = np.array([row.group == "unseen" for row in classes])
    small = figures.resize_image(image, PANEL_SIDE)
    panels = [
        (name, figures.overlay(small, labels, colours, none=_NOWHERE, hatched=unseen))
        for name, labels in (("truth", truth), ("prediction", predicted))
    ]
    labelled = truth != _NOWHERE
    rows = []
    for index, row in enumerate(classes):
        true, here = truth == index, (predicted == index) & labelled
        if true.any() or here.any():
            iou = (true & here).sum() / (true | here).sum()
            cells = (row.name, row.group, _share(true), _share(predicted == index), f"{100 * iou:.1f}")
            rows.append((int((true | here).sum()), Row(cells, colours[index], hatched=bool(unseen[index]))))
    rows.sort(key=lambda pair: -pair[0])
    right = f", {(truth == predicted)[labelled].mean():.0%} of the labelled pixels right" if labelled.any() else ""
    return Sheet(
        f"{image_id}: prediction{right}",
        (("image", small), *panels),
        ("class", "group", "truth", "prediction", "IoU"),
        tuple(row for _, row in rows),
        tuple(provenance(ctx.inputs, ("evaluate", "train", "features"), states)),
    )


# --- matches ----------------------------------------------------------------------------------------------------------


def matches_sheet(ctx: StageContext, image_id: str, states: States) -> Sheet:
    """Which query of each group took which target, with the trained weights and the costs of training."""
    from split_matching.stages.pages.match_sheet import match_image

    refuse_unknown([image_id], ctx.inputs["pseudo_masks"].shards("train").ids, "training images")
    names = Names(ctx.inputs["text"])
    found = match_image(ctx, image_id, names.names)
    image = figures.resize_image(read_image(_source(ctx).image_path(image_id)), PANEL_SIDE)
    colours = figures.palette(len(found.targets))
    words = [target.short for target in found.targets]
    panels = [
        (name, numbered(figures.overlay(image, labels, colours, alpha=0.5, none=_NOWHERE), labels, words))
        for name, labels in (("targets", found.wanted), ("what the matched queries drew", found.drawn))
    ]
    rows = tuple(Row(target.cells, colours[index]) for index, target in enumerate(found.targets))
    slugs = ("train", "features", "pseudo_masks", "regions", "text")
    notes = (*found.notes, *provenance(ctx.inputs, slugs, states))
    taken = sum(target.taken for target in found.targets)
    title = f"{image_id}: {taken} of {len(rows)} targets taken by a query"
    return Sheet(title, (("image", image), *panels), ("group", "target", "query", "score", "IoU"), rows, notes)


def _source(ctx: StageContext) -> Any:
    return open_source(ctx.config.data, ctx.data_root)


def _share(mask: npt.NDArray[np.bool_]) -> str:
    return f"{mask.mean():.1%}"


def _decimal(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else UNDEFINED


SHEETS: Mapping[str, Callable[[StageContext, str, States], Sheet]] = {
    "pseudo_masks": pseudo_mask_sheet,
    "regions": regions_sheet,
    "features": features_sheet,
    "matches": matches_sheet,
    "predictions": predictions_sheet,
}
