"""Prediction for any image and any class names, from Python."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from split_matching.configs.class_list import ClassEntry, ClassList, load_shipped_classes
from split_matching.configs.data_settings import DataConfig
from split_matching.configs.load import load_config
from split_matching.errors import ConfigError, DataError
from split_matching.pipeline import trained_run
from split_matching.pipeline.stages import make_plan
from split_matching.pipeline.trained_run import load_segmenter
from split_matching.stages.inference.segmenter import Segmenter, check_names, to_pixels
from tests.conftest import noise

NAMES = ["red striped", "plain", "traffic cone"]


@pytest.fixture
def settings(tiny_run: list[str]) -> list[str]:
    """What a config of `tiny_run` is made from."""
    return [f"runtime.artifacts={tiny_run[1]}", *tiny_run[3:]]


def test_prediction_is_that_of_evaluation(settings: list[str], segmenter: Segmenter) -> None:
    """The cache holds half-precision features; all but a few pixels agree."""
    plan = make_plan(load_config("shapes", overrides=settings))
    shards = plan["evaluate"].artifact().shards("val")
    names = [entry.name for entry in load_shipped_classes("shapes").entries]
    root = plan["shapes"].entry.folder / "VOCdevkit" / "VOC2012" / "JPEGImages"
    for image_id in shards.ids:
        prediction = segmenter.predict(root / f"{image_id}.jpg", names)
        assert (prediction.labels == shards.read(image_id, "labels")).mean() > 0.99
        assert sum(prediction.seen) == len(load_shipped_classes("shapes").seen())


@pytest.mark.parametrize("shape", [(64, 64), (1, 1), (3, 200), (200, 3), (65, 127)])
def test_any_size_gives_a_label_for_every_pixel(segmenter: Segmenter, shape: tuple[int, int]) -> None:
    prediction = segmenter.predict(noise(*shape), NAMES)
    assert prediction.labels.shape == shape and prediction.labels.max() < len(NAMES)
    assert sum(prediction.pixels()) == shape[0] * shape[1] and len(prediction.pixels()) == len(NAMES)


@pytest.mark.parametrize("more", [(), ("evaluate.mode=slide", "evaluate.window=48", "evaluate.stride=32")])
def test_files_arrays_and_images_are_alike(settings: list[str], tmp_path: Path, more: tuple[str, ...]) -> None:
    segmenter = load_segmenter("shapes", [*settings, *more])
    pixels = noise(40, 60)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    given = (pixels, Image.fromarray(pixels), tmp_path / "a.png", str(tmp_path / "a.png"))
    first, *others = (segmenter.predict(image, NAMES).labels for image in given)
    assert all(np.array_equal(first, other) for other in others)


def test_order_of_names_is_that_of_the_labels(segmenter: Segmenter) -> None:
    image = noise(64, 64)
    first = segmenter.predict(image, NAMES)
    again = segmenter.predict(image, NAMES[::-1])
    assert (len(NAMES) - 1 - again.labels == first.labels).mean() > 0.999
    assert first.names == tuple(NAMES) and again.names == tuple(NAMES[::-1])


def test_a_name_that_clip_reads_as_a_seen_one_is_seen(segmenter: Segmenter) -> None:
    """`evaluate.gamma` is subtracted from it too, as its embedding is the same."""
    plain = segmenter.predict(noise(64, 64), ["red plain", "red striped", "dog"])
    other = segmenter.predict(noise(64, 64), ["Red  PLAIN", "Red striped", "dog"])
    assert plain.seen == other.seen == (True, False, False)
    np.testing.assert_array_equal(plain.labels, other.labels)


def test_classes_of_the_runs_own_list_stand_for_their_prompts(segmenter: Segmenter, tmp_path: Path) -> None:
    prompts = {"tvmonitor": ("red striped", "red plain"), "other": ("dog",)}
    weights = segmenter.decoder.state_dict()
    one = Segmenter(segmenter.config, segmenter.clip, weights, segmenter.seen, prompts=prompts)
    assert one.identity != segmenter.identity
    one.save(tmp_path / "d.safetensors")
    for changed in (one, Segmenter.load(tmp_path / "d.safetensors")):
        got = changed._text(("tvmonitor", "traffic cone"))
        templates = changed.config.text.templates
        expected = changed.clip.encode_classes(
            ["tvmonitor", "traffic cone"], templates, {"tvmonitor": prompts["tvmonitor"]}
        )
        assert torch.equal(got.cpu(), expected)
        assert torch.equal(changed._text(("TVmonitor", "traffic cone")).cpu(), expected), "another spelling of the same"
        assert torch.allclose(
            got[1], segmenter._text(("tvmonitor", "traffic cone"))[1], atol=1e-6
        )  # the user's own word
        assert changed.predict(noise(20, 20), ["tvmonitor", "dog"]).names == ("tvmonitor", "dog")


def test_segmenter_of_a_run_has_the_prompts_of_its_list(monkeypatch: pytest.MonkeyPatch, settings: list[str]) -> None:
    real = trained_run.load_classes

    def with_prompts(data: DataConfig) -> ClassList:
        found = real(data)  # "red striped" is seen, "white checked" is not
        entries = [replace(e, prompts=(f"{e.name} thing",) * (e.name != "red plain")) for e in found.entries]
        return replace(found, entries=tuple(entries))

    monkeypatch.setattr(trained_run, "load_classes", with_prompts)
    loaded = load_segmenter("shapes", settings)
    assert len(loaded.prompts) == 23 and loaded.prompts["white checked"] == ("white checked thing",)


def test_prompts_of_a_list_are_read_and_compared(segmenter: Segmenter) -> None:
    own = Segmenter(segmenter.config, segmenter.clip, segmenter.decoder.state_dict(), segmenter.seen)
    before, identity = own._text(("thing", "dog")), own.identity
    assert own.add_prompts([ClassEntry(0, " thing ", ("red car",)), ClassEntry(1, "dog")]) == ("thing", "dog")
    after = own._text(("thing", "dog"))
    assert torch.equal(after[1], before[1]) and not torch.equal(after[0], before[0]) and own.identity != identity
    with pytest.raises(ConfigError, match="same text to CLIP"):
        own.predict(Image.new("RGB", (32, 32)), ["thing", "red car"])


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ([], "no class names"),
        (["dog", " dog "], "twice"),
        (["dog", ""], "class name 2"),
        (["Dog", "cat", "dog"], "'Dog' and 'dog' are the same text to CLIP"),
        (["a " * 80 + "dog", "a " * 80 + "cat"], "same text to CLIP"),
        (["a\x1b[31m"], "printable"),
        ([f"n{i}" for i in range(256)], "at most 255"),
        ("dog", "expected a list"),
        (None, "expected a list"),
        (5, "expected a list"),
        ({"dog", "cat"}, "expected a list"),
        ({"dog": 1}, "expected a list"),
        (["dog", None], "class name 2 is None: expected text"),
    ],
)
def test_wrong_names_are_refused(names: object, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        check_names(names)


@pytest.mark.parametrize(("shape", "kind"), [((4, 4), "uint8"), ((4, 4, 3), "float32"), ((0, 4, 3), "uint8")])
def test_wrong_arrays_are_refused(segmenter: Segmenter, shape: tuple[int, ...], kind: str) -> None:
    array = np.zeros(shape, kind)
    with pytest.raises(DataError, match="expected uint8"):
        segmenter.predict(array, NAMES)


def test_a_deep_picture_is_scaled_as_its_file_is(tmp_path: Path) -> None:
    deep = Image.fromarray((np.arange(1200).reshape(30, 40) * 54).astype(np.uint16))
    deep.save(tmp_path / "a.png")
    expected = (np.arange(1200).reshape(30, 40) * 54) >> 8
    for given in (deep, tmp_path / "a.png", Image.open(tmp_path / "a.png")):
        assert np.array_equal(to_pixels(given), np.repeat(expected[:, :, None], 3, axis=2))
    with pytest.raises(DataError, match="the image: pixels of 32 bits"):
        to_pixels(Image.fromarray(np.ones((4, 4), np.float32)))


def test_bytes_of_a_file_are_a_picture(tmp_path: Path) -> None:
    Image.fromarray(noise(8, 12)).save(tmp_path / "a.png")
    assert np.array_equal(to_pixels((tmp_path / "a.png").read_bytes()), noise(8, 12))
    with pytest.raises(DataError, match="the image"):
        to_pixels(b"nonsense")
    with pytest.raises(DataError, match="a list: expected a Pillow image"):
        to_pixels([1, 2])  # type: ignore[arg-type]
