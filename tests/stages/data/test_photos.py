"""Photographs: found by folders, names and patterns, and read as they are meant to be looked at."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from split_matching.errors import DataError
from split_matching.stages.data.photos import find_all_photos, find_photos, read_photo, upright
from tests.conftest import noise
from tests.error_lines import check_error


def test_orientation_of_a_photograph_is_applied(tmp_path: Path) -> None:
    pixels = noise(8, 12)
    exif = Image.Exif()
    for turn in range(1, 9):
        exif[0x0112] = turn
        Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
        expected = np.asarray(ImageOps.exif_transpose(Image.open(tmp_path / "a.png")))
        assert np.array_equal(read_photo(tmp_path / "a.png"), expected)


def test_photos_are_named_one_by_one_or_by_patterns(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg", "c.png", "more/a.jpg", "[1].jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()

    def found(*words: str) -> list[str]:
        return [
            str(photo.path.relative_to(tmp_path))
            for photo in find_all_photos([f"{tmp_path}/{w}" for w in words], tmp_path / "o")
        ]

    assert found("a.jpg", "c.png", "a.jpg") == ["a.jpg", "c.png"]
    assert found("?.jpg") == ["a.jpg", "b.jpg"] and found("[1].jpg") == ["[1].jpg"]
    assert found("more") == ["more/a.jpg"]
    with pytest.raises(DataError, match="would have the same results"):
        found("a.jpg", "more/a.jpg")
    with pytest.raises(DataError, match="no such file or folder"):
        found("x*.jpg")
    with pytest.raises(DataError, match="nothing is fetched from the web"):
        find_all_photos(["https://host/a.jpg"], tmp_path)


def test_photos_are_found_below_a_folder(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    for name in ("b.JPG", "a.webp", "out/x.png", "c.doc"):
        (tmp_path / name).touch()
    assert [str(photo.name) for photo in find_photos(tmp_path, tmp_path / "out")] == ["a.webp", "b.JPG"]
    assert [str(photo.name) for photo in find_photos(tmp_path / "out", tmp_path / "out")] == ["x.png"]


def test_results_are_no_photos(tmp_path: Path) -> None:
    for name in ("a.png", "a.png.overlay.png", "a.png.index.png", "a.png.areas.json"):
        (tmp_path / name).touch()
    assert [str(photo.name) for photo in find_photos(tmp_path, tmp_path)] == ["a.png"]
    assert [str(photo.name) for photo in find_all_photos([f"{tmp_path}/*.png"], tmp_path / "o")] == ["a.png"]
    (tmp_path / "a.png").unlink()
    with pytest.raises(DataError, match="no image in it"):
        find_photos(tmp_path, tmp_path)


def test_a_photo_may_be_named_like_a_result(tmp_path: Path) -> None:
    (tmp_path / "scan.index.png").touch()
    assert [str(photo.name) for photo in find_photos(tmp_path, tmp_path / "o")] == ["scan.index.png"]


def test_results_may_lie_above_the_photos(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new/a.png").touch()
    assert [str(photo.name) for photo in find_photos(tmp_path / "new", tmp_path)] == ["a.png"]


def test_an_open_tiff_is_turned_once(tmp_path: Path) -> None:
    exif = Image.Exif()
    for turn in range(1, 9):
        exif[0x0112] = turn
        Image.fromarray(noise(4, 6)).save(tmp_path / "a.tif", exif=exif)
        expected = read_photo(tmp_path / "a.tif")
        assert np.array_equal(np.asarray(upright(Image.open(tmp_path / "a.tif"))), expected)


def test_a_link_to_itself_is_named_when_its_turn_comes(tmp_path: Path) -> None:
    (tmp_path / "a.png").symlink_to(tmp_path / "a.png")
    (photo,) = find_all_photos([str(tmp_path)], tmp_path / "o")
    check_error(lambda: read_photo(photo.path), "a.png", "Too many levels of symbolic links")
