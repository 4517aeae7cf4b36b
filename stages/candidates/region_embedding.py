"""The CLIP embedding of image regions.

Source: paper (CLS tokens of regions). How is a choice: `crop` embeds the masked crop (after CLIP-to-Seg and zsseg),
`attention` gives each region a CLS token that sees the region's patches only, `mean` averages dense features (an
ablation).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from split_matching.configs.settings import RegionsConfig
from split_matching.stages.candidates.batches import equal_batches
from split_matching.stages.data.resize import nearest_cells, resize_share

if TYPE_CHECKING:  # open_clip takes seconds to import, and training on cached features does without
    from split_matching.model.clip import FrozenClip

CROPS = 64
"""Crops a forward pass, unless one image has more."""


@dataclass(frozen=True)
class RegionItem:
    """One image, its regions, and what they are embedded from.

    Args:
        masks: one a region; they may overlap. Shape: (R, H', W'), bool.
        dense: dense features, which `mean` averages, and whose grid `attention` uses. Shape: (h, w, D), float32.
        image: RGB; not needed by `mean`, nor by `attention` with `tokens`. Shape: (H, W, 3), uint8.
        tokens: for `attention`, cached output of the tower's plain blocks. Shape: (prefix + h * w, width), float32.
    """

    masks: NDArray[np.bool_]
    dense: NDArray[np.float32]
    image: NDArray[np.uint8] | None = None
    tokens: NDArray[np.float32] | None = None

    @property
    def grid(self) -> tuple[int, int]:
        """Height and width of the token grid."""
        return self.dense.shape[0], self.dense.shape[1]

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """The image where it cannot be done without."""
        if self.image is None:
            raise ValueError("these regions are embedded from pixels: give the image")
        return self.image


def embed_regions(clip: FrozenClip, items: Sequence[RegionItem], config: RegionsConfig) -> list[Tensor]:
    """Embed the regions of some images by the method of the config.

    Args:
        clip: the frozen CLIP.
        items: the images; those of one call may share forward passes, which changes last bits.
        config: see RegionsConfig.

    Returns:
        For each image its regions' embeddings, unit length, on the CPU. Shapes: (R, D), float32.
    """
    if config.method == "mean":
        return [embed_mean(item.dense, item.masks) for item in items]
    if config.method == "crop":
        return embed_crops(clip, items, config.expand)
    return embed_attention(clip, items, config.blocks)


def embed_crops(clip: FrozenClip, items: Sequence[RegionItem], expand: float) -> list[Tensor]:
    """CLS embeddings of the masked crops of some images' regions, in forward passes shared by the images."""
    fill = np.array([round(255 * value) for value in clip.mean], np.uint8)
    crops = [
        clip.preprocess(crop, clip.native, clip.native)
        for item in items
        for crop in crop_regions(item.pixels, item.masks, clip.native, expand, fill)
    ]
    if not crops:
        return [torch.zeros(0, clip.dim) for _ in items]
    # never less than an image's crops: on the CPU an image comes alone, and is one batch whatever its neighbours
    size = max(CROPS, *(len(item.masks) for item in items))
    parts = [clip.encode_image(torch.stack(crops[i : i + size])) for i in range(0, len(crops), size)]
    embeddings = F.normalize(torch.cat(parts).float(), dim=-1).cpu()
    return list(embeddings.split([len(item.masks) for item in items]))


