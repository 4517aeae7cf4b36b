"""Token maps computed in the training loop: the frozen visual tower as the decoder sees it, with optional deep prompts.

The same numbers as `FrozenClip.dense(...).tokens` (tested), but differentiable with respect to the prompts, and for a
batch of images of different grids: padding is hidden from attention, and every image has the positions of its own grid,
so that what an image gives does not depend on its neighbours.

Deep visual prompts: learnt tokens after CLS enter every block and are dropped after it. CLIP itself never changes.

Source: choice. Prompts after VPT (deep) and ZegCLIP, which uses 10.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from model.clip import FrozenClip


def split_patches(image: NDArray[np.uint8], patch: int) -> NDArray[np.uint8]:
    """Cut an image into patches. (H, W, 3) -> (H / patch, W / patch, patch * patch * 3), uint8, row by row."""
    height, width = image.shape[0] // patch, image.shape[1] // patch
    cells = image.reshape(height, patch, width, patch, 3).transpose(0, 2, 1, 3, 4)
    return np.ascontiguousarray(cells.reshape(height, width, patch * patch * 3))


def join_patches(patches: Tensor, patch: int) -> Tensor:
    """Put images together again. (B, h, w, patch * patch * 3) -> (B, 3, h * patch, w * patch)."""
    cells = patches.unflatten(-1, (patch, patch, 3)).permute(0, 5, 1, 3, 2, 4)  # (B, 3, h, patch, w, patch)
    return cells.flatten(4, 5).flatten(2, 3)


class TokenTower:
    """The blocks of a frozen visual tower up to the last one that the decoder reads.

    Not a module, on purpose: its weights belong to no decoder, and are neither saved nor optimised with one.

    Args:
        clip: the frozen CLIP.
        blocks: whose output tokens to return, counted from 1.
    """

    def __init__(self, clip: FrozenClip, blocks: Sequence[int]) -> None:
        self.clip = clip
        self.blocks = tuple(blocks)

    def __call__(self, patches: Tensor, valid: Tensor, prompts: Tensor | None = None) -> list[Tensor]:
        """Return the token maps of a padded batch.

        Args:
            patches: RGB values in 0..255, not normalised. Shape: (B, h, w, patch * patch * 3), float.
            valid: False on padding; the valid part of an image is its top left. Shape: (B, h, w), bool.
            prompts: for every block the tokens that enter it. Shape: (blocks, n, width).

        Returns:
            One map a block, float32; padding holds numbers without meaning. Shapes: (B, h, w, width).
        """
        height, width = valid.shape[1:]
        sides = torch.stack([valid[:, :, 0].sum(1), valid[:, 0].sum(1)], 1).tolist()
        grids = [(int(rows), int(cols)) for rows, cols in sides]
        x = self._embed(patches, grids)
        count = 0 if prompts is None else prompts.shape[1]
        mask = None
        if any(grid != (height, width) for grid in grids):
            mask = F.pad(valid.flatten(1), (1 + count, 0), value=True)[:, None, None]  # (B, 1, 1, 1 + n + N)
        outputs: dict[int, Tensor] = {}
        for index, layer in enumerate(self.clip.visual.transformer.resblocks[: max(self.blocks)], 1):
            if prompts is not None:
                entering = prompts[index - 1].expand(len(x), -1, -1).to(x.dtype)
                x = torch.cat([x[:, :1], entering, x[:, 1:]], 1)
            x = self._block(layer, x, mask)
            if count:
                x = torch.cat([x[:, :1], x[:, 1 + count :]], 1)
            if index in self.blocks:
                outputs[index] = x[:, 1:].unflatten(1, (height, width)).float()
        return [outputs[index] for index in self.blocks]

    def _embed(self, patches: Tensor, grids: list[tuple[int, int]]) -> Tensor:
        """CLS and patch tokens before the first block, with the positions of each image's grid. (B, 1 + N, width)."""
        visual = self.clip.visual
        mean, std = (patches.new_tensor(values)[:, None, None] for values in (self.clip.mean, self.clip.std))
        x = visual.conv1((join_patches(patches, self.clip.patch) / 255 - mean) / std)
        tables = {grid: self.clip._positions(grid) for grid in dict.fromkeys(grids)}
        positions = x.new_zeros(len(x), *x.shape[2:], x.shape[1], dtype=torch.float32)
        for row, (height, width) in enumerate(grids):
            positions[row, :height, :width] = tables[height, width][1:].unflatten(0, (height, width))
        cls = visual.class_embedding + tables[grids[0]][0]  # every table has the same row for CLS
        x = x.flatten(2).transpose(1, 2) + positions.flatten(1, 2)
        return visual.ln_pre(torch.cat([cls.expand(len(x), 1, -1), x], 1))

    @staticmethod
    def _block(layer: Any, x: Tensor, mask: Tensor | None) -> Tensor:
        """One block in which nothing attends to padding. (B, N, width) -> (B, N, width)."""
        attention = layer.attn
        projected = F.linear(layer.ln_1(x), attention.in_proj_weight, attention.in_proj_bias).chunk(3, -1)
        q, k, v = (t.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2) for t in projected)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)
        x = x + layer.ls_1(attention.out_proj(mixed))
        return x + layer.ls_2(layer.mlp(layer.ln_2(x)))
