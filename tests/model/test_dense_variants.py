"""Dense features by every variant of the last block, beside loops over heads and tokens."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from split_matching.configs.settings import ClipConfig
from split_matching.model.clip import FrozenClip
from split_matching.model.dense_variants import neighbour_scores

Array = NDArray[np.float64]
GRID = (3, 4)
VARIANTS = ("value", "maskclip", "qq", "kk", "naclip", "sclip")


@pytest.fixture(scope="module")
def clip() -> FrozenClip:
    """A small CLIP in which no bias is 0 and no weight of a norm is 1, as they are in fresh weights."""
    made = FrozenClip(ClipConfig(model="tiny-clip", weights="random"))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in made.visual.named_parameters():
            if parameter.ndim == 1 or "in_proj" in name:  # attention far from uniform
                parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return made


def plain_norm(x: Array, layer: Any) -> Array:
    weight, bias = (t.numpy().astype(np.float64) for t in (layer.weight, layer.bias))
    return (x - x.mean()) / math.sqrt(x.var() + layer.eps) * weight + bias


def plain_linear(x: Array, weight: torch.Tensor, bias: torch.Tensor) -> Array:
    return weight.numpy().astype(np.float64) @ x + bias.numpy()


def plain_mlp(x: Array, layer: Any) -> Array:
    hidden = plain_linear(plain_norm(x, layer.ln_2), layer.mlp.c_fc.weight, layer.mlp.c_fc.bias)
    active = np.array([h * 0.5 * (1 + math.erf(h / math.sqrt(2))) for h in hidden])
    return plain_linear(active, layer.mlp.c_proj.weight, layer.mlp.c_proj.bias)


def plain_attention(source: list[Array], values: list[Array], heads: int, bonus: Any = lambda a, b: 0.0) -> list[Array]:
    """Every token asks with its source, and is asked by the same."""
    wide = len(source[0]) // heads
    mixed = [np.zeros_like(one) for one in values]
    for head in range(heads):
        part = slice(head * wide, (head + 1) * wide)
        for a, asking in enumerate(source):
            scores = [asking[part] @ asked[part] / math.sqrt(wide) + bonus(a, b) for b, asked in enumerate(source)]
            shares = np.exp(np.array(scores) - max(scores))
            shares /= shares.sum()
            for share, value in zip(shares, values, strict=True):
                mixed[a][part] += share * value[part]
    return mixed


def gaussian(a: int, b: int) -> float:
    """Of the distance of two patches of GRID, with a deviation of 5 patches; token 0 is CLS."""
    if a == 0 or b == 0:
        return 0.0
    (row, column), (other_row, other_column) = (divmod(token - 1, GRID[1]) for token in (a, b))
    return math.exp(-((row - other_row) ** 2 + (column - other_column) ** 2) / (2 * 5.0**2))


def plain_dense(clip: FrozenClip, images: torch.Tensor, variant: str) -> list[Array]:
    """Dense features of one image, patch by patch."""
    with torch.no_grad():
        tokens, _ = clip.tower.embed(images)
        for block in clip.visual.transformer.resblocks[:-1]:
            tokens = block(tokens)
    x, layer, width = list(tokens[0].double().numpy()), clip.visual.transformer.resblocks[-1], clip.width
    weight, bias, heads = layer.attn.in_proj_weight, layer.attn.in_proj_bias, layer.attn.num_heads
    q, k, v = (
        [plain_linear(plain_norm(one, layer.ln_1), weight[i : i + width], bias[i : i + width]) for one in x]
        for i in (0, width, 2 * width)
    )
    both = [plain_attention(source, v, heads) for source in (q, k)]
    mixed = {
        "value": v,
        "maskclip": v,
        "qq": both[0],
        "kk": both[1],
        "naclip": plain_attention(k, v, heads, gaussian),
        "sclip": [one + other for one, other in zip(*both, strict=True)],
    }[variant]
    result = [plain_linear(one, layer.attn.out_proj.weight, layer.attn.out_proj.bias) for one in mixed]
    if variant in ("maskclip", "sclip"):
        result = [one + before for one, before in zip(result, x, strict=True)]
        result = [one + plain_mlp(one, layer) for one in result]
    projection = clip.visual.proj.numpy().astype(np.float64)
    dense = [plain_norm(one, clip.visual.ln_post) @ projection for one in result[1:]]
    return [one / np.linalg.norm(one) for one in dense]


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_are_their_published_formulas(clip: FrozenClip, variant: str) -> None:
    images = torch.randn(1, 3, 8 * GRID[0], 8 * GRID[1], generator=torch.Generator().manual_seed(1))
    got = clip.dense(images, variant).dense
    assert got.shape == (1, *GRID, clip.dim)
    assert np.allclose(got[0].flatten(0, 1).numpy(), np.stack(plain_dense(clip, images, variant)), atol=2e-5)


def test_no_two_variants_are_the_same(clip: FrozenClip) -> None:
    images = torch.randn(2, 3, 24, 32, generator=torch.Generator().manual_seed(1))
    found = [clip.dense(images, variant).dense for variant in (*VARIANTS, "last")]
    for place, one in enumerate(found):
        assert all(F.cosine_similarity(one, other, dim=-1).min() < 0.9999 for other in found[:place])


def test_images_of_a_batch_do_not_see_each_other(clip: FrozenClip) -> None:
    images = torch.randn(3, 3, 16, 24, generator=torch.Generator().manual_seed(2))
    for variant in VARIANTS:
        together = clip.dense(images, variant).dense
        alone = torch.cat([clip.dense(one[None], variant).dense for one in images])
        assert torch.allclose(together, alone, atol=1e-5), variant


def test_neighbours_are_nearer_and_cls_has_none() -> None:
    scores = neighbour_scores((2, 3))
    assert scores.shape == (7, 7) and scores.dtype == torch.float32
    assert (scores[0] == 0).all() and (scores[:, 0] == 0).all() and (scores.diagonal()[1:] == 1).all()
    # from the first patch of the first row: its own row, then the next one
    squares = torch.tensor([0.0, 1.0, 4.0, 1.0, 2.0, 5.0])
    assert torch.allclose(scores[1, 1:], torch.exp(-squares / 50))


@pytest.mark.parametrize("variant", ["naclip", "sclip"])
def test_variants_in_bfloat16_are_nearly_the_same(clip: FrozenClip, variant: str) -> None:
    images = torch.randn(2, 3, 24, 32, generator=torch.Generator().manual_seed(1))
    exact = clip.dense(images, variant).dense
    clip.precision = "bfloat16"
    coarse = clip.dense(images, variant).dense
    clip.precision = "float32"
    assert coarse.dtype == torch.float32 and not torch.equal(exact, coarse)
    assert F.cosine_similarity(exact, coarse, dim=-1).min() > 0.99
