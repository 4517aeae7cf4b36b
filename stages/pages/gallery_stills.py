"""The first images of the gallery as plain pictures, for readers without script."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from split_matching.stages.data.images import open_image
from split_matching.stages.pages.colours import hex_colours, region_colours
from split_matching.stages.pages.formats import UNDEFINED
from split_matching.stages.pages.gallery_image import GalleryImage
from split_matching.stages.pages.overlays import jpeg_data_uri, overlay

STILLS = 24
"""How many images a page shows without script (choice: a third of a megabyte)."""

_ALPHA = 0.55  # as in gallery.js


def make_stills(images: Sequence[GalleryImage], own: int, classes: Sequence[str]) -> list[dict[str, Any]]:
    """Return what the template shows of the images with the worst quality, at the config's own setting.

    Args:
        images: of the gallery.
        own: place of the config's setting.
        classes: names of the seen classes.

    Returns:
        `id`, `uri` (image and regions, side by side), `width`, `height`, `facts` (a line), `regions` (colour, words).
    """
    ranked = sorted(images, key=lambda image: (math.isnan(image.quality), image.quality, image.id))
    return [_still(image, own, classes) for image in ranked[:STILLS]]


def _still(image: GalleryImage, own: int, classes: Sequence[str]) -> dict[str, Any]:
    picture = np.asarray(open_image(base64.b64decode(image.picture)).convert("RGB"))
    rows = image.table.members_at(own)
    palette = region_colours(max(image.table.colours, default=0) + 1)[[image.table.colours[row] for row in rows]]
    regions = overlay(picture, image.table.maps[own].astype(int) - 1, palette, alpha=_ALPHA)
    about = image.describe()
    quality = UNDEFINED if about["quality"] is None else f"{about['quality']:.3f}"
    seen = ", ".join(classes[index] for index in image.seen)
    return {
        "id": image.id,
        "uri": jpeg_data_uri(np.concatenate([picture, regions], axis=1), 80),
        "width": 2 * picture.shape[1],
        "height": picture.shape[0],
        "facts": f"quality {quality}" + (f" · annotated: {seen}" if seen else ""),
        "regions": [
            (colour, _describe(about["regions"][row], classes))
            for colour, row in zip(hex_colours(palette), rows, strict=True)
        ],
    }


def _describe(region: Sequence[int], classes: Sequence[str]) -> str:
    """Return area and nearest seen classes in words, as gallery.js does."""
    area, _, *near = region
    names = [f"{classes[index]} {cosine / 100:.2f}" for index, cosine in zip(near[::2], near[1::2], strict=True)]
    return ", ".join([f"{area / 10:.1f} %", *names])
