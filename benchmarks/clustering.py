"""What a pseudo mask costs beside one bare faiss k-means call on the same points, seeds and iterations.

    python -m benchmarks.clustering [--quick] [--json FILE]

Points are random unit vectors with a planted partition, so that k-means has something to find; timings do not depend on
what CLIP says. One thread, as in the stage. Two settings: 32 x 32 tokens of 512 features with 59 seeds and 15
iterations, and that of the data set `shapes`. Beside them the other engine, torch: on a GPU 16 images at once, on the
CPU one, with one thread too.
"""

from __future__ import annotations

import time

import faiss
import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.measure import Check, Options, Report, Side, main, synchronise
from split_matching.configs.load import load_config
from split_matching.configs.settings import PseudoMasksConfig
from split_matching.stages.candidates.clustering import cluster, multiscale_faiss, multiscale_torch
from split_matching.stages.candidates.clustering.faiss_kmeans import kmeans
from split_matching.stages.candidates.clustering.steps import prepare, window_seeds
from split_matching.stages.candidates.pseudo_masks import remove_annotated

PATCH, WIDTH = 8, 128  # of the CLIP of `shapes`, see configs/clip/shapes-vit.json


def planted(grid: int, width: int, seed: int) -> NDArray[np.float32]:
    """Dense features of a made-up image: twelve regions of a Voronoi partition. (grid, grid, width), unit length."""
    rng = np.random.default_rng(seed)
    sites, centres = rng.uniform(0, grid, (12, 2)), rng.standard_normal((12, width))
    cells = np.stack(np.meshgrid(np.arange(grid), np.arange(grid), indexing="ij"), -1)
    nearest = ((cells[:, :, None] - sites) ** 2).sum(-1).argmin(-1)
    dense = centres[nearest] + 0.7 * rng.standard_normal((grid, grid, width))
    return (dense / np.linalg.norm(dense, axis=-1, keepdims=True)).astype(np.float32)


def compare(name: str, grid: int, width: int, config: PseudoMasksConfig, images: int) -> tuple[list[Side], int, float]:
    """Measure the bare call and the whole pseudo mask in turn. Returns the sides, the seeds, and the median ratio."""
    annotated = np.zeros((grid * 16, grid * 16), bool)
    bare, whole, count = [], [], 0
    for index in range(images + 2):
        dense = planted(grid, width, index)
        cells = prepare(torch.from_numpy(dense)[None], torch.ones(1, grid, grid, dtype=torch.bool), config.smooth)
        points = cells.flatten(0, 2).numpy()
        seeds = window_seeds(points, np.ones(len(points), bool), (grid, grid), config.windows)
        start = time.perf_counter()
        kmeans(points, seeds, config.iterations)
        middle = time.perf_counter()
        labels = remove_annotated(cluster(dense, config), annotated, config)
        end = time.perf_counter()
        if labels.max() == 0:
            raise SystemExit("the planted partition gave no region: the comparison means nothing")
        count = len(seeds)
        if index >= 2:  # the first calls load libraries
            bare.append(1000 * (middle - start))
            whole.append(1000 * (end - middle))
    ratios = [b / a for a, b in zip(bare, whole, strict=True)]
    sides = [
        Side(f"{name}: bare faiss k-means", "ms an image", tuple(bare)),
        Side(f"{name}: whole pseudo mask", "ms an image", tuple(whole)),
    ]
    return sides, count, float(np.median(ratios))


def engines(grid: int, width: int, config: PseudoMasksConfig, options: Options) -> list[Side]:
    """Measure the partition alone, by faiss and by torch, in turn."""
    batch = 16 if options.device == "cuda" and not options.quick else 1
    images = [planted(grid, width, index) for index in range(batch)]
    free = [np.ones((grid, grid), bool)] * batch
    samples: tuple[list[float], list[float]] = ([], [])
    for number in range(1 + (1 if options.quick else 20)):
        start = time.perf_counter()
        multiscale_faiss.cluster(images, free, config, "cpu")
        middle = time.perf_counter()
        multiscale_torch.cluster(images, free, config, options.device)
        synchronise()
        end = time.perf_counter()
        if number:
            for found, took in zip(samples, (middle - start, end - middle), strict=True):
                found.append(1000 * took / batch)
    where = f"{batch} images at once on the GPU" if options.device == "cuda" else "one image, one CPU thread"
    names = ("32x32x512: partition by faiss", f"32x32x512: partition by torch, {where}")
    return [Side(name, "ms an image", tuple(found)) for name, found in zip(names, samples, strict=True)]


def run(options: Options) -> Report:
    """Measure both settings."""
    faiss.omp_set_num_threads(1)
    torch.set_num_threads(1)
    images = 1 if options.quick else 40
    # 49 windows of 8 tokens, 9 of 16 and one of 32: 59 seeds on 32 x 32 tokens
    large = PseudoMasksConfig(windows=(8, 16, 32))
    first = compare("32x32x512", 32, 512, large, images)
    both = engines(32, 512, large, options)
    embedded = load_config("shapes")
    grid = embedded.features.size // PATCH * embedded.features.shifts
    second = compare("shapes", grid, WIDTH, embedded.pseudo_masks, images)
    target = None if options.quick else 2.0
    flop = 2.0 * 1024 * 512 * first[1] * 15
    return Report(
        f"{first[1]} seeds and 15 iterations; shapes: {grid}x{grid} cells, {second[1]} seeds, "
        f"{embedded.pseudo_masks.iterations} iterations; one thread",
        [*first[0], *second[0], *both],
        [
            Check("whole over bare, 32x32x512", first[2], target),
            Check("whole over bare, shapes", second[2], target),
            Check("faiss faster than torch by, 32x32x512", both[1].median / both[0].median),
        ],
        {"ms_per_image": first[0][1].median, "flop_per_image": flop, "bytes_per_image": 1024 * 4 / 8},
    )


if __name__ == "__main__":
    main(__doc__, run)
