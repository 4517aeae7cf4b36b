"""Extraction: shifted views, stitching, and what a shard holds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from split_matching.configs.load import load_config
from split_matching.stages.candidates import features, pseudo_masks, regions
from split_matching.stages.candidates.extractor import Extractor, shifted_views, stitch
from split_matching.stages.ground.frozen_clip import frozen_clip
from tests.handmade import Chain


@pytest.mark.parametrize(("shifts", "patch", "offsets"), [(2, 8, (-2, 2)), (2, 16, (-4, 4)), (4, 16, (-6, -2, 2, 6))])
def test_views_are_moved_by_symmetric_offsets(shifts: int, patch: int, offsets: tuple[int, ...]) -> None:
    rows, cols = torch.meshgrid(torch.arange(32.0), torch.arange(48.0), indexing="ij")
    image = torch.stack([rows, cols, rows + cols])
    views = shifted_views(image, shifts, patch)
    assert views.shape == (1 + shifts**2, 3, 32, 48)
    assert torch.equal(views[0], image)
    for index, (y, x) in enumerate((y, x) for y in offsets for x in offsets):
        inner = views[1 + index, :, 8:24, 8:40]
        assert torch.equal(inner[0], rows[8:24, 8:40] + y) and torch.equal(inner[1], cols[8:24, 8:40] + x)


def test_fields_of_a_shard() -> None:
    blocks = "features.decoder_blocks=[1, 3]"
    one, two = (load_config("shapes", overrides=[blocks, f"features.shifts={shifts}"]) for shifts in (1, 2))
    leads = {"cls": 0, "prefix_1": 1, "prefix_3": 1, "dense": 2, "tokens_1": 2, "tokens_3": 2}
    for config, expected in ((one, leads), (two, {**leads, "stitched": 2})):
        assert {name: (field.dtype, field.lead) for name, field in features.fields(config).items()} == {
            name: ("float16", lead) for name, lead in expected.items()
        }
    assert [(name, field.lead) for name, field in regions.fields(one).items()] == [("embeddings", 1)]


def test_one_shift_is_the_image_alone() -> None:
    image = torch.rand(3, 16, 16)
    assert torch.equal(shifted_views(image, 1, 8), image[None])


def test_stitched_cells_come_from_the_view_that_looks_there() -> None:
    maps = torch.arange(2 * 2 * 3 * 4.0).reshape(4, 3, 4, 1)
    whole = stitch(maps, 2)
    assert whole.shape == (6, 8, 1)
    for y in range(6):
        for x in range(8):
            assert whole[y, x] == maps[(y % 2) * 2 + x % 2, y // 2, x // 2]


def test_stitched_features_are_those_of_moved_images(tmp_path: Path) -> None:
    """Each cell of the stitched grid is CLIP's token of the image moved by that cell's offset."""
    chain = Chain(tmp_path, "features.shifts=2", "shapes.train_scenes=2")
    chain.sharded(features, "features")
    shards = chain.inputs["features"].shards("train")
    ctx = chain.context("features")
    clip, extractor = frozen_clip(ctx), Extractor(ctx)
    image_id = shards.ids[0]
    views, stitched = extractor.load(image_id), shards.read(image_id, "stitched")
    plain = shards.read(image_id, "tokens_2")
    assert stitched.shape == (2 * plain.shape[0], 2 * plain.shape[1], plain.shape[2])
    for index in range(4):
        alone = clip.dense(views[1 + index][None], "value", (2,)).tokens[2][0].half().numpy()
        assert np.allclose(stitched[index // 2 :: 2, index % 2 :: 2], alone, atol=2e-3)
    assert np.allclose(plain, clip.dense(views[:1], "value", (2,)).tokens[2][0].half().numpy(), atol=2e-3)


def test_what_is_stitched_is_what_is_clustered(tmp_path: Path) -> None:
    chain = Chain(tmp_path, "features.shifts=2", "pseudo_masks.block=null", "shapes.train_scenes=2")
    chain.sharded(features, "features")
    shards = chain.inputs["features"].shards("train")
    assert shards.read(shards.ids[0], "stitched").shape[2] == shards.read(shards.ids[0], "dense").shape[2]
    chain.sharded(pseudo_masks, "pseudo_masks")
    labels = chain.inputs["pseudo_masks"].shards("train").read(shards.ids[0], "labels")
    scale = chain.config.pseudo_masks.scale
    assert labels.shape == tuple(scale * side for side in shards.read(shards.ids[0], "stitched").shape[:2])
