"""check-data: what it reports, what it catches, and the contact sheet."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from split_matching.configs.class_list import load_classes
from split_matching.configs.load import load_config
from split_matching.pipeline.cli import main
from split_matching.stages.data.audit import Audit, audit_data
from split_matching.stages.data.image_audit import ImageAudit, audit_image
from split_matching.stages.data.layouts.voc import voc_palette
from split_matching.stages.data.source import open_source
from split_matching.stages.ground.context import no_progress
from split_matching.stages.pages.contact_sheet import choose_images
from tests import folder_data
from tests.folder_data import settings, write

ROOT = Path(__file__).parents[3]


def audit(root: Path, *more: str, limit: int | None = None) -> Audit:
    data = load_config("folder", overrides=settings(root, *more)).data
    return audit_data(data, load_classes(data), data.root, no_progress, limit, threads=2)


def problems(found: Audit) -> list[str]:
    assert all("\n" not in finding.text for finding in found.findings)
    return [finding.text for finding in found.findings if finding.problem]


def notes(found: Audit) -> str:
    return "\n".join(finding.text for finding in found.findings if not finding.problem)


def put_mask(root: Path, name: str, mask: np.ndarray, mode: str = "") -> Path:
    path = root / "masks" / name
    image = Image.fromarray(mask)
    (image.convert(mode) if mode else image).save(path)
    return path


def test_good_data_are_fine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, out = write(tmp_path / "data"), tmp_path / "sheets" / "sheet.png"
    command = ["check-data", "--dataset", "folder", "--artifacts", str(tmp_path / "cache"), "--out", str(out)]
    assert main([*command, "--set", *settings(root)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == str(out) and lines[-2] == "problems: 0, notes: 0"
    assert "5 classes: 3 seen, 2 unseen; ignored ids: 255" in lines and "train: 3 images" in lines
    # wall: 10 of 32 columns of train.a, out of 96 columns; 12 of 32 columns of val.a, out of 64
    row = next(line.split() for line in lines if " wall " in line)
    assert row == ["0", "wall", "seen", "11.46", "%", "1", "15.62", "%", "1"]
    assert {path.parent.name for path in (tmp_path / "cache").rglob("*") if path.is_file()} == {"logs"}
    sheet = np.asarray(Image.open(out).convert("RGB"))
    assert sheet.shape[1] > 1000 and len(np.unique(sheet.reshape(-1, 3), axis=0)) > 100


def test_the_sheet_goes_beside_the_cache_unless_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write(tmp_path / "data")
    assert (
        main(["check-data", "--dataset", "folder", "--artifacts", str(tmp_path / "c"), "--set", *settings(root)]) == 0
    )
    path = Path(capsys.readouterr().out.splitlines()[-1])
    assert path == tmp_path / "c/folder/check-data/sheet.png" and path.is_file()


def test_coloured_masks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write(tmp_path)
    path = put_mask(root, "train/a.png", folder_data.stripes((0, 1)), "RGB")
    (found,) = problems(audit(root))
    assert (
        found.startswith("1 mask is coloured, first: ")
        and "mode RGB" in found
        and str(path) in found
        and "palette or grey PNG" in found
    )
    command = ["check-data", "--dataset", "folder", "--artifacts", str(tmp_path / "cache"), "--set", *settings(root)]
    assert main(command) == 3
    assert "PROBLEM: 1 mask is coloured" in capsys.readouterr().out


def test_palette_masks_that_were_converted_to_grey(tmp_path: Path) -> None:
    root = write(tmp_path)
    image = Image.fromarray(folder_data.stripes((1, 2, 3, 4)))
    image.putpalette(voc_palette())
    image.convert("L").save(root / "masks/train/a.png")
    (found,) = problems(audit(root))
    assert "ids outside the class list" in found and "converted to grey" in found


def test_photographs_as_masks(tmp_path: Path) -> None:
    root = write(tmp_path)
    put_mask(root, "train/a.png", np.arange(24 * 32, dtype=np.uint8).reshape(24, 32))
    (found,) = problems(audit(root))
    assert "and 245 more" in found and "no class ids" in found


def test_ids_one_too_high(tmp_path: Path) -> None:
    """ADE20K and others: 0 is background, and the list begins with class 1."""
    root = write(tmp_path, {"train": {"a": (0, 1, 2), "b": (3, 4, 5)}, "val": {"c": (1, 2, 3, 4, 5)}})
    (found,) = problems(audit(root))
    assert "5 (" in found and "data.first_id=1 'data.ignore=[0,255]'" in found and "'data.ignore=[5,255]'" in found
    assert audit(root, "data.first_id=1", "data.ignore=[0,255]").passed
    (found,) = problems(audit(root, "data.first_id=1"))
    assert "0 (" in found and "if it is background: --set 'data.ignore=[0,255]'" in found


@pytest.mark.parametrize(
    ("first", "likely"),
    [
        ((0, 0, 0, 0, 0, 1, 2, 5), "ids are one higher, with 0 for background: --set data.first_id=1 "),
        ((1, 2, 3, 4, 5), "ids are one higher"),  # background is in no mask
        ((0, 1, 1, 2, 2, 3, 4, 5), "5 is void at the end of the list: --set 'data.ignore=[5,255]'"),  # CamVid's 11
    ],
)
def test_an_id_above_the_list_has_two_readings(tmp_path: Path, first: tuple[int, ...], likely: str) -> None:
    root = write(tmp_path, {"train": {"a": first, "b": first}, "val": {"c": first}})
    (found,) = problems(audit(root))
    assert f"so probably {likely}" in found
    assert "data.first_id=1 'data.ignore=[0,255]'" in found and "'data.ignore=[5,255]'" in found
    assert audit(root, "data.first_id=1", "data.ignore=[0,255]").passed and audit(root, "data.ignore=[5,255]").passed


def test_masks_of_black_and_white(tmp_path: Path) -> None:
    """As drawn in an image editor: 255 is a class there, and the default says it is none."""
    both = (0, 255, 255, 255)
    root = write(tmp_path, {"train": {"a": both, "b": both}, "val": {"c": both}}, names=("wall", "crack"))
    only = ["data.unseen=[crack]"]
    (found,) = problems(audit(root, *only))
    assert "0 and 255 alone" in found and "75 % of all pixels are dropped" in found and "`255: NAME`" in found
    (root / "classes.txt").write_text("0: wall\n255: crack\n")
    result = audit(root, *only)
    assert result.passed and "255  crack  unseen     75.00 %       2     75.00 %       1" in "\n".join(result.lines())
    assert "`255: NAME`" in problems(audit(write(root), "data.ignore=[]"))[0]


def test_odd_names_are_noted(tmp_path: Path) -> None:
    root = write(tmp_path, names=("background", "door", "Door", "dog", "kite"))
    text = notes(audit(root, "data.ignore=[0,255]"))
    assert "named in the class list and ignored, so no class: 0 (background)" in text
    assert "cannot tell apart: 'door' and 'Door'" in text


def test_ids_one_too_low(tmp_path: Path) -> None:
    root = write(tmp_path)
    (found,) = problems(audit(root, "data.first_id=1"))
    assert "0 (" in found and "as 5 never occurs" in found and "data.first_id=0" in found


def test_background_that_counts_as_a_class(tmp_path: Path) -> None:
    many = (0, 0, 0, 0, 1, 2)
    root = write(tmp_path, {"train": {"a": many, "b": many}, "val": {"c": (0, 0, 0, 0, 3, 4)}})
    result = audit(root)
    assert result.passed and "id 0 (wall) covers" in notes(result) and "data.first_id" in notes(result)


def test_masks_of_two_values(tmp_path: Path) -> None:
    root = write(tmp_path, {"train": {"a": (255,)}, "val": {"b": (255,)}})
    assert "no mask has a pixel of any class, only of ignored ids (255)" in problems(audit(root))


def test_absent_damaged_and_other_sizes(tmp_path: Path) -> None:
    root = write(tmp_path)
    (root / "masks/train/a.png").unlink()
    (root / "images/train/b.jpg").write_bytes(b"\xff\xd8nonsense")
    put_mask(root, "val/d.png", folder_data.stripes((1,), (12, 16)))
    found = "\n".join(problems(audit(root)))
    assert "1 mask is absent" in found and "masks/train/a.png" in found
    assert "1 image cannot be decoded" in found and "b.jpg" in found
    assert "1 mask has another size than its image" in found and "16x12" in found


def test_a_missing_list_is_named_and_the_other_split_audit(tmp_path: Path) -> None:
    root = write(tmp_path)
    result = audit(root, "data.val_split=val.txt")
    (found,) = problems(result)
    assert "val.txt: no such list" in found and len(result.images) == 3


def test_masks_without_images(tmp_path: Path) -> None:
    root = write(tmp_path)
    (root / "images/val/d.jpg").unlink()
    result = audit(root)
    assert result.passed and "1 mask belongs to no image" in notes(result) and "d.png" in notes(result)


def test_images_in_both_splits(tmp_path: Path) -> None:
    root = write(tmp_path)
    (root / "images/val/d.jpg").write_bytes((root / "images/train/a.jpg").read_bytes())
    (root / "images/train/c.jpg").write_bytes((root / "images/train/b.jpg").read_bytes())
    result = audit(root)
    (found,) = problems(result)
    assert found.startswith("1 image is in training and in validation: train.a = val.d")
    assert "1 image is several times in one split: train.b = train.c" in notes(result)
    (root / "one.txt").write_text("train.a\ntrain.b\n")
    more = ("data.train_split=one.txt", "data.val_split=one.txt")
    assert "2 images are in both lists" in problems(audit(root, *more))[0]


def test_classes_that_never_occur(tmp_path: Path) -> None:
    root = write(tmp_path, {"train": {"a": (0, 1)}, "val": {"b": (0, 1, 2)}})
    text = notes(audit(root))
    assert "1 class never occurs in train and cannot be learnt: cat" in text
    assert "2 classes never occur in val and have no score: dog, kite" in text


def test_orientation_and_subsets(tmp_path: Path) -> None:
    root = write(tmp_path)
    exif = Image.Exif()
    exif[274] = 6
    Image.open(root / "images/val/d.jpg").save(root / "images/val/d.jpg", exif=exif)
    text = notes(audit(root, "data.expected_train=100", "data.expected_val=2"))
    assert "1 image has an EXIF orientation, which is not applied: val.d" in text
    assert "train has 3 images, the published split 100" in text and "val has" not in text


def test_a_quick_look_takes_some_of_each_split(tmp_path: Path) -> None:
    root = write(tmp_path, {"train": {f"t{n:02d}": (0, 1, 2) for n in range(20)}, "val": {"v": (3, 4)}})
    result = audit(root, limit=4)
    assert [image.image_id for image in result.images] == ["train.t00", "train.t05", "train.t10", "train.t15", "val.v"]
    assert "train: 20 images, 4 read" in result.lines()


def test_the_sheet_shows_as_many_classes_as_it_can(tmp_path: Path) -> None:
    splits = {"train": {**{f"t{n}": (0,) for n in range(9)}, "z": (1, 2, 3)}, "val": {"v": (4,)}}
    chosen = choose_images(audit(write(tmp_path, splits)).images, count=3)
    assert {image.image_id for image in chosen} >= {"train.z", "val.v"} and len(chosen) == 3


def test_the_sheet_is_spread_over_the_data() -> None:
    """Frames of a video show the same classes: after the first, those far from it say more than its neighbours."""
    images = [ImageAudit("train", f"frame_{n:03d}", {0: 5, 1: 5}) for n in range(101)]
    chosen = [image.image_id for image in choose_images(images, count=5)]
    assert chosen == [f"frame_{n:03d}" for n in (0, 25, 50, 75, 100)]


def test_rendered_scenes_are_looked_at_once_there_are_some(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--artifacts", str(tmp_path), "--set", "shapes.train_scenes=6", "shapes.val_scenes=3"]
    assert main(["check-data", *options]) == 3
    assert "run RenderShapes first" in capsys.readouterr().err
    assert main(["RenderShapes", *options]) == 0 and main(["check-data", *options]) == 0
    assert "train: 6 images" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("typed", "shown"),
    [("data.root=./my data/", "./my data/"), ("data.root=~/my data", "~/my data/"), ("", "my data/")],
)
def test_paths_are_shown_as_they_were_typed(
    typed: str, shown: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write(tmp_path / "my data")
    (root / "masks/train/a.png").unlink()
    (root / "own.yaml").write_text("data: {layout: folder, root: ., classes: classes.txt, unseen: [dog, kite]}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    words = ["folder", "--set", typed, "data.unseen=[dog, kite]"] if typed else ["my data/own.yaml"]
    assert main(["check-data", "--artifacts", "cache", "--dataset", *words]) == 3
    assert f"first: {shown}masks/train/a.png: the mask is absent" in capsys.readouterr().out
    (root / "classes.txt").unlink()
    assert main(["check-data", "--artifacts", "cache", "--dataset", *words]) == 2
    assert f" {shown}classes.txt: no such file" in capsys.readouterr().err


def test_advice_fits_the_class_list(tmp_path: Path) -> None:
    """A list that gives ids takes no data.first_id, so nothing advises it."""
    root = write(tmp_path, {"train": {"a": (0, 0, 0, 0, 0, 1, 2, 5)}, "val": {"v": (0, 0, 0, 0, 0, 0, 3, 4)}})
    names = (root / "classes.txt").read_text().split()
    assert "data.first_id=1" in problems(audit(root))[0]
    numbered = "".join(f"{place}: {name}\n" for place, name in enumerate(names))
    labelmap = "".join(f"{name}:{place},0,0::\n" for place, name in enumerate(names))
    for text in (numbered, labelmap):
        (root / "classes.txt").write_text(text)
        (found,) = problems(audit(root))
        assert "first_id" not in found and "with the ids of the list raised by one" in found


def test_photographs_are_fine(voc_mini: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["check-data", "--dataset", "voc", "--artifacts", str(tmp_path), "--set", f"data.root={voc_mini}"]
    assert main(command) == 0
    text = capsys.readouterr().out
    assert "train: 160 images" in text and "val: 60 images" in text and "problems: 0" in text
    assert "train has 160 images, the published split 10,582" in text
    assert Image.open(text.splitlines()[-1]).size[0] > 1000


def test_photographs_are_prepared_as_a_subset(voc_mini: Path, tmp_path: Path) -> None:
    command = ["PrepareDataset", "--dataset", "voc", "--artifacts", str(tmp_path), "--set", f"data.root={voc_mini}"]
    assert main(command) == 0


def test_it_runs_by_itself_and_pipes(tmp_path: Path) -> None:
    root = write(tmp_path / "data")
    arguments = ["check-data", "--dataset", "folder", "--artifacts", str(tmp_path / "c"), "--set", *settings(root)]
    command = [sys.executable, str(ROOT / "run_pipeline.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path, env=os.environ)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].endswith("sheet.png") and "images in" in done.stderr


def test_the_palette_of_a_mask_is_read_with_its_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mask is decoded once, within the memory for that; colours that stand for two indices tell nothing."""
    root = write(tmp_path, {"train": {"a": (0, 1, 255), "b": (2, 3, 4)}, "val": {"v": (0, 1)}})
    picture = Image.open(root / "masks/train/a.png")
    picture.putpalette([9, 8, 7, 1, 2, 3] + [4] * 762)
    picture.save(root / "masks/train/a.png")
    data = load_config("folder", overrides=settings(root)).data
    source, classes = open_source(data, root), load_classes(data)
    assert audit_image(source, "train", "train.b", classes).palette == {}
    opened, opens = [], Image.open
    monkeypatch.setattr(Image, "open", lambda *args, **more: opened.append(args) or opens(*args, **more))
    assert audit_image(source, "train", "train.a", classes).palette == {0: 0x090807, 1: 0x010203}
    assert len(opened) == 3  # the image, its mask, and once more the mask to look for a second page
