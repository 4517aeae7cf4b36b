"""The query decoder in plain steps for one image without padding: what the batched one is held to."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from split_matching.model.query_decoder import DecoderLayer, MultiScaleEnhancement, QueryDecoder


def plain_positions(height: int, width: int, dim: int) -> Tensor:
    """Sine and cosine of the row, then of the column, in turns of the grid. Shape: (h * w, dim)."""
    rates = [8 / 10000 ** (i / (dim // 4)) for i in range(dim // 4)]
    cells = []
    for row in range(1, height + 1):
        for column in range(1, width + 1):
            y, x = (2 * math.pi * share for share in (row / height, column / width))
            parts = [[f(turn * rate) for rate in rates] for turn in (y, x) for f in (math.sin, math.cos)]
            cells.append([value for part in parts for value in part] + [0.0] * (dim % 4))
    return torch.tensor(cells)


def plain_attention(q: Tensor, k: Tensor, v: Tensor, heads: int, allowed: Tensor | None = None) -> Tensor:
    """Each head over its own channels, by rows of softmax. (Q, d), (N, d), (N, d) -> (Q, d)."""
    parts = []
    for head in range(heads):
        own = slice(head * q.shape[1] // heads, (head + 1) * q.shape[1] // heads)
        scores = q[:, own] @ k[:, own].T / math.sqrt(q.shape[1] / heads)
        if allowed is not None:
            scores = scores.masked_fill(~allowed, -math.inf)
        parts.append(scores.softmax(1) @ v[:, own])
    return torch.cat(parts, 1)


def plain_enhancement(enhance: MultiScaleEnhancement, x: Tensor) -> Tensor:
    """Means of so many cells square, cut at the border, through a branch each. (d, h, w) -> (d, h, w)."""
    _, height, width = x.shape
    result = x.clone()
    for size, branch in zip(enhance.scales, enhance.branches, strict=True):
        means = [
            [x[:, y : y + size, z : z + size].mean((1, 2)) for z in range(0, width, size)]
            for y in range(0, height, size)
        ]
        pooled = torch.stack([torch.stack(row, 1) for row in means], 1)[None]
        bordered = F.pad(pooled, (1, 1, 1, 1))
        out = branch[2](F.gelu(F.conv2d(bordered, branch[0].weight, branch[0].bias)))[0]
        for row in range(height):
            for column in range(width):
                result[:, row, column] += out[:, row // size, column // size]
    return result


def plain_layer(
    layer: DecoderLayer, x: Tensor, positions: Tensor, keys: Tensor, values: Tensor, allowed: Tensor | None
) -> Tensor:
    """Cross-attention, self-attention and feed-forward, each normalised before and added."""
    dim, heads = x.shape[1], layer.heads
    (k_weight, v_weight), (k_bias, v_bias) = layer.cross_kv.weight.split(dim), layer.cross_kv.bias.split(dim)
    y = layer.norms[0](x)
    seen = plain_attention(
        layer.cross_q(y + positions), keys @ k_weight.T + k_bias, values @ v_weight.T + v_bias, heads, allowed
    )
    x = x + layer.cross_out(seen)
    y = layer.norms[1](x)
    q, k = layer.self_qk(y + positions).split(dim, 1)
    x = x + layer.self_out(plain_attention(q, k, layer.self_v(y), heads))
    return x + layer.ffn(layer.norms[2](x))


def plain_decoder(model: QueryDecoder, maps: list[Tensor]) -> list[tuple[Tensor, ...]]:
    """Class embeddings, no-object logits, quality logits and mask logits after every layer; `upsample` is 2.

    Args:
        model: the decoder whose weights and config to use.
        maps: token maps of one image. Shapes: (h, w, width).
    """
    height, width, _ = maps[0].shape
    kind = model.config.mfe
    x = torch.stack([layer(t) for layer, t in zip(model.inputs, maps, strict=True)]).sum(0).permute(2, 0, 1)
    if kind in ("tokens", "layers"):
        x = plain_enhancement(model.enhance[0], x)
    fine = model.upsample[0](x[None])
    if kind == "pixels":
        fine = plain_enhancement(model.enhance[0], fine[0])[None]
    pixels = model.mask_features(fine)[0]  # (d / 2, 2 h, 2 w)
    quarters = [pixels[:, y::2, z::2] for y in (0, 1) for z in (0, 1)]
    coarse = (sum(quarters) / 4).flatten(1)  # what a mask is over a token
    queries, outputs = model.queries, []
    for step in range(len(model.layers) + 1):
        state = model.norm(queries)
        masks, named = model.mask_head(state), model.class_head(state)
        outputs.append(
            (
                named / named.norm(dim=1, keepdim=True),
                model.no_object_head(state)[:, 0],
                model.quality_head(state)[:, 0],
                torch.einsum("qc,chw->qhw", masks, pixels),
            )
        )
        if step < len(model.layers):
            allowed = masks @ coarse > 0
            allowed[~allowed.any(1)] = True
            seen = allowed if model.config.masked_attention else None
            if kind == "layers" and step > 0:
                x = plain_enhancement(model.enhance[step], x)
            values = x.flatten(1).T
            keys = values + plain_positions(height, width, values.shape[1])
            queries = plain_layer(model.layers[step], queries, model.query_positions, keys, values, seen)
    return outputs
