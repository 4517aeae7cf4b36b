"""Label maps over images: small cases with known pixels."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from split_matching.stages.pages.overlays import (
    NO_LABEL,
    borders,
    hatch,
    jpeg_data_uri,
    overlay,
    scale_to_side,
)

COLOURS = np.array([[255, 0, 0], [0, 0, 255]], dtype=np.uint8)
GREY = np.full((4, 4, 3), 100, dtype=np.uint8)


@pytest.mark.parametrize(("shape", "expected"), [((10, 20), (50, 100)), ((300, 200), (100, 67)), ((1, 1000), (1, 100))])
def test_scaling_sets_the_longer_side(shape: tuple[int, int], expected: tuple[int, int]) -> None:
    image = np.zeros((*shape, 3), np.uint8)
    assert scale_to_side(image, 100).shape[:2] == expected


def test_borders_equal_a_loop() -> None:
    labels = np.random.default_rng(1).integers(0, 3, (7, 9))
    expected = np.zeros(labels.shape, bool)
    for y, x in np.ndindex(labels.shape):
        right = x + 1 < labels.shape[1] and labels[y, x + 1] != labels[y, x]
        below = y + 1 < labels.shape[0] and labels[y + 1, x] != labels[y, x]
        expected[y, x] = right or below
    np.testing.assert_array_equal(borders(labels), expected)


def test_overlay_blends_by_alpha_and_leaves_none_alone() -> None:
    labels = np.full((4, 4), NO_LABEL)
    labels[:, :2] = 0
    result = overlay(GREY, labels, COLOURS, alpha=0.6, outline=False)
    assert result[0, 0].tolist() == [193, 40, 40]
    assert result[0, 3].tolist() == [100, 100, 100]


def test_overlay_shows_the_same_colour_on_any_hue() -> None:
    image = np.array([[[200, 0, 0], [0, 102, 0]]], np.uint8)  # equally bright
    left, right = overlay(image, np.zeros((1, 2), np.uint8), COLOURS, outline=False)[0].astype(int)
    assert np.abs(left - right).max() <= 1


def test_overlay_draws_borders_dark() -> None:
    labels = np.zeros((4, 4), np.uint8)
    labels[:, 2:] = 1
    with_line = overlay(GREY, labels, COLOURS)
    without = overlay(GREY, labels, COLOURS, outline=False)
    changed = (with_line != without).any(axis=2)
    np.testing.assert_array_equal(changed, borders(labels))
    assert with_line[0, 1].sum() < without[0, 1].sum()


def test_overlay_stretches_small_maps() -> None:
    small = np.array([[0, 1]], np.uint8)
    large = np.repeat(np.repeat(small, 4, axis=0), 2, axis=1)
    np.testing.assert_array_equal(overlay(GREY, small, COLOURS), overlay(GREY, large, COLOURS))


def test_overlay_hatches_only_marked_classes() -> None:
    labels = np.zeros((16, 16), np.uint8)
    labels[:, 8:] = 1
    image = np.full((16, 16, 3), 100, np.uint8)
    plain = overlay(image, labels, COLOURS, outline=False)
    hatched = overlay(image, labels, COLOURS, outline=False, hatched=np.array([False, True]))
    changed = (plain != hatched).any(axis=2)
    np.testing.assert_array_equal(changed, hatch((16, 16)) & (labels == 1))


def test_hatching_can_be_seen_on_every_colour() -> None:
    labels, image = np.zeros((16, 16), np.uint8), np.full((16, 16, 3), 100, np.uint8)
    for colour, way in (((240, 240, 240), -1), ((235, 205, 40), -1), ((160, 20, 20), 1)):
        colours = np.array([colour], np.uint8)
        plain, hatched = (
            overlay(image, labels, colours, outline=False, hatched=np.array([on])).astype(int) for on in (False, True)
        )
        step = (hatched - plain)[hatch((16, 16))] @ [0.3, 0.6, 0.1]
        assert (way * step > 60).all()


def test_overlay_weight_fades_pixels() -> None:
    labels, weight = np.zeros((4, 4), np.uint8), np.ones((4, 4))
    weight[0] = 0.0
    result = overlay(GREY, labels, COLOURS, outline=False, weight=weight)
    assert (result[0] == 100).all()
    assert result[1, 0].tolist() == [193, 40, 40]


def test_overlay_leaves_its_inputs_alone() -> None:
    image, labels = GREY.copy(), np.zeros((4, 4), np.uint8)
    overlay(image, labels, COLOURS)
    np.testing.assert_array_equal(image, GREY)


@pytest.mark.parametrize("value", [2, -2])
def test_labels_without_a_colour_are_errors(value: int) -> None:
    with pytest.raises(ValueError, match=f"label {value} has no colour"):
        overlay(GREY, np.full((4, 4), value, np.int16), COLOURS)


def test_all_none_needs_no_colours() -> None:
    empty = np.zeros((0, 3), np.uint8)
    np.testing.assert_array_equal(overlay(GREY, np.full((4, 4), NO_LABEL), empty), GREY)


def decode(uri: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))))


def test_jpeg_uri_is_close_to_the_image() -> None:
    assert jpeg_data_uri(GREY).startswith("data:image/jpeg;base64,")
    assert np.abs(decode(jpeg_data_uri(GREY)).astype(int) - 100).max() <= 1


@pytest.mark.parametrize("quality", [50, 88, 95, 100])
@pytest.mark.parametrize("side", [1, 64, 300, 700])
def test_jpeg_uri_holds_the_finest_structure(side: int, quality: int) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    assert decode(jpeg_data_uri(noise, quality)).shape == noise.shape
