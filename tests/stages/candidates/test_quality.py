"""Quality by seen annotation: overlaps against a loop, and blindness to unseen classes."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from split_matching.configs.class_list import load_shipped_classes
from split_matching.errors import DataError
from split_matching.pipeline.cli import main
from split_matching.stages.candidates import features
from split_matching.stages.candidates.quality import best_overlap, measure
from split_matching.stages.candidates.region_embedding import RegionItem
from split_matching.stages.data.source import open_source
from split_matching.stages.ground.context import StageContext
from split_matching.stages.training import text
from tests.handmade import TINY, Chain


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    made = Chain(tmp_path_factory.mktemp("quality"), "shapes.train_scenes=6")
    made.sharded(features, "features")
    made.whole(text, "text")
    return made


def context(chain: Chain) -> StageContext:
    return replace(chain.context("quality"), data_root=chain.root)


@pytest.mark.parametrize("seed", range(5))
def test_best_overlap_equals_a_loop(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels, wanted = rng.integers(0, 5, (8, 6)).astype(np.uint8), rng.random((16, 24)) < 0.4
    overlaps = [0.0]
    for region in range(1, 5):
        mask = np.zeros(wanted.shape, bool)
        for y in range(16):
            for x in range(24):
                mask[y, x] = labels[y // 2, x // 4] == region
        overlaps.append(float((mask & wanted).sum() / (mask | wanted).sum()))
    region, iou = best_overlap(labels, wanted)
    assert region == int(np.argmax(overlaps)) and iou == pytest.approx(max(overlaps))


def test_no_region_overlaps_nothing() -> None:
    assert best_overlap(np.zeros((4, 4), np.uint8), np.ones((8, 8), bool)) == (0, 0.0)


def test_a_region_of_one_pixel_may_overlap_wholly() -> None:
    assert best_overlap(np.array([[0, 2, 0]], np.uint8), np.array([[False, True, False]])) == (2, 1.0)


def test_regions_are_compared_with_the_masks_of_the_seen_classes(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    """Regions are the quarters of an image, so each overlap can be counted in the mask files."""
    quarters = np.kron(np.array([[1, 2], [3, 4]], np.uint8), np.ones((32, 32), np.uint8))
    monkeypatch.setattr("split_matching.stages.candidates.quality.cluster", lambda dense, config: quarters)
    embedded = []

    def name(self: object, method: str, item: RegionItem) -> np.ndarray:
        embedded.append((method, item.masks.sum((1, 2)).tolist()))
        return np.zeros(len(item.masks), int)

    monkeypatch.setattr("split_matching.stages.candidates.quality._Measurement._name", name)
    source, seen = open_source(chain.config.data, chain.root), chain.slice.classes.seen_ids
    overlaps, pixels = [], []
    for image_id in source.ids("train"):
        mask = np.asarray(Image.open(source.mask_path(image_id)))
        objects = [mask == value for value in seen if (mask == value).any()]
        pixels.append([int(wanted.sum()) for wanted in objects])
        for wanted in objects:
            inside = [int(part.sum()) for half in np.split(wanted, 2) for part in np.split(half, 2, 1)]
            overlaps.append(max(count / (32 * 32 + wanted.sum() - count) for count in inside))
    found = measure(context(chain), 10)
    assert found.iou == pytest.approx(np.mean(overlaps))
    assert sorted(sizes for method, sizes in embedded if method == "crop") == sorted(filter(None, pixels))


def test_unseen_labels_change_no_number(chain: Chain, tmp_path: Path) -> None:
    root = tmp_path / "root"
    shutil.copytree(chain.root, root)
    unseen = [entry.id for entry in load_shipped_classes("shapes").unseen_entries]
    source, changed = open_source(chain.config.data, root), 0
    for image_id in source.ids("train"):
        mask = np.asarray(Image.open(source.mask_path(image_id)))
        changed += int(np.isin(mask, unseen).sum())
        Image.fromarray(np.where(np.isin(mask, unseen), 0, mask).astype(np.uint8)).save(source.mask_path(image_id))
    assert changed > 0
    other = Chain(tmp_path / "other", "shapes.train_scenes=6", root=root)
    other.inputs = chain.inputs
    found, blind = (measure(context(c), 10) for c in (chain, other))
    assert found == blind
    assert found.images == 6 and found.objects > 0 and 0 < found.iou <= 1
    assert set(found.true_regions) == {"crop", "attention", "mean"}


def test_the_verb_prints_every_method(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--dataset", "shapes", "--artifacts", str(tmp_path), "--set", *TINY, "runtime.threads=1"]
    assert main(["inspect", "quality", *options]) == 3  # nothing is cached yet
    for stage in ("ExtractFeatures", "EmbedText"):
        assert main([stage, *options]) == 0
    capsys.readouterr()
    assert main(["inspect", "quality", "--limit", "3", *options]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("3 training images with ")
    assert all(f"annotated region named right ({method})" in printed for method in ("crop", "attention", "mean"))


def test_named_is_the_share_of_annotated_classes_that_got_their_own_name(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a region is, `attention` (the method of the config) names it class 0, and each other method another."""
    names = {method: place for place, method in enumerate(("attention", "crop", "mean"))}
    assert chain.config.regions.method == "attention"
    monkeypatch.setattr(
        "split_matching.stages.candidates.quality._Measurement._name",
        lambda self, method, item: np.full(len(item.masks), names[method]),
    )
    source, seen = open_source(chain.config.data, chain.root), chain.slice.classes.seen_ids
    truth = [np.asarray(Image.open(source.mask_path(image_id))) for image_id in source.ids("train")]
    present = [seen.index(value) for mask in truth for value in np.unique(mask) if value in seen]
    found = measure(context(chain), 10)
    assert found.objects == len(present) and found.named == pytest.approx(np.mean(np.equal(present, 0)))
    assert found.true_regions == pytest.approx({m: np.mean(np.equal(present, place)) for m, place in names.items()})
    assert len(set(found.true_regions.values())) > 1, "the classes must differ for this to mean something"


def test_images_without_annotation_are_an_error(chain: Chain, tmp_path: Path) -> None:
    root = tmp_path / "root"
    shutil.copytree(chain.root, root)
    source = open_source(chain.config.data, root)
    for image_id in source.ids("train"):
        Image.fromarray(np.zeros((64, 64), np.uint8)).save(source.mask_path(image_id))
    other = Chain(tmp_path / "other", "shapes.train_scenes=6", root=root)
    other.inputs = chain.inputs
    with pytest.raises(DataError, match="none of 6 training images has an annotated seen class"):
        measure(context(other), 10)
