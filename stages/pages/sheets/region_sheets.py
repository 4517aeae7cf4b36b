"""Sheets of an image's pseudo masks, and of what CLIP says of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from split_matching.errors import DataError, format_count
from split_matching.stages.candidates.clustering import field_to_cluster
from split_matching.stages.candidates.computed_features import open_training_features
from split_matching.stages.candidates.region_embedding import crop_regions
from split_matching.stages.data.image_ids import check_ids_exist
from split_matching.stages.data.images import read_image
from split_matching.stages.data.source import open_source
from split_matching.stages.ground.context import StageContext
from split_matching.stages.ground.region_map import masks_of
from split_matching.stages.pages.colours import region_colours
from split_matching.stages.pages.formats import UNDEFINED
from split_matching.stages.pages.overlays import scale_to_side
from split_matching.stages.pages.sheets.regions import (
    SeenNames,
    count_from_zero,
    draw_regions,
    measure_separation,
    open_embeddings,
)
from split_matching.stages.pages.sheets.sheet import PANEL_SIDE, Sheet, SheetRow, format_area, write_names
from split_matching.stages.pages.sheets.sources import States, describe_sources

CROP_SIDE = 112
"""Side of the picture of a region's crop, pixels."""

_GREY = np.array([128, 128, 128], np.uint8)


def build_pseudo_mask_sheet(ctx: StageContext, image_id: str, states: States) -> Sheet:
    """Regions of an image: numbers, areas, how well each is separated, nearest seen classes."""
    image, labels = _read(ctx, image_id)
    features = open_training_features(ctx)
    dense = features.read(image_id, field_to_cluster(features.fields, ctx.config.pseudo_masks))
    apart = measure_separation(dense, labels)
    rows: list[tuple[str, ...]] = [
        (str(number), format_area(labels == number), f"{value:.3f}" if np.isfinite(value) else UNDEFINED)
        for number, value in enumerate(apart, 1)
    ]
    head: tuple[str, ...] = ("region", "area", "apart")
    notes = [f"unassigned (annotated, or too small): {format_area(labels == 0)}"]
    if embeddings := open_embeddings(ctx.inputs):
        names = SeenNames(ctx.inputs["text"])
        ranked = names.rank(embeddings.read(image_id, "embeddings"))
        head = (*head, "nearest seen classes")
        rows = [(*cells, names.format(nearest)) for cells, nearest in zip(rows, ranked, strict=True)]
    else:
        notes.append("no names: there are no region embeddings of exactly these masks; run EmbedRegions")
    quality = f", quality {np.nanmean(apart):.3f}" if np.isfinite(apart).any() else ""
    title = f"{image_id}: {format_count(len(rows), 'pseudo mask')}{quality}"
    notes += describe_sources(ctx.inputs, ("pseudo_masks", "features", "regions", "text"), states)
    return _build_sheet(title, image, labels, head, rows, notes)


def build_region_sheet(ctx: StageContext, image_id: str, states: States) -> Sheet:
    """What CLIP says of every region: the crop, the nearest seen classes, and the region most like it.

    Raises:
        DataError: there are no embeddings of exactly these pseudo masks.
    """
    image, labels = _read(ctx, image_id)
    stored = open_embeddings(ctx.inputs)
    if stored is None:
        raise DataError("the region embeddings are of other pseudo masks: run EmbedRegions again")
    embeddings = stored.read(image_id, "embeddings").astype(np.float32)
    names = SeenNames(ctx.inputs["text"])
    alike = embeddings @ embeddings.T
    np.fill_diagonal(alike, -np.inf)
    rows = []
    for region, ranked in enumerate(names.rank(embeddings)):
        twin = int(alike[region].argmax())
        most = f"{twin + 1} ({alike[region, twin]:.2f})" if len(embeddings) > 1 else UNDEFINED
        rows.append((str(region + 1), format_area(labels == region + 1), names.format(ranked, 5), most))
    crops = crop_regions(image, masks_of(labels), CROP_SIDE, ctx.config.regions.expand, _GREY)
    title = f"{image_id}: {format_count(len(rows), 'region embedding')}, method {ctx.config.regions.method}"
    notes = describe_sources(ctx.inputs, ("regions", "pseudo_masks", "text"), states)
    head = ("region", "area", "nearest seen classes", "most alike")
    return _build_sheet(title, image, labels, head, rows, notes, list(crops))


def _read(ctx: StageContext, image_id: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return a training image (H, W, 3) and its pseudo masks (H', W'), 0 is no region."""
    masks = ctx.inputs["pseudo_masks"].shards("train")
    check_ids_exist([image_id], masks.ids, "training images")
    source = open_source(ctx.config.data, ctx.data_root)
    return read_image(source.image_path(image_id)), masks.read(image_id, "labels")


def _build_sheet(
    title: str,
    image: NDArray[np.uint8],
    labels: NDArray[np.uint8],
    head: tuple[str, ...],
    rows: Sequence[tuple[str, ...]],
    notes: Sequence[str],
    thumbnails: Sequence[NDArray[np.uint8]] = (),
) -> Sheet:
    """Put pictures of an image and its numbered regions beside a table with a row a region."""
    small = scale_to_side(image, PANEL_SIDE)
    colours = region_colours(len(rows))
    numbers = [str(number + 1) for number in range(len(rows))]
    painted = write_names(draw_regions(small, labels, 0.5), count_from_zero(labels), numbers)
    table = tuple(
        SheetRow(cells, colours[index], thumbnails[index] if thumbnails else None) for index, cells in enumerate(rows)
    )
    return Sheet(title, (("image", small), ("pseudo masks", painted)), head, table, tuple(notes))
