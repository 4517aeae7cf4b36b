"""Fusion and the training-free baselines, through Evaluate."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from split_matching.model.clip import FrozenClip
from split_matching.stages.data.labels import read_all_labels
from split_matching.stages.data.source import open_source
from split_matching.stages.ground.class_text import embed_classes
from split_matching.stages.ground.frozen_clip import frozen_clip
from split_matching.stages.inference import evaluate
from split_matching.stages.inference.metrics import compute_scores
from split_matching.stages.inference.predictors import decoder, load_predictor, regions
from split_matching.stages.inference.predictors.dense import score_tokens
from tests.handmade import Chain


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    # enough steps for some masks to cover something: only those are shown to CLIP
    chain = Chain(tmp_path_factory.mktemp("chain"), "train.steps=40", "train.lr=3e-3").to_regions()
    chain.train()
    return chain


def metrics(base: Chain, tmp_path: Path, *overrides: str) -> tuple[dict, bytes]:
    chain = Chain(tmp_path, *overrides, root=base.root)
    chain.inputs = dict(base.inputs)
    if any("predictor" in o for o in overrides):
        del chain.inputs["train"]  # a baseline must not need it
    folder = chain.whole(evaluate, "evaluate")
    return json.loads((folder / "metrics.json").read_text()), (folder / "val-00000.h5").read_bytes()


@pytest.mark.parametrize("predictor", ["dense", "regions"])
def test_training_free_baselines_label_every_pixel(base: Chain, tmp_path: Path, predictor: str) -> None:
    result, _ = metrics(base, tmp_path, f"evaluate.predictor={predictor}")
    assert result["images"] == 2 and 0 <= result["pAcc"] <= 100


@pytest.mark.parametrize("predictor", ["dense", "regions"])
def test_the_training_free_baselines_have_the_temperature_of_clip(
    base: Chain, tmp_path: Path, predictor: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shares at one scale are powers of those at another, whatever the decoder's temperature is."""
    shares = {}
    for scale in (10.0, 20.0):
        monkeypatch.setattr(FrozenClip, "logit_scale", scale)
        chain = Chain(tmp_path / str(scale), f"evaluate.predictor={predictor}", "decoder.temperature=3", root=base.root)
        chain.inputs = dict(base.inputs)
        ctx = chain.context("evaluate")
        image_id = ctx.inputs["features"].shards("val").ids[0]
        width = ctx.inputs["features"].shards("val").read(image_id, "dense").shape[-1]
        text = F.normalize(torch.randn(3, width, generator=torch.Generator().manual_seed(0)), dim=1)
        shares[scale] = load_predictor(ctx, text).score(image_id)
    powers = shares[10.0] ** 2
    assert torch.allclose(powers / powers.sum(0, keepdim=True), shares[20.0], atol=1e-4)


def test_clusters_are_named_by_the_probabilities_of_clip(
    base: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FrozenClip, "logit_scale", 10.0)
    monkeypatch.setattr(regions, "cluster", lambda points, settings: np.array([[1, 1], [2, 0]], np.uint8))
    monkeypatch.setattr(regions, "embed_regions", lambda *given: [torch.tensor([[0.6, 0.8], [1.0, 0.0]])])
    chain = Chain(tmp_path, "evaluate.predictor=regions", root=base.root)
    chain.inputs = dict(base.inputs)
    ctx = chain.context("evaluate")
    scores = load_predictor(ctx, torch.eye(2)).score(ctx.inputs["features"].shards("val").ids[0])
    first, second = 1 / (1 + math.exp(2)), 1 / (1 + math.exp(-10))
    assert scores[:, 0, 0].tolist() == pytest.approx([first, 1 - first])
    assert scores[:, 1, 0].tolist() == pytest.approx([second, 1 - second])
    assert scores[:, 1, 1].tolist() == [0, 0]


