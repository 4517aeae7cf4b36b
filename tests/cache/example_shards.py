"""Shards with fields of every kind, for the tests of the writers and readers."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from split_matching.cache.shard_format import Field
from split_matching.cache.shard_writer import ShardWriter

FIELDS = {
    "dense": Field("float16", 2),
    "labels": Field("uint8", 2, compress=True),
    "embeddings": Field("float16", 1),
    "cls": Field("float16", 0),
}


def images(count: int = 12, first: int = 0) -> dict[str, dict[str, np.ndarray]]:
    """Arrays of `count` images of different sizes, every third without regions."""
    rng = np.random.default_rng(first)
    found = {}
    for i in range(first, first + count):
        height, width = (int(n) for n in rng.integers(2, 30, 2))
        found[f"image_{i:04d}_é"] = {
            "dense": rng.normal(size=(height, width, 24)).astype(np.float16),
            "labels": rng.integers(0, 9, (2 * height, 2 * width)).astype(np.uint8),
            "embeddings": rng.normal(size=(i % 3, 8)).astype(np.float16),
            "cls": rng.normal(size=8).astype(np.float16),
        }
    return found


def write(path: Path, arrays: dict[str, dict[str, np.ndarray]]) -> Path:
    with ShardWriter(path, "test", FIELDS, {"patch": 16, "model": "ViT", "scale": 0.5}) as writer:
        for image_id, values in arrays.items():
            writer.add(image_id, **values)
    return path
