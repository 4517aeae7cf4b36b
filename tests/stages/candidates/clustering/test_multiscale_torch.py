"""Clustering of a batch in torch against faiss: empty clusters, assignments, whole partitions, and the stage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from split_matching.configs.settings import PseudoMasksConfig
from split_matching.errors import DataError
from split_matching.stages.candidates import features, one_pass, pseudo_masks
from split_matching.stages.candidates.clustering import faiss_kmeans, multiscale_faiss, multiscale_torch
from split_matching.stages.candidates.clustering.multiscale_torch import fill_empty, spherical_kmeans
from tests.handmade import Chain

Floats = NDArray[np.float32]
CONFIG = PseudoMasksConfig(windows=(3, 6), merge=0.9, engine="torch")


def unit(rows: NDArray[Any]) -> Floats:
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def image(seed: int, size: tuple[int, int] = (12, 16), width: int = 24) -> Floats:
    """Features with a few planted regions. (h, w, D), unit length."""
    rng = np.random.default_rng(seed)
    centres, sites = rng.standard_normal((5, width)), rng.uniform(0, size, (5, 2))
    cells = np.stack(np.meshgrid(*map(np.arange, size), indexing="ij"), -1)
    owner = ((cells[:, :, None] - sites) ** 2).sum(-1).argmin(-1)
    return unit(centres[owner] + 0.3 * rng.standard_normal((*size, width)))


def agreement(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> float:
    """Share of the cells that two partitions agree on, whatever the regions' numbers."""
    joint = np.zeros((256, 256))
    np.add.at(joint, (first.ravel(), second.ravel()), 1)
    return float(joint[linear_sum_assignment(-joint)].sum() / first.size)


def by_torch(points: Floats, seeds: Floats, iterations: int) -> Floats:
    batch = torch.from_numpy(points)[None], torch.from_numpy(seeds)[None]
    return np.asarray(spherical_kmeans(*batch, iterations)[0].numpy())


def problem(seed: int, clusters_: int = 30) -> tuple[Floats, Floats]:
    """Points, and seeds of which some get no point: faiss then splits others."""
    points = image(seed).reshape(-1, 24)
    rng = np.random.default_rng(seed)
    return points, unit(points[rng.integers(0, len(points), clusters_)] + 0.8 * rng.standard_normal((clusters_, 24)))


@pytest.mark.parametrize("seed", range(20))
def test_an_iteration_is_that_of_faiss_with_its_split_of_empty_clusters(seed: int) -> None:
    points, seeds = problem(seed)
    empty = len(seeds) - len(np.unique((points @ seeds.T).argmax(1)))
    assert empty > 0
    assert np.allclose(by_torch(points, seeds, 1), faiss_kmeans.spherical_kmeans(points, seeds, 1), atol=1e-6)


def test_some_split_goes_round_more_than_once() -> None:
    """Or the cases above would not try the order of the draws."""
    counts = np.array([3, 0, 2, 0, 1, 2], np.float32)
    rows = unit(np.random.default_rng(0).standard_normal((6, 8)))
    draws = np.random.RandomState(1234).randint(0, 2**32, 5000, np.uint32).astype(np.float32) / np.float32(2**32 - 1)
    first = next(i for i, draw in enumerate(draws) if draw < (counts[i % 6] - 1) / (200 - 6))
    assert first >= 6
    split = fill_empty(rows, counts, 200)
    assert np.allclose(split[1], rows[first % 6] * (1 + np.where(np.arange(8) % 2 == 0, 1, -1) / 1024))


def test_an_empty_cluster_is_filled_even_if_no_other_is_small() -> None:
    points, seeds = np.eye(3, dtype=np.float32)[[0] * 8], np.eye(3, dtype=np.float32)[:2]
    assert by_torch(points, seeds, 1)[:, 0] == pytest.approx([1, 1], abs=1e-5)


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_smoothing_is_that_of_one_image(weight: float) -> None:
    images = np.stack([image(seed) for seed in (0, 1)])
    found = multiscale_torch.smooth(torch.from_numpy(2 * images), weight).numpy()
    for one, smoothed in zip(images, found, strict=True):
        assert np.allclose(smoothed, faiss_kmeans.smooth(one, weight), atol=1e-5)


