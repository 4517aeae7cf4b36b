"""Token maps computed in the training loop: the frozen visual tower as the decoder sees it, with optional deep prompts.

The same numbers as `FrozenClip.dense(...).tokens` (tested), but differentiable with respect to the prompts, and for a
batch of images of different grids: padding is hidden from attention, and every image has the positions of its own grid,
so that what an image gives does not depend on its neighbours.

Deep visual prompts: learnt tokens (after CLS, where there is one) enter every block and are dropped after it. CLIP
itself never changes.

Source: choice. Prompts after VPT (deep) and ZegCLIP, which uses 10 on VOC.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:  # open_clip takes seconds to import, and training on cached features does without
    from split_matching.model.clip import FrozenClip


def split_patches(image: NDArray[np.uint8], patch: int) -> NDArray[np.uint8]:
    """Cut an image into patches. (H, W, 3) -> (H / patch, W / patch, patch * patch * 3), uint8, row by row."""
    height, width = image.shape[0] // patch, image.shape[1] // patch
    cells = image.reshape(height, patch, width, patch, 3).transpose(0, 2, 1, 3, 4)
    return np.ascontiguousarray(cells.reshape(height, width, patch * patch * 3))


def join_patches(patches: Tensor, patch: int) -> Tensor:
    """Put images together again. (B, h, w, patch * patch * 3) -> (B, 3, h * patch, w * patch)."""
    cells = patches.unflatten(-1, (patch, patch, 3)).permute(0, 5, 1, 3, 2, 4)  # (B, 3, h, patch, w, patch)
    return cells.flatten(4, 5).flatten(2, 3)


class TokenEncoder:
    """The blocks of a frozen visual tower up to the last one that the decoder reads.

    Not a module, on purpose: its weights belong to no decoder, and are neither saved nor optimised with one.

    Args:
        clip: the frozen CLIP.
        blocks: whose output tokens to return, counted from 1.
    """

    def __init__(self, clip: FrozenClip, blocks: Sequence[int]) -> None:
        self.clip = clip
        self.blocks = tuple(blocks)

    def __call__(
        self,
        patches: Tensor,
        valid: Tensor,
        prompts: Tensor | None = None,
        grids: Sequence[tuple[int, int]] | None = None,
    ) -> list[Tensor]:
        """Return the token maps of a padded batch.

        Args:
            patches: RGB values in 0..255, not normalised. Shape: (B, h, w, patch * patch * 3), float.
            valid: False on padding; the valid part of an image is its top left. Shape: (B, h, w), bool.
            prompts: for every block the tokens that enter it. Shape: (blocks, n, width).
            grids: h and w of each image; if not given they are read from `valid`, for which a GPU must be waited for.

        Returns:
            One map a block, float32; padding holds numbers without meaning. Shapes: (B, h, w, width).
        """
        height, width = valid.shape[1:]
        if grids is None:
            sides = torch.stack([valid[:, :, 0].sum(1), valid[:, 0].sum(1)], 1).tolist()
            grids = [(int(rows), int(cols)) for rows, cols in sides]
        first = self.clip.tower.prefix
        mean, std = (patches.new_tensor(values)[:, None, None] for values in (self.clip.mean, self.clip.std))
        images = (join_patches(patches, self.clip.patch) / 255 - mean) / std
        count = 0 if prompts is None else prompts.shape[1]
        mask = None
        if any(grid != (height, width) for grid in grids):
            mask = F.pad(valid.flatten(1), (first + count, 0), value=True)[:, None, None]  # (B, 1, 1, prefix + n + N)
        with self.clip.in_precision():
            x, grid = self.clip.tower.embed(images, grids)
            return self.through_blocks(x, grid, mask, prompts)

    def through_blocks(
        self, x: Tensor, grid: tuple[int, int], mask: Tensor | None, prompts: Tensor | None
    ) -> list[Tensor]:
        """Run the blocks.

        Args:
            x: tokens before the first block. Shape: (B, prefix + h * w, width).
            grid: h and w.
            mask: what may be attended to, or None for everything. Shape: (B, 1, 1, prefix + n + h * w), bool.
            prompts: as for calling. Shape: (blocks, n, width).

        Returns:
            As for calling.
        """
        tower, first = self.clip.tower, self.clip.tower.prefix
        count = 0 if prompts is None else prompts.shape[1]
        outputs: dict[int, Tensor] = {}
        for index in range(max(self.blocks)):
            if prompts is not None:
                entering = prompts[index].expand(len(x), -1, -1).to(x.dtype)
                x = torch.cat([x[:, :first], entering, x[:, first:]], 1)
            x = tower.block(index, x, mask)
            if count:
                x = torch.cat([x[:, :first], x[:, first + count :]], 1)
            if index + 1 in self.blocks:
                outputs[index + 1] = x[:, first:].unflatten(1, grid).float()
        return [outputs[block] for block in self.blocks]
