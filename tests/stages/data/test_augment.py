"""Augmentation: images and labels are cut alike, crops stay inside, colours change as in mmsegmentation."""

import hashlib
import os
import subprocess
import sys

import cv2
import numpy as np
import pytest
from matplotlib.colors import hsv_to_rgb, rgb_to_hsv

from split_matching.stages.data.augment import View, distort, draw_view, take_image

UNANNOTATED = 255


def smooth_image(height: int, width: int) -> np.ndarray:
    """Colours of all kinds, and hardly any difference between neighbours."""
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    waves = [np.sin(5 * x + 3 * y), np.sin(4 * y - 6 * x + 1), np.cos(7 * x * y + 2 * y)]
    return (127.5 + 127 * np.stack(waves, -1)).astype(np.uint8)


def cut(labels: np.ndarray, view: View) -> np.ndarray:
    rows, cols = view.cells(labels.shape)
    return labels[rows[:, None], cols]


# ---- crop and scale ----


def test_images_and_labels_are_cut_alike() -> None:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 5, (4, 6)).astype(np.uint8)
    labels = np.kron(coarse, np.ones((20, 20), np.uint8))  # (80, 120)
    image = np.repeat((labels * 50)[..., None], 3, 2)
    for height, width in ((32, 40), (16, 20), (64, 80), (33, 79)):
        for mirrored in (False, True):
            view = View((80, 120), 8, 5, height, width, 32, 40, mirrored)
            pixels, seen, region = take_image(image, view), cut(labels, view), cut(coarse, view)
            assert pixels.shape == (32, 40, 3) and seen.shape == region.shape == (32, 40)
            assert np.array_equal(seen, region)  # the resolution of a label map does not matter
            inner = np.abs(pixels[..., 0].astype(int) - 50 * seen) < 20
            assert inner.mean() > (0.8 if height <= 33 else 0.7)  # all but the blurred borders


@pytest.mark.parametrize(("height", "width"), [(20, 30), (11, 45), (50, 70), (32, 40)])
def test_pixels_are_bilinear_between_the_four_nearest(height: int, width: int) -> None:
    """In plain words: half-pixel centres, no smoothing, the border repeated. OpenCV rounds in fixed point."""
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    view = View((50, 70), 50 - height, 70 - width, height, width, 32, 40)
    window = image[50 - height :, 70 - width :].astype(float)
    expected = np.zeros((32, 40, 3))
    for row in range(32):
        for col in range(40):
            y, x = (row + 0.5) * height / 32 - 0.5, (col + 0.5) * width / 40 - 0.5
            for j, i in ((j, i) for j in (0, 1) for i in (0, 1)):
                top, left = int(np.floor(y)) + j, int(np.floor(x)) + i
                share = (1 - abs(y - top)) * (1 - abs(x - left))
                expected[row, col] += share * window[min(max(top, 0), height - 1), min(max(left, 0), width - 1)]
    assert np.abs(take_image(image, view) - expected).max() <= 1
    mirrored = View((50, 70), 50 - height, 70 - width, height, width, 32, 40, mirrored=True)
    assert np.array_equal(take_image(image, mirrored), take_image(image, view)[:, ::-1])


def test_a_crop_is_that_of_the_scaled_image_where_pixels_meet() -> None:
    """Scaling after cropping differs from cropping after scaling at the border alone, which sees no neighbours."""
    image = smooth_image(50, 70)
    full = cv2.resize(image, (140, 100), interpolation=cv2.INTER_LINEAR)
    crop = take_image(image, View((50, 70), 9, 16, 32, 36, 64, 72))
    assert np.array_equal(crop[1:-1, 1:-1], full[19:81, 33:103])
    assert np.array_equal(take_image(image, View.whole((50, 70), 50, 70)), image)


def test_crops_stay_inside_and_reach_every_border() -> None:
    labels = np.full((40, 60), UNANNOTATED, np.uint8)
    views = [draw_view(np.random.default_rng(i), labels, (80, 120), 32, 0.75, True) for i in range(300)]
    assert {(v.height, v.width, v.rows, v.cols) for v in views} == {(16, 16, 32, 32)}
    assert {v.top for v in views} == set(range(25)) and {v.left for v in views} == set(range(45))
    assert 100 < sum(v.mirrored for v in views) < 200
    assert not any(draw_view(np.random.default_rng(i), labels, (40, 64), 32, 0.75, False).mirrored for i in range(20))
    small = draw_view(np.random.default_rng(0), labels, (24, 64), 32, 0.75, False)
    assert (small.top, small.height, small.rows) == (0, 40, 24)  # nothing is padded
    assert (small.width, small.cols) == (30, 32)


def test_one_class_does_not_fill_a_crop() -> None:
    labels = np.zeros((64, 64), np.uint8)
    labels[:, 48:] = 1  # a crop at the left shows class 0 alone

    def share(ratio: float, i: int) -> float:
        seen = cut(labels, draw_view(np.random.default_rng(i), labels, (64, 64), 32, ratio, False))
        return max((seen == 0).mean(), (seen == 1).mean())

    assert np.mean([share(0.75, i) < 0.75 for i in range(50)]) > 0.9
    assert np.mean([share(1.0, i) < 0.75 for i in range(50)]) < 0.6


