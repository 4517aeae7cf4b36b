"""What parts of a training step cost beside how they were done before, on the CPU.

    python -m benchmarks.step_parts [--quick] [--json FILE]

The way before is written out here. Augmentation: a batch of photographs with their targets, from the bytes of the files
to the stacked batch, on one thread; Pillow scaled bicubically and converted colours, these were changed in float32,
labels were counted by sorting, masks averaged one by one. Stacking: images with four token maps each were padded by
NumPy and made float32. Matching and losses: one layer after the other.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image

from benchmarks.measure import PHOTOS, Check, Options, Report, Side, main, paired, ratio
from split_matching.configs.settings import DecoderConfig, TrainConfig
from split_matching.model.criterion import SplitCriterion
from split_matching.model.query_decoder import LayerOutputs
from split_matching.model.token_encoder import split_patches
from split_matching.pipeline.run.cpu import keep_memory
from split_matching.stages.data.augment import View, distort, draw_view, take_image
from split_matching.stages.data.images import decode_image, decode_mask
from split_matching.stages.data.labels import seen_labels
from split_matching.stages.data.resize import resize_share
from split_matching.stages.data.shapes import render_scene, scene_rng
from split_matching.stages.ground.ordered_map import worker_threads
from split_matching.stages.training.augmented import cut_regions, cut_seen
from split_matching.stages.training.batches import Item, collate

Labels = NDArray[np.uint8]
Pixels = NDArray[np.uint8]
PATCH, UPSAMPLE, WIDTH = 16, 2, 768
PARTS = ("crop", "scaling", "colours", "targets", "stacking of images")
GOALS = dict.fromkeys(("augmented image", *PARTS, "stacking", "matching and losses"))


def run(options: Options) -> Report:
    """Measure each part, now and before, in turn."""
    keep_memory()  # as a stage does
    side = 64 if options.quick else 512
    batch = 2 if options.quick else 16
    sides = [*Augmentation(batch, side).time(options.rounds), *stacking(batch, side // PATCH, options.rounds)]
    sides += criterion(2 if options.quick else 4, side // PATCH * UPSAMPLE, options.rounds)
    checks = [
        Check(f"{part} faster by", ratio(sides, f"{part}, before", f"{part}, now"), goal, "at least")
        for part, goal in {**GOALS, "augmented image": None if options.quick else 5}.items()
    ]
    images = "photographs" if os.environ.get(PHOTOS) else "rendered scenes"
    return Report(f"{side} px, batch {batch} of {images}; matching of 4 images", sides, checks)


@dataclass(frozen=True)
class Way:
    """How images are augmented and stacked: now, or before."""

    draw: Callable[..., View]
    scale: Callable[[Pixels, View], Pixels]
    colour: Callable[[Pixels, np.random.Generator], Pixels]
    cut: Callable[..., tuple[NDArray[Any], ...]]
    stack: Callable[[list[Item]], object]


class Augmentation:
    """A batch of photographs, augmented from the bytes of their files, as a whole and in parts."""

    def __init__(self, count: int, side: int) -> None:
        rng = np.random.default_rng(0)
        self.side, self.files, self.numbers = side, photographs(count, side), range(count)
        self.regions = rng.integers(0, 13, (count, 8, 8)).astype(np.uint8).repeat(8, 1).repeat(8, 2)
        self.embeddings = rng.standard_normal((12, 512)).astype(np.float16)
        self.decoded = [self.decode(number) for number in self.numbers]
        self.views = [self.draw(NOW, number) for number in self.numbers]
        self.scaled = [take_image(self.decoded[number][0], self.views[number]) for number in self.numbers]
        self.items = [self.item(NOW, number) for number in self.numbers]

    def time(self, rounds: int) -> list[Side]:
        """Both ways, on one thread as in training."""
        parts: dict[str, Callable[[Way], object]] = {
            "augmented image": lambda way: way.stack([self.item(way, number) for number in self.numbers]),
            "crop": lambda way: [self.draw(way, number) for number in self.numbers],
            "scaling": lambda way: [way.scale(self.decoded[number][0], self.views[number]) for number in self.numbers],
            "colours": lambda way: [self.colour(way, number, self.scaled[number]) for number in self.numbers],
            "targets": lambda way: [self.cut(way, number, self.views[number]) for number in self.numbers],
            "stacking of images": lambda way: way.stack(self.items),
        }
        ways = {"now": NOW, "before": BEFORE}
        timed: dict[str, Callable[[], object]] = {
            f"{part}, {name}": partial(work, way) for part, work in parts.items() for name, way in ways.items()
        }
        timed["decoding"] = lambda: [self.decode(number) for number in self.numbers]
        with worker_threads(1) as thread:
            return thread.submit(paired, timed, rounds, 1000 / len(self.files), "ms an image").result()

    def item(self, way: Way, number: int) -> Item:
        """All of one image."""
        image, _ = self.decode(number)
        view = self.draw(way, number)
        return Item([self.colour(way, number, way.scale(image, view))], *self.cut(way, number, view))

    def decode(self, number: int) -> tuple[Pixels, Labels]:
        """The same now and before."""
        image, mask = self.files[number]
        return decode_image(image, Path("x.jpg")), seen_labels(decode_mask(mask, Path("x.png")), range(1, 16))

    def draw(self, way: Way, number: int) -> View:
        """Where to crop, at scales of 0.5 to 2."""
        rng, labels = np.random.default_rng(number), self.decoded[number][1]
        scale = self.side * rng.uniform(0.5, 2) / min(labels.shape)
        rows, cols = (PATCH * max(1, round(edge * scale / PATCH)) for edge in labels.shape)
        return way.draw(rng, labels, (rows, cols), self.side, 0.75, True)

    def colour(self, way: Way, number: int, pixels: Pixels) -> NDArray[np.uint8]:
        """Distorted, as patches."""
        return split_patches(way.colour(pixels, np.random.default_rng(number)), PATCH)

    def cut(self, way: Way, number: int, view: View) -> tuple[NDArray[Any], ...]:
        """Seen classes and regions, with their coverage."""
        cells = (view.rows // PATCH * UPSAMPLE, view.cols // PATCH * UPSAMPLE)
        return way.cut(self.decoded[number][1], self.regions[number], self.embeddings, view, cells)


def photographs(count: int, side: int) -> list[tuple[bytes, bytes]]:
    """Bytes of images and of masks with ids: of VOC where it is there, else of rendered scenes."""
    if os.environ.get(PHOTOS):
        folder = Path(os.environ[PHOTOS]) / "VOCdevkit" / "VOC2012"
        ids = (folder / "ImageSets" / "Segmentation" / "trainaug.txt").read_text().split()[:count]
        places = [(folder / "JPEGImages" / f"{i}.jpg", folder / "SegmentationClassAug" / f"{i}.png") for i in ids]
        return [(image.read_bytes(), mask.read_bytes()) for image, mask in places]
    found = []
    for number in range(count):
        scene = render_scene(scene_rng(0, "val", number), side)
        image, mask = io.BytesIO(), io.BytesIO()
        Image.fromarray(scene.image).save(image, "JPEG", quality=95)
        Image.fromarray(scene.mask()).save(mask, "PNG")
        found.append((image.getvalue(), mask.getvalue()))
    return found


def _cut(
    labels: Labels, regions: Labels, embeddings: NDArray[Any], view: View, cells: tuple[int, int]
) -> tuple[NDArray[Any], ...]:
    return *cut_seen(labels, view, cells), *cut_regions(regions, embeddings, view, cells)


def _cut_by_averaging(
    labels: Labels, regions: Labels, embeddings: NDArray[Any], view: View, cells: tuple[int, int]
) -> tuple[NDArray[Any], ...]:
    seen, taken = _take(labels, view), _take(regions, view)
    classes, left = np.unique(seen[seen != 255]), np.unique(taken[taken > 0])
    kept = embeddings[left.astype(np.int64) - 1].astype(np.float32)
    return classes.astype(np.int64), _average(seen, classes, cells), kept, _average(taken, left, cells)


def _scale(image: Pixels, view: View) -> Pixels:
    box = (view.left, view.top, view.left + view.width, view.top + view.height)
    crop = np.asarray(Image.fromarray(image).resize((view.cols, view.rows), Image.Resampling.BICUBIC, box=box))
    return np.ascontiguousarray(crop[:, ::-1] if view.mirrored else crop)


def _average(labels: Labels, values: Labels, cells: tuple[int, int]) -> NDArray[np.float32]:
    return resize_share((labels[None] == values[:, None, None]).astype(np.float32), *cells)


def _take(labels: Labels, view: View) -> Labels:
    rows, cols = view.cells(labels.shape)
    return np.ascontiguousarray(labels[rows[:, None], cols])


def _distort(image: Pixels, rng: np.random.Generator) -> Pixels:
    brightness, contrast, saturation, hue = rng.random(4) < 0.5
    early = rng.random() < 0.5
    shift, gain, colour, turn = rng.uniform(-32, 32), *rng.uniform(0.5, 1.5, 2), rng.uniform(-0.1, 0.1)
    pixels = image.astype(np.float32)
    if brightness:
        pixels = pixels + np.float32(shift)
    if contrast and early:
        pixels = _to_bytes(pixels) * np.float32(gain)
    if saturation or hue:
        parts = Image.fromarray(_to_bytes(pixels)).convert("HSV").split()
        turned = np.asarray(parts[0]) + np.uint8(round((turn if hue else 0) * 256) % 256)
        gained = _to_bytes(np.asarray(parts[1]) * np.float32(colour if saturation else 1))
        merged = Image.merge("HSV", (Image.fromarray(turned), Image.fromarray(gained), parts[2]))
        pixels = np.asarray(merged.convert("RGB"), np.float32)
    if contrast and not early:
        pixels = _to_bytes(pixels) * np.float32(gain)
    return _to_bytes(pixels)


def _to_bytes(pixels: NDArray[np.float32]) -> Pixels:
    return pixels.clip(0, 255).astype(np.uint8)


def _draw_by_sorting(
    rng: np.random.Generator, labels: Labels, scaled: tuple[int, int], crop: int, most: float, flip: bool
) -> View:
    mirrored = bool(rng.random() < 0.5) and flip
    size = (min(crop, scaled[0]), min(crop, scaled[1]))
    height, width = (round(s * have / all_) for s, have, all_ in zip(size, labels.shape, scaled, strict=True))
    for _ in range(10):
        top, left = int(rng.integers(labels.shape[0] - height + 1)), int(rng.integers(labels.shape[1] - width + 1))
        view = View(labels.shape, top, left, height, width, *size, mirrored)
        if size == tuple(scaled):
            break
        seen = _take(labels, view)
        counts = np.unique(seen[seen != 255], return_counts=True)[1]
        if len(counts) > 1 and counts.max() < most * counts.sum():
            break
    return view


def stacking(batch: int, cells: int, rounds: int) -> list[Side]:
    """A batch of cached items, half of them upright."""
    rng = np.random.default_rng(0)
    items = []
    for index in range(batch):
        grid = (cells, 3 * cells // 4)[:: 1 if index % 2 else -1]
        fine = (UPSAMPLE * grid[0], UPSAMPLE * grid[1])
        masks = [rng.random((count, *fine), np.float32) for count in (4, 10)]
        tokens = [rng.random((*grid, WIDTH), np.float32).astype(np.float16) for _ in range(4)]
        items.append(Item(tokens, np.arange(4), masks[0], rng.random((10, 512), np.float32), masks[1]))
    ways = {"stacking, now": lambda: collate(items, UPSAMPLE), "stacking, before": lambda: _stack_as_float(items)}
    return paired(ways, rounds, 1000)


def _stack_as_float(items: list[Item]) -> None:
    grids = [item.tokens[0].shape[:2] for item in items]
    height, width = (max(sides) for sides in zip(*grids, strict=True))
    for block in range(len(items[0].tokens)):
        _pad([item.tokens[block] for item in items], (height, width)).float()
    for masks in ([item.seen_masks for item in items], [item.region_masks for item in items]):
        _pad(masks, (max(map(len, masks)), UPSAMPLE * height, UPSAMPLE * width))


def _pad(arrays: list[NDArray[Any]], size: tuple[int, ...]) -> torch.Tensor:
    out = np.zeros((len(arrays), *size, *arrays[0].shape[len(size) :]), arrays[0].dtype)
    for row, array in zip(out, arrays, strict=True):
        row[tuple(slice(n) for n in array.shape[: len(size)])] = array
    return torch.from_numpy(out)


def criterion(batch: int, cells: int, rounds: int) -> list[Side]:
    """Matching, losses and their gradient, over four layers."""
    config, generator = DecoderConfig(), torch.Generator().manual_seed(0)
    queries, layers = config.seen_queries + config.candidate_queries, config.layers + 1

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    outputs = LayerOutputs(
        F.normalize(draw(batch, layers, queries, 512), dim=-1).requires_grad_(),
        draw(batch, layers, queries).requires_grad_(),
        draw(batch, layers, queries).requires_grad_(),
        draw(batch, layers, queries, config.dim // 2).requires_grad_(),
        draw(batch, config.dim // 2, cells, cells).requires_grad_(),
    )
    loss = SplitCriterion(TrainConfig(), config, F.normalize(draw(15, 512), dim=-1), 100.0)
    items = [
        Item(
            [np.zeros((cells // UPSAMPLE, cells // UPSAMPLE, 1), np.float16)],
            np.arange(4),
            (draw(4, cells, cells) > 1).float().numpy(),
            F.normalize(draw(10, 512), dim=-1).numpy(),
            (draw(10, cells, cells) > 1).float().numpy(),
        )
        for _ in range(batch)
    ]
    targets = collate(items, UPSAMPLE).targets

    def one_by_one() -> None:
        total = torch.zeros(())
        for index in range(layers):
            here = slice(index, index + 1)
            queries = (outputs.embeddings, outputs.no_object, outputs.quality, outputs.kernels)
            layer = LayerOutputs(*(*(t[:, here] for t in queries), outputs.pixels))
            total = total + loss(layer, targets)["loss"] / layers
        total.backward()

    ways = {"matching and losses, now": lambda: loss(outputs, targets)["loss"].backward()}
    ways["matching and losses, before"] = one_by_one
    return paired(ways, rounds, 1000)


NOW = Way(draw_view, take_image, distort, _cut, lambda items: collate(items, UPSAMPLE))
BEFORE = Way(_draw_by_sorting, _scale, _distort, _cut_by_averaging, _stack_as_float)

if __name__ == "__main__":
    main(__doc__, run)
