"""The stages as luigi tasks. What each reads and builds on is in `plan`, how it runs in `worker`."""

from __future__ import annotations

from split_matching.pipeline.run.worker import StageTask


class RenderShapes(StageTask):
    """Renders the embedded data set as image and mask files in the VOC layout."""


class PretrainClip(StageTask):
    """Trains the small CLIP of the embedded data set on captions."""


class PrepareDataset(StageTask):
    """Checks every image and mask, and writes the lists that all other stages go by."""


class EmbedText(StageTask):
    """Embeds the names of the seen classes with CLIP."""


class ExtractFeatures(StageTask):
    """Extracts dense CLIP features, shard by shard."""


class ClusterPseudoMasks(StageTask):
    """Clusters dense features into pseudo masks, shard by shard."""


class EmbedRegions(StageTask):
    """Embeds each pseudo mask with CLIP, shard by shard."""


class TrainDecoder(StageTask):
    """Trains the query decoder by split matching; goes on where it was interrupted."""


class Evaluate(StageTask):
    """Predicts the validation images and measures the predictions."""


class Report(StageTask):
    """Writes the HTML page."""
