"""Augmentation of the peers, for training on images: random scale, crop, mirroring and photometric distortion.

A `View` says which window of the image is seen, and at what size; images, labels and pseudo masks are cut by the same
view, so they stay aligned. All randomness comes from the generator that is passed in.

Source: the mmsegmentation pipeline of ZegCLIP (Resize with ratio .5 to 2, RandomCrop with cat_max_ratio .75,
RandomFlip, PhotoMetricDistortion), read in its configs; the code of the last was read, what the others do is recalled.
As there, OpenCV scales and recolours; its bytes are the same for any number of threads, and on all x86 CPUs with AVX2.
Unlike there, nothing is padded, the crop is cut out before it is scaled, and saturation and hue are changed in one
conversion.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from split_matching.stages.data.label_shares import present_labels

CROP_TRIES = 10  # mmsegmentation's RandomCrop gives up after as many, and takes the last
LEVELS = np.arange(256, dtype=np.uint8)

cv2.setNumThreads(1)  # images are augmented side by side


@dataclass(frozen=True)
class View:
    """What a training step sees of an image: a window, scaled to a size.

    Args:
        image: height and width of the whole image, pixels.
        top: first row of the window in the image.
        left: first column of the window in the image.
        height: of the window, pixels of the image.
        width: of the window, pixels of the image.
        rows: to which the window is scaled.
        cols: to which the window is scaled.
        mirrored: left to right.
    """

    image: tuple[int, int]
    top: int
    left: int
    height: int
    width: int
    rows: int
    cols: int
    mirrored: bool = False

    @staticmethod
    def whole(image: tuple[int, int], rows: int, cols: int) -> View:
        """Return the view of a whole image of some height and width, scaled to a size."""
        return View(image, 0, 0, *image, rows, cols)

    def window(self, pixels: NDArray[Any]) -> NDArray[Any]:
        """Return the pixels of the image, or of its labels, that are seen. (H, W, ...) -> (height, width, ...)."""
        return pixels[self.top : self.top + self.height, self.left : self.left + self.width]

    def cells(self, shape: tuple[int, ...]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return what is seen of a map (H', W') that covers the whole image, of any resolution.

        Returns:
            The map's row under the centre of each row of the view (rows,), and its column under each column (cols,).
        """
        y = self.top + (np.arange(self.rows) + 0.5) * self.height / self.rows
        x = self.left + (np.arange(self.cols) + 0.5) * self.width / self.cols
        rows, cols = (y * shape[0] / self.image[0]).astype(np.int64), (x * shape[1] / self.image[1]).astype(np.int64)
        return rows, cols[::-1] if self.mirrored else cols


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
        crop: side of the crop of the scaled image, pixels; a shorter side of the image is kept whole.
        cat_max_ratio: largest share of one class among the annotated pixels; a crop with less than two classes is
            drawn again too. The last of ten draws is taken as it is.
        flip: whether to mirror with probability 1/2.

    Returns:
        The view; its window is as much of the image as the crop covers, rounded to pixels of the image.
    """
    mirrored = bool(rng.random() < 0.5) and flip
    size = (min(crop, scaled[0]), min(crop, scaled[1]))
    height, width = (max(1, round(s * have / all_)) for s, have, all_ in zip(size, labels.shape, scaled, strict=True))
    present = present_labels(labels).astype(labels.dtype)
    for _ in range(CROP_TRIES):
        top, left = int(rng.integers(labels.shape[0] - height + 1)), int(rng.integers(labels.shape[1] - width + 1))
        view = View(labels.shape, top, left, height, width, *size, mirrored)
        if size == tuple(scaled) or len(present) < 2:
            break  # no other crop is better
        counts = [np.count_nonzero(view.window(labels) == label) for label in present]  # a tenth of a histogram's time
        if np.count_nonzero(counts) > 1 and max(counts) < cat_max_ratio * sum(counts):
            break
    return view


def take_image(image: NDArray[np.uint8], view: View) -> NDArray[np.uint8]:
    """Crop, scale (bilinear, as mmcv does) and mirror an RGB image. (H, W, 3) -> (rows, cols, 3), uint8."""
    scaled = cv2.resize(view.window(image), (view.cols, view.rows), interpolation=cv2.INTER_LINEAR)
    return np.asarray(cv2.flip(scaled, 1) if view.mirrored else scaled)


def distort(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Change brightness, contrast, saturation and hue at random, each with probability 1/2.

    Args:
        image: RGB. Shape: (H, W, 3), uint8.
        rng: the only source of chance; the same number of draws whatever comes out.

    Returns:
        Shape: (H, W, 3), uint8.
    """
    brightness, contrast, saturation, hue, contrast_first = rng.random(5) < 0.5
    shift, turn, gain, colour = rng.integers(-32, 32), rng.integers(-18, 18), *rng.uniform(0.5, 1.5, 2)
    pixels: NDArray[Any] = image.reshape(1, -1, 3)  # OpenCV rounds the ends of rows in another way: one row
    if brightness:
        pixels = cv2.add(pixels, (int(shift),) * 3 + (0,))  # type: ignore[call-overload]  # cut off at 0 and 255
    if contrast and contrast_first:
        pixels = cv2.LUT(pixels, _gain(gain))
    if saturation or hue:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV)
        if saturation:
            _map_channel(pixels, 1, _gain(colour))
        if hue:
            _map_channel(pixels, 0, ((LEVELS + turn) % 180).astype(np.uint8))  # OpenCV counts hues by 2 degrees
        pixels = cv2.cvtColor(pixels, cv2.COLOR_HSV2RGB)
    if contrast and not contrast_first:
        pixels = cv2.LUT(pixels, _gain(gain))
    return pixels.reshape(image.shape)


def _gain(factor: float) -> NDArray[np.uint8]:
    """What becomes of the levels 0..255 when they are multiplied: bytes, cut off as in mmsegmentation. (256,)."""
    return (LEVELS * np.float32(factor)).clip(0, 255).astype(np.uint8)


def _map_channel(pixels: NDArray[Any], channel: int, table: NDArray[np.uint8]) -> None:
    """Replace the levels of one channel by those of a table, in place."""
    cv2.insertChannel(cv2.LUT(cv2.extractChannel(pixels, channel), table), pixels, channel)
