"""Augmentation: images and labels are cut alike, crops stay inside, colours change."""

import numpy as np
from PIL import Image

from split_matching.stages.data.augment import View, distort, draw_view, take_image, take_labels

UNANNOTATED = 255


def test_images_and_labels_are_cut_alike() -> None:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 5, (4, 6)).astype(np.uint8)
    labels = np.kron(coarse, np.ones((20, 20), np.uint8))  # (80, 120)
    image = np.repeat((labels * 50)[..., None], 3, 2)
    for scaled in ((80, 120), (160, 248), (48, 64)):
        for mirrored in (False, True):
            view = View(*scaled, 8, 5, 32, 40, mirrored)
            pixels, cut, region = take_image(image, view), take_labels(labels, view), take_labels(coarse, view)
            assert pixels.shape == (32, 40, 3) and cut.shape == region.shape == (32, 40)
            assert np.array_equal(cut, region)  # the resolution of a label map does not matter
            inner = np.abs(pixels[..., 0].astype(int) - 50 * cut) < 20
            assert inner.mean() > (0.8 if scaled[0] >= 80 else 0.7)  # all but the blurred borders


def test_cutting_equals_scaling_then_cropping() -> None:
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    full = np.asarray(Image.fromarray(image).resize((144, 96), Image.Resampling.BICUBIC))
    view = View(96, 144, 17, 31, 64, 72)
    assert np.array_equal(take_image(image, view), full[17:81, 31:103])
    mirrored = View(96, 144, 17, 31, 64, 72, mirrored=True)
    assert np.array_equal(take_image(image, mirrored), full[17:81, 31:103][:, ::-1])
    assert np.array_equal(take_image(image, View.whole(50, 70)), image)


def test_crops_stay_inside_and_reach_every_border() -> None:
    labels = np.full((40, 60), UNANNOTATED, np.uint8)
    views = [draw_view(np.random.default_rng(i), labels, (40, 64), 32, 0.75, True) for i in range(300)]
    assert {(v.rows, v.cols) for v in views} == {(32, 32)}
    assert {v.top for v in views} == set(range(9)) and {v.left for v in views} == set(range(33))
    assert 100 < sum(v.mirrored for v in views) < 200
    assert not any(draw_view(np.random.default_rng(i), labels, (40, 64), 32, 0.75, False).mirrored for i in range(20))
    small = draw_view(np.random.default_rng(0), labels, (24, 64), 32, 0.75, False)
    assert (small.top, small.rows, small.cols) == (0, 24, 32)  # nothing is padded


def test_one_class_does_not_fill_a_crop() -> None:
    labels = np.zeros((64, 64), np.uint8)
    labels[:, 48:] = 1  # a crop at the left shows class 0 alone

    def share(ratio: float, i: int) -> float:
        view = draw_view(np.random.default_rng(i), labels, (64, 64), 32, ratio, False)
        cut = take_labels(labels, view)
        return max((cut == 0).mean(), (cut == 1).mean())

    assert np.mean([share(0.75, i) < 0.75 for i in range(50)]) > 0.9
    assert np.mean([share(1.0, i) < 0.75 for i in range(50)]) < 0.6


def test_unannotated_pixels_do_not_count_in_the_ratio() -> None:
    """Half of a crop is unannotated, the other half is one class: no crop will do, and the last one is taken."""
    labels = np.full((64, 64), UNANNOTATED, np.uint8)
    labels[::2] = 3
    drawn = draw_view(np.random.default_rng(0), labels, (64, 64), 32, 0.75, False)
    rng = np.random.default_rng(0)
    rng.random()
    for _ in range(10):
        last = int(rng.integers(33)), int(rng.integers(33))
    assert (drawn.top, drawn.left) == last


def test_distortion_keeps_size_and_grey_and_sometimes_everything() -> None:
    image = np.random.default_rng(1).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    grey = np.repeat(image[..., :1], 3, 2)
    results = [distort(image, np.random.default_rng(i)) for i in range(60)]
    assert all(r.shape == image.shape and r.dtype == np.uint8 for r in results)
    assert 1 <= sum(np.array_equal(r, image) for r in results) < 15
    assert np.array_equal(results[3], distort(image, np.random.default_rng(3)))
    for i in range(20):
        out = distort(grey, np.random.default_rng(i)).astype(int)
        assert np.ptp(out, axis=2).max() <= 1  # hue and saturation leave grey alone


def test_levels_by_tables_are_those_of_arithmetic_on_pixels() -> None:
    """Brightness and contrast as on float32 pixels, cut to bytes after each; over all orders, to the byte."""
    image = np.random.default_rng(0).integers(0, 256, (8, 9, 3)).astype(np.uint8)
    compared = 0
    for seed in range(60):
        draws = np.random.default_rng(seed)
        brightness, contrast, saturation, hue = draws.random(4) < 0.5
        if saturation or hue:
            continue  # the order does not matter without
        draws.random()
        shift, gain = draws.uniform(-32, 32), draws.uniform(0.5, 1.5)
        expected = image.astype(np.float32) + np.float32(shift if brightness else 0)
        expected = expected.clip(0, 255).astype(np.uint8).astype(np.float32) * np.float32(gain if contrast else 1)
        found = distort(image, np.random.default_rng(seed))
        assert np.array_equal(found, expected.clip(0, 255).astype(np.uint8))
        compared += 1
    assert compared > 5


def test_hue_and_saturation_change_as_in_pillow_channel_by_channel() -> None:
    image, compared = np.random.default_rng(0).integers(0, 256, (8, 9, 3)).astype(np.uint8), 0
    for seed in range(80):
        draws = np.random.default_rng(seed)
        brightness, contrast, saturation, hue = draws.random(4) < 0.5
        if brightness or contrast or not (saturation or hue):
            continue
        draws.random()
        draws.uniform(-32, 32), draws.uniform(0.5, 1.5)
        gain, turn = draws.uniform(0.5, 1.5), draws.uniform(-0.1, 0.1)
        h, s, v = Image.fromarray(image).convert("HSV").split()
        if hue:
            h = Image.fromarray(((np.asarray(h).astype(int) + round(turn * 256)) % 256).astype(np.uint8))
        if saturation:
            s = Image.fromarray((np.asarray(s) * np.float32(gain)).clip(0, 255).astype(np.uint8))
        expected = np.asarray(Image.merge("HSV", (h, s, v)).convert("RGB"))
        assert np.array_equal(distort(image, np.random.default_rng(seed)), expected)
        compared += 1
    assert compared > 5
