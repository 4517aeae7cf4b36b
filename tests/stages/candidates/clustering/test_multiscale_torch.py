"""Clustering of a batch in torch against faiss: empty clusters, assignments, whole partitions, and the stage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from split_matching.configs.settings import PseudoMasksConfig
from split_matching.errors import DataError
from split_matching.stages.candidates import features, one_pass, pseudo_masks
from split_matching.stages.candidates.clustering import (
    ClusteringModule,
    faiss_kmeans,
    multiscale_faiss,
    multiscale_torch,
)
from split_matching.stages.candidates.clustering.multiscale_torch import fill_empty, kmeans, seed_windows
from split_matching.stages.candidates.clustering.steps import closeness, window_seeds
from tests.handmade import Chain

Floats = NDArray[np.float32]
CONFIG = PseudoMasksConfig(windows=(3, 6), engine="torch")


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
    inside, used = (torch.ones(1, len(rows), dtype=torch.bool) for rows in (points, seeds))
    batch = torch.from_numpy(points)[None], inside, torch.from_numpy(seeds)[None], used
    return np.asarray(kmeans(*batch, iterations)[0].numpy())


def problem(seed: int, clusters_: int = 30) -> tuple[Floats, Floats]:
    """Points, and seeds of which some get no point: faiss then splits others."""
    points = image(seed).reshape(-1, 24)
    rng = np.random.default_rng(seed)
    return points, unit(points[rng.integers(0, len(points), clusters_)] + 0.8 * rng.standard_normal((clusters_, 24)))


def distances(points: Floats, centroids: Floats) -> Floats:
    return ((points[:, None] - centroids) ** 2).sum(-1)


@pytest.mark.parametrize("seed", range(20))
def test_an_iteration_is_that_of_faiss_with_its_split_of_empty_clusters(seed: int) -> None:
    points, seeds = problem(seed)
    empty = len(seeds) - len(np.unique(distances(points, seeds).argmin(1)))
    assert empty > 0
    assert np.allclose(by_torch(points, seeds, 1), faiss_kmeans.kmeans(points, seeds, 1), atol=1e-6)


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
    assert by_torch(points, seeds, 1)[:, 0] == pytest.approx([1 - 1 / 1024, 1 + 1 / 1024], abs=1e-6)


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
            ours, theirs = by_torch(points, seeds, iterations), faiss_kmeans.kmeans(points, seeds, iterations)
            assert np.array_equal(distances(points, ours).argmin(1), distances(points, theirs).argmin(1))


@pytest.mark.parametrize("seed", range(10))
def test_from_the_centroids_of_faiss_a_point_goes_elsewhere_only_if_it_is_tied(seed: int) -> None:
    """The halves of a split cluster are nearly one, and for many points equally near in float32."""
    points, seeds = problem(seed)
    for iterations in range(6):
        centroids = faiss_kmeans.kmeans(points, seeds, iterations) if iterations else seeds
        nearest = closeness(torch.from_numpy(points), torch.from_numpy(centroids)).argmax(-1).numpy()
        best = distances(points, centroids)
        assert np.allclose(best[np.arange(len(points)), nearest], best.min(1), atol=1e-5)


def partitions(module: ClusteringModule, images: list[Floats], free: list[NDArray[np.bool_]], **settings: Any) -> Any:
    return module.cluster(images, free, CONFIG.model_copy(update=settings), "cpu")


def test_few_free_cells_are_seeds_themselves_and_windows_without_one_are_not_used() -> None:
    points = torch.arange(32, dtype=torch.float32).reshape(2, 16, 1)
    free = torch.zeros(2, 4, 4, dtype=torch.bool)
    free[0, :2, :2] = True
    free[1, 3, 2:] = True
    free = torch.cat([free, free[:1]])
    free[2, 0, 1] = free[2, 1, 0] = False
    points = torch.cat([points, points[:1]])
    seeds, used = seed_windows(points, free.flatten(1), (4, 4), (2,))
    assert seeds[0, used[0], 0].tolist() == [2.5, 3, 4.5, 5] and seeds[1, used[1], 0].tolist() == [30, 30.5]
    assert seeds[2, used[2], 0].tolist() == [0, 5], "three windows, two cells"
    for row in range(3):
        expected = window_seeds(points[row].numpy(), free[row].flatten().numpy(), (4, 4), (2,))
        assert seeds[row, used[row]].numpy().tolist() == expected.tolist()


@pytest.mark.parametrize("size", [(12, 16), (16, 9)])
@pytest.mark.parametrize("share", [1.0, 0.6, 0.02])
def test_partitions_are_those_of_one_image_at_a_time(size: tuple[int, int], share: float) -> None:
    """With all cells free, some, or fewer than there are windows."""
    images = [image(seed, size) for seed in range(6)]
    rng = np.random.default_rng(0)
    free = [rng.random(size) < share for _ in images]
    for cells in free:
        cells[2, 3] = True
    together = partitions(multiscale_torch, images, free)
    for one, cells, found in zip(images, free, together, strict=True):
        alone = partitions(multiscale_faiss, [one], [cells])[0]
        assert found.shape == alone.shape == (2 * size[0], 2 * size[1]) and found.dtype == np.uint8
        assert found.max() > 1 or cells.sum() == 1
        assert agreement(found, alone) > 0.95, "ties aside"
        assert agreement(found, partitions(multiscale_torch, [one], [cells])[0]) > 0.95


def test_half_precision_and_no_smoothing_are_taken_as_they_are() -> None:
    dense, free = [image(3).astype(np.float16)], [np.ones((12, 16), bool)]
    ours, theirs = (partitions(module, dense, free, smooth=0.0)[0] for module in (multiscale_torch, multiscale_faiss))
    assert agreement(ours, theirs) > 0.95


def test_nan_is_an_error() -> None:
    with pytest.raises(DataError, match="dense features contain NaN"):
        partitions(multiscale_torch, [np.full((12, 16, 24), np.nan, np.float32)], [np.ones((12, 16), bool)])


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
    shares = [agreement(by_faiss, found[1][image_id]) for image_id, by_faiss in found[0].items()]
    assert all(by_faiss.max() > 1 for by_faiss in found[0].values())
    assert np.mean(shares) > 0.97 and min(shares) > 0.85, shares  # last bits, which the CPU decides, may move a region


def test_a_batch_keeps_images_and_grids_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU: images of two grids by turns, three a batch, some left over."""
    chain = Chain(tmp_path, "pseudo_masks.engine=torch", "runtime.batch=3")
    ctx = chain.context("pseudo_masks")
    grids = ((12, 16), (16, 9))
    images = [loaded(f"{n:03d}", image(n, grids[n % 2]), n) for n in range(17)]
    images[3].free[:] = False
    sizes: list[int] = []

    on_cpu = multiscale_torch.cluster

    def count_images(dense: Any, free: Any, config: PseudoMasksConfig, device: str) -> list[NDArray[np.uint8]]:
        sizes.append(len(dense))
        assert device == "cuda"
        return on_cpu(dense, free, config, "cpu")

    monkeypatch.setattr(pseudo_masks, "device_of", lambda ctx: "cuda")
    monkeypatch.setattr(pseudo_masks, "images_per_batch", lambda ctx: ctx.runtime.batch)
    monkeypatch.setattr(multiscale_torch, "cluster", count_images)
    found = list(pseudo_masks.cluster_batches(ctx, multiscale_torch, images))
    assert [(one.image_id, one.extra) for one in found] == [(f"{n:03d}", n) for n in range(17)]
    assert sizes == [3, 3, 2, 3, 3, 2]  # twelve at a time, six of each grid, then five; one has no free cell
    for one in found:
        assert one.labels.shape == one.dense.shape[:2]
        if one.image_id == "003":
            assert one.labels.max() == 0
        else:
            alone = multiscale_faiss.cluster([one.dense], [one.free], ctx.config.pseudo_masks, "cpu")[0]
            assert agreement(one.labels, alone) > 0.95


def loaded(image_id: str, dense: Floats, extra: int = 0) -> pseudo_masks.Clustered[int]:
    """An image of which nothing is annotated, before it is clustered."""
    nothing = np.zeros((8, 8), bool)
    labels = np.zeros(dense.shape[:2], np.uint8)
    return pseudo_masks.Clustered(image_id, dense, nothing, np.ones(dense.shape[:2], bool), extra, labels)


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
        damaged = loaded("a", np.full((8, 8, 4), np.nan, np.float32))
        list(pseudo_masks.cluster_batches(ctx, multiscale_torch, [damaged]))
