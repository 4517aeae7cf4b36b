"""What pseudo masks may never cover."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from split_matching.configs.settings import PseudoMasksConfig
from split_matching.stages.candidates.pseudo_masks import (
    Clustered,
    cluster_together,
    free_cells,
    make_pseudo_masks,
    remove_annotated,
)
from tests.handmade import Chain

CONFIG = PseudoMasksConfig(min_area=0.01, max_annotated=1.0)
QUADRANTS = np.kron(np.array([[1, 2], [3, 4]], np.uint8), np.ones((8, 8), np.uint8))


def test_pseudo_masks_never_cover_annotated_pixels() -> None:
    annotated = np.zeros((64, 64), bool)
    annotated[:32, :32] = True
    labels = remove_annotated(QUADRANTS, annotated, CONFIG)
    assert (labels[:8, :8] == 0).all() and (labels[:8, 8:] > 0).all() and labels.max() == 3
    assert remove_annotated(QUADRANTS, np.ones((64, 64), bool), CONFIG).max() == 0


def test_what_is_left_of_a_region_may_be_too_small() -> None:
    annotated = np.zeros((16, 16), bool)
    annotated[:8, :7] = True  # a column of 8 of the 256 cells is left of the first quadrant
    assert remove_annotated(QUADRANTS, annotated, CONFIG).max() == 4
    assert remove_annotated(QUADRANTS, annotated, CONFIG.model_copy(update={"min_area": 0.04})).max() == 3


def test_a_cell_that_is_half_annotated_is_no_candidate() -> None:
    annotated = np.zeros((4, 8), bool)
    annotated[:, :1] = True  # half of the first column of cells
    annotated[:1, 2:4] = True  # half of one cell
    annotated[0, 4] = True  # a quarter of one cell
    kept = remove_annotated(np.ones((2, 4), np.uint8), annotated, CONFIG)
    assert kept.tolist() == [[0, 0, 1, 1], [0, 1, 1, 1]]


def test_the_least_area_is_a_share_of_the_image() -> None:
    labels = np.repeat(np.array([1, 2, 3], np.uint8), [17, 2, 1]).reshape(4, 5)
    nothing = np.zeros((4, 5), bool)
    numbers = [
        remove_annotated(labels, nothing, CONFIG.model_copy(update={"min_area": a})).max() for a in (0, 0.1, 0.11)
    ]
    assert numbers == [3, 2, 1]  # 2 of 20 cells are just enough for 0.1


def test_what_is_left_of_a_region_that_is_annotated_for_the_most_part_is_dropped() -> None:
    annotated = np.zeros((16, 16), bool)
    annotated[:8, :5] = True  # 40 of the 64 cells of the first quadrant, 62.5 %
    annotated[8:, 8:12] = True  # half of the last one
    found = {
        share: remove_annotated(QUADRANTS, annotated, CONFIG.model_copy(update={"max_annotated": share}))
        for share in (1.0, 0.63, 0.62, 0.5, 0.49)
    }
    assert {share: int(labels.max()) for share, labels in found.items()} == {1.0: 4, 0.63: 4, 0.62: 3, 0.5: 3, 0.49: 2}
    assert (found[0.5][:8, :8] == 0).all() and (found[0.5][8:, 12:] > 0).all()
    unannotated = CONFIG.model_copy(update={"max_annotated": 0.0, "tokens": "unannotated"})
    assert remove_annotated(QUADRANTS, annotated, unannotated).max() == 4, "the annotated cells were not clustered"


def test_cells_that_are_half_annotated_are_not_free() -> None:
    annotated = np.zeros((8, 8), bool)
    annotated[:4, :2] = True  # half of a cell
    annotated[4:, 4:5] = True  # a quarter of one
    assert free_cells(annotated, (2, 2), "unannotated").tolist() == [[False, True], [True, True]]
    assert free_cells(annotated, (2, 2), "all").all()


class Corners:
    """Clusters an image into one region, numbered as the value of its first cell."""

    BATCHED = True

    def cluster(
        self, images: Sequence[NDArray[Any]], free: Sequence[NDArray[np.bool_]], config: PseudoMasksConfig, device: str
    ) -> list[NDArray[np.uint8]]:
        assert all(cells.any() for cells in free) and device == "cpu"
        return [np.full((4, 4), image[0, 0, 0], np.uint8) for image in images]


def test_each_image_gets_its_own_regions_and_one_without_a_free_cell_has_none() -> None:
    def image(number: int, free: bool) -> Clustered[None]:
        cells = np.full((2, 2, 1), number, np.float32)
        return Clustered(f"{number}", cells, cells[..., 0] > 0, np.full((2, 2), free), None, np.zeros((4, 4), np.uint8))

    images = [image(1, True), image(2, False), image(3, True)]
    cluster_together(images, Corners(), CONFIG, "cpu")
    assert [np.unique(found.labels).tolist() for found in images] == [[1], [0], [3]]
    cluster_together(images[1:2], Corners(), CONFIG, "cpu")
    assert not images[1].labels.any()


@pytest.mark.parametrize("tokens", ["all", "unannotated"])
def test_pseudo_masks_have_the_sides_of_the_features(tmp_path: Path, tokens: str) -> None:
    chain = Chain(tmp_path, f"pseudo_masks.tokens={tokens}", "pseudo_masks.scale=3")
    rng = np.random.default_rng(0)
    images = [
        ("train_000000", rng.standard_normal((4, 6, 8)).astype(np.float32), None),
        ("train_000001", rng.standard_normal((7, 5, 8)).astype(np.float32), None),
    ]
    found = [(image_id, labels.shape) for image_id, labels, _ in make_pseudo_masks(chain.context("masks"), images)]
    assert found == [("train_000000", (12, 18)), ("train_000001", (21, 15))]
