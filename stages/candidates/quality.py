"""How good clusters and region embeddings are, by seen annotation alone: settings can be chosen by these numbers.

For every seen class annotated in a training image: how well does the best cluster cover it, does CLIP name that cluster
right among the seen names, and does CLIP name the annotated region itself right, embedded in each way?
Clusters are made as for pseudo masks, but annotated pixels stay in them. Nothing about unseen classes is read.

Source: choice; the inductive setting forbids to choose by unseen classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from split_matching.configs.settings import RegionsConfig
from split_matching.errors import DataError
from split_matching.stages.candidates.clustering import cluster, field_to_cluster
from split_matching.stages.candidates.computed_features import open_training_features
from split_matching.stages.candidates.region_embedding import RegionItem, embed_regions
from split_matching.stages.data.image_ids import choose_evenly
from split_matching.stages.data.images import read_image
from split_matching.stages.data.labels import read_seen_labels
from split_matching.stages.data.resize import resize_labels
from split_matching.stages.data.source import open_source
from split_matching.stages.ground.context import StageContext
from split_matching.stages.ground.frozen_clip import frozen_clip

METHODS: tuple[str, ...] = get_args(RegionsConfig.model_fields["method"].annotation)
BEST = "best cluster"


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
    found = _Measurement(ctx)
    ids = choose_evenly(sorted(found.features.ids), count)
    for done, image_id in enumerate(ids, 1):
        ctx.progress(done, len(ids))
        found.add(image_id)
    if not found.overlaps:
        raise DataError(f"none of {len(ids)} training images has an annotated seen class: look at more (--limit)")
    return Quality(
        images=len(ids),
        objects=len(found.overlaps),
        regions=float(np.mean(found.regions)),
        iou=float(np.mean(found.overlaps)),
        named=float(np.mean(found.named[BEST])),
        true_regions={method: float(np.mean(found.named[method])) for method in METHODS},
    )


class _Measurement:
    """What was measured so far, image by image.

    Args:
        ctx: see `measure`.

    Attributes:
        regions: clusters of each image.
        overlaps: IoU of the best cluster with each annotated seen class.
        named: by what was embedded (BEST, or annotated regions by the method), whether CLIP named each right.
    """

    def __init__(self, ctx: StageContext) -> None:
        self.config = ctx.config
        self.features = open_training_features(ctx)
        self.source = open_source(ctx.config.data, ctx.data_root)
        self.clip = frozen_clip(ctx)
        self.text = load_file(ctx.inputs["text"].file("text.safetensors"))["seen"].numpy()  # (C, D)
        self.regions: list[int] = []
        self.overlaps: list[float] = []
        self.named: dict[str, list[bool]] = {name: [] for name in (BEST, *METHODS)}

    def add(self, image_id: str) -> None:
        """Cluster an image and compare with its annotation."""
        field = field_to_cluster(self.features.fields, self.config.pseudo_masks)
        clusters = cluster(self.features.read(image_id, field), self.config.pseudo_masks)
        self.regions.append(int(clusters.max(initial=0)))
        labels, annotated = read_seen_labels(self.source, image_id, self.config.classes.seen_ids)
        present = np.unique(labels[annotated])
        if len(present) == 0:
            return
        truth = labels[None] == present[:, None, None]
        best = [best_overlap(clusters, mask) for mask in truth]
        self.overlaps.extend(iou for _, iou in best)
        image = read_image(self.source.image_path(image_id))
        dense = self.features.read(image_id, "dense").astype(np.float32)
        chosen = RegionItem(np.stack([clusters == region for region, _ in best]), dense, image)
        self.named[BEST].extend(self._name(self.config.regions.method, chosen) == present)
        for method in METHODS:
            self.named[method].extend(self._name(method, RegionItem(truth, dense, image)) == present)

    def _name(self, method: str, item: RegionItem) -> NDArray[np.int64]:
        """Index of the seen class that CLIP names each region, embedded by a method. (R,)."""
        config = self.config.regions.model_copy(update={"method": method})
        [embeddings] = embed_regions(self.clip, [item], config)
        return np.asarray((embeddings.numpy() @ self.text.T).argmax(1))


def best_overlap(labels: NDArray[np.uint8], wanted: NDArray[np.bool_]) -> tuple[int, float]:
    """Return the region that overlaps a mask best, and their IoU.

    Args:
        labels: the region map. Shape: (H', W').
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
