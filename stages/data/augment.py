"""Augmentation of the peers, for training on images: random scale, crop, mirroring and photometric distortion.

A `View` says which part of the scaled image is seen; images, labels and pseudo masks are cut by the same view, so they
stay aligned. All randomness comes from the generator that is passed in.

Source: the mmsegmentation pipeline of ZegCLIP (Resize with ratio .5 to 2, RandomCrop with cat_max_ratio .75,
RandomFlip, PhotoMetricDistortion), read in its configs; what each step does is recalled. Unlike there, nothing is
padded here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from split_matching.stages.data.label_shares import present_labels
from split_matching.stages.data.resize import LabelMap, nearest_cells

CROP_TRIES = 10  # mmsegmentation's RandomCrop gives up after as many, and takes the last


@dataclass(frozen=True)
class View:
    """What a training step sees of an image.

    Args:
        height: of the whole scaled image, pixels.
        width: of the whole scaled image, pixels.
        top: first row of the crop in the scaled image.
        left: first column of the crop in the scaled image.
        rows: of the crop, pixels.
        cols: of the crop, pixels.
        mirrored: left to right, after cropping.
    """

    height: int
    width: int
    top: int
    left: int
    rows: int
    cols: int
    mirrored: bool = False

    @staticmethod
    def whole(height: int, width: int) -> View:
        """Return the view of a whole image, scaled to a size in pixels."""
        return View(height, width, 0, 0, height, width)


def draw_view(
    rng: np.random.Generator,
    labels: NDArray[Any],
    scaled: tuple[int, int],
    crop: int,
    cat_max_ratio: float,
    flip: bool,
) -> View:
    """Draw where to crop, until no class has too large a share of the annotated pixels, and whether to mirror.

    Args:
        rng: the only source of chance.
        labels: index of the seen class, or the largest value of the type: unannotated. Nothing else is known of
            unseen classes, so they cannot steer the crop. Shape: (H, W), uint8 or uint16.
        scaled: height and width of the scaled image, pixels.
        crop: side of the crop, pixels; a shorter side of the image is kept whole.
        cat_max_ratio: largest share of one class among the annotated pixels; a crop with less than two classes is
            drawn again too. The last of ten draws is taken as it is.
        flip: whether to mirror with probability 1/2.

    Returns:
        The view.
    """
    mirrored = bool(rng.random() < 0.5) and flip
    rows, cols = min(crop, scaled[0]), min(crop, scaled[1])
    present = present_labels(labels).astype(labels.dtype)
    for _ in range(CROP_TRIES):
        top, left = int(rng.integers(scaled[0] - rows + 1)), int(rng.integers(scaled[1] - cols + 1))
        view = View(*scaled, top, left, rows, cols, mirrored)
        if (rows, cols) == tuple(scaled):
            break  # there is no other crop to draw
        if len(present) < 2:
            continue  # no crop has two classes; what is drawn stays the same
        cut = take_labels(labels, replace(view, mirrored=False))
        counts = [np.count_nonzero(cut == label) for label in present]  # a tenth of a histogram's time
        if np.count_nonzero(counts) > 1 and max(counts) < cat_max_ratio * sum(counts):
            break
    return view


def take_image(image: NDArray[np.uint8], view: View) -> NDArray[np.uint8]:
    """Scale (bicubic, as CLIP does), crop and mirror an RGB image. (H, W, 3) -> (rows, cols, 3), uint8."""
    height, width = image.shape[:2]
    y, x = height / view.height, width / view.width
    # only the crop is resampled; the same pixels as scaling everything first
    box = (
        view.left * x,
        view.top * y,
        min((view.left + view.cols) * x, width),
        min((view.top + view.rows) * y, height),
    )
    size = (view.cols, view.rows)
    if box != (0, 0, *size) or (width, height) != size:
        image = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC, box=box))
    return np.ascontiguousarray(image[:, ::-1] if view.mirrored else image)


def take_labels(labels: LabelMap, view: View) -> LabelMap:
    """Scale (nearest), crop and mirror a label map that covers the whole image, of any resolution.

    Args:
        labels: Shape: (H', W'), integers.
        view: what to see.

    Returns:
        Shape: (rows, cols), the same type.
    """
    rows = nearest_cells(labels.shape[0], view.height, view.top, view.top + view.rows)
    cols = nearest_cells(labels.shape[1], view.width, view.left, view.left + view.cols)
    taken = labels.take(rows, 0).take(cols, 1)  # a fifth of the time of indexing both at once
    return np.ascontiguousarray(taken[:, ::-1] if view.mirrored else taken)  # type: ignore[return-value]


def distort(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Change brightness, contrast, saturation and hue at random, each with probability 1/2.

    Args:
        image: RGB. Shape: (H, W, 3), uint8.
        rng: the only source of chance; the same number of draws whatever comes out.

    Returns:
        Shape: (H, W, 3), uint8.
    """
    brightness, contrast, saturation, hue = rng.random(4) < 0.5
    contrast_first = rng.random() < 0.5
    shift, gain, colour, turn = rng.uniform(-32, 32), *rng.uniform(0.5, 1.5, 2), rng.uniform(-0.1, 0.1)
    steps = [
        (brightness, lambda levels: levels + np.float32(shift)),
        (contrast and contrast_first, lambda levels: levels * np.float32(gain)),
    ]
    picture = _map_levels(Image.fromarray(image), [_compose(steps)] * 3)
    if saturation or hue:
        turned = np.arange(256, dtype=np.uint8) + np.uint8(round(turn * 256) % 256 if hue else 0)  # wraps round
        gained = _compose([(saturation, lambda levels: levels * np.float32(colour))])
        picture = _map_levels(picture.convert("HSV"), [turned, gained, _compose([])]).convert("RGB")
    last = [(contrast and not contrast_first, lambda levels: levels * np.float32(gain))]
    return np.array(_map_levels(picture, [_compose(last)] * 3))


def _compose(steps: Sequence[tuple[bool, Callable[[NDArray[np.float32]], NDArray[np.float32]]]]) -> NDArray[np.uint8]:
    """What becomes of each of the 256 levels of a channel by the steps that are taken; bytes after each. (256,)."""
    levels = np.arange(256, dtype=np.uint8)
    for taken, step in steps:
        if taken:
            levels = step(levels.astype(np.float32)).clip(0, 255).astype(np.uint8)
    return levels


def _map_levels(image: Image.Image, tables: Sequence[NDArray[np.uint8]]) -> Image.Image:
    """Replace the levels of each channel by those of its table."""
    return image.point(np.concatenate(tables).tolist())
