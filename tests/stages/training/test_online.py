"""Training on images: augmentation, prompts and frozen CLIP; evaluation by sliding windows."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from split_matching.configs.class_list import load_classes
from split_matching.configs.load import load_config
from split_matching.configs.schema import ClipConfig
from split_matching.errors import ConfigError
from split_matching.model.clip import FrozenClip
from split_matching.model.parallel import Group
from split_matching.model.token_tower import TokenTower, join_patches, split_patches
from split_matching.pipeline.plan import Plan, stages_of
from split_matching.stages.data.augment import View, distort, draw_view, take_image, take_labels
from split_matching.stages.data.images import read_image
from split_matching.stages.data.layouts import open_source
from split_matching.stages.ground.context import StageContext
from split_matching.stages.ground.frozen_clip import frozen_clip
from split_matching.stages.inference import evaluate
from split_matching.stages.inference.sliding import slide_scores, window_starts
from split_matching.stages.training import train
from split_matching.stages.training.online import ImageScores, cut_regions, cut_seen
from split_matching.stages.training.train import TrainingSet, collate, load_batch
from tests.handmade import Chain

PLAIN = ("train.scale_range=[1, 1]", "train.photometric=false", "train.flip=false")
UNANNOTATED = 255


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    return Chain(tmp_path_factory.mktemp("base")).to_regions()


@pytest.fixture(scope="module")
def clip() -> FrozenClip:
    return FrozenClip(ClipConfig(model="shapes-vit", weights="random"))


def chain_on(base: Chain, folder: Path, *overrides: str, root: Path | None = None) -> Chain:
    """A chain with settings of its own that shares everything before training."""
    chain = Chain(folder, *overrides, root=root or base.root)
    chain.inputs = dict(base.inputs)
    return chain


def online(base: Chain, folder: Path, *overrides: str, root: Path | None = None) -> Chain:
    chain = chain_on(base, folder, "train.features=online", *overrides, root=root)
    chain.slice = Plan(chain.config).slice("train")  # what the graph declares must be enough
    return chain


def context(chain: Chain) -> StageContext:
    return StageContext(chain.slice, chain.inputs, chain.folder("x"), chain.config.runtime, chain.root)


def trained(chain: Chain, name: str = "train") -> dict[str, bytes]:
    folder = chain.whole(train, name)
    return {p.name: p.read_bytes() for p in folder.iterdir() if not p.name.startswith("checkpoint")}


def evaluated(chain: Chain) -> Path:
    chain.slice = Plan(chain.config).slice("evaluate")
    return chain.whole(evaluate, "evaluate")


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


# ---- the visual tower in the loop ----


def test_patches_join_to_the_image() -> None:
    image = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)
    patches = split_patches(image, 8)
    assert patches.shape == (3, 5, 192) and np.array_equal(patches[1, 2], image[8:16, 16:24].ravel())
    assert np.array_equal(join_patches(torch.from_numpy(patches)[None], 8)[0].permute(1, 2, 0), image)


def test_padded_batch_gives_what_each_image_gives_alone(clip: FrozenClip) -> None:
    grids = [(8, 8), (5, 7), (6, 3)]
    alone, patches, valid = images(clip, *grids)
    maps = TokenTower(clip, (2, 4))(patches, valid)
    for row, (h, w) in enumerate(grids):
        expected = clip.dense(alone[row], decoder_blocks=(2, 4)).tokens
        for index, block in enumerate((2, 4)):
            assert torch.allclose(maps[index][row, :h, :w], expected[block][0], atol=2e-5)


def test_prompts_enter_every_block_and_leave_it(clip: FrozenClip) -> None:
    alone, patches, valid = images(clip, (4, 6))
    prompts = torch.randn(3, 5, clip.width, generator=torch.manual_seed(0))
    maps = TokenTower(clip, (1, 3))(patches, valid, prompts)
    x, outputs = clip.tower.embed(alone[0])[0], {}
    for index in range(3):
        kept = x if index == 0 else torch.cat([x[:, :1], x[:, 6:]], 1)  # CLS and patches: the prompts are replaced
        x = torch.cat([kept[:, :1], prompts[index][None], kept[:, 1:]], 1)
        x = clip.visual.transformer.resblocks[index](x)
        outputs[index + 1] = x[:, 6:].unflatten(1, (4, 6))
    for got, block in zip(maps, (1, 3), strict=True):
        assert torch.allclose(got, outputs[block], atol=2e-5)
    plain = TokenTower(clip, (1, 3))(patches, valid)
    assert all((a - b).abs().max() > 0.01 for a, b in zip(maps, plain, strict=True))


def test_gradients_reach_all_prompts_and_nothing_of_clip(clip: FrozenClip) -> None:
    _, patches, valid = images(clip, (4, 4), (3, 4))
    prompts = torch.randn(4, 2, clip.width, generator=torch.manual_seed(0)).requires_grad_()
    TokenTower(clip, (4,))(patches, valid, prompts)[0][valid].square().sum().backward()
    assert (prompts.grad.abs().amax(-1) > 0).all()
    assert all(p.grad is None and not p.requires_grad for p in clip.parameters())


def test_half_precision_gives_float_maps(clip: FrozenClip) -> None:
    _, patches, valid = images(clip, (4, 4), (3, 4))
    tower, prompts = TokenTower(clip, (2,)), torch.zeros(2, 1, clip.width)
    exact = tower(patches, valid, prompts)[0][valid]
    with torch.autocast("cpu", torch.bfloat16):
        half = tower(patches, valid, prompts)[0]
    assert half.dtype == torch.float32
    assert (half[valid] - exact).abs().mean() < 0.05 * exact.abs().mean()


# ---- augmentation ----


def test_images_and_labels_are_cut_alike() -> None:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 5, (4, 6)).astype(np.uint8)
    labels = np.kron(coarse, np.ones((20, 20), np.uint8))  # (80, 120)
    image = np.repeat((labels * 50)[..., None], 3, 2)
    for scaled in ((80, 120), (160, 248), (48, 64)):
        for mirrored in (False, True):
            view = View(*scaled, 8, 5, 32, 40, mirrored)
            pixels, cut, region = take_image(image, view), take_labels(labels, view), take_labels(coarse, view)
            assert pixels.shape == (32, 40, 3) and cut.shape == region.shape == (32, 40)
            assert np.array_equal(cut, region)  # the resolution of a label map does not matter
            inner = np.abs(pixels[..., 0].astype(int) - 50 * cut) < 20
            assert inner.mean() > (0.8 if scaled[0] >= 80 else 0.7)  # all but the blurred borders


def test_cutting_equals_scaling_then_cropping() -> None:
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    full = np.asarray(Image.fromarray(image).resize((144, 96), Image.Resampling.BICUBIC))
    view = View(96, 144, 17, 31, 64, 72)
    assert np.array_equal(take_image(image, view), full[17:81, 31:103])
    mirrored = View(96, 144, 17, 31, 64, 72, mirrored=True)
    assert np.array_equal(take_image(image, mirrored), full[17:81, 31:103][:, ::-1])
    assert np.array_equal(take_image(image, View.whole(50, 70)), image)


def test_crops_stay_inside_and_reach_every_border() -> None:
    labels = np.full((40, 60), UNANNOTATED, np.uint8)
    views = [draw_view(np.random.default_rng(i), labels, (40, 64), 32, 0.75, True) for i in range(300)]
    assert {(v.rows, v.cols) for v in views} == {(32, 32)}
    assert {v.top for v in views} == set(range(9)) and {v.left for v in views} == set(range(33))
    assert 100 < sum(v.mirrored for v in views) < 200
    assert not any(draw_view(np.random.default_rng(i), labels, (40, 64), 32, 0.75, False).mirrored for i in range(20))
    small = draw_view(np.random.default_rng(0), labels, (24, 64), 32, 0.75, False)
    assert (small.top, small.rows, small.cols) == (0, 24, 32)  # nothing is padded


def test_one_class_does_not_fill_a_crop() -> None:
    labels = np.zeros((64, 64), np.uint8)
    labels[:, 48:] = 1  # a crop at the left shows class 0 alone

    def share(ratio: float, i: int) -> float:
        view = draw_view(np.random.default_rng(i), labels, (64, 64), 32, ratio, False)
        cut = take_labels(labels, view)
        return max((cut == 0).mean(), (cut == 1).mean())

    assert np.mean([share(0.75, i) < 0.75 for i in range(50)]) > 0.9
    assert np.mean([share(1.0, i) < 0.75 for i in range(50)]) < 0.6


def test_unannotated_pixels_do_not_count_in_the_ratio() -> None:
    """Half of a crop is unannotated, the other half is one class: no crop will do, and the last one is taken."""
    labels = np.full((64, 64), UNANNOTATED, np.uint8)
    labels[::2] = 3
    drawn = draw_view(np.random.default_rng(0), labels, (64, 64), 32, 0.75, False)
    rng = np.random.default_rng(0)
    rng.random()
    for _ in range(10):
        last = int(rng.integers(33)), int(rng.integers(33))
    assert (drawn.top, drawn.left) == last


def test_distortion_keeps_size_and_grey_and_sometimes_everything() -> None:
    image = np.random.default_rng(1).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    grey = np.repeat(image[..., :1], 3, 2)
    results = [distort(image, np.random.default_rng(i)) for i in range(60)]
    assert all(r.shape == image.shape and r.dtype == np.uint8 for r in results)
    assert 1 <= sum(np.array_equal(r, image) for r in results) < 15
    assert np.array_equal(results[3], distort(image, np.random.default_rng(3)))
    for i in range(20):
        out = distort(grey, np.random.default_rng(i)).astype(int)
        assert np.ptp(out, axis=2).max() <= 1  # hue and saturation leave grey alone


def test_regions_cropped_away_are_no_targets() -> None:
    masks = np.array([[1, 1, 2, 0], [3, 3, 2, 0]], np.uint8)
    embeddings = np.arange(6, dtype=np.float16).reshape(3, 2)
    whole = cut_regions(masks, embeddings, View.whole(16, 32), (2, 4))
    assert len(whole[0]) == 3 and np.allclose(whole[1].sum(0), masks > 0)
    kept, shares = cut_regions(masks, embeddings, View(16, 32, 8, 8, 8, 16), (2, 4))  # the lower middle
    assert np.array_equal(kept, embeddings[[1, 2]])
    assert np.array_equal(shares[0], [[0, 0, 1, 1]] * 2) and np.array_equal(shares[1], [[1, 1, 0, 0]] * 2)
    kept, shares = cut_regions(masks, embeddings, View(16, 32, 0, 24, 8, 8), (2, 2))
    assert kept.shape == (0, 2) and shares.shape == (0, 2, 2)


def test_seen_classes_cropped_away_are_no_targets() -> None:
    labels = np.array([[4, 4, 0, 255], [4, 4, 255, 255]], np.uint8)
    seen, shares = cut_seen(labels, View(16, 32, 0, 16, 8, 16), (2, 4))
    assert seen.tolist() == [0] and np.array_equal(shares[0], [[1, 1, 0, 0]] * 2)
    seen, shares = cut_seen(labels, View(16, 32, 8, 16, 8, 16), (2, 4))
    assert seen.shape == (0,) and shares.shape == (0, 2, 4)


# ---- training ----


def test_unaugmented_and_unprompted_equals_the_cache(base: Chain, tmp_path: Path) -> None:
    chain = online(base, tmp_path, *PLAIN)
    ctx = context(chain)
    data = TrainingSet(ctx)
    cached = TrainingSet(context(base))
    items = load_batch(data, chain.config.train, 1, Group())
    patches, valid, targets = collate(items, 2, "cpu")
    maps = TokenTower(frozen_clip(ctx), chain.config.features.decoder_blocks)(patches[0], valid)
    for row, image_id in enumerate(train.batch_ids(data.ids, chain.config.train, 1)):
        item = cached.item(image_id)
        for got, want in zip(maps, item.tokens, strict=True):
            want = torch.from_numpy(want).float()
            assert torch.allclose(got[row], want, rtol=2e-3, atol=2e-3)  # float16 has 11 bits
        assert np.array_equal(items[row].seen_labels, item.seen_labels)
        assert np.array_equal(items[row].region_embeddings, item.region_embeddings)
        assert np.allclose(items[row].seen_masks, item.seen_masks)
        assert np.allclose(items[row].region_masks, item.region_masks)
    assert targets.valid.all()


def test_first_losses_are_those_of_cached_training(base: Chain, tmp_path: Path) -> None:
    def losses(chain: Chain) -> list[float]:
        lines = (chain.train() / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line)["loss"] for line in lines]

    fed, seen = losses(chain_on(base, tmp_path / "a", *PLAIN)), losses(online(base, tmp_path / "b", *PLAIN))
    assert len(seen) == 6 and np.allclose(fed, seen, rtol=0.01)


def test_items_depend_on_seed_step_and_index_alone(base: Chain, tmp_path: Path) -> None:
    ctx = context(online(base, tmp_path, "train.photometric=true"))
    data = TrainingSet(ctx).online
    first, second, third, _ = base.inputs["features"].shards("train").ids

    def patches(ids: list[str], step: int) -> np.ndarray:
        return data.items(ids, step, range(len(ids)))[1][0][0]

    again = TrainingSet(ctx).online.items([first, second], 4, range(2))[1]
    for got, want in zip(data.items([first, second], 4, range(2))[1], again, strict=True):
        assert np.array_equal(got, want)
    data.pool = ThreadPoolExecutor(1)
    assert np.array_equal(patches([third, second], 4), again[0][0])  # neighbours and threads do not matter
    assert not np.array_equal(patches([first, second], 5), again[0][0])
    assert not np.array_equal(data.items([second], 4, range(1))[0][0][0], again[0][0])  # another place in the batch
    assert np.array_equal(data.items([second], 4, [1])[0][0][0], again[0][0])  # the second process of two


def test_padding_is_invalid_and_never_a_target(base: Chain, tmp_path: Path) -> None:
    chain = online(base, tmp_path, "train.scale_range=[0.5, 1.0]", "train.batch=4")
    data = TrainingSet(context(chain))
    items = load_batch(data, chain.config.train, 0, Group())
    sizes = [item.tokens[0].shape[:2] for item in items]
    assert len(set(sizes)) > 1  # otherwise this test would prove nothing
    _, valid, targets = collate(items, 2, "cpu")
    fine = targets.valid.unflatten(1, (2 * valid.shape[1], 2 * valid.shape[2]))
    for row, (h, w) in enumerate(sizes):
        assert valid[row].sum() == h * w and valid[row, :h, :w].all()
        assert fine[row].sum() == 4 * h * w and fine[row, : 2 * h, : 2 * w].all()
    outside = 1 - targets.valid[:, None]
    assert (targets.region_masks * outside).sum() == 0 and (targets.seen_masks * outside).sum() == 0


def test_prompts_train_and_clip_does_not(base: Chain, tmp_path: Path) -> None:
    chain = online(base, tmp_path, "decoder.prompts=3", "train.photometric=true")
    clip = frozen_clip(context(chain))
    before = {name: value.clone() for name, value in clip.state_dict().items()}
    chain.train()
    weights = load_file(chain.folder("train") / "weights.safetensors")
    assert weights["prompts"].shape == (4, 3, clip.width)
    fresh = train.build_decoder(chain.config.decoder, clip.width, 2, clip.dim, 4, chain.config.train.seed)
    assert ((weights["prompts"] - fresh.prompts).abs().amax(-1) > 0).all()
    assert all(torch.equal(value, before[name]) for name, value in clip.state_dict().items())
    assert not any(name.startswith(("visual", "model", "clip")) for name in weights)
    # Evaluate computes the features with the trained prompts
    labels = evaluated(chain) / "val-00000.h5"
    with_prompts = labels.read_bytes()
    prompts = weights["prompts"]
    model = SimpleNamespace(prompts=prompts)
    score = ImageScores(context(chain), lambda maps, pixels: maps[0], model.prompts)
    image_id = base.inputs["features"].shards("val").ids[0]
    image = read_image(open_source(chain.config.data, base.root).image_path(image_id))
    patches = torch.from_numpy(split_patches(image, clip.patch))[None].float()
    direct = TokenTower(clip, (2, 4))(patches, torch.ones(1, 8, 8, dtype=torch.bool), prompts)[0][0]
    assert torch.allclose(score(image_id), direct, atol=1e-5)
    # a window as large as the image is the whole image
    slide = chain_on(
        base, tmp_path / "s", "train.features=online", "decoder.prompts=3", "evaluate.mode=slide", "evaluate.window=64",
        "evaluate.stride=60",
    )  # fmt: skip
    slide.inputs["train"] = chain.inputs["train"]
    assert (evaluated(slide) / "val-00000.h5").read_bytes() == with_prompts


def test_no_prompts_leave_the_initial_decoder_as_it_was(base: Chain) -> None:
    config = base.config.decoder
    plain = train.build_decoder(config, 128, 2, 128, 4, 0)
    prompted = train.build_decoder(config.model_copy(update={"prompts": 2}), 128, 2, 128, 4, 0)
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
        chain.whole(train, "stopped", progress=interrupt)
    assert trained(chain, "stopped") == trained(chain, "whole")


def test_unseen_labels_change_no_bit(base: Chain, tmp_path: Path) -> None:
    """Nor do background and void: neither the targets nor where the crops lie."""
    root = tmp_path / "root"
    shutil.copytree(base.root, root)
    source, seen = open_source(base.config.data, root), [entry.id for entry in load_classes("shapes").seen()]
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


# ---- sliding windows ----


@pytest.mark.parametrize(
    ("length", "window", "stride", "starts"),
    [(512, 512, 426, [0]), (640, 512, 426, [0, 128]), (938, 512, 426, [0, 426]), (939, 512, 426, [0, 426, 427]),
     (300, 512, 426, [0]), (10, 4, 2, [0, 2, 4, 6])],
)  # fmt: skip
def test_windows_cover_and_the_last_ends_at_the_border(length, window, stride, starts) -> None:
    assert window_starts(length, window, stride) == starts


@pytest.mark.parametrize("batch", [1, 4, 100])
def test_averaging_equals_a_slow_loop(batch: int) -> None:
    size, window, stride = (23, 31), (9, 12), 5
    values = torch.rand(4, *size, generator=torch.manual_seed(0))
    asked: list[int] = []

    def score(corners):
        """A window's scores depend on where it lies, so that the average matters."""
        asked.append(len(corners))
        return torch.stack([values[:, y : y + 9, x : x + 12] * (1 + y + x) for y, x in corners])

    got = slide_scores(size, window, stride, batch, score)
    total, count = np.zeros((4, *size)), np.zeros(size)
    for y in (0, 5, 10, 14):
        for x in (0, 5, 10, 15, 19):
            for i in range(9):
                for j in range(12):
                    total[:, y + i, x + j] += values[:, y + i, x + j].numpy() * (1 + y + x)
                    count[y + i, x + j] += 1
    assert np.allclose(got, total / count, rtol=1e-5)
    assert max(asked) <= batch and sum(asked) == 20  # never more windows at once than a batch