@pytest.mark.parametrize(("classes", "side"), [(2, 24), (2, 12), (3, 12)])
def test_crops_are_drawn_by_the_rule_in_plain_words(classes: int, side: int) -> None:
    """Over draws that are accepted and draws that are not."""
    rng = np.random.default_rng(1)
    labels = (rng.random((5, 5)) * classes).astype(np.uint8).repeat(8, 0).repeat(8, 1)
    labels[rng.random((40, 40)) < 0.3] = UNANNOTATED
    tries = 0
    for seed in range(30):
        draws, own = np.random.default_rng(seed), np.random.default_rng(seed)
        found = draw_view(own, labels, (80, 80), 2 * side, 0.6, True)
        mirrored = bool(draws.random() < 0.5)
        for _ in range(10):
            tries += 1
            top, left = int(draws.integers(41 - side)), int(draws.integers(41 - side))
            window = labels[top : top + side, left : left + side].ravel().tolist()
            seen = [value for value in window if value != UNANNOTATED]
            if len(set(seen)) > 1 and max(seen.count(value) for value in set(seen)) / len(seen) < 0.6:
                break
        assert found == View((40, 40), top, left, side, side, 2 * side, 2 * side, mirrored)
        assert own.random() == draws.random()  # nothing else was drawn
    assert 30 < tries < 300  # otherwise this test would prove nothing


# ---- colours ----


def choices(seed: int) -> tuple[np.ndarray, int, int, float, float]:
    """What a generator makes `distort` do: which steps, and how much of each."""
    rng = np.random.default_rng(seed)
    return rng.random(5) < 0.5, int(rng.integers(-32, 32)), int(rng.integers(-18, 18)), *rng.uniform(0.5, 1.5, 2)


def convert(pixels: np.ndarray, alpha: float = 1, beta: float = 0) -> np.ndarray:
    """`convert` of mmsegmentation's PhotoMetricDistortion, as its code says."""
    return (pixels.astype(np.float32) * np.float32(alpha) + beta).clip(0, 255).astype(np.uint8)


def distort_plainly(image: np.ndarray, seed: int) -> np.ndarray:
    """PhotoMetricDistortion, with hues and saturations of full precision."""
    (brightness, contrast, saturation, hue, first), shift, turn, gain, colour = choices(seed)
    pixels = convert(image, beta=shift) if brightness else image
    pixels = convert(pixels, gain) if contrast and first else pixels
    if saturation or hue:
        hsv = rgb_to_hsv(pixels / 255)
        hsv[..., 0] = (hsv[..., 0] + turn / 180 * hue) % 1
        hsv[..., 1] = (hsv[..., 1] * (colour if saturation else 1)).clip(0, 1)
        pixels = hsv_to_rgb(hsv) * 255
    return convert(pixels, gain) if contrast and not first else pixels


def test_without_hues_colours_change_as_in_mmsegmentation_to_the_byte() -> None:
    image, compared = np.random.default_rng(0).integers(0, 256, (8, 9, 3), dtype=np.uint8), 0
    for seed in range(60):
        if not choices(seed)[0][2:4].any():
            assert np.array_equal(distort(image, np.random.default_rng(seed)), distort_plainly(image, seed))
            compared += 1
    assert compared > 5


def test_hue_and_saturation_change_as_in_mmsegmentation() -> None:
    """Up to the 180 hues and 256 saturations that bytes have: some levels of 255, and no drift."""
    image = smooth_image(64, 64)
    for seed in range(100):
        steps, *_, gain, _ = choices(seed)
        off = distort(image, np.random.default_rng(seed)).astype(float) - distort_plainly(image, seed)
        scale = gain if steps[1] and not steps[4] else 1
        assert np.abs(off).max() <= 6 * scale + 1 and np.abs(off.mean()) < 1.5


def test_brightness_is_uniform_over_whole_levels() -> None:
    """A float shift of -32 to 32, cut to bytes, is one of 64 whole shifts: mmsegmentation's are the same."""
    levels = np.arange(256, dtype=np.uint8)
    for shift in (-31.5, -0.2, 0.2, 31.9):
        assert np.array_equal(convert(levels, beta=shift), convert(levels, beta=float(np.floor(shift))))


def test_distortion_keeps_size_and_grey_and_sometimes_everything() -> None:
    image = np.random.default_rng(1).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    grey = np.repeat(image[..., :1], 3, 2)
    before = image.copy()
    results = [distort(image, np.random.default_rng(i)) for i in range(60)]
    assert np.array_equal(image, before)
    assert all(r.shape == image.shape and r.dtype == np.uint8 for r in results)
    assert 1 <= sum(np.array_equal(r, image) for r in results) < 15
    assert np.array_equal(results[3], distort(image, np.random.default_rng(3)))
    for i in range(20):
        out = distort(grey, np.random.default_rng(i)).astype(int)
        assert np.ptp(out, axis=2).max() <= 1  # hue and saturation leave grey alone


# ---- the same bytes ----


def digest() -> str:
    """Of many augmented crops."""
    image, found = smooth_image(375, 500), hashlib.sha256()
    for seed in range(24):
        rng = np.random.default_rng(seed)
        height, width = int(rng.integers(100, 375)), int(rng.integers(100, 500))
        rows, cols = 16 * rng.integers(10, 33, 2)
        found.update(distort(take_image(image, View((375, 500), 0, 0, height, width, rows, cols)), rng).tobytes())
    return found.hexdigest()


def test_bytes_do_not_depend_on_threads() -> None:
    one = digest()
    cv2.setNumThreads(4)
    try:
        assert digest() == one
    finally:
        cv2.setNumThreads(1)


@pytest.mark.slow
@pytest.mark.parametrize("without", ["", "AVX512-SKX,AVX512-ICL"])
def test_bytes_do_not_depend_on_the_cpu(without: str) -> None:
    """OpenCV has code for several generations of CPUs, and Intel's library: from AVX2 on they give the same."""
    command = "from tests.stages.data.test_augment import digest; print(digest())"
    environment = {**os.environ, "OPENCV_CPU_DISABLE": without, "OPENCV_IPP": "disabled"}
    process = subprocess.run(
        [sys.executable, "-c", command], env=environment, capture_output=True, text=True, check=True
    )
    assert process.stdout.split()[-1] == digest()
