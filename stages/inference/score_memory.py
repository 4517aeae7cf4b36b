"""How many images may have their class scores in memory at once: with sliding windows one image can take 240 MB."""

from __future__ import annotations

from typing import Any

MOST_BYTES = 2_000_000_000
"""Of the scores of all images in progress (choice)."""

FLOAT_BYTES = 4


def score_bytes(config: Any, shape: tuple[int, int], classes: int) -> int:
    """Return the bytes of an image's class scores where windows slide; elsewhere 0: the mask grid is small.

    Args:
        config: reads `evaluate`, and `features` where windows slide.
        shape: height and width of the image.
        classes: how many compete.
    """
    if config.evaluate.predictor != "decoder" or config.evaluate.mode != "slide":
        return 0
    side, resize = config.features.size, config.features.resize
    if config.evaluate.short_side is not None:
        side, resize = config.evaluate.short_side, "short"
    scale = side / (min(shape) if resize == "short" else max(shape))
    return round(FLOAT_BYTES * classes * shape[0] * shape[1] * scale**2)
