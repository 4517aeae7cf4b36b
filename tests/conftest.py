"""Fixtures shared by the tests: small VOC trees made on the spot, and the real photographs where there are any."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

# before torch is imported: threads that spin while they wait take the cores from the tests beside
os.environ |= {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.browser import Browser, find_browser, open_browser

if TYPE_CHECKING:
    from split_matching.stages.inference.segmenter import Segmenter

Mask = NDArray[np.integer]

PHOTOS = "SPLIT_MATCHING_VOC_MINI"
CLIP_TEXT = "SPLIT_MATCHING_CLIP_TEXT"


@dataclass(frozen=True)
class VocTree:
    """A VOC tree on disk. `root` is what `data.root` takes; `base` is VOC2012 below it."""

    root: Path
    mask_folder: str = "SegmentationClassAug"

    @property
    def base(self) -> Path:
        return self.root / "VOCdevkit" / "VOC2012"

    def image(self, image_id: str) -> Path:
        return self.base / "JPEGImages" / f"{image_id}.jpg"

    def mask(self, image_id: str) -> Path:
        return self.base / self.mask_folder / f"{image_id}.png"

    def listing(self, name: str) -> Path:
        return self.base / "ImageSets" / "Segmentation" / f"{name}.txt"

    def write_list(self, name: str, ids: list[str]) -> None:
        self.listing(name).parent.mkdir(parents=True, exist_ok=True)
        self.listing(name).write_text("".join(f"{image_id}\n" for image_id in ids), encoding="utf-8")

    def write_image(self, image_id: str, shape: tuple[int, int], seed: int = 0) -> None:
        rng = np.random.default_rng([seed, *image_id.encode()])
        self.image(image_id).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (*shape, 3), np.uint8)).save(self.image(image_id), quality=90)

    def write_mask(self, image_id: str, mask: Mask, palette: bool = True) -> None:
        """Write raw ids as VOC does: the palette index is the class id."""
        self.mask(image_id).parent.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(np.asarray(mask, np.uint8))
        if palette:
            image.putpalette(np.random.default_rng(1).integers(0, 256, 768).tolist())
        image.save(self.mask(image_id))


def blocks(*ids: int, shape: tuple[int, int] = (24, 32)) -> NDArray[np.uint8]:
    """A mask of vertical stripes of equal width, one an id."""
    stripes = np.minimum(np.arange(shape[1]) * len(ids) // shape[1], len(ids) - 1)
    return np.tile(np.asarray(ids, np.uint8)[stripes], (shape[0], 1))


def noise(*shape: int, seed: int = 0) -> NDArray[np.uint8]:
    """A picture of this height and width that holds nothing."""
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run files with slow tests first: with two workers the last file to start then is a short one."""
    slow = {item.path for item in items if item.get_closest_marker("slow") or item.get_closest_marker("long")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture
def make_mask() -> Callable[..., NDArray[np.uint8]]:
    """`make_mask(0, 3, 255, shape=(24, 32))`: vertical stripes of these raw ids."""
    return blocks


@pytest.fixture
def voc_tree(tmp_path: Path) -> Callable[..., VocTree]:
    """`voc_tree(train={id: mask}, val={id: mask})` writes a VOC tree with palette masks and the lists trainaug and val.

    Masks hold raw VOC ids; images are noise of the same size. Called again, it starts from an empty folder.
    """

    def make(
        train: Mapping[str, Mask] | None = None, val: Mapping[str, Mask] | None = None, name: str = "data"
    ) -> VocTree:
        shutil.rmtree(tmp_path / name, ignore_errors=True)
        tree = VocTree(tmp_path / name)
        splits = {
            "trainaug": {"2007_000001": blocks(0, 1, 16, 255), "2007_000002": blocks(2, 15, 20)}
            if train is None
            else train,
            "val": {"2007_000003": blocks(0, 3, 17, 255)} if val is None else val,
        }
        for listing, masks in splits.items():
            tree.write_list(listing, list(masks))
            for image_id, mask in masks.items():
                tree.write_image(image_id, (mask.shape[0], mask.shape[1]))
                tree.write_mask(image_id, mask)
        return tree

    return make


@pytest.fixture(scope="session")
def voc_mini() -> Path:
    """Root of 220 real VOC photographs (160 trainaug, 60 val); skips where they are not at hand."""
    root = os.environ.get(PHOTOS)
    if not root:
        pytest.skip(f"{PHOTOS} is not set: it names a folder with VOCdevkit/VOC2012 photographs")
    return Path(root)


@pytest.fixture(scope="session")
def clip_text() -> Path:
    """Folder of real text embeddings and positions of OpenAI's ViT-B/16; skips where they are not at hand."""
    folder = os.environ.get(CLIP_TEXT)
    if not folder:
        pytest.skip(f"{CLIP_TEXT} is not set: it names a folder with text embeddings of OpenAI's CLIP, as .npy")
    return Path(folder)


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Command-line options of a run of a few steps, evaluated, in a cache of its own: `--artifacts DIR --set ...`."""
    from split_matching.pipeline import cli
    from tests.handmade import TINY

    # bundled weights instead of random ones: an export of these names a file
    settings = [*(value for value in TINY if not value.startswith("clip.weights")), "evaluate.fusion=0"]
    options = ["--artifacts", str(tmp_path_factory.mktemp("cache")), "--set", *settings]
    assert cli.main(["Evaluate", *options, "--quiet"]) == 0
    return options


@pytest.fixture(scope="session")
def segmenter(tiny_run: list[str]) -> Segmenter:
    """The decoder of `tiny_run`, with its CLIP."""
    from split_matching.pipeline.trained_run import load_segmenter

    return load_segmenter("shapes", [f"runtime.artifacts={tiny_run[1]}", *tiny_run[3:]])


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """A running Chromium; skips where there is none."""
    path = find_browser()
    if path is None:
        pytest.skip("no Chromium on this machine: the pages were not opened in a browser (apt-get install chromium)")
    with open_browser(path) as browser:
        yield browser
