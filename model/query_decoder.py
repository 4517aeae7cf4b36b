"""The query decoder: token maps in, masks and CLIP-space class embeddings out.

Source: paper for the two query groups, the decoder and MFE (multi-scale feature enhancement); every detail is a choice,
after Mask2Former: masked cross-attention, self-attention, feed-forward, heads at every layer.

Shapes: B images, Q = Qs + Qc queries (seen group first), h x w tokens, d decoder width, D CLIP width.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from split_matching.configs.settings import DecoderConfig
from split_matching.model.attention import attend


@dataclass(frozen=True)
class QueryOutput:
    """One decoder layer's prediction.

    Args:
        embeddings: class embeddings, unit length. Shape: (B, Q, D).
        no_object: logit of "no object"; means something for the seen group only. Shape: (B, Q).
        quality: logit of the IoU that a query expects of its mask; learnt by the candidates only. Shape: (B, Q).
        masks: mask logits. Shape: (B, Q, H', W'), H' = upsample * h.
    """

    embeddings: Tensor
    no_object: Tensor
    quality: Tensor
    masks: Tensor

    def float32(self) -> QueryOutput:
        """Return it in float32: votes are not computed in half precision."""
        return QueryOutput(*(t.float() for t in vars(self).values()))


@dataclass(frozen=True)
class LayerOutputs:
    """The predictions of L layers; `outputs[-1]` is that of the last one.

    Masks are made when they are asked for: inference needs those of one layer, and training differentiates only those
    that were matched.

    Args:
        embeddings: class embeddings, unit length. Shape: (B, L, Q, D).
        no_object: as of QueryOutput. Shape: (B, L, Q).
        quality: as of QueryOutput. Shape: (B, L, Q).
        kernels: the mask logits of a query are products of its kernel with the pixels. Shape: (B, L, Q, f).
        pixels: features of the mask cells. Shape: (B, f, H', W').
    """

    embeddings: Tensor
    no_object: Tensor
    quality: Tensor
    kernels: Tensor
    pixels: Tensor

    def __len__(self) -> int:
        return self.kernels.shape[1]

    def __getitem__(self, layer: int) -> QueryOutput:
        masks = draw(self.kernels[:, layer], self.pixels)
        return QueryOutput(self.embeddings[:, layer], self.no_object[:, layer], self.quality[:, layer], masks)

    def last(self) -> LayerOutputs:
        """Return the last layer alone."""
        last = slice(-1, None)
        embeddings, no_object, quality = self.embeddings[:, last], self.no_object[:, last], self.quality[:, last]
        return LayerOutputs(embeddings, no_object, quality, self.kernels[:, last], self.pixels)

    def float32(self) -> LayerOutputs:
        """Return it in float32: losses and matching are not computed in half precision."""
        return LayerOutputs(*(t.float() for t in vars(self).values()))


def draw(kernels: Tensor, pixels: Tensor) -> Tensor:
    """Mask logits. (B, n, f), (B, f, H', W') -> (B, n, H', W')."""
    return (kernels @ pixels.flatten(2)).unflatten(2, pixels.shape[2:])


def sine_positions(valid: Tensor, dim: int) -> Tensor:
    """2-D sine position embedding, in shares of each image's own grid: padding changes no position.

    Args:
        valid: False on padding, which is right of and below an image. Shape: (B, h, w), bool.
        dim: width.

    Returns:
        Shape: (B, h * w, dim).

    Source: DETR.
    """
    _, height, width = valid.shape
    frequency = 8 * 10000.0 ** (-torch.arange(dim // 4, device=valid.device) / (dim // 4))
    rows, cols = valid.any(2).sum(1), valid.any(1).sum(1)  # (B,)
    y = torch.arange(1, height + 1, device=valid.device) / rows[:, None] * 2 * torch.pi
    x = torch.arange(1, width + 1, device=valid.device) / cols[:, None] * 2 * torch.pi
    y, x = y[:, :, None] * frequency, x[:, :, None] * frequency
    down = torch.cat([y.sin(), y.cos()], 2)[:, :, None].expand(-1, -1, width, -1)
    right = torch.cat([x.sin(), x.cos()], 2)[:, None].expand(-1, height, -1, -1)
    return F.pad(torch.cat([down, right], 3), (0, dim % 4)).flatten(1, 2)


def _project(layer: nn.Module, tokens: Tensor) -> Tensor:
    """What a LayerNorm and the Linear behind it give, with the norm's weights taken into the Linear.

    So the gradient of the norm's weights needs no gradient of all tokens: a tenth of a training step's operations.

    Args:
        layer: the two of them.
        tokens: Shape: (..., width), any float type.

    Returns:
        Shape: (..., d).
    """
    assert isinstance(layer, nn.Sequential)
    norm, linear = layer
    assert isinstance(norm, nn.LayerNorm) and isinstance(linear, nn.Linear)
    plain = F.layer_norm(tokens.float(), tuple(norm.normalized_shape), eps=norm.eps)
    return F.linear(plain, linear.weight * norm.weight, linear.bias + linear.weight @ norm.bias)


class MultiScaleEnhancement(nn.Module):
    """MFE: `x + sum_k up(conv_k(pool_k(x)))` over scales k; identity at the start.

    Args:
        dim: channels.
        scales: sizes of the cells that are averaged over.

    Source: paper (multi-scale feature enhancement); this residual form is a choice, and so is the halved inner width
    (at full width MFE took 18 % of a training step on 2 CPU cores).
    """

    def __init__(self, dim: int, scales: Sequence[int]) -> None:
        super().__init__()
        self.scales = tuple(scales)
        last = [nn.Conv2d(dim // 2, dim, 1) for _ in scales]
        for conv in last:
            nn.init.zeros_(conv.weight)
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
        self.branches = nn.ModuleList(
            nn.Sequential(nn.Conv2d(dim, dim // 2, 3, padding=1), nn.GELU(), conv) for conv in last
        )

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """Enhance token features; padding changes nothing: it is left out of means, and upsampling mixes no cells.

        Args:
            x: zero on padding. Shape: (B, d, h, w).
            valid: False on padding. Shape: (B, h, w), bool.

        Returns:
            Zero on padding. Shape: (B, d, h, w).
        """
        inside = valid[:, None].to(x.dtype)
        result = x
        for scale, branch in zip(self.scales, self.branches, strict=True):
            pooled = x
            if scale > 1:
                share = F.avg_pool2d(inside, scale, ceil_mode=True)
                pooled = F.avg_pool2d(x, scale, ceil_mode=True) / share.clamp(min=1e-6)
            up = F.interpolate(branch(pooled), scale_factor=scale, mode="nearest") if scale > 1 else branch(pooled)
            result = result + up[..., : x.shape[2], : x.shape[3]]
        return result * inside


class DecoderLayer(nn.Module):
    """Masked cross-attention, self-attention, feed-forward; normalised before each."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        dim = config.dim
        self.heads = config.heads
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(3))
        self.cross_q, self.cross_kv = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim)
        self.cross_out = nn.Linear(dim, dim)
        self.self_qk, self.self_v = nn.Linear(dim, 2 * dim), nn.Linear(dim, dim)
        self.self_out = nn.Linear(dim, dim)
        self.ffn = nn.Sequential(nn.Linear(dim, config.ffn), nn.GELU(), nn.Linear(config.ffn, dim))

    def forward(self, x: Tensor, positions: Tensor, keys: Tensor, values: Tensor, allowed: Tensor) -> Tensor:
        """Update the queries.

        Args:
            x: queries. Shape: (B, Q, d).
            positions: query position embedding. Shape: (Q, d).
            keys: tokens with positions. Shape: (B, N, d).
            values: tokens. Shape: (B, N, d).
            allowed: where each query may look. Shape: (B, Q, N), bool.

        Returns:
            Shape: (B, Q, d).
        """
        y = self.norms[0](x)
        width = y.shape[-1]
        k = F.linear(keys, self.cross_kv.weight[:width], self.cross_kv.bias[:width])
        v = F.linear(values, self.cross_kv.weight[width:], self.cross_kv.bias[width:])
        x = x + self.cross_out(attend(self.cross_q(y + positions), k, v, self.heads, allowed[:, None]))
        y = self.norms[1](x)
        q, k = self.self_qk(y + positions).chunk(2, -1)
        x = x + self.self_out(attend(q, k, self.self_v(y), self.heads))
        return x + self.ffn(self.norms[2](x))


