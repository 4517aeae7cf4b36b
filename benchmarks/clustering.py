"""What a pseudo mask costs beside one bare faiss k-means call on the same points, seeds and iterations.

    python benchmarks/clustering.py [--grid 32] [--width 512] [--images 20] [--json out.json]

Points are random unit vectors with a planted partition, so that k-means has something to find; timings do not depend on
what CLIP says. One thread, as in the stage. Medians over images, both sides measured in turn in one process.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import faiss
import numpy as np
from numpy.typing import NDArray

from configs.schema import PseudoMasksConfig
from stages.pseudo_masks import number_by_area, pseudo_masks, smoothed, spherical_kmeans, window_seeds


def planted(grid: int, width: int, seed: int) -> NDArray[np.float32]:
    """Dense features of a made-up image: twelve regions of a Voronoi partition. (grid, grid, width), unit length."""
    rng = np.random.default_rng(seed)
    sites, centres = rng.uniform(0, grid, (12, 2)), rng.standard_normal((12, width))
    cells = np.stack(np.meshgrid(np.arange(grid), np.arange(grid), indexing="ij"), -1)
    nearest = ((cells[:, :, None] - sites) ** 2).sum(-1).argmin(-1)
    dense = centres[nearest] + 0.7 * rng.standard_normal((grid, grid, width))
    return (dense / np.linalg.norm(dense, axis=-1, keepdims=True)).astype(np.float32)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--grid", type=int, default=32, help="tokens a side")
    parser.add_argument("--width", type=int, default=512, help="feature width D")
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    faiss.omp_set_num_threads(1)
    config = PseudoMasksConfig(windows=(8, 16, 32))
    annotated = np.zeros((options.grid * 16, options.grid * 16), bool)
    times: dict[str, list[float]] = {"bare faiss k-means": [], "smoothing and seeds": [], "whole pseudo mask": []}
    clusters = 0
    for index in range(options.images + 2):
        dense = planted(options.grid, options.width, index)
        start = time.perf_counter()
        mixed = smoothed(dense, config.smooth)
        seeds = window_seeds(mixed, config.windows)
        ready = time.perf_counter()
        spherical_kmeans(mixed.reshape(-1, options.width), seeds, config.iterations)
        bare = time.perf_counter()
        labels = pseudo_masks(dense, annotated, config)
        end = time.perf_counter()
        clusters = len(seeds)
        assert number_by_area(labels, 0).max() > 0
        if index >= 2:  # the first calls load libraries
            for name, value in zip(times, (bare - ready, ready - start, end - bare), strict=True):
                times[name].append(1000 * value)
    medians = {name: statistics.median(values) for name, values in times.items()}
    floor = medians["bare faiss k-means"]
    print(
        f"{options.grid}x{options.grid} tokens, D = {options.width}, {clusters} seeds, {config.iterations} iterations"
    )
    print(f"{'':24}{'ms an image':>12}{'ratio':>8}")
    for name, value in medians.items():
        print(f"{name:24}{value:12.2f}{value / floor:8.2f}")
    if options.json:
        options.json.write_text(json.dumps({"seeds": clusters, "milliseconds": medians}, indent=1) + "\n")


if __name__ == "__main__":
    main()
