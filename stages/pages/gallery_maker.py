"""Makes what the gallery keeps of each image: regions at every setting of `merge`, their names, and a thumbnail."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from threadpoolctl import threadpool_limits

from split_matching.stages.candidates.clustering import field_to_cluster
from split_matching.stages.candidates.computed_features import open_training_features
from split_matching.stages.candidates.region_embedding import embed_regions
from split_matching.stages.candidates.regions import ItemLoader
from split_matching.stages.candidates.sweep import Sweep, sweep_image
from split_matching.stages.data.images import read_image
from split_matching.stages.data.labels import read_seen_labels
from split_matching.stages.data.source import open_source
from split_matching.stages.ground.context import StageContext
from split_matching.stages.ground.device import threads_of
from split_matching.stages.ground.frozen_clip import frozen_clip
from split_matching.stages.ground.ordered_map import ordered_map
from split_matching.stages.pages.gallery_image import NAMES, GalleryImage, RegionTable
from split_matching.stages.pages.overlays import scale_to_side
from split_matching.stages.pages.sheets.regions import SeenNames, measure_separation

THUMBNAIL_SIDE = 192
"""Longer side of a thumbnail, pixels (choice: 1,000 images make a page of about 15 MB)."""

_QUALITY = 72  # of the JPEGs


@dataclass(frozen=True)
class Made:
    """One image, finished.

    Args:
        image: what the page keeps.
        sweep: its regions at every setting.
        embeddings: of the regions at the config's setting; without rows when they are not named. Shape: (R, D).
    """

    image: GalleryImage
    sweep: Sweep
    embeddings: NDArray[np.float32]


class GalleryMaker:
    """Makes images of the gallery; every set of shards is opened once.

    At the config's own setting the regions are those of the cache. Regions are embedded as EmbedRegions does.

    Args:
        ctx: see `write_gallery`.
        merges: settings of `merge`.
        own: place of the config's setting among them.
    """

    def __init__(self, ctx: StageContext, merges: list[float], own: int) -> None:
        self.ctx, self.merges, self.own = ctx, merges, own
        self.masks = ctx.inputs["pseudo_masks"].shards("train")
        self.features = open_training_features(ctx)
        self.field = field_to_cluster(self.features.fields, ctx.config.pseudo_masks)
        self.source = open_source(ctx.config.data, ctx.data_root)
        self.names = SeenNames(ctx.inputs["text"]) if "text" in ctx.inputs else None
        self.clip = frozen_clip(ctx) if self.names else None
        self.loader = ItemLoader(ctx, self.clip, self.features.fields) if self.clip else None

    def make(self, ids: Sequence[str]) -> Iterator[Made]:
        """Yield the images of these ids in order; they are clustered in threads."""
        features = ((image_id, self.features.read(image_id, self.field)) for image_id in ids)
        with threadpool_limits(1, "blas"):  # as in ClusterPseudoMasks: products would start threads in every thread
            for image_id, dense, sweep, seen in ordered_map(self._sweep, features, threads_of(self.ctx)):
                yield self._finish(image_id, dense, sweep, seen)

    def _sweep(self, job: tuple[str, NDArray[Any]]) -> tuple[str, NDArray[Any], Sweep, tuple[int, ...]]:
        image_id, dense = job
        config = self.ctx.config
        labels, annotated = read_seen_labels(self.source, image_id, config.classes.seen_ids)
        sweep = sweep_image(dense, labels, annotated, config.pseudo_masks, self.merges)
        return image_id, dense, sweep, tuple(int(value) for value in np.unique(labels[annotated]))

    def _finish(self, image_id: str, dense: NDArray[Any], sweep: Sweep, seen: tuple[int, ...]) -> Made:
        own = self.masks.read(image_id, "labels")
        maps = [own if place == self.own else map_ for place, map_ in enumerate(sweep.maps)]
        table = RegionTable(maps)
        apart = measure_separation(dense, own)
        embeddings = self._embed(image_id, table)
        picture = scale_to_side(read_image(self.source.image_path(image_id)), THUMBNAIL_SIDE)
        image = GalleryImage(
            id=image_id,
            picture=_jpeg(picture),
            size=(picture.shape[1], picture.shape[0]),
            quality=float(np.nanmean(apart)) if np.isfinite(apart).any() else math.nan,
            seen=seen,
            table=table,
            names=self._name(embeddings),
        )
        rows = table.members_at(self.own) if self.names else []
        return Made(image, replace(sweep, maps=maps), embeddings[rows])

    @torch.inference_mode()
    def _embed(self, image_id: str, table: RegionTable) -> NDArray[np.float32]:
        """Embed every distinct region; no rows where they are not named."""
        if self.clip is None or self.loader is None:
            return np.zeros((0, 0), np.float32)
        if not len(table.masks):
            return np.zeros((0, self.clip.dim), np.float32)
        item = self.loader.load(image_id, table.maps[self.own], partial(self.features.read, image_id))
        [rows] = embed_regions(self.clip, [replace(item, masks=table.masks)], self.ctx.config.regions)
        return np.asarray(rows.numpy(), np.float32)

    def _name(self, embeddings: NDArray[np.float32]) -> list[list[tuple[int, int]]]:
        """Nearest seen classes of each row, with cosines in percent."""
        if self.names is None:
            return []
        ranked = self.names.rank(embeddings)
        return [[(index, round(100 * cosine)) for index, cosine in row[:NAMES]] for row in ranked]


def _jpeg(picture: NDArray[np.uint8]) -> str:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=_QUALITY)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
