"""Region crops and embeddings."""

import numpy as np
import pytest
import torch
from PIL import Image

from split_matching.configs.settings import ClipConfig, RegionsConfig
from split_matching.model.clip import FrozenClip
from split_matching.stages.candidates.region_embedding import RegionItem, crop_regions, embed_mean, embed_regions
from split_matching.stages.ground.region_map import masks_of

METHODS = ("crop", "attention", "mean")
FILL = np.array([1, 2, 3], np.uint8)


def scene() -> tuple[np.ndarray, np.ndarray]:
    image = np.random.default_rng(0).integers(10, 256, (40, 60, 3), dtype=np.uint8)
    labels = np.zeros((4, 6), np.uint8)
    labels[1:3, 1:3], labels[0, 5] = 1, 2
    return image, labels


def test_crops_show_the_region_and_nothing_else() -> None:
    image, labels = scene()
    crops = crop_regions(image, masks_of(labels), 20, 1.0, FILL)
    assert crops.shape == (2, 20, 20, 3)
    assert np.array_equal(crops[0], image[10:30, 10:30])  # the box is the region, at its own size
    labels[1, 1] = 0
    crops = crop_regions(image, masks_of(labels), 20, 1.0, FILL)
    assert (crops[0][:10, :10] == FILL).all()
    assert np.array_equal(crops[0][10:, 10:], image[20:30, 20:30])


@pytest.mark.parametrize("cells", [(4, 6), (7, 5), (55, 90)])  # coarser than the image, and finer
def test_crops_are_those_of_masks_as_large_as_the_image(cells: tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    image, masks = scene()[0], rng.random((6, *cells)) < 0.15
    masks[0], masks[1], masks[1, -1, 0], masks[2] = False, False, True, True
    crops = crop_regions(image, masks, 24, 1.3, FILL)
    height, width = image.shape[:2]
    for mask, crop in zip(masks, crops, strict=True):
        # the cell in which a pixel's centre lies
        rows = [(2 * y + 1) * cells[0] // (2 * height) for y in range(height)]
        cols = [(2 * x + 1) * cells[1] // (2 * width) for x in range(width)]
        large = np.array([[mask[row, col] for col in cols] for row in rows])
        y, x = np.nonzero(large) if large.any() else np.indices(large.shape).reshape(2, -1)
        side = round(1.3 * max(np.ptp(y) + 1, np.ptp(x) + 1))
        top, left = (int(v.min() + v.max() + 1 - side) // 2 for v in (y, x))
        square = np.broadcast_to(FILL, (side, side, 3)).copy()
        for i, j in np.argwhere(large):
            square[i - top, j - left] = image[i, j]
        assert np.array_equal(crop, np.asarray(Image.fromarray(square).resize((24, 24), Image.Resampling.BICUBIC)))


def test_crops_beyond_the_image_are_filled() -> None:
    image, labels = scene()
    crops = crop_regions(image, masks_of(labels), 20, 2.0, FILL)
    assert (crops[1][:4] == FILL).all() and (crops[1][:, -4:] == FILL).all()


def test_no_regions_gives_no_embeddings() -> None:
    image, _ = scene()
    clip = FrozenClip(ClipConfig(model="shapes-vit", weights="random"))
    empty = masks_of(np.zeros((4, 6), np.uint8))
    item = RegionItem(empty, np.ones((4, 6, clip.dim), np.float32), image)
    for method in METHODS:
        assert embed_regions(clip, [item], RegionsConfig(method=method))[0].shape == (0, clip.dim)


def test_mean_embedding_averages_the_region() -> None:
    dense = np.zeros((2, 2, 2), np.float32)
    dense[0, 0], dense[0, 1] = (1, 0), (0, 1)
    labels = np.array([[1, 1], [2, 0]], np.uint8)
    assert torch.allclose(embed_mean(dense, masks_of(labels))[0], torch.tensor([0.5, 0.5]).sqrt())


@pytest.mark.parametrize("method", METHODS)
def test_embeddings_are_unit_length_and_differ(method: str) -> None:
    image, labels = scene()
    clip = FrozenClip(ClipConfig(model="shapes-vit", weights="random"))
    dense = clip.dense(clip.preprocess(image, 32, 48)[None]).dense[0].numpy()
    [got] = embed_regions(clip, [RegionItem(masks_of(labels), dense, image)], RegionsConfig(method=method))
    assert torch.allclose(got.norm(dim=1), torch.ones(2), atol=1e-5)
    assert (got[0] - got[1]).abs().max() > 1e-3


def test_images_together_give_what_each_gives_alone() -> None:
    clip = FrozenClip(ClipConfig(model="shapes-vit", weights="random"))
    rng, items = np.random.default_rng(1), []
    for height, width, regions in ((32, 48, 2), (32, 48, 5), (40, 32, 0), (48, 32, 3)):
        labels = rng.integers(0, regions + 1, (height // 8, width // 8)).astype(np.uint8)
        image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        dense = rng.standard_normal((height // 8, width // 8, clip.dim)).astype(np.float32)
        items.append(RegionItem(masks_of(labels), dense, image))
    for method in METHODS:
        config = RegionsConfig(method=method)
        together = embed_regions(clip, items, config)
        for item, got in zip(items, together, strict=True):
            [alone] = embed_regions(clip, [item], config)
            assert got.shape == (len(item.masks), clip.dim) and torch.allclose(got, alone, atol=1e-5)


def test_attention_from_cached_tokens_is_attention_from_the_image() -> None:
    image, labels = scene()
    clip = FrozenClip(ClipConfig(model="shapes-vit", weights="random"))
    out = clip.dense(clip.preprocess(image, 32, 48)[None], decoder_blocks=[1, 2, 3])
    dense = out.dense[0].numpy()
    for blocks in (1, 2, 3):
        plain = clip.depth - blocks
        tokens = torch.cat([out.prefixes[plain][0], out.tokens[plain][0].flatten(0, 1)]).half().float().numpy()
        config = RegionsConfig(method="attention", blocks=blocks)
        [cached] = embed_regions(clip, [RegionItem(masks_of(labels), dense, tokens=tokens)], config)
        [direct] = embed_regions(clip, [RegionItem(masks_of(labels), dense, image)], config)
        assert (cached * direct).sum(1).min() > 0.99999  # half precision in the cache
