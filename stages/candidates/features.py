"""ExtractFeatures: dense CLIP features, token maps and the image embedding of every image.

On the CPU every image is its own batch: matrix kernels may round the same row differently in batches of different
sizes, and the bytes of a shard must not depend on its neighbours. On a GPU images of equal grid share a batch.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from split_matching.cache.background_writer import BackgroundWriter
from split_matching.cache.shard_format import Field
from split_matching.cache.shard_writer import ShardWriter
from split_matching.errors import ConfigError
from split_matching.stages.data.images import read_image
from split_matching.stages.data.source import open_source
from split_matching.stages.ground.context import Features, Shard, StageContext
from split_matching.stages.ground.device import device_of
from split_matching.stages.ground.frozen_clip import frozen_clip
from split_matching.stages.ground.ordered_map import worker_threads

KIND = "features"
Arrays = dict[str, NDArray[Any]]
"""What is cached of one image, see `fields`."""


def fields(config: Any) -> dict[str, Field]:
    """Schema of a shard, all float16: `cls` (D), `dense` (h, w, D), `tokens_<block>` (h, w, width).

    `prefix_<block>` (p, width): that block's tokens before those of the patches, from which EmbedRegions goes on.
    With `features.shifts` s > 1 also `stitched` (s*h, s*w, D or width): what is to be clustered, at sub-token offsets.
    """
    maps = [f"tokens_{block}" for block in config.features.decoder_blocks]
    if config.features.shifts > 1:
        maps.append("stitched")
    vectors = {f"prefix_{block}": Field("float16", lead=1) for block in config.features.decoder_blocks}
    return {"cls": Field("float16", lead=0), **vectors} | {name: Field("float16", lead=2) for name in ["dense", *maps]}


def shifted_views(image: Tensor, shifts: int, patch: int) -> Tensor:
    """The image as it is, then moved by every pair of sub-token offsets, mirrored at the border.

    Offsets lie symmetrically around zero, so that the stitched grid covers the image as the token grid does.

    Args:
        image: preprocessed. Shape: (3, H, W).
        shifts: offsets along each axis, s.
        patch: token side in pixels.

    Returns:
        Shape: (1 + s*s, 3, H, W); for s = 1 the image alone.

    Source: choice (shift and stitch, after fully convolutional networks): tokens of 8 or 16 pixels cut a fine pattern
    into phases, and k-means then splits one object into two interleaved regions.
    """
    if shifts == 1:
        return image[None]
    offsets = [round((index - (shifts - 1) / 2) * patch / shifts) for index in range(shifts)]
    reach, (height, width) = max(abs(offset) for offset in offsets), image.shape[1:]
    around = F.pad(image[None], (reach,) * 4, mode="reflect")[0]
    moved = [around[:, reach + y : reach + y + height, reach + x : reach + x + width] for y in offsets for x in offsets]
    return torch.stack([image, *moved])


def stitch(maps: Tensor, shifts: int) -> Tensor:
    """Interleave the maps of shifted views. (s*s, h, w, C), offsets row by row -> (s*h, s*w, C)."""
    height, width, channels = maps.shape[1:]
    split = maps.unflatten(0, (shifts, shifts)).permute(2, 0, 3, 1, 4)  # (h, s, w, s, C)
    return split.reshape(shifts * height, shifts * width, channels)


class Extractor:
    """The frozen CLIP on images of one shard.

    Args:
        ctx: context of the stage.
    """

    def __init__(self, ctx: StageContext) -> None:
        self.config = ctx.config.features
        self.clip = frozen_clip(ctx)
        if max(self.config.decoder_blocks) > self.clip.depth or min(self.config.decoder_blocks) < 1:
            raise ConfigError(
                f"features.decoder_blocks {list(self.config.decoder_blocks)} does not fit {ctx.config.clip.model}: "
                f"its blocks are 1 to {self.clip.depth}"
            )
        self.source = open_source(ctx.config.data, ctx.data_root)
        self.batch = 1 if device_of(ctx) == "cpu" else ctx.runtime.batch
        # what the shifted views are made for; read only where there are some, so only then a part of the key
        self.clustered: int | None = ctx.config.pseudo_masks.block if self.config.shifts > 1 else None

    def load(self, image_id: str) -> Tensor:
        """Read and preprocess an image. Returns its views (V, 3, H, W), see `shifted_views`."""
        image = read_image(self.source.image_path(image_id))
        rows, cols = self.clip.grid_for(image.shape[0], image.shape[1], self.config.size, self.config.resize)
        pixels = self.clip.preprocess(image, rows * self.clip.patch, cols * self.clip.patch)
        return shifted_views(pixels, self.config.shifts, self.clip.patch)

    def features(self, images: Sequence[Tensor]) -> list[Arrays]:
        """Features of a few images, given by their views; those of equal size share forward passes."""
        groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for index, image in enumerate(images):
            groups[tuple(image.shape)].append(index)
        batches = [
            members[first : first + self.batch]
            for members in groups.values()
            for first in range(0, len(members), self.batch)
        ]
        results: dict[int, Arrays] = {}
        coming: list[tuple[list[int], Callable[[], list[Arrays]]]] = []
        for batch in batches:  # a GPU has the next batch to work on before the results of one are waited for
            coming.append((batch, fetched(self._forward([images[index] for index in batch]))))
            if len(coming) > 1:
                members, arrived = coming.pop(0)
                results.update(zip(members, arrived(), strict=True))
        for members, arrived in coming:
            results.update(zip(members, arrived(), strict=True))
        return [results[index] for index in range(len(images))]

    def _forward(self, images: list[Tensor]) -> dict[str, Tensor]:
        """One forward pass of images of one size, and one of their shifted views, as far as these are needed.

        Returns:
            What is cached of them, on CLIP's device. Shapes: (B, ...), float16.
        """
        out = self.clip.dense(
            torch.stack([views[0] for views in images]), self.config.variant, self.config.decoder_blocks
        )
        maps = {"cls": out.cls, "dense": out.dense}
        maps |= {f"tokens_{block}": value for block, value in out.tokens.items()}
        maps |= {f"prefix_{block}": value for block, value in out.prefixes.items()}
        halves = {name: value.half() for name, value in maps.items()}  # (B, ...)
        if self.config.shifts > 1:
            shifted = torch.cat([views[1:] for views in images])
            if self.clustered is None:
                moved = self.clip.dense(shifted, self.config.variant).dense
            else:
                moved = self.clip.tokens(shifted, self.clustered)
            halves["stitched"] = torch.stack(
                [stitch(one, self.config.shifts) for one in moved.half().unflatten(0, (len(images), -1))]
            )
        return halves


def fetched(values: dict[str, Tensor]) -> Callable[[], list[Arrays]]:
    """Begin to copy the results of a batch to the CPU; return what waits for them and takes them apart by image.

    Args:
        values: Shapes: (B, ...).
    """
    copies = {name: value.to("cpu", non_blocking=True) for name, value in values.items()}  # from a GPU to pinned memory
    event = None
    if next(iter(values.values())).is_cuda:
        event = torch.cuda.Event()
        event.record()

    def arrived() -> list[Arrays]:
        if event is not None:
            event.synchronize()
        arrays = {name: value.numpy() for name, value in copies.items()}
        count = len(next(iter(arrays.values())))
        return [{name: array[row] for name, array in arrays.items()} for row in range(count)]

    return arrived


class ComputedFeatures:
    """Features of training images where none are kept: computed when they are asked for, as extraction would.

    For looking at single images; a stage that needs them all is `stages.candidates.fused`.

    Args:
        ctx: inputs `dataset`, and `pretrain` where CLIP's weights come from there; reads `clip`, `data`, `features`.
    """

    def __init__(self, ctx: StageContext) -> None:
        self.ids = tuple(sorted(str(image["id"]) for image in ctx.inputs["dataset"].json("images.json")["train"]))
        self.fields = tuple(fields(ctx.config))
        self._extractor = Extractor(ctx)
        self._last: tuple[str, Arrays] = ("", {})

    def read(self, image_id: str, field: str) -> NDArray[Any]:
        """Return one image's array, see `fields`; those of the image asked for last are kept."""
        if self._last[0] != image_id:
            [arrays] = self._extractor.features([self._extractor.load(image_id)])
            self._last = (image_id, arrays)
        return self._last[1][field]