class QueryDecoder(nn.Module):
    """Two groups of learnt queries over frozen CLIP token maps.

    Args:
        config: sizes.
        blocks: of the visual tower whose token maps come in; deep prompts enter those up to the last of them.
        width: channels of every token map.
        dim: CLIP embedding width D.

    Source: paper; layout is a choice.
    """

    def __init__(self, config: DecoderConfig, blocks: Sequence[int], width: int, dim: int) -> None:
        super().__init__()
        d, count = config.dim, config.seen_queries + config.candidate_queries
        self.config = config
        self.inputs = nn.ModuleList(nn.Sequential(nn.LayerNorm(width), nn.Linear(width, d)) for _ in blocks)
        # half the width where there are many cells; no norm, whose statistics would depend on a batch's padding
        fine, steps = d // 2, config.upsample.bit_length() - 1
        widths = [d] + [fine] * steps
        enhanced = {"none": [], "tokens": [d], "pixels": [widths[-1]], "layers": [d] * config.layers}[config.mfe]
        self.enhance = nn.ModuleList(MultiScaleEnhancement(channels, config.mfe_scales) for channels in enhanced)
        self.upsample = nn.ModuleList(
            nn.Sequential(nn.ConvTranspose2d(a, b, 2, stride=2), nn.GELU()) for a, b in itertools.pairwise(widths)
        )
        self.mask_features = nn.Conv2d(widths[-1], fine, 1)
        self.queries = nn.Parameter(torch.randn(count, d))
        self.query_positions = nn.Parameter(torch.randn(count, d))
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(d)
        self.mask_head = nn.Sequential(nn.Linear(d, d), nn.GELU(), nn.Linear(d, d), nn.GELU(), nn.Linear(d, fine))
        self.class_head = nn.Sequential(nn.Linear(d, d), nn.GELU(), nn.Linear(d, dim))
        self.no_object_head, self.quality_head = nn.Linear(d, 1), nn.Linear(d, 1)
        # learnt here with the decoder, but read by the visual tower, see model/token_encoder.py; (blocks, n, width)
        self.prompts: nn.Parameter | None = None
        if config.prompts:
            bound = (3 / width) ** 0.5  # as VPT for ViT-B/16
            self.prompts = nn.Parameter(torch.empty(max(blocks), config.prompts, width).uniform_(-bound, bound))

    def forward(self, tokens: Sequence[Tensor], valid: Tensor) -> LayerOutputs:
        """Predict masks and class embeddings after every layer.

        Args:
            tokens: token maps, any float type. Shapes: (B, h, w, width).
            valid: False on padding. Shape: (B, h, w), bool.

        Returns:
            One prediction a layer, the last one last; before them that of the queries alone: L = layers + 1.
        """
        x = sum(_project(layer, t) for layer, t in zip(self.inputs, tokens, strict=True))  # (B, h, w, d)
        assert isinstance(x, Tensor)
        x = x.permute(0, 3, 1, 2) * valid[:, None]  # (B, d, h, w)
        if self.config.mfe in ("tokens", "layers"):
            x = self.enhance[0](x, valid)
        pixels = self._pixels(x, valid)  # (B, d / 2, H', W')
        # masks are linear in the pixels: these are resampled once, for the attention masks of all layers
        coarse = F.interpolate(pixels.detach(), x.shape[2:], mode="bilinear", align_corners=False)
        positions = sine_positions(valid, x.shape[1])
        queries = self.queries.expand(len(x), -1, -1)  # (B, Q, d)
        states = [self.norm(queries)]
        for index, layer in enumerate(self.layers):
            if self.config.mfe == "layers" and index > 0:
                x = self.enhance[index](x, valid)
            values = x.flatten(2).transpose(1, 2)  # (B, N, d)
            allowed = self._attention_mask(states[-1], coarse, valid)
            queries = layer(queries, self.query_positions, values + positions, values, allowed)
            states.append(self.norm(queries))
        return self._predict(torch.cat(states, 1), pixels, len(states))

    def _pixels(self, x: Tensor, valid: Tensor) -> Tensor:
        """Upsample token features to those that masks are made of. (B, d, h, w) -> (B, d / 2, H', W')."""
        for layer in self.upsample:
            x = layer(x)
        if self.config.mfe == "pixels":
            inside = valid.repeat_interleave(self.config.upsample, 1).repeat_interleave(self.config.upsample, 2)
            x = self.enhance[0](x * inside[:, None], inside)
        return self.mask_features(x)

    def _predict(self, states: Tensor, pixels: Tensor, layers: int) -> LayerOutputs:
        """Predictions of all layers at once: one large product instead of many small ones.

        Args:
            states: normalised queries of every layer. Shape: (B, layers * Q, d).
            pixels: mask features. Shape: (B, d / 2, H', W').
            layers: how many.
        """
        embeddings = F.normalize(self.class_head(states), dim=-1)
        # the quality head looks on: what it learns changes nothing else
        logits = (self.no_object_head(states)[..., 0], self.quality_head(states.detach())[..., 0])
        queries = (embeddings, *logits, self.mask_head(states))
        return LayerOutputs(*(*(t.unflatten(1, (layers, -1)) for t in queries), pixels))

    @torch.no_grad()
    def _attention_mask(self, states: Tensor, coarse: Tensor, valid: Tensor) -> Tensor:
        """Where each query may look next: its last mask, or everything when that mask is empty. (B, Q, N), bool."""
        inside = valid[:, None].expand(-1, states.shape[1], -1, -1).flatten(2)
        if not self.config.masked_attention:
            return inside
        covered = (self.mask_head(states) @ coarse.flatten(2) > 0) & inside
        return torch.where(covered.any(-1, keepdim=True), covered, inside)
