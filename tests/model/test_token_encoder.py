"""The visual tower in the training loop: padding, prompts, gradients and precision."""

import numpy as np
import pytest
import torch

from split_matching.configs.settings import ClipConfig
from split_matching.model.clip import FrozenClip
from split_matching.model.token_encoder import TokenEncoder, join_patches, split_patches


@pytest.fixture(scope="module")
def clip() -> FrozenClip:
    return FrozenClip(ClipConfig(model="shapes-vit", weights="random"))


def images(clip: FrozenClip, *grids: tuple[int, int]) -> tuple[list[torch.Tensor], torch.Tensor, torch.Tensor]:
    """Random images of some grids, alone (normalised) and as a padded batch of patches; the padding is noise."""
    rng = np.random.default_rng(0)
    size = tuple(max(sides) for sides in zip(*grids, strict=True))
    batch = rng.integers(0, 256, (len(grids), *size, 3 * clip.patch**2)).astype(np.float32)
    valid, alone = torch.zeros(len(grids), *size, dtype=torch.bool), []
    for row, (h, w) in enumerate(grids):
        pixels = rng.integers(0, 256, (h * clip.patch, w * clip.patch, 3), dtype=np.uint8)
        alone.append(clip.preprocess(pixels, *pixels.shape[:2])[None])
        batch[row, :h, :w] = split_patches(pixels, clip.patch)
        valid[row, :h, :w] = True
    return alone, torch.from_numpy(batch), valid


def test_patches_join_to_the_image() -> None:
    image = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)
    patches = split_patches(image, 8)
    assert patches.shape == (3, 5, 192) and np.array_equal(patches[1, 2], image[8:16, 16:24].ravel())
    assert np.array_equal(join_patches(torch.from_numpy(patches)[None], 8)[0].permute(1, 2, 0), image)


def test_padded_batch_gives_what_each_image_gives_alone(clip: FrozenClip) -> None:
    grids = [(8, 8), (5, 7), (6, 3), (4, 1), (1, 6)]
    alone, patches, valid = images(clip, *grids)
    maps = TokenEncoder(clip, (2, 4))(patches, valid)
    for row, (h, w) in enumerate(grids):
        expected = clip.dense(alone[row], decoder_blocks=(2, 4)).tokens
        for index, block in enumerate((2, 4)):
            assert torch.allclose(maps[index][row, :h, :w], expected[block][0], atol=2e-5)


def test_prompts_enter_every_block_and_leave_it(clip: FrozenClip) -> None:
    alone, patches, valid = images(clip, (4, 6))
    prompts = torch.randn(3, 5, clip.width, generator=torch.manual_seed(0))
    maps = TokenEncoder(clip, (1, 3))(patches, valid, prompts)
    x, outputs = clip.tower.embed(alone[0])[0], {}
    for index in range(3):
        kept = x if index == 0 else torch.cat([x[:, :1], x[:, 6:]], 1)  # CLS and patches: the prompts are replaced
        x = torch.cat([kept[:, :1], prompts[index][None], kept[:, 1:]], 1)
        x = clip.visual.transformer.resblocks[index](x)
        outputs[index + 1] = x[:, 6:].unflatten(1, (4, 6))
    for got, block in zip(maps, (1, 3), strict=True):
        assert torch.allclose(got, outputs[block], atol=2e-5)
    plain = TokenEncoder(clip, (1, 3))(patches, valid)
    assert all((a - b).abs().max() > 0.01 for a, b in zip(maps, plain, strict=True))


def test_gradients_reach_all_prompts_and_nothing_of_clip(clip: FrozenClip) -> None:
    _, patches, valid = images(clip, (4, 4), (3, 4))
    prompts = torch.randn(4, 2, clip.width, generator=torch.manual_seed(0)).requires_grad_()
    TokenEncoder(clip, (4,))(patches, valid, prompts)[0][valid].square().sum().backward()
    assert (prompts.grad.abs().amax(-1) > 0).all()
    assert all(p.grad is None and not p.requires_grad for p in clip.parameters())


def test_half_precision_gives_float_maps(clip: FrozenClip) -> None:
    _, patches, valid = images(clip, (4, 4), (3, 4))
    tower, prompts = TokenEncoder(clip, (2,)), torch.zeros(2, 1, clip.width)
    exact = tower(patches, valid, prompts)[0][valid]
    with torch.autocast("cpu", torch.bfloat16):
        half = tower(patches, valid, prompts)[0]
    assert half.dtype == torch.float32
    assert (half[valid] - exact).abs().mean() < 0.05 * exact.abs().mean()
