"""What the gallery stores of regions, and its numbers over all images, against plain computation."""

from __future__ import annotations

import base64
import zlib

import numpy as np
import pytest
from sklearn.decomposition import PCA

from split_matching.stages.candidates.sweep import Sweep
from split_matching.stages.pages.gallery_image import GalleryImage, RegionTable
from split_matching.stages.pages.gallery_numbers import RegionCurves, principal_plane

ONE = np.array([[1, 1, 1, 1], [1, 1, 1, 0]], np.uint8)
TWO = np.array([[1, 1, 1, 2], [1, 1, 2, 0]], np.uint8)
THREE = np.array([[1, 1, 3, 2], [1, 1, 2, 0]], np.uint8)
NONE = np.zeros((2, 4), np.uint8)


def test_regions_are_stored_once_and_maps_come_back() -> None:
    table = RegionTable([NONE, ONE, ONE, TWO, THREE])
    assert table.starts == [0, 1, 3, 4]
    assert table.members == [[], [0], [1, 2], [3, 2, 4]], "the right part of TWO is in THREE too"
    assert table.members_at(2) == [0] and table.members_at(4) == [3, 2, 4]
    raw = np.frombuffer(zlib.decompress(base64.b64decode(table.pack())), "<u2").reshape(4, 2, 4)
    rows = np.cumsum(raw.astype(np.int64), 0) % 65536
    for found, regions, map_ in zip(rows, table.members, [NONE, ONE, TWO, THREE], strict=True):
        numbers = {0: 0} | {row + 1: number for number, row in enumerate(regions, 1)}
        assert [[numbers[int(cell)] for cell in line] for line in found] == map_.tolist()


def test_the_largest_part_keeps_the_colour_and_regions_of_a_map_differ() -> None:
    table = RegionTable([ONE, TWO, THREE])
    whole, left, right, rest, new = table.colours
    assert whole == left == rest, "the largest part of what splits"
    assert len({left, right}) == 2 and len({rest, right, new}) == 3


def test_random_maps_never_have_two_regions_of_one_colour() -> None:
    rng = np.random.default_rng(0)
    table = RegionTable([rng.integers(0, 5, (6, 6)).astype(np.uint8) for _ in range(20)])
    for regions in table.members:
        assert len({table.colours[row] for row in regions}) == len(regions)


def test_an_image_is_described_in_tenths_of_a_percent() -> None:
    names = [[(2, 71), (0, 30)]] * 3
    image = GalleryImage("a", "", (40, 20), float("nan"), (1,), RegionTable([ONE, TWO]), names)
    assert image.describe() == {
        **{"id": "a", "size": (40, 20), "grid": [4, 2], "quality": None, "seen": (1,)},
        **{"starts": [0, 1], "maps": [[0], [1, 2]]},
        "regions": [[875, 0, 2, 71, 0, 30], [625, 0, 2, 71, 0, 30], [250, 1, 2, 71, 0, 30]],
    }


def test_curves_are_means_over_images() -> None:
    curves = RegionCurves([0.5, 0.9], queries=2)
    curves.add(Sweep([ONE, THREE], np.array([[0.5, 0.7], [0.9, 0.9]])))
    curves.add(Sweep([NONE, TWO], np.zeros((2, 0))))
    assert curves.describe() == {
        **{"merges": [0.5, 0.9], "queries": 2, "regions": [0.5, 2.5]},
        **{"covered": [43.75, 87.5], "crowded": [0.0, 50.0], "iou": [60.0, 90.0]},
    }
    unseen = RegionCurves([0.5], 2)
    unseen.add(Sweep([ONE], np.zeros((1, 0))))
    assert unseen.describe()["iou"] is None


def test_the_plane_is_that_of_principal_components() -> None:
    rows = np.random.default_rng(1).standard_normal((40, 6)).astype(np.float32) * [5, 1, 3, 1, 1, 1]
    places = np.array(principal_plane(rows.astype(np.float32))).reshape(-1, 2) / 1000
    expected = PCA(2, svd_solver="full").fit_transform(rows)
    for axis in (0, 1):
        column = expected[:, axis]
        scaled = (column - column.min()) / np.ptp(column)
        assert min(np.abs(places[:, axis] - scaled).max(), np.abs(places[:, axis] - (1 - scaled)).max()) < 1e-3
    assert principal_plane(np.zeros((2, 6), np.float32)) == [] and principal_plane(np.zeros((9, 0), np.float32)) == []
    assert principal_plane(np.ones((4, 3), np.float32)) == pytest.approx([0] * 8)
