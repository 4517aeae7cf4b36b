"""Dense features of a CLIP with a CLS token: what takes the place of its last block.

The last block was trained for the CLS token alone: what its attention brings to a patch says little of that patch. With
`mix` for what attention gives, `x` for the tokens before the block and `x' = x + out(mix)`:

| variant | mix | result | source |
|---|---|---|---|
| `value` | `v` | `out(mix)` | the values alone, as MaskCLIP without residual and MLP (choice) |
| `maskclip` | `v` | `x' + mlp(x')` | MaskCLIP, arXiv 2112.01071, its code for ViT |
| `qq` | `softmax(q q^T) v` | `out(mix)` | ClearCLIP, arXiv 2407.12442 |
| `kk` | `softmax(k k^T) v` | `out(mix)` | choice |
| `naclip` | `softmax(k k^T + neighbours) v` | `out(mix)` | NACLIP, arXiv 2404.08181 |
| `sclip` | `softmax(q q^T) v + softmax(k k^T) v` | `x' + mlp(x')` | SCLIP, arXiv 2312.01597 |
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from split_matching.model.attention import attend

QUERIES, KEYS, VALUES = range(3)
WITH_RESIDUAL_AND_MLP = ("maskclip", "sclip")
NEIGHBOUR_STD = 5.0
"""Of NACLIP's Gaussian, in patches, as published."""


def replace_last_block(layer: Any, x: Tensor, variant: str, grid: tuple[int, int]) -> Tensor:
    """Run a variant of the last block.

    Args:
        layer: open_clip's ResidualAttentionBlock.
        x: tokens before it, CLS first. Shape: (B, 1 + h * w, width).
        variant: see above.
        grid: rows and columns of the patches, (h, w).

    Returns:
        Shape: (B, 1 + h * w, width).
    """
    mixed = layer.attn.out_proj(_mix(layer, layer.ln_1(x), variant, grid))
    if variant not in WITH_RESIDUAL_AND_MLP:
        return mixed
    x = x + layer.ls_1(mixed)
    return x + layer.ls_2(layer.mlp(layer.ln_2(x)))


def _mix(layer: Any, normed: Tensor, variant: str, grid: tuple[int, int]) -> Tensor:
    """What every token gets of the values. (B, 1 + h * w, width) -> the same."""
    attention, width = layer.attn, normed.shape[-1]

    def project(part: int) -> Tensor:
        rows = slice(part * width, (part + 1) * width)
        return F.linear(normed, attention.in_proj_weight[rows], attention.in_proj_bias[rows])

    v = project(VALUES)
    if variant in ("value", "maskclip"):
        return v
    sources = [project(part) for part in {"qq": (QUERIES,), "sclip": (QUERIES, KEYS)}.get(variant, (KEYS,))]
    mask = neighbour_scores(grid).to(v) if variant == "naclip" else None
    mixed = [attend(source, source, v, attention.num_heads, mask) for source in sources]
    return mixed[0] if len(mixed) == 1 else mixed[0] + mixed[1]


def neighbour_scores(grid: tuple[int, int]) -> Tensor:
    """NACLIP's addition to the scores: a Gaussian of the distance between two patches; 0 from and to CLS.

    Args:
        grid: rows and columns of the patches, (h, w).

    Returns:
        Shape: (1 + h * w, 1 + h * w), float32, in 0..1.
    """
    places = torch.cartesian_prod(*(torch.arange(side, dtype=torch.float32) for side in grid))  # (h * w, 2)
    squares = (places[:, None] - places[None]).square().sum(-1)
    return F.pad((-squares / (2 * NEIGHBOUR_STD**2)).exp(), (1, 0, 1, 0))
