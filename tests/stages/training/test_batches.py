"""Batches: the order of images, padding, mirrored items."""

import numpy as np
import pytest
import torch

from split_matching.configs.settings import TrainConfig
from split_matching.stages.training.batches import CachedImages, batch_ids, collate
from tests.handmade import Chain


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    return Chain(tmp_path_factory.mktemp("chain")).to_regions()


def test_order_visits_every_image_once_an_epoch() -> None:
    ids = [str(i) for i in range(10)]
    config = TrainConfig(batch=4, seed=1)
    visited = [i for step in range(5) for i in batch_ids(ids, config, step)]
    assert sorted(visited[:10]) == sorted(visited[10:]) == ids
    assert visited[:10] != visited[10:]


def test_collate_pads_and_marks_padding(chain: Chain) -> None:
    data = CachedImages(chain.context("x"))
    wide, narrow = data.item(data.ids[0]), data.item(data.ids[1])
    narrow = type(narrow)(
        [t[:, :5] for t in narrow.tokens],
        narrow.seen_labels,
        narrow.seen_masks[..., :10],
        narrow.region_embeddings,
        narrow.region_masks[..., :10],
    )
    batch = collate([wide, narrow], 2)
    tokens, valid, targets = batch.tokens, batch.valid, batch.targets
    assert tokens[0].shape == (2, 8, 8, 128) and valid.shape == (2, 8, 8) and batch.grids == [(8, 8), (8, 5)]
    assert tokens[0].dtype == torch.float16 and torch.equal(tokens[0][1, :, :5], torch.from_numpy(narrow.tokens[0]))
    assert not tokens[0][1, :, 5:].any()
    assert valid[0].all() and valid[1, :, :5].all() and not valid[1, :, 5:].any()
    fine = targets.valid.unflatten(1, (16, 16))
    assert fine[1, :, :10].all() and not fine[1, :, 10:].any()
    masks = targets.region_masks.unflatten(2, (16, 16))
    assert np.allclose(masks[1, : len(narrow.region_masks), :, :10], narrow.region_masks)
    assert masks[1, :, :, 10:].abs().sum() == 0


def test_flipping_twice_is_the_item(chain: Chain) -> None:
    data = CachedImages(chain.context("x"))
    item = data.item(data.ids[0])
    twice = item.mirror().mirror()
    assert all(np.array_equal(a, b) for a, b in zip(item.tokens, twice.tokens, strict=True))
    assert np.array_equal(item.seen_masks, twice.seen_masks)
    assert np.array_equal(item.mirror().region_masks, item.region_masks[..., ::-1])