def crop_regions(
    image: NDArray[np.uint8], masks: NDArray[np.bool_], side: int, expand: float, fill: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """Square crop around every region, everything outside the region filled with one colour.

    Args:
        image: RGB. Shape: (H, W, 3), uint8.
        masks: one a region; they may overlap. Shape: (R, H', W'), bool.
        side: of the crops that come out, pixels (CLIP's native size).
        expand: crop side over the longer side of the region's box.
        fill: CLIP's mean colour. Shape: (3,), uint8.

    Returns:
        Shape: (R, side, side, 3), uint8.
    """
    height, width = image.shape[:2]
    rows, cols = nearest_cells(masks.shape[1], height), nearest_cells(masks.shape[2], width)
    crops = np.empty((len(masks), side, side, 3), np.uint8)
    for region, mask in enumerate(masks):
        crop = _crop_region(image, mask, rows, cols, expand, fill)
        crops[region] = np.asarray(Image.fromarray(crop).resize((side, side), Image.Resampling.BICUBIC))
    return crops


def _crop_region(
    image: NDArray[np.uint8],
    mask: NDArray[np.bool_],
    rows: NDArray[np.int64],
    cols: NDArray[np.int64],
    expand: float,
    fill: NDArray[np.uint8],
) -> NDArray[np.uint8]:
    """Square around a region, which may reach beyond the image; an empty region takes the whole image's square.

    Args:
        image: RGB. Shape: (H, W, 3), uint8.
        mask: the region. Shape: (H', W'), bool.
        rows: row of the mask of each row of the image. Shape: (H,).
        cols: column of the mask of each column of the image. Shape: (W,).
        expand: side over the longer side of the region's box.
        fill: colour outside the region. Shape: (3,), uint8.

    Returns:
        Shape: (S, S, 3), uint8.
    """
    # the mask is made as large as the image in the region's box only
    y, x = np.flatnonzero(mask[:, cols].any(1).take(rows)), np.flatnonzero(mask[rows].any(0).take(cols))
    y0, x0, y1, x1 = (y[0], x[0], y[-1] + 1, x[-1] + 1) if len(y) else (0, 0, *image.shape[:2])
    side = max(1, round(max(y1 - y0, x1 - x0) * expand))
    top, left = (y0 + y1 - side) // 2, (x0 + x1 - side) // 2
    crop = np.broadcast_to(fill, (side, side, 3)).copy()
    inside = mask[rows[y0:y1, None], cols[None, x0:x1]]
    np.copyto(crop[y0 - top : y1 - top, x0 - left : x1 - left], image[y0:y1, x0:x1], where=inside[:, :, None])
    return crop


def embed_attention(clip: FrozenClip, items: Sequence[RegionItem], blocks: int) -> list[Tensor]:
    """CLS embeddings by masked attention; images of equal grid share forward passes, which cached tokens shorten."""
    results: dict[int, Tensor] = {}
    for places in equal_batches([(item.grid, item.tokens is None) for item in items], len(items)):
        chosen = [items[place] for place in places]
        grid, from_pixels = chosen[0].grid, chosen[0].tokens is None
        regions = [covered_tokens(item.masks, grid) for item in chosen]
        if from_pixels:
            size = (grid[0] * clip.patch, grid[1] * clip.patch)
            images = torch.stack([clip.preprocess(item.pixels, *size) for item in chosen])
            embeddings = clip.encode_regions(images, regions, blocks)
        else:
            tokens = torch.stack([torch.from_numpy(item.tokens) for item in chosen if item.tokens is not None])
            embeddings = clip.encode_regions_of(tokens, regions, blocks)
        results.update(zip(places, (F.normalize(e.float(), dim=-1).cpu() for e in embeddings), strict=True))
    return [results[place] for place in range(len(items))]


def covered_tokens(masks: NDArray[np.bool_], grid: tuple[int, int]) -> Tensor:
    """Tokens that belong to each region: those it covers by half. (R, H', W') bool -> (R, h * w), bool, never empty."""
    shares = resize_share(masks.astype(np.float32), *grid).reshape(len(masks), grid[0] * grid[1])
    # a region narrower than a token still sees the token that it covers most
    return torch.from_numpy((shares >= 0.5) | (shares >= shares.max(1, keepdims=True, initial=0)))


def embed_mean(dense: NDArray[np.float32], masks: NDArray[np.bool_]) -> Tensor:
    """Mean dense feature of each region, unit length. (h, w, D), (R, H', W') -> (R, D)."""
    shares = torch.from_numpy(resize_share(masks.astype(np.float32), *dense.shape[:2]))
    return F.normalize(torch.einsum("rhw,hwd->rd", shares, torch.from_numpy(dense)), dim=-1)
