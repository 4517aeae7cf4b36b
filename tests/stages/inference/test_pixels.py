"""Class scores straight from pixels: whole images, and sliding windows."""

import contextlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from split_matching.model.token_encoder import TokenEncoder, split_patches
from split_matching.pipeline.stages import make_plan
from split_matching.stages.data.images import read_image
from split_matching.stages.data.source import open_source
from split_matching.stages.ground.budget import Budget
from split_matching.stages.ground.frozen_clip import frozen_clip
from split_matching.stages.inference import evaluate
from split_matching.stages.inference.pixels import make_pixel_scorer
from tests.handmade import Chain


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    return Chain(tmp_path_factory.mktemp("base")).to_regions()


def test_window_over_the_whole_image_equals_whole_mode(base: Chain, tmp_path: Path) -> None:
    base.train()
    whole, slide = (
        base.branch(tmp_path / name, *more)
        for name, more in [("a", ()), ("b", ("evaluate.mode=slide", "evaluate.window=512"))]
    )
    labels = []
    for chain in (whole, slide):
        chain.slice = make_plan(chain.config)["evaluate"].slice
        chain.whole(evaluate, "evaluate")
        shards = chain.inputs["evaluate"].shards("val")
        labels.append(np.stack([shards.read(i, "labels") for i in shards.ids]))
    assert (labels[0] == labels[1]).mean() > 0.99  # the cache is rounded to float16


def test_images_are_scored_one_by_one_where_no_two_fit_with_the_same_bytes(
    base: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base.train()
    found = []
    for name, size in (("wide", 10**9), ("narrow", 1)):
        chain = base.branch(tmp_path / name, "evaluate.mode=slide", "evaluate.window=64", "evaluate.stride=48")
        chain.slice = make_plan(chain.config)["evaluate"].slice
        taken: list[int] = []

        class Watched(Budget):
            def take(self, size: int, taken: list[int] = taken) -> contextlib.AbstractContextManager[None]:
                taken.append(size)
                return super().take(size)

        monkeypatch.setattr(evaluate, "Budget", lambda _, size=size: Watched(size))
        chain.whole(evaluate, "evaluate")
        artifact = chain.inputs["evaluate"]
        assert len(taken) == len(artifact.shards("val").ids) and min(taken) > 1
        files = set(artifact.path.glob("*.*")) - {artifact.path / "manifest.json"}
        found.append({path.name: path.read_bytes() for path in files})
    assert found[0] == found[1] and "val-00000.h5" in found[0]


@pytest.mark.parametrize("batch", [1, 3])
def test_windows_of_an_image_are_scored_like_images(base: Chain, tmp_path: Path, batch: int) -> None:
    base.train()
    chain = base.branch(tmp_path, "evaluate.mode=slide", "evaluate.window=36", "evaluate.stride=34",
                     "evaluate.short_side=80", f"runtime.batch={batch}")  # fmt: skip
    chain.slice = make_plan(chain.config)["evaluate"].slice
    ctx = chain.context("x")
    clip, encoder = frozen_clip(ctx), TokenEncoder(frozen_clip(ctx), (2, 4))
    calls: list[int] = []

    def score(maps: list[torch.Tensor], pixels: object) -> torch.Tensor:
        calls.append(len(maps[0]))
        return maps[1][..., :3].permute(0, 3, 1, 2)

    scorer = make_pixel_scorer(ctx, score)
    scorer.batch = batch
    image_id = base.inputs["features"].shards("val").ids[0]
    image = read_image(open_source(chain.config.data, base.root).image_path(image_id))
    got = scorer.score(image)
    big = np.asarray(Image.fromarray(image).resize((80, 80), Image.Resampling.BICUBIC))
    total, count = torch.zeros(3, 80, 80), torch.zeros(80, 80)
    for y in (0, 32, 48):  # a window of 36 pixels is rounded to 4 patches, and the stride leaves no gap
        for x in (0, 32, 48):
            patches = torch.from_numpy(split_patches(big[y : y + 32, x : x + 32], clip.patch))[None].float()
            one = encoder(patches, torch.ones(1, 4, 4, dtype=torch.bool))[1][..., :3].permute(0, 3, 1, 2)
            up = torch.nn.functional.interpolate(one, (32, 32), mode="bilinear", align_corners=False)[0]
            total[:, y : y + 32, x : x + 32] += up
            count[y : y + 32, x : x + 32] += 1
    assert torch.allclose(got, total / count, atol=1e-4)
    assert max(calls) <= batch and sum(calls) == 9


@pytest.mark.parametrize("shape", [(48, 96), (96, 48)])
def test_with_prompts_an_oblong_image_is_one_window(base: Chain, tmp_path: Path, shape: tuple[int, int]) -> None:
    chain = base.branch(tmp_path, "decoder.prompts=2", "train.features=online", "features.size=64")
    chain.slice = make_plan(chain.config)["evaluate"].slice
    calls: list[torch.Size] = []

    def score(maps: list[torch.Tensor], pixels: object) -> torch.Tensor:
        calls.append(maps[0].shape)
        return maps[-1][..., :3].permute(0, 3, 1, 2)

    patch = frozen_clip(chain.context("x")).patch
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    got = make_pixel_scorer(chain.context("x"), score).score(image)
    grid = tuple(64 * side // max(shape) // patch for side in shape)
    assert [tuple(call[:3]) for call in calls] == [(1, *grid)]
    assert got.shape == (3, *grid)


def test_on_the_cpu_a_window_shares_its_forward_with_nothing(base: Chain, tmp_path: Path) -> None:
    chain = base.branch(tmp_path, "evaluate.mode=slide", "runtime.batch=8", "runtime.device=cpu")
    chain.slice = make_plan(chain.config)["evaluate"].slice
    assert make_pixel_scorer(chain.context("x"), lambda maps, pixels: maps[0]).batch == 1
