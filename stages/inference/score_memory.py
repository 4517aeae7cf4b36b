"""How many images may have their class scores in memory at once: of many classes one image can take 240 MB."""

from __future__ import annotations

from typing import Any

MOST_BYTES = 2_000_000_000
"""Of the scores of all images in progress (choice)."""

MOST_PIXELS = 2**20
"""That CLIP sees of a whole image (choice): a side of 1,024."""

FLOAT_BYTES = 4


def score_bytes(config: Any, shape: tuple[int, int], classes: int) -> int:
    """Return the bytes of an image's scores by the decoder, one a class and pixel that CLIP saw; elsewhere 0, or few.

    Of a whole image they are taken to be as many as its own, and a million at most: how large CLIP saw it is not among
    the stage's settings.

    Args:
        config: reads `evaluate`, and `features` where windows slide.
        shape: height and width of the image.
        classes: how many compete.
    """
    if config.evaluate.predictor != "decoder":
        return 0
    if config.evaluate.mode != "slide":
        return FLOAT_BYTES * classes * min(shape[0] * shape[1], MOST_PIXELS)
    side, resize = config.features.size, config.features.resize
    if config.evaluate.short_side is not None:
        side, resize = config.evaluate.short_side, "short"
    scale = side / (min(shape) if resize == "short" else max(shape))
    return round(FLOAT_BYTES * classes * shape[0] * shape[1] * scale**2)
