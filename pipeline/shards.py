"""Cuts the images of a data set into shards, and remembers how."""

from __future__ import annotations

from collections.abc import Sequence

from split_matching.cache.artifact import Artifact
from split_matching.cache.entry import Shards
from split_matching.cache.keys import digest
from split_matching.stages.ground.context import Shard

_Memo = tuple[tuple[str, ...], int, str]


class ShardCutter:
    """The shards of one data set.

    Args:
        size: images of a shard, `runtime.shard_size`, where nothing that is there already says otherwise.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._shards: dict[_Memo, tuple[Shard, ...]] = {}
        self._digests: dict[_Memo, dict[str, list[str]]] = {}

    def size_of(self, dataset: Artifact, splits: tuple[str, ...], cuts: Sequence[Shards]) -> int:
        """Return how many images a shard of the first of some cuts has that can be continued; else the ordinary number.

        Args:
            dataset: the artifact of PrepareDataset.
            splits: e.g. ("train", "val").
            cuts: the shards of a build in progress, as the cache records them.
        """
        if not cuts:
            return self.size
        counts = {split: len(images) for split, images in dataset.json("images.json").items() if split in splits}
        for digests in cuts:
            # a split of n images is cut into k shards by the sizes from n / k to below n / (k - 1)
            known = [(counts.get(split, 0), len(shards)) for split, shards in digests.items() if shards]
            low = max((-(-images // shards) for images, shards in known), default=1)
            high = min(((images - 1) // (shards - 1) for images, shards in known if shards > 1), default=low)
            for size in dict.fromkeys((self.size, *range(max(1, low), high + 1))):
                if self.digests(dataset, splits, size) == digests:
                    return size
        return self.size

    def cut(self, dataset: Artifact, splits: tuple[str, ...], size: int) -> tuple[Shard, ...]:
        """Return the shards of some splits, images in the order of their ids.

        Args:
            dataset: the artifact of PrepareDataset.
            splits: e.g. ("train", "val").
            size: images of a shard.
        """
        memo = (splits, size, dataset.content_of(("images.json",)))
        if memo not in self._shards:
            images = dataset.json("images.json")
            self._shards[memo] = tuple(
                Shard(split, start // size, tuple(ids[start : start + size]))
                for split in splits
                for ids in [sorted(str(image["id"]) for image in images[split])]
                for start in range(0, len(ids), size)
            )
        return self._shards[memo]

    def digests(self, dataset: Artifact, splits: tuple[str, ...], size: int) -> dict[str, list[str]]:
        """Return the shards as the cache records them: for every split one digest of the ids of each shard."""
        memo = (splits, size, dataset.content_of(("images.json",)))
        if memo not in self._digests:
            found: dict[str, list[str]] = {}
            for shard in self.cut(dataset, splits, size):
                found.setdefault(shard.split, []).append(digest(list(shard.ids)))
            self._digests[memo] = found
        return self._digests[memo]
