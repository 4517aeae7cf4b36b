"""Cuts the images of a data set into shards, and remembers how."""

from __future__ import annotations

from split_matching.cache.artifact import Artifact
from split_matching.cache.keys import digest
from split_matching.stages.ground.context import Shard


class ShardCutter:
    """The shards of one data set.

    Args:
        size: images of a shard, `runtime.shard_size`.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._shards: dict[tuple[tuple[str, ...], str], tuple[Shard, ...]] = {}
        self._digests: dict[tuple[tuple[str, ...], str], dict[str, list[str]]] = {}

    def cut(self, dataset: Artifact, splits: tuple[str, ...]) -> tuple[Shard, ...]:
        """Return the shards of some splits, images in the order of their ids.

        Args:
            dataset: the artifact of PrepareDataset.
            splits: e.g. ("train", "val").
        """
        memo = (splits, dataset.content_of(("images.json",)))
        if memo not in self._shards:
            images = dataset.json("images.json")
            self._shards[memo] = tuple(
                Shard(split, start // self.size, tuple(ids[start : start + self.size]))
                for split in splits
                for ids in [sorted(str(image["id"]) for image in images[split])]
                for start in range(0, len(ids), self.size)
            )
        return self._shards[memo]

    def digests(self, dataset: Artifact, splits: tuple[str, ...]) -> dict[str, list[str]]:
        """Return the shards as the cache records them: for every split one digest of the ids of each shard."""
        memo = (splits, dataset.content_of(("images.json",)))
        if memo not in self._digests:
            found: dict[str, list[str]] = {}
            for shard in self.cut(dataset, splits):
                found.setdefault(shard.split, []).append(digest(list(shard.ids)))
            self._digests[memo] = found
        return self._digests[memo]
