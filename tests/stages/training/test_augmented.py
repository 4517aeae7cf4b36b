"""Training on augmented images, whose token maps are computed in the loop."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from split_matching.configs.class_list import load_shipped_classes
from split_matching.configs.load import load_config
from split_matching.errors import ConfigError, DataError
from split_matching.model.process_group import ProcessGroup
from split_matching.model.token_encoder import TokenEncoder, split_patches
from split_matching.pipeline.stages import make_plan
from split_matching.stages.data.augment import View
from split_matching.stages.data.images import read_image
from split_matching.stages.data.source import open_source
from split_matching.stages.ground.frozen_clip import frozen_clip
from split_matching.stages.inference import evaluate
from split_matching.stages.inference.pixels import make_pixel_scorer
from split_matching.stages.training import train_online
from split_matching.stages.training.augmented import AugmentedImages, cut_regions, cut_seen
from split_matching.stages.training.batches import CachedImages, batch_ids, collate, load_batch
from split_matching.stages.training.learner import build_decoder
from tests.handmade import Chain

PLAIN = ("train.scale_range=[1, 1]", "train.photometric=false", "train.flip=false")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    return Chain(tmp_path_factory.mktemp("base")).to_regions()


def online(base: Chain, folder: Path, *overrides: str, root: Path | None = None) -> Chain:
    chain = base.branch(folder, "train.features=online", *overrides, root=root)
    chain.slice = make_plan(chain.config)["train"].slice  # what the stage declares must be enough
    return chain


def trained(chain: Chain, name: str = "train") -> dict[str, bytes]:
    folder = chain.whole(train_online, name)
    return {p.name: p.read_bytes() for p in folder.iterdir() if not p.name.startswith("checkpoint")}


def evaluated(chain: Chain) -> Path:
    chain.slice = make_plan(chain.config)["evaluate"].slice
    return chain.whole(evaluate, "evaluate")


# ---- items ----


def test_regions_cropped_away_are_no_targets() -> None:
    masks = np.array([[1, 1, 2, 0], [3, 3, 2, 0]], np.uint8)
    embeddings = np.arange(6, dtype=np.float16).reshape(3, 2)
    whole = cut_regions(masks, embeddings, View.whole((16, 32), 16, 32), (2, 4))
    assert len(whole[0]) == 3 and np.allclose(whole[1].sum(0), masks > 0)
    kept, shares = cut_regions(masks, embeddings, View((16, 32), 8, 8, 8, 16, 8, 16), (2, 4))  # the lower middle
    assert np.array_equal(kept, embeddings[[1, 2]])
    assert np.array_equal(shares[0], [[0, 0, 1, 1]] * 2) and np.array_equal(shares[1], [[1, 1, 0, 0]] * 2)
    kept, shares = cut_regions(masks, embeddings, View((16, 32), 0, 24, 8, 8, 8, 8), (2, 2))
    assert kept.shape == (0, 2) and shares.shape == (0, 2, 2)


def test_seen_classes_cropped_away_are_no_targets() -> None:
    labels = np.array([[4, 4, 0, 255], [4, 4, 255, 255]], np.uint8)
    seen, shares = cut_seen(labels, View((16, 32), 0, 16, 8, 16, 8, 16), (2, 4))
    assert seen.tolist() == [0] and np.array_equal(shares[0], [[1, 1, 0, 0]] * 2)
    seen, shares = cut_seen(labels, View((16, 32), 8, 16, 8, 16, 8, 16), (2, 4))
    assert seen.shape == (0,) and shares.shape == (0, 2, 4)


# ---- training ----


def test_unaugmented_and_unprompted_equals_the_cache(base: Chain, tmp_path: Path) -> None:
    chain = online(base, tmp_path, *PLAIN)
    ctx = chain.context("x")
    data = AugmentedImages(ctx)
    cached = CachedImages(base.context("x"))
    items = load_batch(data, chain.config.train, 1, ProcessGroup())
    batch = collate(items, 2)
    encoder = TokenEncoder(frozen_clip(ctx), chain.config.features.decoder_blocks)
    maps = encoder(batch.tokens[0].float(), batch.valid, None, batch.grids)
    for row, image_id in enumerate(batch_ids(data.ids, chain.config.train, 1)):
        item = cached.item(image_id)
        for got, want in zip(maps, item.tokens, strict=True):
            want = torch.from_numpy(want).float()
            assert torch.allclose(got[row], want, rtol=2e-3, atol=2e-3)  # float16 has 11 bits
        assert np.array_equal(items[row].seen_labels, item.seen_labels)
        assert np.array_equal(items[row].region_embeddings, item.region_embeddings)
        assert np.allclose(items[row].seen_masks, item.seen_masks)
        assert np.allclose(items[row].region_masks, item.region_masks)
    assert batch.targets.valid.all()


def test_first_losses_are_those_of_cached_training(base: Chain, tmp_path: Path) -> None:
    def losses(chain: Chain) -> list[float]:
        lines = (chain.train() / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line)["loss"] for line in lines]

    fed, seen = losses(base.branch(tmp_path / "a", *PLAIN)), losses(online(base, tmp_path / "b", *PLAIN))
    assert len(seen) == 6 and np.allclose(fed, seen, rtol=0.01)


def test_items_depend_on_seed_step_and_index_alone(base: Chain, tmp_path: Path) -> None:
    ctx = online(base, tmp_path, "train.photometric=true").context("x")
    data = AugmentedImages(ctx)
    first, second, third, _ = base.inputs["features"].shards("train").ids

    def patches(ids: list[str], step: int) -> np.ndarray:
        return data.load(ids, step, range(len(ids)))[1].tokens[0]

    again = AugmentedImages(ctx).load([first, second], 4, range(2))[1]
    for got, want in zip(astuple(data.load([first, second], 4, range(2))[1]), astuple(again), strict=True):
        assert np.array_equal(got, want)
    data.pool = ThreadPoolExecutor(1)
    assert np.array_equal(patches([third, second], 4), again.tokens[0])  # neighbours and threads do not matter
    assert not np.array_equal(patches([first, second], 5), again.tokens[0])
    assert not np.array_equal(
        data.load([second], 4, range(1))[0].tokens[0], again.tokens[0]
    )  # another place in the batch
    assert np.array_equal(data.load([second], 4, [1])[0].tokens[0], again.tokens[0])  # the second process of two


def test_an_image_that_was_replaced_by_a_smaller_one_is_an_error(
    base: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = AugmentedImages(online(base, tmp_path).context("x"))
    small = np.zeros((9, 8, 3), np.uint8)
    monkeypatch.setattr("split_matching.stages.training.augmented.read_image", lambda path: small)
    with pytest.raises(DataError, match=r"jpg is 8x9, and its mask 64x64: one was replaced"):
        data.load(base.inputs["features"].shards("train").ids[:1], 0, range(1))


def test_padding_is_invalid_and_never_a_target(base: Chain, tmp_path: Path) -> None:
    chain = online(base, tmp_path, "train.scale_range=[0.5, 1.0]", "train.batch=4")
    data = AugmentedImages(chain.context("x"))
    items = load_batch(data, chain.config.train, 0, ProcessGroup())
    sizes = [item.tokens[0].shape[:2] for item in items]
    assert len(set(sizes)) > 1  # otherwise this test would prove nothing
    batch = collate(items, 2)
    valid, targets = batch.valid, batch.targets
    assert batch.grids == sizes
    fine = targets.valid.unflatten(1, (2 * valid.shape[1], 2 * valid.shape[2]))
    for row, (h, w) in enumerate(sizes):
        assert valid[row].sum() == h * w and valid[row, :h, :w].all()
        assert fine[row].sum() == 4 * h * w and fine[row, : 2 * h, : 2 * w].all()
    outside = 1 - targets.valid[:, None]
    assert (targets.region_masks * outside).sum() == 0 and (targets.seen_masks * outside).sum() == 0


def test_prompts_train_and_clip_does_not(base: Chain, tmp_path: Path) -> None:
    chain = online(base, tmp_path, "decoder.prompts=3", "train.photometric=true")
    clip = frozen_clip(chain.context("x"))
    before = {name: value.clone() for name, value in clip.state_dict().items()}
    chain.train()
    weights = load_file(chain.folder("train") / "weights.safetensors")
    assert weights["prompts"].shape == (4, 3, clip.width)
    fresh = build_decoder(chain.config, clip.width, clip.dim)
    assert ((weights["prompts"] - fresh.prompts).abs().amax(-1) > 0).all()
    assert all(torch.equal(value, before[name]) for name, value in clip.state_dict().items())
    assert not any(name.startswith(("visual", "model", "clip")) for name in weights)
    # Evaluate computes the features with the trained prompts
    labels = evaluated(chain) / "val-00000.h5"
    with_prompts = labels.read_bytes()
    prompts = weights["prompts"]
    model = SimpleNamespace(prompts=prompts)
    scorer = make_pixel_scorer(chain.context("x"), lambda maps, pixels: maps[0], model.prompts)
    image_id = base.inputs["features"].shards("val").ids[0]
    image = read_image(open_source(chain.config.data, base.root).image_path(image_id))
    patches = torch.from_numpy(split_patches(image, clip.patch))[None].float()
    direct = TokenEncoder(clip, (2, 4))(patches, torch.ones(1, 8, 8, dtype=torch.bool), prompts)[0][0]
    assert torch.allclose(scorer.score(image), direct, atol=1e-5)
    # a window as large as the image is the whole image
    slide = base.branch(
        tmp_path / "s", "train.features=online", "decoder.prompts=3", "evaluate.mode=slide", "evaluate.window=64",
        "evaluate.stride=60",
    )  # fmt: skip
    slide.inputs["train"] = chain.inputs["train"]
    assert (evaluated(slide) / "val-00000.h5").read_bytes() == with_prompts


def test_no_prompts_leave_the_initial_decoder_as_it_was(base: Chain, tmp_path: Path) -> None:
    plain = build_decoder(base.config, 128, 128)
    prompted = build_decoder(online(base, tmp_path, "decoder.prompts=2").config, 128, 128)
    assert "prompts" not in plain.state_dict() and prompted.prompts.shape == (4, 2, 128)
    assert all(torch.equal(value, prompted.state_dict()[name]) for name, value in plain.state_dict().items())


class Interrupted(Exception):
    """Stands for Ctrl-C or a kill."""


def test_interrupted_and_resumed_equals_undisturbed(base: Chain, tmp_path: Path) -> None:
    chain = online(base, tmp_path, "decoder.prompts=2", "train.photometric=true")

    def interrupt(done: int, total: int) -> None:
        if done == 3:
            raise Interrupted

    with pytest.raises(Interrupted):
        chain.whole(train_online, "stopped", progress=interrupt)
    assert trained(chain, "stopped") == trained(chain, "whole")


def test_unseen_labels_change_no_bit(base: Chain, tmp_path: Path) -> None:
    """Nor do background and void: neither the targets nor where the crops lie."""
    root = tmp_path / "root"
    shutil.copytree(base.root, root)
    source, seen = open_source(base.config.data, root), [entry.id for entry in load_shipped_classes("shapes").seen()]
    changed = 0
    for image_id in source.ids("train"):
        mask = np.asarray(Image.open(source.mask_path(image_id)))
        blanked = np.where(np.isin(mask, seen), mask, 255).astype(np.uint8)
        changed += int((blanked != mask).sum())
        Image.fromarray(blanked).save(source.mask_path(image_id))
    assert changed > 0
    settings = ("decoder.prompts=1", "train.cat_max_ratio=0.6")
    other = trained(online(base, tmp_path / "b", *settings, root=root))
    assert other == trained(online(base, tmp_path / "a", *settings))


# ---- config and stages ----


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["decoder.prompts=10"], "^--set: decoder.prompts 10 needs train.features online"),
        (["evaluate.stride=600"], "evaluate.stride 600 leaves gaps: evaluate.window is 512"),
        (["train.scale_range=[2, 0.5]"], "train.scale_range .* smaller scale first"),
        (["train.features=onlin"], "train.features"),
        (["evaluate.mode=slid"], "evaluate.mode"),
    ],
)
def test_settings_that_cannot_be_are_rejected(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load_config("shapes", overrides=overrides)
    assert "\n" not in str(caught.value)


ONLINE_TRAIN, PROMPTED = ["train.features=online"], ["train.features=online", "decoder.prompts=10"]


@pytest.mark.parametrize(
    ("overrides", "train_online", "evaluate_online"),
    [
        ([], False, False),
        (ONLINE_TRAIN, True, False),
        (PROMPTED, True, True),
        (["evaluate.mode=slide"], False, True),
    ],
)
def test_stages_read_images_only_if_asked_to(overrides, train_online, evaluate_online) -> None:
    config = load_config("shapes", overrides=["clip.weights=random", "evaluate.fusion=0", *overrides])
    plan = make_plan(config)
    for name, is_online in (("train", train_online), ("evaluate", evaluate_online)):
        assert ("images.json" in plan[name].upstream["dataset"]) is is_online
        values = plan[name].slice.key_values()
        assert ("resize" in values["features"]) is is_online
    # beyond its inputs, training on cached features does not depend on the weights of CLIP
    assert ("clip" in plan["train"].slice.key_values()) is train_online


def test_online_training_gets_a_clip_of_our_own_making() -> None:
    settings = ["clip.weights=pretrain"]
    assert "pretrain" not in make_plan(load_config("shapes", overrides=settings))["train"].upstream
    assert "pretrain" in make_plan(load_config("shapes", overrides=[*settings, *ONLINE_TRAIN]))["train"].upstream