def test_halves_of_a_split_are_moved_apart_and_share_the_points() -> None:
    """By hand. The draws are 0.19, 0.50, 0.62, 0.82, 0.44, 0.61, 0.79, 0.77, 0.78, 0.86, 0.27, 0.15, one a cluster.

    The second draw takes cluster 1 for the first empty one, as its chance is 89 / 87. Then both halves have 45 points
    and a chance of 44 / 87: the twelfth draw takes cluster 0, the first of the halves.
    """
    rows = np.ones((3, 4), np.float32)
    split = fill_empty(rows, np.array([0, 90, 0], np.float32), 90)
    e = 1 / 1024
    expected = [[1 - e * e] * 4, [1 - e, 1 + e] * 2, [(1 + e) ** 2, (1 - e) ** 2] * 2]
    assert np.allclose(split, expected, rtol=0, atol=1e-7)
    assert np.array_equal(rows, np.ones((3, 4))), "the input is left as it is"


def test_all_assignments_are_those_of_faiss_where_nothing_is_tied() -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        points = unit(rng.standard_normal((300, 16)) + 4 * np.eye(16)[rng.integers(0, 6, 300)])
        seeds = unit(np.eye(16)[:6] + 0.3 * rng.standard_normal((6, 16)))
        for iterations in (1, 3, 12):
            ours, theirs = by_torch(points, seeds, iterations), faiss_kmeans.spherical_kmeans(points, seeds, iterations)
            assert np.array_equal((points @ ours.T).argmax(1), (points @ theirs.T).argmax(1))


@pytest.mark.parametrize("seed", range(10))
def test_from_the_centroids_of_faiss_a_point_goes_elsewhere_only_if_it_is_tied(seed: int) -> None:
    """The halves of a split cluster are nearly one, and for many points equally near in float32."""
    points, seeds = problem(seed)
    for iterations in range(6):
        centroids = faiss_kmeans.spherical_kmeans(points, seeds, iterations) if iterations else seeds
        index = faiss.IndexFlatIP(points.shape[1])
        index.add(centroids)
        nearest = (torch.from_numpy(points) @ torch.from_numpy(centroids).T).argmax(-1).numpy()
        best = index.search(points, 1)[0][:, 0]
        chosen = np.einsum("nd,nd->n", points, centroids[nearest])
        assert np.allclose(chosen, best, atol=1e-6)


@pytest.mark.parametrize("size", [(12, 16), (16, 9)])
def test_partitions_are_those_of_one_image_at_a_time(size: tuple[int, int]) -> None:
    images = [image(seed, size) for seed in range(6)]
    together = multiscale_torch.cluster(images, CONFIG, "cpu")
    for one, found in zip(images, together, strict=True):
        alone = multiscale_faiss.cluster([one], CONFIG, "cpu")[0]
        assert found.shape == alone.shape == (2 * size[0], 2 * size[1]) and found.dtype == np.uint8
        assert found.max() > 1
        assert agreement(found, alone) > 0.95, "ties aside"
        assert agreement(found, multiscale_torch.cluster([one], CONFIG, "cpu")[0]) > 0.95


def test_half_precision_and_no_smoothing_are_taken_as_they_are() -> None:
    config = CONFIG.model_copy(update={"smooth": 0.0})
    dense = image(3).astype(np.float16)
    ours, theirs = (
        multiscale_torch.cluster([dense], config, "cpu")[0],
        multiscale_faiss.cluster([dense], config, "cpu")[0],
    )
    assert agreement(ours, theirs) > 0.95


