"""The embedded data set `shapes`: rendered scenes in VOC's layout.

A class is a colour x pattern pair ("red striped"); the outline of an object (disc, star, ...) is a nuisance. Colour x
pattern and not colour x outline, because clusters of ViT tokens are coarse: they lose an outline, but keep a surface.
Everything after this stage reads image and mask files, exactly as for photographs.

Scene `i` of a split depends on (seed, split, i) alone, so the files do not depend on how many are rendered.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from split_matching.stages.ground.context import StageContext
from split_matching.stages.ground.picture_files import write_picture

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (215, 40, 40),
    "green": (40, 170, 60),
    "blue": (45, 80, 215),
    "yellow": (235, 205, 40),
    "purple": (160, 50, 180),
    "white": (240, 240, 240),
}
PATTERNS = ("plain", "striped", "dotted", "checked")
OUTLINES = ("disc", "square", "triangle", "star", "cross", "hexagon")
BACKGROUND = 0
SUPERSAMPLE = 3
SPLIT_CODE = {"train": 0, "val": 1, "pretrain": 2, "probe": 3}


@dataclass(frozen=True)
class Thing:
    """One object: its class index (colour-major, 0-based) and its look. Lengths in pixels, angles in radians."""

    kind: int
    outline: str
    x: float
    y: float
    radius: float
    angle: float
    period: float
    pattern_angle: float
    dark: float

    @property
    def colour(self) -> str:
        """Name of the colour."""
        return list(COLOURS)[self.kind // len(PATTERNS)]

    @property
    def pattern(self) -> str:
        """Name of the pattern."""
        return PATTERNS[self.kind % len(PATTERNS)]


@dataclass(frozen=True)
class Scene:
    """A rendered scene.

    Args:
        image: RGB. Shape: (S, S, 3), uint8.
        owner: index into `things` of the visible object at each pixel, -1 for ground. Shape: (S, S), int8.
        things: the objects, painted in this order.
    """

    image: NDArray[np.uint8]
    owner: NDArray[np.int8]
    things: tuple[Thing, ...]

    def mask(self) -> NDArray[np.uint8]:
        """Class ids 1..24, 0 for ground. Shape: (S, S), uint8."""
        ids = np.array([thing.kind + 1 for thing in self.things] + [BACKGROUND], np.uint8)
        return ids[self.owner]  # owner -1 picks the last entry


def scene_rng(seed: int, split: str, index: int) -> np.random.Generator:
    """Return the generator of one scene: a function of (seed, split, index) alone."""
    return np.random.default_rng([seed, SPLIT_CODE[split], index])


def _outline_points(outline: str) -> NDArray[np.float64]:
    """Polygon of an outline inside the unit circle. Shape: (P, 2)."""
    if outline == "cross":
        arm, tip = 0.36, 0.93
        corners = [(arm, tip), (arm, arm), (tip, arm), (tip, -arm), (arm, -arm), (arm, -tip)]
        return np.array(corners + [(-x, -y) for x, y in corners])
    count = {"disc": 48, "square": 4, "triangle": 3, "star": 10, "hexagon": 6}[outline]
    angle = 2 * np.pi * np.arange(count) / count
    radius = np.where(np.arange(count) % 2 == 0, 1.0, 0.5) if outline == "star" else np.ones(count)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)


_OUTLINE_POINTS = {outline: _outline_points(outline) for outline in OUTLINES}


def _coverage(thing: Thing, size: int) -> tuple[slice, slice, NDArray[np.float32]]:
    """Rows, columns and soft coverage in 0..1 of an object's box inside the image."""
    reach = thing.radius + 1
    x0, y0 = max(0, math.floor(thing.x - reach)), max(0, math.floor(thing.y - reach))
    x1, y1 = min(size, math.ceil(thing.x + reach)), min(size, math.ceil(thing.y + reach))
    cos, sin = math.cos(thing.angle), math.sin(thing.angle)
    points = _OUTLINE_POINTS[thing.outline] @ np.array([[cos, sin], [-sin, cos]]) * thing.radius
    points = (points + np.array([thing.x - x0, thing.y - y0])) * SUPERSAMPLE
    canvas = Image.new("L", ((x1 - x0) * SUPERSAMPLE, (y1 - y0) * SUPERSAMPLE))
    ImageDraw.Draw(canvas).polygon([(float(x), float(y)) for x, y in points], fill=255)
    small = canvas.reduce(SUPERSAMPLE)
    return slice(y0, y1), slice(x0, x1), np.asarray(small, np.float32) / np.float32(255)


