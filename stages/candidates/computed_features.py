"""Features for looking at single images: from the cache, or computed where the cache keeps none."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from split_matching.stages.candidates.extractor import Arrays, Extractor
from split_matching.stages.candidates.features import fields
from split_matching.stages.ground.context import Features, StageContext


def open_training_features(ctx: StageContext) -> Features:
    """Return the features of the training images, from the cache where it keeps them."""
    return ctx.inputs["features"].shards("train") if ctx.config.features.persist else ComputedFeatures(ctx)


class ComputedFeatures:
    """Features of images where none are kept: computed when they are asked for, as extraction would.

    For looking at single images; a stage that needs them all is `stages.candidates.one_pass`.

    Args:
        ctx: inputs `dataset`, and `pretrain` where CLIP's weights come from there; reads `clip`, `data`, `features`.
        split: which images.
    """

    def __init__(self, ctx: StageContext, split: str = "train") -> None:
        self.ids = tuple(sorted(str(image["id"]) for image in ctx.inputs["dataset"].json("images.json")[split]))
        self.fields = tuple(fields(ctx.config))
        self._extractor = Extractor(ctx)
        self._last: tuple[str, Arrays] = ("", {})

    def read(self, image_id: str, field: str) -> NDArray[Any]:
        """Return one image's array, see `fields`; those of the image asked for last are kept."""
        if self._last[0] != image_id:
            [arrays] = self._extractor.extract([self._extractor.load(image_id)])
            self._last = (image_id, arrays)
        return self._last[1][field]