@pytest.mark.parametrize(
    ("dense", "message"),
    [
        (np.full((12, 16, 24), np.nan, np.float32), "dense features contain NaN"),
        (image(0, (1, 2)), "tokens cannot make"),
    ],
)
def test_what_cannot_be_clustered_is_an_error(dense: Floats, message: str) -> None:
    with pytest.raises(DataError, match=message):
        multiscale_torch.cluster([dense], CONFIG.model_copy(update={"windows": (1, 2)}), "cpu")


# --- the stage --------------------------------------------------------------------------------------------------------


def labels(chain: Chain) -> dict[str, NDArray[np.uint8]]:
    shards = chain.inputs["pseudo_masks"].shards("train")
    return {image_id: shards.read(image_id, "labels") for image_id in shards.ids}


def test_the_stage_makes_nearly_the_same_masks_by_either_engine(tmp_path: Path) -> None:
    """With the weights of `shapes`, so that features are such as CLIP gives."""
    settings = ("clip.weights=bundled", "shapes.image_size=128", "features.size=128", "features.shifts=2")
    found = []
    for engine in ("faiss", "torch"):
        chain = Chain(tmp_path / engine, *settings, f"pseudo_masks.engine={engine}")
        chain.sharded(features, "features")
        chain.sharded(pseudo_masks, "pseudo_masks")
        found.append(labels(chain))
    for image_id, by_faiss in found[0].items():
        assert by_faiss.max() > 1
        assert agreement(by_faiss, found[1][image_id]) > 0.97


def test_a_batch_keeps_images_and_grids_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU: images of two grids by turns, three a batch, some left over."""
    chain = Chain(tmp_path, "pseudo_masks.engine=torch", "runtime.batch=3")
    ctx = chain.context("pseudo_masks")
    images = [(f"{n:03d}", image(n, ((12, 16), (16, 9))[n % 2]), n) for n in range(17)]
    sizes: list[int] = []

    on_cpu = multiscale_torch.cluster

    def count_images(dense: list[Floats], config: PseudoMasksConfig, device: str) -> list[NDArray[np.uint8]]:
        sizes.append(len(dense))
        assert device == "cuda"
        return on_cpu(dense, config, "cpu")

    monkeypatch.setattr(pseudo_masks, "device_of", lambda ctx: "cuda")
    monkeypatch.setattr(pseudo_masks, "images_per_batch", lambda ctx: ctx.runtime.batch)
    monkeypatch.setattr(multiscale_torch, "cluster", count_images)
    found = list(pseudo_masks.cluster_batches(ctx, multiscale_torch, images))
    assert [(name, along) for name, _, along in found] == [(name, along) for name, _, along in images]
    assert sizes == [3, 3, 3, 3, 3, 2]  # twelve at a time, six of each grid, then five
    for (_, dense, _), (_, made, _) in zip(images, found, strict=True):
        assert made.shape == tuple(ctx.config.pseudo_masks.scale * side for side in dense.shape[:2])
        assert agreement(made, multiscale_faiss.cluster([dense], ctx.config.pseudo_masks, "cpu")[0]) > 0.95


def test_one_pass_takes_either_engine(tmp_path: Path) -> None:
    apart = Chain(tmp_path / "apart", "pseudo_masks.engine=torch")
    apart.sharded(features, "features")
    apart.sharded(pseudo_masks, "pseudo_masks")
    once = Chain(
        tmp_path / "once",
        *("pseudo_masks.engine=torch", "features.persist=false", "train.features=online"),
        root=apart.root,
    )
    once.sharded(one_pass, "pseudo_masks")
    assert all(np.array_equal(labels(once)[image_id], made) for image_id, made in labels(apart).items())


def test_an_error_names_the_images(tmp_path: Path) -> None:
    ctx = Chain(tmp_path, "pseudo_masks.engine=torch").context("pseudo_masks")
    with pytest.raises(DataError, match=r"^image a: dense features contain NaN"):
        list(pseudo_masks.cluster_batches(ctx, multiscale_torch, [("a", np.full((8, 8, 4), np.nan, np.float32), None)]))
