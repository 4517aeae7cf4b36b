"""Region crops and embeddings."""

import numpy as np
import pytest
import torch

from configs.schema import ClipConfig, RegionsConfig
from model.clip import FrozenClip
from stages.regions import embed_attention, embed_crops, embed_mean, embed_regions, masks_of, region_crops

FILL = np.array([1, 2, 3], np.uint8)


def scene() -> tuple[np.ndarray, np.ndarray]:
    image = np.random.default_rng(0).integers(10, 256, (40, 60, 3), dtype=np.uint8)
    labels = np.zeros((4, 6), np.uint8)
    labels[1:3, 1:3], labels[0, 5] = 1, 2
    return image, labels


def test_crops_show_the_region_and_nothing_else() -> None:
    image, labels = scene()
    crops = region_crops(image, masks_of(labels), 20, 1.0, FILL)
    assert crops.shape == (2, 20, 20, 3)
    assert np.array_equal(crops[0], image[10:30, 10:30])  # the box is the region, at its own size
    labels[1, 1] = 0
    crops = region_crops(image, masks_of(labels), 20, 1.0, FILL)
    assert (crops[0][:10, :10] == FILL).all()
    assert np.array_equal(crops[0][10:, 10:], image[20:30, 20:30])


def test_crops_beyond_the_image_are_filled() -> None:
    image, labels = scene()
    crops = region_crops(image, masks_of(labels), 20, 2.0, FILL)
    assert (crops[1][:4] == FILL).all() and (crops[1][:, -4:] == FILL).all()


def test_no_regions_gives_no_embeddings() -> None:
    image, _ = scene()
    clip = FrozenClip(ClipConfig(model="shapes-vit", weights="random"))
    empty = masks_of(np.zeros((4, 6), np.uint8))
    assert embed_crops(clip, image, empty, 1.1).shape == (0, clip.dim)
    assert embed_attention(clip, image, empty, (4, 6), 2).shape == (0, clip.dim)
    assert embed_mean(np.ones((4, 6, 9), np.float32), empty).shape == (0, 9)


def test_mean_embedding_averages_the_region() -> None:
    dense = np.zeros((2, 2, 2), np.float32)
    dense[0, 0], dense[0, 1] = (1, 0), (0, 1)
    labels = np.array([[1, 1], [2, 0]], np.uint8)
    assert torch.allclose(embed_mean(dense, masks_of(labels))[0], torch.tensor([0.5, 0.5]).sqrt())


@pytest.mark.parametrize("method", ["crop", "attention", "mean"])
def test_embeddings_are_unit_length_and_differ(method: str) -> None:
    image, labels = scene()
    clip = FrozenClip(ClipConfig(model="shapes-vit", weights="random"))
    dense = clip.dense(clip.preprocess(image, 32, 48)[None]).dense[0].numpy()
    got = embed_regions(clip, image, masks_of(labels), dense, RegionsConfig(method=method))
    assert torch.allclose(got.norm(dim=1), torch.ones(2), atol=1e-5)
    assert (got[0] - got[1]).abs().max() > 1e-3