def _surface(thing: Thing, rows: slice, cols: slice, rng: np.random.Generator) -> NDArray[np.float32]:
    """Colour of an object's box: its pattern in the colour and a dark shade of it. Shape: (H, W, 3), 0..255."""
    base = np.array(COLOURS[thing.colour], np.float32) * rng.uniform(0.85, 1.05) + rng.uniform(-8, 8, 3)
    y, x = np.mgrid[rows, cols].astype(np.float32)
    cos, sin = math.cos(thing.pattern_angle), math.sin(thing.pattern_angle)
    u = ((x - thing.x) * cos + (y - thing.y) * sin) / thing.period
    v = ((y - thing.y) * cos - (x - thing.x) * sin) / thing.period
    if thing.pattern == "plain":
        dark = np.zeros_like(u)
    elif thing.pattern == "striped":
        dark = _soften(np.sin(2 * np.pi * u), thing.period)
    elif thing.pattern == "dotted":
        dark = _soften(np.cos(2 * np.pi * u) + np.cos(2 * np.pi * v) - 0.5, thing.period)
    else:
        dark = _soften(np.sin(np.pi * u) * np.sin(np.pi * v) * 2, thing.period)
    shade = 1 - dark * (1 - thing.dark)
    return base * shade[..., None]


def _soften(wave: NDArray[np.float32], period: float) -> NDArray[np.float32]:
    """Turn a wave into 0/1 with an edge about one pixel wide, so that patterns do not alias."""
    return np.clip(wave * period / 6 + 0.5, 0, 1).astype(np.float32)


