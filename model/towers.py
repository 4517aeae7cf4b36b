"""Visual towers, called block by block, behind one interface: CLIP's ViT with a CLS token, and SigLIP's without.

Both take an image apart into tokens, run one block at a time, and turn tokens into embeddings. What differs is where
the image embedding comes from: CLIP reads its CLS token; SigLIP pools all tokens by attention (its MAP head), so there

- "CLS" is the pooled embedding,
- the dense `value` feature of a token is what the pool would give if it looked at that token alone: the pool's value
  path, its output projection and its MLP,
- a region's embedding is the pool's when it looks at the region's tokens only,
- there is no residual-free last block to speak of, so no other variant than `value` exists.

Source: dense features of CLIP: see `dense_variants`; everything said of SigLIP here is a choice.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from split_matching.errors import ConfigError
from split_matching.model.attention import attend
from split_matching.model.dense_variants import replace_last_block

Grid = tuple[int, int]
"""Rows and columns of tokens."""


class Tower(ABC):
    """A frozen visual tower. The modules belong to the CLIP; this object only knows how to call them.

    Attributes:
        patch: side of a patch, pixels.
        native: side of the images that it was trained on, pixels.
        grid: native token grid.
        width: of the tokens.
        dim: of the embeddings.
        depth: number of blocks.
        prefix: tokens before those of the patches.
    """

    patch: int
    native: int
    grid: Grid
    width: int
    dim: int
    depth: int
    prefix: int

    @abstractmethod
    def patches(self, images: Tensor) -> Tensor:
        """Patch embeddings without positions. (B, 3, H, W) -> (B, width, h, w)."""

    @abstractmethod
    def table(self) -> Tensor:
        """Positions of the patches at the native grid. (native h * w, width)."""

    @abstractmethod
    def add_prefix(self, x: Tensor) -> Tensor:
        """Put the prefix tokens before the patches and do what comes before the first block. (B, prefix + N, width)."""

    @abstractmethod
    def block(self, index: int, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Run one block; differentiable.

        Args:
            index: of the block, counted from 0.
            x: tokens. Shape: (B, N, width).
            mask: what a token may see; None for everything. Shape: (B, 1, 1, N), bool.

        Returns:
            Shape: (B, N, width).
        """

    @abstractmethod
    def pool(self, x: Tensor) -> Tensor:
        """Image embedding from the last block's tokens. (B, prefix + N, width) -> (B, dim), not normalised."""

    @abstractmethod
    def dense(self, before: Tensor, after: Tensor, variant: str, grid: Grid) -> Tensor:
        """Dense features from the tokens before and after the last block. (B, prefix + N, width) -> (B, N, dim)."""

    @abstractmethod
    def plain_blocks(self, blocks: int) -> int:
        """How many first blocks of `regions` are those of the plain forward pass: its output tokens can be reused.

        Args:
            blocks: how many last blocks see only the region.

        Raises:
            ConfigError: the tower has fewer blocks.
        """

    @abstractmethod
    def regions(self, x: Tensor, allowed: Tensor, blocks: int) -> Tensor:
        """Embeddings of regions.

        Args:
            x: tokens after the plain blocks. Shape: (B, prefix + N, width).
            allowed: which patches each region has. Shape: (B, R, N), bool.
            blocks: how many last blocks see only the region.

        Returns:
            Shape: (B, R, dim), not normalised.
        """

    def positions(self, grid: Grid) -> Tensor:
        """Positions of the patches of a grid, resized bicubically where it is not the native one. (h * w, width)."""
        table = self.table()
        if grid == self.grid:
            return table
        square = table.reshape(1, *self.grid, -1).permute(0, 3, 1, 2)
        return F.interpolate(square, size=grid, mode="bicubic", align_corners=False).flatten(2)[0].T

    def embed(self, images: Tensor, grids: Sequence[Grid] | None = None) -> tuple[Tensor, Grid]:
        """Tokens before the first block.

        Args:
            images: normalised. Shape: (B, 3, H, W).
            grids: for a padded batch, the token grid of each image, at its top left; None: nothing is padded.

        Returns:
            Tokens (B, prefix + N, width), and the grid (h, w) of the batch.
        """
        x = self.patches(images)
        grid = (int(x.shape[2]), int(x.shape[3]))
        x = x.flatten(2).transpose(1, 2)
        if grids is None or all(one == grid for one in grids):
            return self.add_prefix(x + self.positions(grid)), grid
        tables = {one: self.positions(one) for one in dict.fromkeys(grids)}
        positions = x.new_zeros(len(x), *grid, x.shape[2])
        for row, (height, width) in enumerate(grids):
            positions[row, :height, :width] = tables[height, width].unflatten(0, (height, width))
        return self.add_prefix(x + positions.flatten(1, 2)), grid


