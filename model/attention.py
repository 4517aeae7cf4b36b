"""Attention in several heads, as all parts of the towers use it."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
    """Return `softmax(q k^T / sqrt(width / heads)) v` of every head, side by side.

    Args:
        q: queries. Shape: (B, M, width).
        k: keys. Shape: (B, N, width).
        v: values. Shape: (B, N, width).
        heads: their number.
        mask: bool, what a query may see; or float, added to the scores before the softmax. Shape: (.., M, N).

    Returns:
        Shape: (B, M, width).
    """
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)
