"""A baseline without training: the image is clustered, and every cluster is named by its CLIP embedding.

Source: choice; it shows how far pseudo masks alone go, without a decoder.
"""

from __future__ import annotations

from threading import Lock

import numpy as np
import torch
from torch import Tensor

from split_matching.stages.candidates.clustering import cluster, field_to_cluster
from split_matching.stages.candidates.region_embedding import RegionItem, embed_regions
from split_matching.stages.data.images import read_image
from split_matching.stages.data.source import open_source
from split_matching.stages.ground.context import StageContext
from split_matching.stages.ground.frozen_clip import frozen_clip
from split_matching.stages.ground.region_map import masks_of


def load(ctx: StageContext, text: Tensor) -> NamedClusters:
    """Load the baseline; see `PredictorModule`."""
    return NamedClusters(ctx, text)


class NamedClusters:
    """A `Predictor`.

    Args:
        ctx: context of Evaluate; input `features`; reads `pseudo_masks` and `regions`.
        text: embeddings of all classes, unit length. Shape: (C, D).
    """

    def __init__(self, ctx: StageContext, text: Tensor) -> None:
        self.config, self.clip, self.text = ctx.config, frozen_clip(ctx), text
        self.features, self.reading = ctx.inputs["features"].shards("val"), Lock()  # one thread reads at a time
        self.source = open_source(ctx.config.data, ctx.data_root)
        self.field = field_to_cluster(self.features.fields, ctx.config.pseudo_masks)

    @torch.inference_mode()
    def score(self, image_id: str) -> Tensor:
        """Class scores of an image on the grid of its region map. Shape: (C, H', W')."""
        with self.reading:
            dense, points = self.features.read(image_id, "dense"), self.features.read(image_id, self.field)
        masks = masks_of(cluster(points, self.config.pseudo_masks))
        item = RegionItem(masks, dense.astype(np.float32), read_image(self.source.image_path(image_id)))
        [embeddings] = embed_regions(self.clip, [item], self.config.regions)
        logits = self.clip.logit_scale * embeddings.to(self.text.device) @ self.text.T
        probabilities = logits.softmax(-1)  # (R, C)
        return torch.einsum("rc,rhw->chw", probabilities, torch.from_numpy(masks).to(probabilities))

    def count_cost(self) -> None:
        """Not counted."""
        return