class ClipTower(Tower):
    """open_clip's ViT with a CLS token.

    Args:
        visual: open_clip's VisionTransformer.
    """

    prefix = 1

    def __init__(self, visual: Any) -> None:
        self.visual = visual
        self.blocks: Any = visual.transformer.resblocks
        self.patch, self.native = visual.patch_size[0], visual.image_size[0]
        self.grid = tuple(visual.grid_size)
        self.width, self.depth = visual.conv1.out_channels, len(self.blocks)
        self.dim = visual.proj.shape[1]

    @staticmethod
    def fits(visual: Any) -> bool:
        """Whether a tower is of this kind: learnt positions, and an embedding that is the projected CLS token."""
        return (
            hasattr(visual, "transformer")
            and getattr(visual, "attn_pool", None) is None
            and getattr(visual, "pool_type", "") == "tok"
            and getattr(visual, "proj", None) is not None
        )

    def patches(self, images: Tensor) -> Tensor:
        """See Tower."""
        return self.visual.conv1(images)

    def table(self) -> Tensor:
        """See Tower."""
        return self.visual.positional_embedding[1:]

    def add_prefix(self, x: Tensor) -> Tensor:
        """See Tower."""
        cls = self.visual.class_embedding + self.visual.positional_embedding[0]
        return self.visual.ln_pre(torch.cat([cls.expand(len(x), 1, -1), x], 1))

    def block(self, index: int, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """See Tower. In plain products: torch's fused layer took 18 % longer at 512 px on 2 CPU cores."""
        layer = self.blocks[index]
        attention = layer.attn
        q, k, v = F.linear(layer.ln_1(x), attention.in_proj_weight, attention.in_proj_bias).chunk(3, -1)
        mixed = attend(q, k, v, attention.num_heads, mask)
        x = x + layer.ls_1(attention.out_proj(mixed))
        return x + layer.ls_2(layer.mlp(layer.ln_2(x)))

    def pool(self, x: Tensor) -> Tensor:
        """See Tower."""
        return self._project(x[:, 0])

    def dense(self, before: Tensor, after: Tensor, variant: str, grid: Grid) -> Tensor:
        """See Tower. `last` is the plain output; for the others see `dense_variants`."""
        tokens = after if variant == "last" else replace_last_block(self.blocks[-1], before, variant, grid)
        return self._project(tokens[:, 1:])

    def plain_blocks(self, blocks: int) -> int:
        """See Tower."""
        if not 1 <= blocks <= self.depth:
            raise ConfigError(f"regions.blocks {blocks} does not fit this tower: expected 1 to {self.depth}")
        return self.depth - blocks

    def regions(self, x: Tensor, allowed: Tensor, blocks: int) -> Tensor:
        """See Tower. In the last blocks a copy of CLS for each region attends to the region's patches and to itself."""
        count, first = allowed.shape[1], self.plain_blocks(blocks)
        own = torch.eye(count, dtype=torch.bool, device=x.device).expand(len(x), -1, -1)
        mask = torch.cat([own, allowed], 2)[:, None]  # (B, 1, R, R + N)
        cls = x[:, :1].expand(-1, count, -1)
        for index in range(first, self.depth):
            patches = x[:, 1:]
            x = self.block(index, x) if index + 1 < self.depth else x  # nobody looks at the patches after the last
            cls = self.region_block(self.blocks[index], cls, patches, mask)
        return self._project(cls)

    @staticmethod
    def region_block(layer: Any, cls: Tensor, patches: Tensor, mask: Tensor) -> Tensor:
        """One block for the region CLS tokens alone. (B, R, width) -> (B, R, width)."""
        attention = layer.attn
        weight, bias = attention.in_proj_weight, attention.in_proj_bias
        width = cls.shape[-1]
        q = F.linear(layer.ln_1(cls), weight[:width], bias[:width])
        k, v = F.linear(layer.ln_1(torch.cat([cls, patches], 1)), weight[width:], bias[width:]).chunk(2, -1)
        mixed = attend(q, k, v, attention.num_heads, mask)
        cls = cls + layer.ls_1(attention.out_proj(mixed))
        return cls + layer.ls_2(layer.mlp(layer.ln_2(cls)))

    def _project(self, x: Tensor) -> Tensor:
        """`ln_post` and projection into CLIP space."""
        return self.visual.ln_post(x) @ self.visual.proj


class SiglipTower(Tower):
    """SigLIP's ViT: a timm VisionTransformer that pools its tokens by attention, and has no CLS token.

    Args:
        visual: open_clip's TimmModel around it.
    """

    prefix = 0

    def __init__(self, visual: Any) -> None:
        self.trunk: Any = visual.trunk
        self.blocks: Any = self.trunk.blocks
        self.attention: Any = self.trunk.attn_pool
        embedding = self.trunk.patch_embed
        self.patch, self.native = embedding.patch_size[0], embedding.img_size[0]
        self.grid = tuple(embedding.grid_size)
        self.width, self.depth = self.trunk.embed_dim, len(self.blocks)
        self.dim = self.attention.proj.out_features

    @staticmethod
    def fits(visual: Any) -> bool:
        """Whether a tower is of this kind: one latent query pools all tokens, nothing comes before or after it."""
        trunk = getattr(visual, "trunk", None)
        pool = getattr(trunk, "attn_pool", None)
        plain = ("norm_pre", "patch_drop", "fc_norm", "head")
        return (
            pool is not None
            and getattr(trunk, "global_pool", "") == "map"
            and getattr(trunk, "num_prefix_tokens", 1) == 0
            and getattr(trunk, "pos_embed", None) is not None
            and pool.latent_len == 1
            and pool.pos_embed is None
            and pool.mlp is not None
            and all(isinstance(getattr(trunk, name, nn.Identity()), nn.Identity) for name in plain)
            and all(isinstance(getattr(pool, name), nn.Identity) for name in ("q_norm", "k_norm"))
            and len(getattr(visual, "head", ())) == 0
        )

    def patches(self, images: Tensor) -> Tensor:
        """See Tower."""
        return self.trunk.patch_embed.proj(images)

    def table(self) -> Tensor:
        """See Tower."""
        return self.trunk.pos_embed[0]

    def add_prefix(self, x: Tensor) -> Tensor:
        """See Tower."""
        return x

    def block(self, index: int, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """See Tower."""
        return self.blocks[index](x, attn_mask=mask)

    def pool(self, x: Tensor) -> Tensor:
        """See Tower."""
        return self._pool_tokens(x, None)[:, 0]

    def dense(self, before: Tensor, after: Tensor, variant: str, grid: Grid) -> Tensor:
        """See Tower. The pool's value path, token by token."""
        if variant != "value":
            raise ConfigError(
                f"features.variant {variant} needs a tower with a CLS token; this one pools by attention: use value"
            )
        values = self.attention.kv(self.trunk.norm(after))[..., self.width :]
        return self._finish_pool(values)

    def plain_blocks(self, blocks: int) -> int:
        """See Tower. All of them: the pool alone sees nothing but the region, so `blocks` does not matter."""
        return self.depth

    def regions(self, x: Tensor, allowed: Tensor, blocks: int) -> Tensor:
        """See Tower."""
        return self._pool_tokens(x, allowed)

    def _pool_tokens(self, x: Tensor, allowed: Tensor | None) -> Tensor:
        """The pool's output, for all tokens or for each region's. (B, N, width) -> (B, 1 or R, dim)."""
        count = 1 if allowed is None else allowed.shape[1]
        q = self.attention.q(self.attention.latent).expand(len(x), count, -1)
        k, v = self.attention.kv(self.trunk.norm(x)).chunk(2, -1)
        mask = None if allowed is None else allowed[:, None]
        return self._finish_pool(attend(q, k, v, self.attention.num_heads, mask))

    def _finish_pool(self, mixed: Tensor) -> Tensor:
        """What the pool does after its attention."""
        x = self.attention.proj(mixed)
        return x + self.attention.mlp(self.attention.norm(x))


def open_tower(visual: Any, name: str) -> Tower:
    """Return the tower of an open_clip model.

    Args:
        visual: the model's `visual`.
        name: of the architecture, for the error.

    Raises:
        ConfigError: the tower is of no supported kind.
    """
    for kind in (ClipTower, SiglipTower):
        if kind.fits(visual):
            return kind(visual)
    raise ConfigError(
        f"clip.model {name!r} has no plain ViT tower: choose a ViT with a CLS token, or a SigLIP ViT, whose attention "
        "pools"
    )
