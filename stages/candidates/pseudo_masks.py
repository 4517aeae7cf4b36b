"""ClusterPseudoMasks: cluster the dense CLIP features of one image into pseudo masks of what is not annotated.

Source: paper (cluster CLIP's dense features into pseudo masks). Nothing about unseen classes enters: the only labels
read are the seen classes' annotated pixels, which are removed from every region. How to cluster is chosen by
`pseudo_masks.method` and `pseudo_masks.engine`, see `stages.candidates.clustering`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from split_matching.cache.shard_format import Field
from split_matching.cache.shard_writer import ShardWriter
from split_matching.configs.settings import PseudoMasksConfig
from split_matching.errors import DataError
from split_matching.stages.candidates.batches import equal_batches
from split_matching.stages.candidates.clustering import ClusteringModule, field_to_cluster, load_clustering
from split_matching.stages.data.images import read_seen_labels
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

    def finish(image: tuple[str, NDArray[Any], Extra]) -> tuple[str, NDArray[np.uint8], Extra]:
        image_id, values, extra = image
        _, annotated = read_seen_labels(source, image_id, seen)
        with _name_images(image_id):
            labels = values if clustering.BATCHED else clustering.cluster([values], config, "cpu")[0]
        return image_id, remove_annotated(labels, annotated, config), extra

    if clustering.BATCHED:
        images = cluster_batches(ctx, clustering, images)
    with threadpool_limits(1, "blas"):  # NumPy's products would start threads in every thread
        yield from ordered_map(finish, images, threads_of(ctx))


def cluster_batches(
    ctx: StageContext, clustering: ClusteringModule, images: Iterable[tuple[str, NDArray[Any], Extra]]
) -> Iterator[tuple[str, NDArray[np.uint8], Extra]]:
    """Put regions in the place of features, in the order given; images of equal grid share a call.

    On the CPU every image is clustered alone, see `images_per_batch`.
    """
    device, size = device_of(ctx), images_per_batch(ctx)
    waiting = iter(images)
    while chunk := list(islice(waiting, 4 * size)):
        labels: dict[int, NDArray[np.uint8]] = {}
        for places in equal_batches([dense.shape for _, dense, _ in chunk], size):
            with _name_images(*(chunk[place][0] for place in places)):
                found = clustering.cluster([chunk[place][1] for place in places], ctx.config.pseudo_masks, device)
            labels.update(zip(places, found, strict=True))
        for place, (image_id, _, extra) in enumerate(chunk):
            yield image_id, labels[place], extra


def remove_annotated(
    labels: NDArray[np.uint8], annotated: NDArray[np.bool_], config: PseudoMasksConfig
) -> NDArray[np.uint8]:
    """Keep what is not annotated of the regions of one image.

    Args:
        labels: regions, numbered from 1. Shape: (H', W').
        annotated: pixels labelled with a seen class. Shape: (H, W).
        config: see PseudoMasksConfig.

    Returns:
        Regions of at least `min_area` of the image, 0 elsewhere. Shape: (H', W'), uint8.
    """
    share = resize_share(annotated.astype(np.float32), *labels.shape)
    return number_by_area(np.where(share >= 0.5, 0, labels), config.min_area * labels.size)


@contextmanager
def _name_images(*ids: str) -> Iterator[None]:
    """Say which image an error is about."""
    try:
        yield
    except DataError as error:
        raise DataError(f"image {', '.join(ids)}: {error}") from error
