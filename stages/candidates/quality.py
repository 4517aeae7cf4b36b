"""How good clusters and region embeddings are, by seen annotation alone: what their settings can be chosen by.

Of every seen class annotated in a training image it is asked how well the best cluster covers it, whether CLIP names
that cluster right among the seen names, and whether CLIP names the annotated region itself right, embedded in each way.
Clusters are made as for pseudo masks, but annotated pixels stay in them. Nothing about unseen classes is read.

Source: choice; the inductive setting forbids to choose by unseen classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file

from split_matching.configs.schema import RegionsConfig
from split_matching.errors import DataError
from split_matching.stages.candidates.clustering import cluster, field_to_cluster
from split_matching.stages.candidates.features import training_features
from split_matching.stages.candidates.regions import RegionItem, embed_regions
from split_matching.stages.data.image_ids import choose_evenly
from split_matching.stages.data.images import read_image, read_seen_labels
from split_matching.stages.data.resize import resize_labels
from split_matching.stages.data.source import open_source
from split_matching.stages.ground.context import StageContext
from split_matching.stages.ground.frozen_clip import frozen_clip

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Masks = npt.NDArray[np.bool_]
Ids = npt.NDArray[Any]
METHODS: tuple[str, ...] = get_args(RegionsConfig.model_fields["method"].annotation)


@dataclass(frozen=True)
class Quality:
    """Means over the annotated seen classes of some training images.

    Args:
        images: how many images were looked at.
        objects: how many seen classes were annotated in them, summed over images.
        regions: clusters an image.
        iou: of the best cluster with each annotated class, 0 to 1.
        named: share of those clusters that CLIP names right among the seen names, embedded by `regions.method`.
        true_regions: by method of embedding, the share of the annotated regions themselves that CLIP names right.
    """

    images: int
    objects: int
    regions: float
    iou: float
    named: float
    true_regions: dict[str, float]

    def lines(self, method: str) -> list[str]:
        """Return the numbers as text; `method` is that of the config."""
        return [
            f"{self.images} training images with {self.objects} annotated seen classes; unseen ones are not looked at",
            "",
            f"clusters an image                               {self.regions:6.1f}",
            f"IoU of the best cluster with an annotated class {100 * self.iou:6.1f} %",
            f"best cluster named right ({method})".ljust(48) + f"{100 * self.named:6.1f} %",
            *(
                f"annotated region named right ({name})".ljust(48) + f"{100 * share:6.1f} %"
                for name, share in self.true_regions.items()
            ),
        ]


def best_overlap(labels: Bytes, wanted: Masks) -> tuple[int, float]:
    """Return the region that overlaps a mask best, and their IoU.

    Args:
        labels: regions 1..R, 0 is none. Shape: (H', W').
        wanted: the mask. Shape: (H, W); regions are compared at its resolution, each pixel in the cell of its centre.

    Returns:
        The region's number and the IoU; (0, 0.0) without a region.
    """
    fine = resize_labels(labels, (wanted.shape[0], wanted.shape[1]))
    count = int(labels.max(initial=0)) + 1
    inside = np.bincount(fine[wanted], minlength=count).astype(np.float64)
    union = np.bincount(fine.ravel(), minlength=count) + wanted.sum() - inside
    iou = inside / np.maximum(union, 1)
    iou[0] = 0.0
    best = int(iou.argmax())
    return best, float(iou[best])


class _Naming:
    """Whether CLIP names masks of an image right among the seen names; counts of all images, by a name for the kind.

    Args:
        ctx: see `measure`.
    """

    def __init__(self, ctx: StageContext) -> None:
        self.clip, self.config = frozen_clip(ctx), ctx.config.regions
        self.text = load_file(ctx.inputs["text"].file("text.safetensors"))["seen"].numpy()  # (C, D)
        self.right: dict[str, list[bool]] = {}

    def add(self, kind: str, method: str, image: Bytes, dense: Floats, masks: Masks, labels: Ids) -> None:
        """Embed masks (T, H', W') of one image by a method and compare their names with the labels (T,)."""
        config = self.config.model_copy(update={"method": method})
        [embedded] = embed_regions(self.clip, [RegionItem(masks, dense, image)], config)
        self.right.setdefault(kind, []).extend((embedded.numpy() @ self.text.T).argmax(1) == labels)

    def share(self, kind: str) -> float:
        """Share named right."""
        return float(np.mean(self.right[kind]))


@torch.inference_mode()
def measure(ctx: StageContext, count: int) -> Quality:
    """Measure the clusters and the region embeddings of a config.

    Args:
        ctx: inputs `features` and `text`; reads `data`, `pseudo_masks`, `regions`, `clip` and the seen classes.
        count: most training images to look at.

    Returns:
        See Quality.

    Raises:
        DataError: no image has an annotated seen class.
    """
    features = training_features(ctx)
    field = field_to_cluster(features.fields, ctx.config.pseudo_masks)
    source, naming = open_source(ctx.config.data, ctx.data_root), _Naming(ctx)
    ids = choose_evenly(sorted(features.ids), count)
    overlaps: list[float] = []
    regions: list[int] = []
    for done, image_id in enumerate(ids, 1):
        ctx.progress(done, len(ids))
        clusters = cluster(features.read(image_id, field), ctx.config.pseudo_masks)
        regions.append(int(clusters.max(initial=0)))
        labels, annotated = read_seen_labels(source, image_id, ctx.config.classes.seen_ids)
        present = np.unique(labels[annotated])
        if len(present) == 0:
            continue
        truth = labels[None] == present[:, None, None]
        found = [best_overlap(clusters, mask) for mask in truth]
        overlaps.extend(iou for _, iou in found)
        image, dense = read_image(source.image_path(image_id)), features.read(image_id, "dense").astype(np.float32)
        best = np.stack([clusters == region for region, _ in found])
        naming.add("best cluster", ctx.config.regions.method, image, dense, best, present)
        for method in METHODS:
            naming.add(method, method, image, dense, truth, present)
    if not overlaps:
        raise DataError(f"none of {len(ids)} training images has an annotated seen class: look at more (--limit)")
    return Quality(
        images=len(ids),
        objects=len(overlaps),
        regions=float(np.mean(regions)),
        iou=float(np.mean(overlaps)),
        named=naming.share("best cluster"),
        true_regions={method: naming.share(method) for method in METHODS},
    )
