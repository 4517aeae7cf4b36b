"""Label maps over images: resizing, borders, hatching, and the `data:` URI of the result.

A hatch means "unseen class" wherever it appears (choice), because colour alone does not tell groups apart for every
reader. Equal inputs give equal bytes.
"""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from split_matching.stages.data.resize import resize_labels
from split_matching.stages.pages.colours import LUMA, is_light

NO_LABEL = -1
"""Label of pixels that belong to no class and no region."""


def scale_to_side(image: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Scale an image so that its longer side is `side` pixels, up or down.

    Args:
        image: (H, W, 3) uint8.
        side: length of the longer side, pixels.

    Returns:
        (h, w, 3) uint8, antialiased.
    """
    height, width = image.shape[:2]
    scale = side / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))


def borders(labels: NDArray[Any]) -> NDArray[np.bool_]:
    """Mark the border pixels of a label map: those that differ from their right or lower neighbour.

    Args:
        labels: (H, W) integers.

    Returns:
        (H, W) bool.
    """
    edge = np.zeros(labels.shape, dtype=bool)
    edge[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    edge[:-1, :] |= labels[:-1, :] != labels[1:, :]
    return edge


def hatch(shape: tuple[int, int], period: int = 8, width: int = 2) -> NDArray[np.bool_]:
    """Return a (H, W) bool pattern of diagonal lines, `width` of every `period` pixels."""
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    return np.asarray((rows + columns) % period < width)


def overlay(
    image: NDArray[np.uint8],
    labels: NDArray[Any],
    colours: NDArray[np.uint8],
    *,
    alpha: float = 0.6,
    outline: bool = True,
    hatched: NDArray[np.bool_] | None = None,
    weight: NDArray[Any] | None = None,
) -> NDArray[np.uint8]:
    """Lay a label map over an image in translucent colours, with region borders drawn; labelled pixels lose their hue.

    Args:
        image: (H, W, 3) uint8.
        labels: (h, w) integers: rows of `colours`, or NO_LABEL; stretched over the image when smaller or larger.
        colours: (n, 3) uint8.
        alpha: share of the colour against the image, 0..1.
        outline: draw a dark line along borders.
        hatched: (n,) bool, rows drawn with diagonal lines (unseen classes), white ones, or black ones on light colours.
        weight: (h, w) floats 0..1 that scale `alpha` per pixel; None is 1 everywhere.

    Returns:
        (H, W, 3) uint8.

    Raises:
        ValueError: a label is neither NO_LABEL nor a row of `colours`.
    """
    shape = (image.shape[0], image.shape[1])
    labels = resize_labels(labels, shape)
    inside = labels != NO_LABEL
    # Under a colour the image keeps its brightness only, so that a class looks like its swatch on any object (choice).
    grey = np.broadcast_to((image @ LUMA)[..., None], image.shape)
    ground = np.where(inside[..., None], grey, image)
    painted = _paint(image, labels, colours)
    share = np.full(shape, alpha) if weight is None else alpha * resize_labels(weight, shape)
    result = ground + share[..., None] * (painted - ground)
    if hatched is not None:
        lines = np.zeros(shape, dtype=bool)
        lines[inside] = hatched[labels[inside]]
        lines &= hatch(shape)
        inks = np.array([0 if is_light(colour) else 255 for colour in colours.tolist()])
        ink = np.zeros(shape)
        ink[lines] = inks[labels[lines]]
        result = np.where(lines[..., None], result + share[..., None] * 0.9 * (ink[..., None] - result), result)
    if outline:
        result[borders(labels)] *= 0.25
    return np.asarray(result.round().clip(0, 255), dtype=np.uint8)


def _paint(image: NDArray[np.uint8], labels: NDArray[Any], colours: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Replace the pixels of an image that have a label by their colour."""
    inside = labels != NO_LABEL
    values = labels[inside]
    if values.size and not 0 <= int(values.min()) <= int(values.max()) < len(colours):
        worst = int(values.max()) if int(values.max()) >= len(colours) else int(values.min())
        raise ValueError(f"label {worst} has no colour: there are {len(colours)}, and {NO_LABEL} means none")
    result = image.copy()
    result[inside] = colours[values]
    return result


def jpeg_data_uri(image: NDArray[np.uint8], quality: int = 88) -> str:
    """Return a (H, W, 3) uint8 image as a JPEG `data:` URI with full colour resolution.

    Without `optimize`: with it, Pillow's buffer has a byte for each pixel, and fine structure needs more.
    """
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality, subsampling=0)
    return data_uri("image/jpeg", buffer.getvalue())


def data_uri(kind: str, content: bytes) -> str:
    """Return bytes as a `data:` URI.

    Args:
        kind: the media type, e.g. "image/jpeg".
        content: the bytes.
    """
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
