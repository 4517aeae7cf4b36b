"""The verb `predict`: images labelled with any class names."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from split_matching.configs.class_list import load_shipped_classes
from split_matching.errors import ConfigError
from split_matching.pipeline import cli
from split_matching.pipeline.verbs.predict import read_names
from split_matching.stages.inference.segmenter import Prediction, Segmenter, check_names
from split_matching.stages.pages.colours import class_colours
from split_matching.stages.pages.label_photos import draw_overlay
from tests.conftest import noise

ROOT = Path(__file__).parents[3]
NAMES = ["red striped", "plain", "traffic cone"]


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch, segmenter: Segmenter) -> None:
    """Spares a test that calls `predict` several times the loading; others take the whole way."""
    monkeypatch.setattr("split_matching.pipeline.verbs.predict.segmenter_of", lambda plan, arguments=(): segmenter)


def names_of(text: object) -> list[str]:
    return [entry.name for entry in read_names(str(text))]


def predict(run: list[str], image: Path, out: Path, *more: str, classes: str = ",".join(NAMES)) -> int:
    given = ["--image", str(image), "--classes", classes, "--out", str(out), *more]
    return cli.main(["predict", *run, *given])


def test_predict_writes_three_files_an_image(tiny_run: list[str], tmp_path: Path, capsys) -> None:
    folder = tmp_path / "photos"
    (folder / "below").mkdir(parents=True)
    Image.fromarray(noise(30, 50)).save(folder / "a.jpg")
    Image.fromarray(noise(70, 40)).convert("L").save(folder / "below" / "b.PNG")
    (folder / "notes.txt").write_text("no image")
    assert predict(tiny_run, folder, tmp_path / "out") == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines() == ["2 labelled", str(tmp_path / "out")]
    assert "predict: 2 images" in printed.err
    written = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.*"))
    ends = ("areas.json", "index.png", "overlay.png")
    assert written == [f"{name}.{end}" for name in ("a.jpg", "below/b.PNG") for end in ends]
    areas = json.loads((tmp_path / "out" / "a.jpg.areas.json").read_text())
    assert (areas["width"], areas["height"]) == (50, 30)
    assert [entry["name"] for entry in areas["classes"]] == NAMES
    with Image.open(tmp_path / "out" / "a.jpg.index.png") as index:
        assert index.mode == "P" and index.size == (50, 30)
        counts = np.bincount(np.asarray(index).ravel(), minlength=len(NAMES))
        colours = np.reshape(index.getpalette(), (-1, 3))
    whole = list(load_shipped_classes("shapes").names)
    assert colours[0].tolist() == class_colours(whole)[whole.index("red striped")].tolist()  # as on all other pages
    assert counts.tolist() == [entry["pixels"] for entry in areas["classes"]]
    assert sum(entry["share"] for entry in areas["classes"]) == pytest.approx(1)


def test_what_is_labelled_is_kept_until_something_changes(
    tiny_run: list[str], loaded: None, tmp_path: Path, capsys
) -> None:
    folder, out = tmp_path / "photos", tmp_path / "photos" / "out"  # results below the photographs are no photographs
    folder.mkdir()
    for name in ("a.png", "b.png"):
        Image.fromarray(noise(20, 20, seed=ord(name[0]))).save(folder / name)

    def said() -> str:
        assert predict(tiny_run, folder, out, "--quiet") == 0
        return capsys.readouterr().out.splitlines()[0]

    assert said() == "2 labelled"
    assert said() == "0 labelled, 2 kept from before"
    (out / "a.png.areas.json").unlink()  # as if interrupted
    assert said() == "1 labelled, 1 kept from before"
    Image.fromarray(noise(20, 20, seed=5)).save(folder / "b.png")
    assert said() == "1 labelled, 1 kept from before"
    assert predict(tiny_run, folder, out, "--quiet", classes="dog,cat") == 0
    assert capsys.readouterr().out.startswith("2 labelled\n")


def test_unreadable_images_are_named_and_the_others_done(
    tiny_run: list[str], loaded: None, tmp_path: Path, capsys
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.fromarray(noise(20, 20)).save(folder / "good.png")
    (folder / "bad.png").write_bytes(b"no image")
    (folder / "empty.jpg").touch()
    assert predict(tiny_run, folder, tmp_path / "out", "--quiet") == 3
    out = capsys.readouterr().out
    assert f"error: {folder / 'bad.png'}: the image cannot be decoded (not an image: expected JPEG, " in out
    assert "empty" in out and "1 labelled, 2 failed" in out
    assert (tmp_path / "out" / "good.png.areas.json").is_file()
    assert not list((tmp_path / "out").rglob("*bad*")) and not list((tmp_path / "out").rglob("*.tmp"))


def test_hostile_names_are_harmless(tiny_run: list[str], loaded: None, tmp_path: Path, capsys) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    names = [b"-rf.png", b"a\nb.png", b"\xff\xfe.png", b"a..png", b"$(touch x).png", ("x" * 250).encode() + b".png"]
    for name in names:
        Image.fromarray(noise(8, 8)).save(folder / os.fsdecode(name), "PNG")
    classes = tmp_path / "names.txt"
    classes.write_text("<script>alert(1)</script>\n../../etc\n{}\n" + "long " * 80 + "\n")
    assert predict(tiny_run, folder, tmp_path / "out", "--quiet", classes=str(classes)) == 3
    out = capsys.readouterr().out
    assert "no result can have this name" in out and "5 labelled, 1 failed" in out
    assert {path.parent for path in (tmp_path / "out").rglob("*.json")} == {tmp_path / "out"}
    assert len(list((tmp_path / "out").glob("*.areas.json"))) == 5


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        ({"--image": "nowhere"}, 3, "nowhere: no such file or folder"),
        ({"--classes": "dog,dog"}, 2, "'dog' was given twice"),
        ({"--classes": "nowhere.txt"}, 3, "nowhere.txt: the class names cannot be read"),
        ({"--classes": " , "}, 2, "class name 1"),
        ({"--set": "evaluate.predictor=dense"}, 2, "baseline without a decoder"),
        ({"--set": "train.seed=7"}, 3, "run `python run_pipeline.py TrainDecoder --dataset shapes --set clip"),
    ],
)
def test_mistakes_end_in_one_line(tiny_run: list[str], tmp_path: Path, capsys, change, code: int, words: str) -> None:
    Image.fromarray(noise(8, 8)).save(tmp_path / "a.png")
    given = {"--image": str(tmp_path / "a.png"), "--classes": "dog", "--out": str(tmp_path / "out")} | change
    extra = [given.pop("--set")] if "--set" in given else []
    base = ["--dataset", "shapes", *tiny_run, *extra]
    if words.startswith("run `python"):
        words = f"run `python run_pipeline.py TrainDecoder --dataset shapes --artifacts {tiny_run[1]} --set "
    assert cli.main(["predict", *base, *(word for pair in given.items() for word in pair)]) == code
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and words in error
    assert not (tmp_path / "out").exists()


def test_names_come_from_text_or_file(tmp_path: Path) -> None:
    (tmp_path / "n.txt").write_text("\ufeff# mine\ndog\n\ntraffic cone, red\n", encoding="utf-8")
    assert names_of(tmp_path / "n.txt") == ["dog", "traffic cone, red"]
    (tmp_path / "N.TXT").write_text("0: red plain\n4: sofa\n")
    assert names_of(tmp_path / "N.TXT") == ["red plain", "sofa"]
    assert check_names(names_of("dog,  traffic   cone")) == ("dog", "traffic cone")


def test_names_come_from_a_shipped_list_with_its_prompts() -> None:
    entries = read_names(str(ROOT / "configs/classes/voc.yaml"))
    assert len(entries) == 20 and entries[0].name == "aeroplane"
    assert entries[10].prompts == ("dining table",)


PATHS = ("names.tx", "./names", "/dev/fd/63", "~/names", "x.csv", "tests")
LISTS = ("-", "[dog, cat]", "dog;cat", "dog|cat", "dog\ncat", "0: dog, 1: cat")


@pytest.mark.parametrize("text", [*PATHS, *LISTS])
def test_a_text_of_another_form_is_no_class_name(text: str) -> None:
    with pytest.raises(ConfigError, match="expected names with commas between them, or a file that ends in"):
        read_names(text)


@pytest.mark.parametrize("text", ["dog", "St. Bernard", "tv/monitor, dog", "2 wheeler, car", "a-b", "wall-concrete"])
def test_unusual_names_are_names(text: str) -> None:
    assert names_of(text) == text.split(",")


def test_a_file_is_no_class_name(tmp_path: Path) -> None:
    (tmp_path / "names.csv").write_text("dog\n")
    with pytest.raises(ConfigError, match="a file or folder; expected names with commas"):
        read_names(str(tmp_path / "names.csv"))


def test_names_may_be_longer_than_a_path() -> None:
    names = [entry.name for entry in load_shipped_classes("coco_stuff").entries]
    assert len(names) == 171 and names_of(",".join(names)) == names


def test_overlay_has_a_legend_of_what_is_there() -> None:
    labels = np.zeros((40, 40), np.uint8)
    labels[:, 30:] = 2
    names = ("sky", "not there", "a name much too long for the width " * 5)
    prediction = Prediction(labels, names, (True, True, False))
    colours = np.array([[200, 0, 0], [0, 200, 0], [0, 0, 200]], np.uint8)
    drawn = draw_overlay(np.full((40, 40, 3), 128, np.uint8), prediction, colours)
    legend = drawn[480:]
    assert drawn.shape[1] == 480 and 60 <= len(legend) <= 130
    assert (legend == [200, 0, 0]).all(2).any() and (legend == [0, 0, 200]).all(2).any()
    assert not (legend == [0, 200, 0]).all(2).any()