def render_ground(size: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Render textured grey ground: blotches, grain and a slope. Shape: (S, S, 3), 0..255."""
    blotches = Image.fromarray(rng.uniform(-1, 1, (int(rng.integers(3, 17)),) * 2).astype(np.float32))
    grey = np.asarray(blotches.resize((size, size), Image.Resampling.BICUBIC)) * np.float32(rng.uniform(5, 30))
    slope = np.linspace(-1, 1, size, dtype=np.float32)
    grey = grey + rng.uniform(-15, 15) * slope + rng.uniform(-15, 15) * slope[:, None] + rng.uniform(70, 160)
    grain = rng.standard_normal((size, size), np.float32) * np.float32(rng.uniform(2, 10))
    tint = rng.uniform(-4, 4, 3).astype(np.float32)
    return (grey + grain)[..., None].astype(np.float32) + tint


def sample_thing(rng: np.random.Generator, size: int, radius: tuple[float, float]) -> Thing:
    """Draw an object: any class, any outline, radius log-uniform so that small ones are as common as large ones."""
    r = float(np.exp(rng.uniform(np.log(radius[0]), np.log(radius[1]))))
    margin = 0.7 * r
    return Thing(
        kind=int(rng.integers(len(COLOURS) * len(PATTERNS))),
        outline=OUTLINES[int(rng.integers(len(OUTLINES)))],
        x=float(rng.uniform(margin, size - margin)),
        y=float(rng.uniform(margin, size - margin)),
        radius=r,
        angle=float(rng.uniform(0, 2 * np.pi)),
        # at least two and a half periods across the smallest object: a class must be visible in its pixels
        period=min(float(rng.uniform(0.055, 0.095)) * size, 0.8 * r),
        pattern_angle=float(rng.uniform(0, np.pi)),
        dark=float(rng.uniform(0.1, 0.35)),
    )


def render_scene(
    rng: np.random.Generator,
    size: int = 128,
    count: tuple[int, int] = (1, 4),
    radius: tuple[float, float] = (0.085, 0.36),
    plain_ground: bool = False,
) -> Scene:
    """Render one scene of `count` objects.

    Args:
        rng: generator of this scene.
        size: side in pixels.
        count: least and most objects, both included.
        radius: least and largest radius, as a share of `size`.
        plain_ground: one flat colour instead of texture.

    Returns:
        The scene; every object shows at least half of its area (a new place is tried until it does).
    """
    if plain_ground:
        image = np.broadcast_to(rng.uniform(60, 200, 3).mean() + rng.uniform(-6, 6, 3), (size, size, 3))
        image = image.astype(np.float32)
    else:
        image = render_ground(size, rng)
    owner = np.full((size, size), -1, np.int8)
    things: list[Thing] = []
    areas: list[int] = []
    target = int(rng.integers(count[0], count[1] + 1))
    for _ in range(20 * target):
        if len(things) == target:
            break
        thing = sample_thing(rng, size, (radius[0] * size, radius[1] * size))
        rows, cols, cover = _coverage(thing, size)
        inside = cover > 0.5
        hidden = np.bincount(owner[rows, cols][inside] + 1, minlength=len(things) + 1)[1:]
        visible = np.bincount(owner.ravel() + 1, minlength=len(things) + 1)[1:]
        if inside.sum() < 30 or (visible - hidden < 0.5 * np.array(areas)).any():
            continue
        alpha = cover[..., None]
        image[rows, cols] = image[rows, cols] * (1 - alpha) + _surface(thing, rows, cols, rng) * alpha
        owner[rows, cols][inside] = len(things)
        things.append(thing)
        areas.append(int(inside.sum()))
    image = image + rng.standard_normal(image.shape[:2], np.float32)[..., None] * 3
    return Scene(np.clip(image, 0, 255).astype(np.uint8), owner, tuple(things))


def mask_palette() -> list[int]:
    """PNG palette of the masks: 256 RGB triples, background black, void white."""
    rng = np.random.default_rng(0)
    colours = rng.integers(40, 256, (256, 3))
    for kind in range(len(COLOURS) * len(PATTERNS)):
        base = np.array(list(COLOURS.values())[kind // len(PATTERNS)])
        colours[kind + 1] = base * (1 - 0.17 * (kind % len(PATTERNS)))
    colours[0], colours[255] = 0, 255
    return colours.ravel().tolist()


def run(ctx: StageContext) -> dict[str, float | int | str]:
    """Render both splits into `VOCdevkit/VOC2012` under `ctx.out` (stage RenderShapes)."""
    shapes = ctx.config.shapes
    root = ctx.out / "VOCdevkit" / "VOC2012"
    for folder in ("JPEGImages", "SegmentationClassAug", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    splits = {"train": ("trainaug", shapes.train_scenes), "val": ("val", shapes.val_scenes)}
    total = sum(count for _, count in splits.values())
    colours, done = mask_palette(), 0
    for split, (list_name, count) in splits.items():
        names = [f"{split}_{index:06d}" for index in range(count)]
        for index, name in enumerate(names):
            scene = render_scene(scene_rng(shapes.seed, split, index), shapes.image_size)
            _write_scene(root, name, scene, colours)
            done += 1
            ctx.progress(done, total)
        listing = root / "ImageSets" / "Segmentation" / f"{list_name}.txt"
        listing.write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
    return {"scenes": total}


def _write_scene(root: Path, name: str, scene: Scene, colours: list[int]) -> None:
    # quality 95 without chroma subsampling: at 128 px, VOC-like JPEG settings would blur the patterns themselves
    write_picture(Image.fromarray(scene.image), root / f"JPEGImages/{name}.jpg", "JPEG", quality=95, subsampling=0)
    mask = Image.fromarray(scene.mask())
    mask.putpalette(colours)
    write_picture(mask, root / f"SegmentationClassAug/{name}.png", "PNG", optimize=False)
