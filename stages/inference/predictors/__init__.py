"""What labels the validation images: one file for each value of `evaluate.predictor`, found by that name.

It is imported by name, so that the code of Evaluate holds the chosen predictor and no other one.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Protocol, cast

from split_matching.stages.ground.context import StageContext

if TYPE_CHECKING:  # `plan` and `status` do without torch
    from torch import Tensor


class Predictor(Protocol):
    """Class scores of validation images, from the trained decoder or from a baseline."""

    def score(self, image_id: str) -> Tensor:
        """Class scores of an image on a grid of its own; called from several threads. Shape: (C, H', W'), float32."""
        ...

    def count_cost(self) -> dict[str, int] | None:
        """Parameters and operations, see `stages.inference.complexity`; None where they were not counted."""
        ...


class PredictorModule(Protocol):
    """A file of this folder."""

    def load(self, ctx: StageContext, text: Tensor) -> Predictor:
        """Load the predictor.

        Args:
            ctx: context of Evaluate.
            text: embeddings of all classes that compete, unit length. Shape: (C, D).
        """
        ...


def predictor_module(name: str) -> str:
    """Return the dotted name of the module of a predictor; imports nothing."""
    return f"{__name__}.{name}"


def load_predictor(ctx: StageContext, text: Tensor) -> Predictor:
    """Load the predictor that the config names, see `PredictorModule.load`."""
    module = cast(PredictorModule, import_module(predictor_module(ctx.config.evaluate.predictor)))
    return module.load(ctx, text)
