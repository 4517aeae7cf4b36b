"""TrainDecoder with `train.features=online`: on augmented images, whose token maps are computed in the loop.

The training is that of `train`; only the token maps come from elsewhere: from the frozen CLIP, on the batch of images.
"""

from __future__ import annotations

from split_matching.model.token_encoder import TokenEncoder
from split_matching.stages.ground.context import StageContext
from split_matching.stages.ground.frozen_clip import frozen_clip
from split_matching.stages.training.augmented import AugmentedImages
from split_matching.stages.training.train import train_decoder


def run(ctx: StageContext) -> dict[str, float | int | str]:
    """Train on augmented images; see `train.train_decoder`."""
    clip = frozen_clip(ctx)
    encoder = TokenEncoder(clip, ctx.config.features.decoder_blocks)
    return train_decoder(ctx, AugmentedImages(ctx), clip.width, encoder)
