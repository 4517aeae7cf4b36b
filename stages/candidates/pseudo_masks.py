"""ClusterPseudoMasks: cluster the dense CLIP features of one image into pseudo masks of what is not annotated.

Source: paper (cluster CLIP's dense features into pseudo masks); multi-scale seeds and merging above lambda after
CLIP-ZSS (arXiv 2310.02296); linkage and upsampling are choices. Nothing about unseen classes enters: the only labels
read are the seen classes' annotated pixels, which are removed from every region.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from split_matching.cache.shard_reader import Field, ShardWriter
from split_matching.configs.schema import PseudoMasksConfig
from split_matching.errors import DataError
from split_matching.stages.candidates import clusters, torch_clusters
from split_matching.stages.data.images import read_seen_labels
from split_matching.stages.data.resize import resize_share
from split_matching.stages.data.source import open_source
from split_matching.stages.ground.context import Shard, StageContext
from split_matching.stages.ground.device import device_of
from split_matching.stages.ground.ordered_map import ordered_map

KIND = "pseudo_masks"


def fields(config: Any) -> dict[str, Field]:
    """Schema of a shard: `labels` (H', W') uint8, 0 is no region, 1..R the regions, H' = scale * clustered rows."""
    return {"labels": Field("uint8", lead=2, compress=True)}


def clustered_field(features: Collection[str], config: PseudoMasksConfig) -> str:
    """Name of the features that are clustered: `stitched` where there is one, else `dense` or a token map."""
    if "stitched" in features:  # made of the same block: see stages.candidates.features
        return "stitched"
    return "dense" if config.block is None else f"tokens_{config.block}"


def cluster(dense: NDArray[Any], config: PseudoMasksConfig) -> NDArray[np.uint8]:
    """Partition one image by the config's engine, on the CPU. (h, w, D) -> (scale * h, scale * w), regions from 1."""
    if config.engine == "torch":
        return torch_clusters.partitions([dense], config, "cpu")[0]
    return clusters.partition(dense.astype(np.float32), config)


def unannotated(
    labels: NDArray[np.uint8], annotated: NDArray[np.bool_], config: PseudoMasksConfig
) -> NDArray[np.uint8]:
    """Keep of the regions of one image what is not annotated.

    Args:
        labels: the partition, regions from 1. Shape: (H', W').
        annotated: pixels labelled with a seen class. Shape: (H, W).
        config: see PseudoMasksConfig.

    Returns:
        Regions of at least `min_area` of the image, 0 elsewhere. Shape: (H', W'), uint8.
    """
    share = resize_share(annotated.astype(np.float32), *labels.shape)
    return clusters.number_by_area(np.where(share >= 0.5, 0, labels), config.min_area * labels.size)


def pseudo_masks(dense: NDArray[Any], annotated: NDArray[np.bool_], config: PseudoMasksConfig) -> NDArray[np.uint8]:
    """Cluster one image and keep what is not annotated: (h, w, D) and (H, W) -> (scale * h, scale * w), uint8."""
    return unannotated(cluster(dense, config), annotated, config)


Along = TypeVar("Along")


def clustered(
    ctx: StageContext, images: Iterable[tuple[str, NDArray[Any], Along]]
) -> Iterator[tuple[str, NDArray[np.uint8], Along]]:
    """Ids and pseudo masks of images, in the order given.

    Args:
        ctx: context of the stage.
        images: ids, features to cluster, and whatever is to come along; taken a few ahead, in this thread.
    """
    config: PseudoMasksConfig = ctx.config.pseudo_masks
    source, seen = open_source(ctx.config.data, ctx.data_root), ctx.config.classes.seen_ids

    def made(job: tuple[str, NDArray[Any], Along]) -> tuple[str, NDArray[np.uint8], Along]:
        image_id, values, along = job
        _, annotated = read_seen_labels(source, image_id, seen)
        with _of_image(image_id):
            labels = values if config.engine == "torch" else cluster(values, config)
            return image_id, unannotated(labels, annotated, config), along

    if config.engine == "torch":
        images = _partitioned(ctx, images)
    with threadpool_limits(1, "blas"):  # NumPy's products would start threads in every thread
        yield from ordered_map(made, images, torch.get_num_threads())


def _partitioned(
    ctx: StageContext, images: Iterable[tuple[str, NDArray[Any], Along]]
) -> Iterator[tuple[str, NDArray[np.uint8], Along]]:
    """Put partitions in place of features, those of equal grids made together; on the CPU each alone, as everywhere."""
    device = device_of(ctx)
    batch = 1 if device == "cpu" else ctx.runtime.batch
    rest = iter(images)
    while chunk := list(islice(rest, 4 * batch)):
        groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for place, (_, dense, _) in enumerate(chunk):
            groups[dense.shape].append(place)
        labels: dict[int, NDArray[np.uint8]] = {}
        for members in groups.values():
            for places in (members[first : first + batch] for first in range(0, len(members), batch)):
                with _of_image(", ".join(chunk[place][0] for place in places)):
                    made = torch_clusters.partitions([chunk[p][1] for p in places], ctx.config.pseudo_masks, device)
                labels.update(zip(places, made, strict=True))
        for place, (image_id, _, along) in enumerate(chunk):
            yield image_id, labels[place], along


@contextmanager
def _of_image(image_id: str) -> Iterator[None]:
    """Say of which image an error is."""
    try:
        yield
    except DataError as error:
        raise DataError(f"image {image_id}: {error}") from error


def run_shard(ctx: StageContext, shard: Shard, writer: ShardWriter) -> None:
    """Cluster and write one shard, in id order; every thread has images of its own."""
    features = ctx.inputs["features"].shards(shard.split)
    field = clustered_field(features.fields, ctx.config.pseudo_masks)
    # features are read in this thread: a ShardSet is not shared between threads
    images = ((image_id, features.read(image_id, field), None) for image_id in shard.ids)
    for done, (image_id, labels, _) in enumerate(clustered(ctx, images), 1):
        writer.add(image_id, labels=labels)
        ctx.progress(done, len(shard.ids))