@pytest.mark.parametrize(
    ("settings", "side"),
    [
        (("evaluate.mode=slide", "evaluate.window=40", "evaluate.short_side=48"), 40),
        (("evaluate.mode=slide", "evaluate.window=56", "evaluate.short_side=48"), 48),
        (("evaluate.mode=whole", "evaluate.window=40", "evaluate.short_side=48"), 64),
    ],
)
def test_the_cost_is_that_of_what_clip_sees(
    base: Chain, tmp_path: Path, settings: tuple[str, ...], side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoder, "count_complexity", lambda config, clip, seen: {"side": seen})
    chain = Chain(tmp_path, *settings, "evaluate.stride=40", root=base.root)
    chain.inputs = dict(base.inputs)
    assert chain.config.features.size == 64
    assert load_predictor(chain.context("evaluate"), torch.zeros(3, 128)).count_cost() == {"side": side}


@pytest.mark.parametrize("method", ["crop", "attention", "mean"])
def test_fusion_changes_predictions_and_is_deterministic(base: Chain, tmp_path: Path, method: str) -> None:
    # after so short a training nearly every query says "nothing": all must be asked for a difference to show
    more = ("evaluate.fusion=1.0", "evaluate.fusion_floor=0.0", f"evaluate.fusion_method={method}")
    _, plain = metrics(base, tmp_path / "plain")
    _, first = metrics(base, tmp_path / "first", *more)
    _, again = metrics(base, tmp_path / "again", *more)
    assert first == again and first != plain


def test_fusion_with_slide_equals_whole_for_one_window(base: Chain, tmp_path: Path) -> None:
    more = ("evaluate.fusion=0.5", "evaluate.fusion_floor=0.0", "evaluate.mode=slide", "evaluate.stride=64")
    results = [metrics(base, tmp_path / side, *more, f"evaluate.window={side}")[0] for side in ("64", "512")]
    assert results[0] == results[1]


def test_threads_change_no_byte(base: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And fusion shows CLIP the image of its own thread."""
    more, found = ("evaluate.fusion=0.5", "evaluate.fusion_floor=0.0"), []
    for threads in (1, 3):
        monkeypatch.setattr(evaluate, "_threads", lambda device, threads=threads: threads)
        metrics(base, tmp_path / str(threads), *more)
        found.append({path.name: path.read_bytes() for path in (tmp_path / str(threads) / "evaluate").iterdir()})
    assert found[0] == found[1] and "metrics.json" in found[0]


def test_the_curve_of_gamma_is_that_of_one_argmax_for_each_gamma(base: Chain, tmp_path: Path) -> None:
    result, _ = metrics(base, tmp_path, "evaluate.gamma=0.07", "evaluate.gamma_sweep=[0.3, 0.0, 0.07, -0.1]")
    chain = base.branch(tmp_path / "again")
    ctx, source = chain.context("x"), open_source(chain.config.data, chain.root)
    entries, seen = evaluate.competing_classes(chain.slice)
    members = torch.from_numpy(seen)
    text = embed_classes(frozen_clip(ctx), entries, chain.config.text)
    predictor = load_predictor(ctx, text)
    assert [point["gamma"] for point in result["extra"]["gamma_sweep"]] == [-0.1, 0.0, 0.07, 0.3]
    for point in result["extra"]["gamma_sweep"]:
        counts = np.zeros((len(entries), len(entries)), np.int64)
        for image_id in source.ids("val"):
            truth = read_all_labels(source, image_id, [entry.id for entry in entries])
            full = F.interpolate(predictor.score(image_id)[None], truth.shape, mode="bilinear", align_corners=False)[0]
            labels = (full - point["gamma"] * members[:, None, None].float()).argmax(0).numpy()
            np.add.at(counts, (truth[truth < 255], labels[truth < 255]), 1)
        expected = compute_scores(counts, seen).percent()
        assert {name: point[name] for name in expected} == pytest.approx(expected, rel=1e-12, nan_ok=True)
    assert result["hIoU"] == result["extra"]["gamma_sweep"][2]["hIoU"]


def test_dense_scores_equal_a_plain_loop() -> None:
    g = torch.Generator().manual_seed(0)
    dense, text = torch.randn(3, 4, 5, generator=g), torch.randn(6, 5, generator=g)
    scores = score_tokens(dense, text, 10.0)
    for y, x in np.ndindex(3, 4):
        assert torch.allclose(scores[:, y, x], (10.0 * text @ dense[y, x]).softmax(0), atol=1e-6)
