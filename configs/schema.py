"""The whole config: all sections of `configs.settings` together, and the rules over several of them.

A config is built from these models, then from `configs/<dataset>.yaml`, then from `--set-file`, then from `--set`, see
`configs.load`. Unknown keys are errors. The models are frozen: a config never changes after it was read.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from split_matching.configs.data_settings import DataConfig, PretrainConfig, ShapesConfig
from split_matching.configs.runtime_settings import RuntimeConfig
from split_matching.configs.section import Section
from split_matching.configs.settings import (
    ClipConfig,
    DecoderConfig,
    EvaluateConfig,
    FeaturesConfig,
    PseudoMasksConfig,
    RegionsConfig,
    ReportConfig,
    TextConfig,
    TrainConfig,
)


class Config(Section):
    """One resolved config: what to run, on which data set."""

    dataset: str = Field("shapes", description="Name of the config file, and of the folder in the cache.")
    data: DataConfig = DataConfig()
    shapes: ShapesConfig = ShapesConfig()
    clip: ClipConfig = ClipConfig()
    pretrain: PretrainConfig = PretrainConfig()
    text: TextConfig = TextConfig()
    features: FeaturesConfig = FeaturesConfig()
    pseudo_masks: PseudoMasksConfig = PseudoMasksConfig()
    regions: RegionsConfig = RegionsConfig()
    decoder: DecoderConfig = DecoderConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    report: ReportConfig = ReportConfig()
    runtime: RuntimeConfig = RuntimeConfig()

    @model_validator(mode="after")
    def _block_is_cached(self) -> Config:
        block, cached = self.pseudo_masks.block, self.features.decoder_blocks
        if block is not None and block not in cached:
            raise ValueError(f"pseudo_masks.block {block} is not cached: features.decoder_blocks is {list(cached)}")
        return self

    @model_validator(mode="after")
    def _prompts_are_online(self) -> Config:
        if self.decoder.prompts and self.train.features == "cached":
            raise ValueError(
                f"decoder.prompts {self.decoder.prompts} needs train.features online: the cache is the plain CLIP's"
            )
        return self

    @model_validator(mode="after")
    def _training_has_features(self) -> Config:
        if not self.features.persist and self.train.features == "cached":
            raise ValueError(
                "features.persist false keeps no features to train on, but train.features is cached: "
                "set train.features online"
            )
        return self

    @model_validator(mode="after")
    def _folds_train_here(self) -> Config:
        if self.evaluate.trained_on and self.data.fold is not None:
            raise ValueError(
                "data.fold hides classes of a training here, but evaluate.trained_on takes a decoder from elsewhere: "
                "leave one out"
            )
        return self

    @model_validator(mode="after")
    def _best_is_known(self) -> Config:
        if self.evaluate.checkpoint == "best" and not self.train.validate_every:
            raise ValueError("evaluate.checkpoint best needs train.validate_every above 0: set it, or take the last")
        return self

    @model_validator(mode="after")
    def _quality_is_learnt(self) -> Config:
        """Votes are not weighted by a head that has learnt nothing."""
        unlearnt = self.train.loss_quality == 0 or self.train.candidate_weight == 0
        if unlearnt and self.train.matching == "split" and self.evaluate.confidence in ("quality", "both"):
            raise ValueError(
                f"evaluate.confidence {self.evaluate.confidence} needs train.loss_quality and train.candidate_weight "
                "above 0: set evaluate.confidence to none or mask"
            )
        return self


def kept_splits(config: Config) -> tuple[str, ...]:
    """Return the splits whose features are cached: with `features.persist` both, else at most validation images.

    These are kept without it only where evaluation reads features. With it always: they are few, and so the cache is
    the same for every way to evaluate.
    """
    if config.features.persist:
        return ("train", "val")
    return () if config.evaluate.predictor == "decoder" and evaluates_images(config) else ("val",)


def decoder_weights_file(config: Any) -> str:
    """Return the name of the file of weights that the trained decoder is read from.

    Args:
        config: a Config, or a slice with `evaluate.checkpoint`.
    """
    return "best.safetensors" if config.evaluate.checkpoint == "best" else "weights.safetensors"


def evaluates_images(config: Any) -> bool:
    """Whether evaluation reads images instead of cached features: windows and prompted tokens are in no cache.

    Args:
        config: a Config, or a slice with `evaluate` and `decoder`.
    """
    return config.evaluate.mode == "slide" or config.decoder.prompts > 0
