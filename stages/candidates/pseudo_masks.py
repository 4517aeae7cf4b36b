"""ClusterPseudoMasks: cluster the dense CLIP features of one image into pseudo masks of what is not annotated.

Source: paper (cluster CLIP's dense features into pseudo masks). Nothing about unseen classes enters: the only labels
read are the seen classes' annotated pixels, which are removed from every region. How to cluster is chosen by
`pseudo_masks.method` and `pseudo_masks.engine`, see `stages.candidates.clustering`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from split_matching.cache.shard_format import Field
from split_matching.cache.shard_reader import ShardSet
from split_matching.cache.shard_writer import ShardWriter
from split_matching.configs.settings import PseudoMasksConfig
from split_matching.errors import DataError
from split_matching.stages.candidates.batches import equal_batches
from split_matching.stages.candidates.clustering import ClusteringModule, field_to_cluster, load_clustering
from split_matching.stages.candidates.region_counts import count_regions
from split_matching.stages.data.labels import read_seen_labels
from split_matching.stages.data.resize import resize_share
from split_matching.stages.data.source import open_source
from split_matching.stages.ground.context import Shard, StageContext
from split_matching.stages.ground.device import device_of, images_per_batch, threads_of
from split_matching.stages.ground.ordered_map import ordered_map
from split_matching.stages.ground.region_map import number_by_area

KIND = "pseudo_masks"

Extra = TypeVar("Extra")
"""Whatever travels with an image from step to step."""


def fields(config: Any) -> dict[str, Field]:
    """Schema of a shard: `labels` (H', W') uint8, 0 is no region, 1..R the regions, H' = scale * clustered rows."""
    return {"labels": Field("uint8", lead=2, compress=True)}


def summarise(shards: ShardSet) -> dict[str, Any]:
    """Numbers of the whole split, see `count_regions`."""
    return count_regions(shards)


def run_shard(ctx: StageContext, shard: Shard, writer: ShardWriter) -> None:
    """Cluster and write one shard, in id order; every thread has images of its own."""
    features = ctx.inputs["features"].shards(shard.split)
    field = field_to_cluster(features.fields, ctx.config.pseudo_masks)
    # features are read in this thread: a ShardSet is not shared between threads
    images = ((image_id, features.read(image_id, field), None) for image_id in shard.ids)
    for done, (image_id, labels, _) in enumerate(make_pseudo_masks(ctx, images), 1):
        writer.add(image_id, labels=labels)
        ctx.progress(done, len(shard.ids))


def make_pseudo_masks(
    ctx: StageContext, images: Iterable[tuple[str, NDArray[Any], Extra]]
) -> Iterator[tuple[str, NDArray[np.uint8], Extra]]:
    """Cluster images and keep what is not annotated, in the order given.

    Args:
        ctx: context of the stage.
        images: ids, features to cluster, and whatever travels along; taken a few ahead, in this thread.

    Returns:
        Ids, pseudo masks (H', W'), and what travelled along.
    """
    config: PseudoMasksConfig = ctx.config.pseudo_masks
    source, seen = open_source(ctx.config.data, ctx.data_root), ctx.config.classes.seen_ids
    clustering = load_clustering(config)

    def load(image: tuple[str, NDArray[Any], Extra]) -> Clustered[Extra]:
        image_id, dense, extra = image
        _, annotated = read_seen_labels(source, image_id, seen)
        free = free_cells(annotated, (dense.shape[0], dense.shape[1]), config.tokens)
        labels = np.zeros([config.scale * side for side in free.shape], np.uint8)
        return Clustered(image_id, dense, annotated, free, extra, labels)

    def cluster_one(image: tuple[str, NDArray[Any], Extra]) -> Clustered[Extra]:
        cluster_together([found := load(image)], clustering, config, "cpu")
        return found

    with threadpool_limits(1, "blas"):  # NumPy's products would start threads in every thread
        found = ordered_map(load if clustering.BATCHED else cluster_one, images, threads_of(ctx))
        for image in cluster_batches(ctx, clustering, found) if clustering.BATCHED else found:
            yield image.image_id, remove_annotated(image.labels, image.annotated, config), image.extra


@dataclass
class Clustered(Generic[Extra]):
    """An image on its way through this stage.

    Args:
        image_id: its id.
        dense: features to cluster. Shape: (h, w, D).
        annotated: pixels labelled with a seen class. Shape: (H, W), bool.
        free: which cells are to be clustered. Shape: (h, w), bool.
        extra: what travels along.
        labels: regions, numbered from 1; 0 until it is clustered. Shape: (H', W'), uint8.
    """

    image_id: str
    dense: NDArray[Any]
    annotated: NDArray[np.bool_]
    free: NDArray[np.bool_]
    extra: Extra
    labels: NDArray[np.uint8]


def free_cells(annotated: NDArray[np.bool_], grid: tuple[int, int], tokens: str) -> NDArray[np.bool_]:
    """Which cells are to be clustered: all, or those that are annotated by less than half. (H, W) -> (h, w), bool."""
    if tokens == "all":
        return np.ones(grid, bool)
    return resize_share(annotated.astype(np.float32), *grid) < 0.5


def cluster_together(
    images: Sequence[Clustered[Extra]], clustering: ClusteringModule, config: PseudoMasksConfig, device: str
) -> None:
    """Cluster images of one grid in one call; those without a free cell are left as they are."""
    some = [image for image in images if image.free.any()]
    if not some:
        return
    with _name_images(*(image.image_id for image in some)):
        labels = clustering.cluster([image.dense for image in some], [image.free for image in some], config, device)
    for image, found in zip(some, labels, strict=True):
        image.labels = found


def cluster_batches(
    ctx: StageContext, clustering: ClusteringModule, images: Iterable[Clustered[Extra]]
) -> Iterator[Clustered[Extra]]:
    """Cluster images in the order given; those of equal grid share a call.

    On the CPU every image is clustered alone, see `images_per_batch`.
    """
    device, size = device_of(ctx), images_per_batch(ctx)
    waiting = iter(images)
    while chunk := list(islice(waiting, 4 * size)):
        for places in equal_batches([image.dense.shape for image in chunk], size):
            cluster_together([chunk[place] for place in places], clustering, ctx.config.pseudo_masks, device)
        yield from chunk


def remove_annotated(
    labels: NDArray[np.uint8], annotated: NDArray[np.bool_], config: PseudoMasksConfig
) -> NDArray[np.uint8]:
    """Keep what is not annotated of the regions of one image.

    Args:
        labels: regions, numbered from 1. Shape: (H', W').
        annotated: pixels labelled with a seen class. Shape: (H, W).
        config: see PseudoMasksConfig.

    Returns:
        Regions of at least `min_area` of the image, 0 elsewhere; without those that are annotated for the most part.
        Shape: (H', W'), uint8.
    """
    taken = resize_share(annotated.astype(np.float32), *labels.shape) >= 0.5
    kept = np.where(taken, 0, labels)
    if config.tokens == "all":
        before, after = (np.bincount(values.ravel(), minlength=256) for values in (labels, kept))
        kept[(before - after > config.max_annotated * before)[labels]] = 0
    return number_by_area(kept, config.min_area * labels.size)


@contextmanager
def _name_images(*ids: str) -> Iterator[None]:
    """Say which image an error is about."""
    try:
        yield
    except DataError as error:
        raise DataError(f"image {', '.join(ids)}: {error}") from error
