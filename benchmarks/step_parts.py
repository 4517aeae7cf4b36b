"""What parts of a training step cost beside how they were done before, on the CPU.

    python -m benchmarks.step_parts [--quick] [--json FILE]

The way before is written out here. Augmentation: one view of a photograph-sized scene with its targets, from the JPEG
file to patches; masks were averaged one by one, labels counted by sorting, colours computed in float32. Stacking: 16
images with four token maps each were padded by NumPy and made float32. Matching and losses: one layer after the other.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image

from benchmarks.measure import Check, Options, Report, Side, main, paired, ratio, scenes
from split_matching.configs.settings import DecoderConfig, TrainConfig
from split_matching.model.criterion import SplitCriterion
from split_matching.model.query_decoder import LayerOutputs
from split_matching.model.token_encoder import split_patches
from split_matching.stages.data.augment import View, distort, draw_view, take_image
from split_matching.stages.data.images import decode_image
from split_matching.stages.data.resize import nearest_cells, resize_share
from split_matching.stages.training.augmented import cut_regions, cut_seen
from split_matching.stages.training.batches import Item, collate

Labels = NDArray[np.uint8]
Pixels = NDArray[np.uint8]
PATCH, UPSAMPLE, WIDTH = 16, 2, 768


def run(options: Options) -> Report:
    """Measure each part, now and before, in turn."""
    side = 64 if options.quick else 512
    sides = [*augmentation(side, options.rounds), *stacking(2 if options.quick else 16, side // PATCH, options.rounds)]
    sides += criterion(2 if options.quick else 4, side // PATCH * UPSAMPLE, options.rounds)
    names = ("data and targets", "stacking", "matching and losses")
    goals = (None, None, None) if options.quick else (5, None, None)
    checks = [
        Check(f"{name} faster by", ratio(sides, f"{name}, before", f"{name}, now"), goal, "at least")
        for name, goal in zip(names, goals, strict=True)
    ]
    return Report(f"{side} px, batch 16; matching of 4 images", sides, checks)


def augmentation(side: int, rounds: int) -> list[Side]:
    """One augmented image with its targets: views of many seeds, so that some crops are drawn again."""
    file = io.BytesIO()
    Image.fromarray(scenes(1, side)[0]).save(file, "JPEG", quality=95)
    rng = np.random.default_rng(0)
    block = side // 8
    labels = rng.choice(np.array([0, 1, 2, 3, 4, 255], np.uint8), (8, 8)).repeat(block, 0).repeat(block, 1)
    regions = rng.integers(0, 13, (8, 8)).astype(np.uint8).repeat(block // 4, 0).repeat(block // 4, 1)
    embeddings = rng.standard_normal((12, 512)).astype(np.float16)
    cells = (side // PATCH * UPSAMPLE, side // PATCH * UPSAMPLE)

    def work(draw: Callable[..., View], change: Callable[..., Pixels], targets: Callable[[View], object]) -> None:
        for seed in range(8):
            own = np.random.default_rng(seed)
            image = decode_image(file.getvalue(), Path("scene.jpg"))
            size = PATCH * round(side * own.uniform(1, 2) / PATCH)
            view = draw(own, labels, (size, size), side, 0.75, True)
            split_patches(change(take_image(image, view), own), PATCH)
            targets(view)

    def now(view: View) -> object:
        return cut_seen(labels, view, cells), cut_regions(regions, embeddings, view, cells)

    def before(view: View) -> object:
        seen, taken = _take(labels, view), _take(regions, view)
        return [_average(cut, np.unique(cut[cut != other]), cells) for cut, other in ((seen, 255), (taken, 0))]

    ways = {"data and targets, now": lambda: work(draw_view, distort, now)}
    ways["data and targets, before"] = lambda: work(_draw_by_sorting, _distort, before)
    return paired(ways, rounds, 1000 / 8, "ms an image")


def _average(labels: Labels, values: Labels, cells: tuple[int, int]) -> NDArray[np.float32]:
    return resize_share((labels[None] == values[:, None, None]).astype(np.float32), *cells)


def _take(labels: Labels, view: View) -> Labels:
    rows = nearest_cells(labels.shape[0], view.height, view.top, view.top + view.rows)
    cols = nearest_cells(labels.shape[1], view.width, view.left, view.left + view.cols)
    taken = labels[rows[:, None], cols]
    return np.ascontiguousarray(taken[:, ::-1] if view.mirrored else taken)


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
    for _ in range(10):
        top, left = int(rng.integers(scaled[0] - crop + 1)), int(rng.integers(scaled[1] - crop + 1))
        view = View(*scaled, top, left, crop, crop, mirrored)
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

    def before() -> None:
        for block in range(4):
            out = np.zeros((batch, cells, cells, WIDTH), np.float16)
            for row, item in enumerate(items):
                tokens = item.tokens[block]
                out[row, : tokens.shape[0], : tokens.shape[1]] = tokens
            torch.from_numpy(out).float()
        for name, count in (("seen_masks", 4), ("region_masks", 10)):
            masks = np.zeros((batch, count, UPSAMPLE * cells, UPSAMPLE * cells), np.float32)
            for row, item in enumerate(items):
                own = getattr(item, name)
                masks[row, :, : own.shape[1], : own.shape[2]] = own

    return paired({"stacking, now": lambda: collate(items, UPSAMPLE), "stacking, before": before}, rounds, 1000)


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


if __name__ == "__main__":
    main(__doc__, run)