def test_coarse_scores_are_spread_over_their_window() -> None:
    got = slide_scores((4, 6), (4, 4), 2, 1, lambda corners: torch.full((1, 2, 1, 1), float(corners[0][1])))
    assert got.shape == (2, 4, 6)
    assert got[0, 0].tolist() == [0, 0, 1, 1, 2, 2]


def test_window_over_the_whole_image_equals_whole_mode(base: Chain, tmp_path: Path) -> None:
    base.train()
    whole, slide = (
        chain_on(base, tmp_path / name, *more)
        for name, more in [("a", ()), ("b", ("evaluate.mode=slide", "evaluate.window=512"))]
    )
    labels = []
    for chain in (whole, slide):
        evaluated(chain)
        shards = chain.inputs["evaluate"].shards("val")
        labels.append(np.stack([shards.read(i, "labels") for i in shards.ids]))
    assert (labels[0] == labels[1]).mean() > 0.99  # the cache is rounded to float16


@pytest.mark.parametrize("batch", [1, 3])
def test_windows_of_an_image_are_scored_like_images(base: Chain, tmp_path: Path, batch: int) -> None:
    base.train()
    chain = chain_on(base, tmp_path, "evaluate.mode=slide", "evaluate.window=36", "evaluate.stride=34",
                     "evaluate.short_side=80", f"runtime.batch={batch}")  # fmt: skip
    chain.slice = Plan(chain.config).slice("evaluate")
    ctx = context(chain)
    clip, tower = frozen_clip(ctx), TokenTower(frozen_clip(ctx), (2, 4))
    calls: list[int] = []

    def score(maps: list[torch.Tensor], pixels: object) -> torch.Tensor:
        calls.append(len(maps[0]))
        return maps[1][..., :3].permute(0, 3, 1, 2)

    scores = ImageScores(ctx, score)
    scores.pixels.batch = batch
    image_id = base.inputs["features"].shards("val").ids[0]
    got = scores(image_id)
    image = read_image(open_source(chain.config.data, base.root).image_path(image_id))
    big = np.asarray(Image.fromarray(image).resize((80, 80), Image.Resampling.BICUBIC))
    total, count = torch.zeros(3, 80, 80), torch.zeros(80, 80)
    for y in (0, 32, 48):  # a window of 36 pixels is rounded to 4 patches, and the stride leaves no gap
        for x in (0, 32, 48):
            patches = torch.from_numpy(split_patches(big[y : y + 32, x : x + 32], clip.patch))[None].float()
            one = tower(patches, torch.ones(1, 4, 4, dtype=torch.bool))[1][..., :3].permute(0, 3, 1, 2)
            up = torch.nn.functional.interpolate(one, (32, 32), mode="bilinear", align_corners=False)[0]
            total[:, y : y + 32, x : x + 32] += up
            count[y : y + 32, x : x + 32] += 1
    assert torch.allclose(got, total / count, atol=1e-4)
    assert max(calls) <= batch and sum(calls) == 9


