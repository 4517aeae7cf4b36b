"""The trained decoder on validation images: on their cached token maps, or on the images themselves."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from threading import Lock
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

from split_matching.configs.schema import decoder_weights_file, evaluates_images
from split_matching.model.query_decoder import QueryDecoder
from split_matching.stages.data.images import read_image
from split_matching.stages.data.source import open_source
from split_matching.stages.ground.context import StageContext
from split_matching.stages.ground.device import device_of
from split_matching.stages.ground.frozen_clip import frozen_clip
from split_matching.stages.inference.complexity import count_complexity
from split_matching.stages.inference.cross_dataset import load_foreign
from split_matching.stages.inference.decoder_scores import DecoderScorer
from split_matching.stages.inference.pixels import PixelScorer, make_pixel_scorer


def load(ctx: StageContext, text: Tensor) -> TrainedDecoder:
    """Load the trained decoder; see `PredictorModule`."""
    return TrainedDecoder(ctx, text)


class TrainedDecoder:
    """A `Predictor`.

    Args:
        ctx: context of Evaluate; inputs `train`, and `features` where it does not read images.
        text: embeddings of all classes, unit length. Shape: (C, D).
    """

    def __init__(self, ctx: StageContext, text: Tensor) -> None:
        self.config, self.clip = ctx.config, frozen_clip(ctx)
        self.source = open_source(ctx.config.data, ctx.data_root)
        foreign = load_foreign(ctx.config, self.clip) if ctx.config.evaluate.trained_on else None
        decoder = load_decoder(ctx, self.clip.width, text.shape[1], device_of(ctx), foreign)
        self.scorer = DecoderScorer(decoder, text, ctx.config, self.clip)
        self.scoring = scoring_lock(device_of(ctx))
        self.pixels: PixelScorer | None = None
        if evaluates_images(ctx.config):
            self.pixels = make_pixel_scorer(ctx, self.scorer.score, decoder.prompts)
        else:
            self.features = ctx.inputs["features"].shards("val")
            self.reading = Lock()  # a ShardSet is not shared between threads

    @torch.inference_mode()
    def score(self, image_id: str) -> Tensor:
        """Class scores of an image. Shape: (C, H', W')."""
        if self.pixels is not None:
            image = self._read(image_id)
            with self.scoring:
                return self.pixels.score(image)
        with self.reading:
            tokens = [self.features.read(image_id, f"tokens_{block}") for block in self.config.features.decoder_blocks]
        maps = [torch.from_numpy(values)[None].to(self.scorer.text.device).float() for values in tokens]
        with self.scoring:
            return self.scorer.score(maps, [lambda: self._read(image_id)])[0]

    def count_cost(self) -> dict[str, int]:
        """Parameters, and operations of one square image or window."""
        side = self.config.features.size
        if self.config.evaluate.mode == "slide":
            side = min(self.config.evaluate.window, self.config.evaluate.short_side or side)
        return count_complexity(self.config, self.clip, side)

    def _read(self, image_id: str) -> NDArray[np.uint8]:
        return read_image(self.source.image_path(image_id))


def scoring_lock(device: str) -> AbstractContextManager[Any]:
    """Return what lets one thread score at a time on a GPU, for its memory; on the CPU all may."""
    return nullcontext() if device == "cpu" else Lock()


def load_decoder(
    ctx: StageContext, width: int, dim: int, device: str, weights: Mapping[str, Tensor] | None = None
) -> QueryDecoder:
    """Build the trained decoder from the artifact `train`, or from weights of another data set.

    Args:
        ctx: input `train`; reads `decoder`, `evaluate.checkpoint` and `features.decoder_blocks`.
        width: of the token maps.
        dim: of CLIP's embeddings.
        device: where to compute.
        weights: in place of the artifact's.
    """
    decoder = QueryDecoder(ctx.config.decoder, ctx.config.features.decoder_blocks, width, dim)
    decoder.load_state_dict(weights or load_file(ctx.inputs["train"].file(decoder_weights_file(ctx.config))))
    return decoder.eval().to(device)