def training_features(ctx: StageContext) -> Features:
    """Return the features of the training images, from the cache where it keeps them."""
    return ctx.inputs["features"].shards("train") if ctx.config.features.persist else ComputedFeatures(ctx)


def extracted(extractor: Extractor, ids: Sequence[str]) -> Iterator[tuple[str, Arrays]]:
    """Ids and features of images, in the order given; the next are read while CLIP works on the present ones."""
    size = 4 * extractor.batch
    chunks = [ids[start : start + size] for start in range(0, len(ids), size)]
    # as many threads as there are cores: while a GPU works they are free, and it is through with an image sooner
    with worker_threads(max(2, torch.get_num_threads())) as pool:
        ahead = [pool.submit(extractor.load, image_id) for image_id in chunks[0]]
        for chunk, following in zip(chunks, [*chunks[1:], ()], strict=True):
            images = [future.result() for future in ahead]
            ahead = [pool.submit(extractor.load, image_id) for image_id in following]
            yield from zip(chunk, extractor.features(images), strict=True)


def run_shard(ctx: StageContext, shard: Shard, writer: ShardWriter) -> None:
    """Extract and write one shard, in id order; reading, CLIP, checksums and writing overlap."""
    with BackgroundWriter(writer) as output:
        for done, (image_id, arrays) in enumerate(extracted(Extractor(ctx), shard.ids), 1):
            output.add(image_id, **arrays)
            ctx.progress(done, len(shard.ids))