def test_on_the_cpu_a_window_shares_its_forward_with_nothing(base: Chain, tmp_path: Path) -> None:
    chain = chain_on(base, tmp_path, "evaluate.mode=slide", "runtime.batch=8", "runtime.device=cpu")
    chain.slice = Plan(chain.config).slice("evaluate")
    assert ImageScores(context(chain), lambda maps, pixels: maps[0]).pixels.batch == 1


# ---- config and graph ----


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
def test_settings_that_cannot_be_are_refused(overrides: list[str], message: str) -> None:
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
    stages, plan = stages_of(config), Plan(config)
    for slug, is_online in (("train", train_online), ("evaluate", evaluate_online)):
        assert ("images.json" in stages[slug].upstream["dataset"]) is is_online
        values = plan.slice(slug).key_values()
        assert ("resize" in values["features"]) is is_online
    # beyond its inputs, training on cached features does not depend on the weights of CLIP
    assert ("clip" in plan.slice("train").key_values()) is train_online


def test_online_training_gets_a_clip_of_our_own_making() -> None:
    settings = ["clip.weights=pretrain"]
    assert "pretrain" not in stages_of(load_config("shapes", overrides=settings))["train"].upstream
    assert "pretrain" in stages_of(load_config("shapes", overrides=[*settings, *ONLINE_TRAIN]))["train"].upstream
