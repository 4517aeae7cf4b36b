"""The frozen CLIP on whole images: dense features, token maps and the image embedding.

On the CPU every image is its own batch, see `images_per_batch`; on a GPU images of equal grid share one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from split_matching.errors import ConfigError
from split_matching.stages.candidates.batches import equal_batches
from split_matching.stages.data.images import read_image
from split_matching.stages.data.source import open_source
from split_matching.stages.ground.context import StageContext
from split_matching.stages.ground.device import device_of, images_at_once, images_per_batch, threads_of
from split_matching.stages.ground.frozen_clip import frozen_clip
from split_matching.stages.ground.ordered_map import worker_threads

Arrays = dict[str, NDArray[Any]]
"""What is cached of one image, see `stages.candidates.features.fields`."""


class Extractor:
    """The frozen CLIP of a stage on images of its data set.

    Args:
        ctx: context of the stage; reads `clip`, `data` and `features`.
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
        self.batch = images_per_batch(ctx)
        self.threads = threads_of(ctx)
        self.at_once = worker_threads(images_at_once(ctx)) if device_of(ctx) == "cpu" else None
        # what the shifted views are made for; read only where there are some, so only then a part of the key
        self.block_to_cluster: int | None = ctx.config.pseudo_masks.block if self.config.shifts > 1 else None

    def extract_all(self, ids: Sequence[str]) -> Iterator[tuple[str, Arrays]]:
        """Ids and features of images, in the order given; the next are read while CLIP works on the present ones."""
        size = 4 * max(self.batch, self.threads)
        chunks = [ids[start : start + size] for start in range(0, len(ids), size)]
        # as many threads as there are cores: while a GPU works they are free, and it is done with an image sooner
        with worker_threads(max(2, self.threads)) as pool:
            ahead = [pool.submit(self.load, image_id) for image_id in chunks[0]]
            for chunk, following in zip(chunks, [*chunks[1:], ()], strict=True):
                images = [future.result() for future in ahead]
                ahead = [pool.submit(self.load, image_id) for image_id in following]
                yield from zip(chunk, self.extract(images), strict=True)

    def load(self, image_id: str) -> Tensor:
        """Read and preprocess an image. Returns its views (V, 3, H, W), see `shifted_views`."""
        image = read_image(self.source.image_path(image_id))
        rows, cols = self.clip.grid_for(image.shape[0], image.shape[1], self.config.size, self.config.resize)
        pixels = self.clip.preprocess(image, rows * self.clip.patch, cols * self.clip.patch)
        return shifted_views(pixels, self.config.shifts, self.clip.patch)

    def extract(self, images: Sequence[Tensor]) -> list[Arrays]:
        """Features of a few images, given by their views.

        On the CPU they are worked on side by side. On a GPU those of equal size share forward passes, and it gets its
        next batch before the results of one are waited for.
        """
        if self.at_once:
            return list(self.at_once.map(lambda image: start_copy(self._forward([image]))()[0], images))
        results: dict[int, Arrays] = {}
        previous: tuple[list[int], Callable[[], list[Arrays]]] | None = None
        for places in equal_batches([tuple(image.shape) for image in images], self.batch):
            current = (places, start_copy(self._forward([images[place] for place in places])))
            if previous:
                results.update(zip(previous[0], previous[1](), strict=True))
            previous = current
        if previous:
            results.update(zip(previous[0], previous[1](), strict=True))
        return [results[place] for place in range(len(images))]

    def _forward(self, images: list[Tensor]) -> dict[str, Tensor]:
        """One forward pass of images of one size, and one of their shifted views where there are some.

        Returns:
            What is cached of them, on CLIP's device. Shapes: (B, ...), float16.
        """
        plain = torch.stack([views[0] for views in images])
        out = self.clip.dense(plain, self.config.variant, self.config.decoder_blocks)
        maps = {"cls": out.cls, "dense": out.dense}
        maps |= {f"tokens_{block}": value for block, value in out.tokens.items()}
        maps |= {f"prefix_{block}": value for block, value in out.prefixes.items()}
        halves = {name: value.half() for name, value in maps.items()}
        if self.config.shifts > 1:
            shifted = self._forward_shifted(torch.cat([views[1:] for views in images])).half()
            parts = shifted.unflatten(0, (len(images), -1))  # (B, s*s, h, w, C)
            halves["stitched"] = torch.stack([stitch(part, self.config.shifts) for part in parts])
        return halves

    def _forward_shifted(self, views: Tensor) -> Tensor:
        """The features to cluster, of shifted views, as far as CLIP must run for them. (N, 3, H, W) -> (N, h, w, C)."""
        if self.block_to_cluster is None:
            return self.clip.dense(views, self.config.variant).dense
        return self.clip.tokens(views, self.block_to_cluster)


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


def start_copy(values: dict[str, Tensor]) -> Callable[[], list[Arrays]]:
    """Start copying the results of a batch to the CPU.

    Args:
        values: Shapes: (B, ...).

    Returns:
        A function that waits for the copies and returns them image by image.
    """
    copies = {name: value.to("cpu", non_blocking=True) for name, value in values.items()}  # from a GPU to pinned memory
    event = None
    if next(iter(values.values())).is_cuda:
        event = torch.cuda.Event()
        event.record()

    def finish() -> list[Arrays]:
        if event is not None:
            event.synchronize()
        arrays = {name: value.numpy() for name, value in copies.items()}
        count = len(next(iter(arrays.values())))
        return [{name: array[row] for name, array in arrays.items()} for row in range(count)]

    return finish
