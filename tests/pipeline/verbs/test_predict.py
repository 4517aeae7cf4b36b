"""A trained run in use: predict, export, and the same from Python."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from split_matching.configs.class_list import ClassEntry, ClassList, load_shipped_classes
from split_matching.configs.data_settings import DataConfig
from split_matching.errors import ConfigError, DataError
from split_matching.pipeline import cli, trained_run
from split_matching.pipeline.trained_run import load_segmenter
from split_matching.pipeline.verbs.predict import read_names
from split_matching.stages.data.photos import find_all_photos, find_photos, read_photo
from split_matching.stages.inference.exported_decoder import METADATA
from split_matching.stages.inference.segmenter import Prediction, Segmenter, check_names, to_pixels
from split_matching.stages.pages.colours import class_colours
from split_matching.stages.pages.label_photos import draw_overlay
from tests.handmade import TINY

ROOT = Path(__file__).parents[3]
NAMES = ["red striped", "plain", "traffic cone"]


@pytest.fixture(scope="module")
def artifacts(tiny_run: list[str]) -> Path:
    """The cache of a run of a few steps."""
    return Path(tiny_run[1])


def settings(*more: str) -> list[str]:
    return [*(value for value in TINY if not value.startswith("clip.weights")), "evaluate.fusion=0", *more]


def arguments(artifacts: Path, *more: str) -> list[str]:
    return ["--artifacts", str(artifacts), "--set", *settings(*more)]


@pytest.fixture(scope="module")
def segmenter(artifacts: Path) -> Segmenter:
    return load_segmenter("shapes", [f"runtime.artifacts={artifacts}", *settings()])


@pytest.fixture(scope="module")
def exported(artifacts: Path) -> Path:
    path = artifacts / "out" / "decoder.safetensors"
    assert cli.main(["export", *arguments(artifacts), "--out", str(path)]) == 0
    return path


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch, segmenter: Segmenter) -> None:
    """Spares a test that calls `predict` several times the loading; others take the whole way."""
    monkeypatch.setattr("split_matching.pipeline.verbs.predict.segmenter_of", lambda plan, arguments=(): segmenter)


def picture(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


def predict(artifacts: Path, image: Path, out: Path, *more: str, classes: str = ",".join(NAMES)) -> int:
    given = ["--image", str(image), "--classes", classes, "--out", str(out), *more]
    return cli.main(["predict", *arguments(artifacts), *given])


# ---- from Python ----


def test_prediction_is_that_of_evaluation(artifacts: Path, segmenter: Segmenter) -> None:
    """The cache holds half-precision features; all but a few pixels agree."""
    from split_matching.configs.class_list import load_shipped_classes
    from split_matching.configs.load import load_config
    from split_matching.pipeline.stages import make_plan

    plan = make_plan(load_config("shapes", overrides=[f"runtime.artifacts={artifacts}", *settings()]))
    shards = plan["evaluate"].artifact().shards("val")
    names = [entry.name for entry in load_shipped_classes("shapes").entries]
    root = plan["shapes"].entry.folder / "VOCdevkit" / "VOC2012" / "JPEGImages"
    for image_id in shards.ids:
        prediction = segmenter.predict(root / f"{image_id}.jpg", names)
        assert (prediction.labels == shards.read(image_id, "labels")).mean() > 0.99
        assert sum(prediction.seen) == len(load_shipped_classes("shapes").seen())


@pytest.mark.parametrize("shape", [(64, 64), (1, 1), (3, 200), (200, 3), (65, 127)])
def test_any_size_gives_a_label_for_every_pixel(segmenter: Segmenter, shape: tuple[int, int]) -> None:
    prediction = segmenter.predict(picture(*shape), NAMES)
    assert prediction.labels.shape == shape and prediction.labels.max() < len(NAMES)
    assert sum(prediction.pixels()) == shape[0] * shape[1] and len(prediction.pixels()) == len(NAMES)


@pytest.mark.parametrize("settings", [(), ("evaluate.mode=slide", "evaluate.window=48", "evaluate.stride=32")])
def test_files_arrays_and_images_are_alike(artifacts: Path, tmp_path: Path, settings: tuple[str, ...]) -> None:
    segmenter = load_segmenter("shapes", [f"runtime.artifacts={artifacts}", *settings_of(settings)])
    pixels = picture(40, 60)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    given = (pixels, Image.fromarray(pixels), tmp_path / "a.png", str(tmp_path / "a.png"))
    first, *others = (segmenter.predict(image, NAMES).labels for image in given)
    assert all(np.array_equal(first, other) for other in others)


def settings_of(more: tuple[str, ...]) -> list[str]:
    return settings(*more)


def test_order_of_names_is_that_of_the_labels(segmenter: Segmenter) -> None:
    image = picture(64, 64)
    first = segmenter.predict(image, NAMES)
    again = segmenter.predict(image, NAMES[::-1])
    assert (len(NAMES) - 1 - again.labels == first.labels).mean() > 0.999
    assert first.names == tuple(NAMES) and again.names == tuple(NAMES[::-1])


def test_a_name_that_clip_reads_as_a_seen_one_is_seen(segmenter: Segmenter) -> None:
    """`evaluate.gamma` is subtracted from it too, as its embedding is the same."""
    plain = segmenter.predict(picture(64, 64), ["red plain", "red striped", "dog"])
    other = segmenter.predict(picture(64, 64), ["Red  PLAIN", "Red striped", "dog"])
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
        assert torch.allclose(
            got[1], segmenter._text(("tvmonitor", "traffic cone"))[1], atol=1e-6
        )  # the user's own word
        assert changed.predict(picture(20, 20), ["tvmonitor", "dog"]).names == ("tvmonitor", "dog")


def test_segmenter_of_a_run_has_the_prompts_of_its_list(monkeypatch: pytest.MonkeyPatch, artifacts: Path) -> None:
    real = trained_run.load_classes

    def with_prompts(data: DataConfig) -> ClassList:
        found = real(data)  # "red striped" is seen, "white checked" is not
        entries = [replace(e, prompts=(f"{e.name} thing",) * (e.name != "red plain")) for e in found.entries]
        return replace(found, entries=tuple(entries))

    monkeypatch.setattr(trained_run, "load_classes", with_prompts)
    loaded = load_segmenter("shapes", [f"runtime.artifacts={artifacts}", *settings()])
    assert len(loaded.prompts) == 23 and loaded.prompts["white checked"] == ("white checked thing",)


def test_orientation_of_a_photograph_is_applied(tmp_path: Path) -> None:
    pixels = picture(8, 12)
    exif = Image.Exif()
    for turn in range(1, 9):
        exif[0x0112] = turn
        Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
        from PIL import ImageOps

        expected = np.asarray(ImageOps.exif_transpose(Image.open(tmp_path / "a.png")))
        assert np.array_equal(read_photo(tmp_path / "a.png"), expected)


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
    ],
)
def test_wrong_names_are_refused(names: object, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        check_names(names)


def test_a_deep_picture_is_scaled_as_its_file_is(tmp_path: Path) -> None:
    deep = Image.fromarray((np.arange(1200).reshape(30, 40) * 54).astype(np.uint16))
    deep.save(tmp_path / "a.png")
    expected = (np.arange(1200).reshape(30, 40) * 54) >> 8
    for given in (deep, tmp_path / "a.png", Image.open(tmp_path / "a.png")):
        assert np.array_equal(to_pixels(given), np.repeat(expected[:, :, None], 3, axis=2))
    with pytest.raises(DataError, match="the image: pixels of 32 bits"):
        to_pixels(Image.fromarray(np.ones((4, 4), np.float32)))


@pytest.mark.parametrize(("shape", "kind"), [((4, 4), "uint8"), ((4, 4, 3), "float32"), ((0, 4, 3), "uint8")])
def test_wrong_arrays_are_refused(segmenter: Segmenter, shape: tuple[int, ...], kind: str) -> None:
    array = np.zeros(shape, kind)
    with pytest.raises(DataError, match="expected uint8"):
        segmenter.predict(array, NAMES)


# ---- predict ----


def test_predict_writes_three_files_an_image(artifacts: Path, tmp_path: Path, capsys) -> None:
    folder = tmp_path / "photos"
    (folder / "below").mkdir(parents=True)
    Image.fromarray(picture(30, 50)).save(folder / "a.jpg")
    Image.fromarray(picture(70, 40)).convert("L").save(folder / "below" / "b.PNG")
    (folder / "notes.txt").write_text("no image")
    assert predict(artifacts, folder, tmp_path / "out") == 0
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
    artifacts: Path, loaded: None, tmp_path: Path, capsys
) -> None:
    folder, out = tmp_path / "photos", tmp_path / "photos" / "out"  # results below the photographs are no photographs
    folder.mkdir()
    for name in ("a.png", "b.png"):
        Image.fromarray(picture(20, 20, seed=ord(name[0]))).save(folder / name)

    def said() -> str:
        assert predict(artifacts, folder, out, "--quiet") == 0
        return capsys.readouterr().out.splitlines()[0]

    assert said() == "2 labelled"
    assert said() == "0 labelled, 2 kept from before"
    (out / "a.png.areas.json").unlink()  # as if interrupted
    assert said() == "1 labelled, 1 kept from before"
    Image.fromarray(picture(20, 20, seed=5)).save(folder / "b.png")
    assert said() == "1 labelled, 1 kept from before"
    assert predict(artifacts, folder, out, "--quiet", classes="dog,cat") == 0
    assert capsys.readouterr().out.startswith("2 labelled\n")


def test_unreadable_images_are_named_and_the_others_done(artifacts: Path, loaded: None, tmp_path: Path, capsys) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.fromarray(picture(20, 20)).save(folder / "good.png")
    (folder / "bad.png").write_bytes(b"no image")
    (folder / "empty.jpg").touch()
    assert predict(artifacts, folder, tmp_path / "out", "--quiet") == 3
    out = capsys.readouterr().out
    assert f"error: {folder / 'bad.png'}: the image cannot be decoded (not an image: expected JPEG, " in out
    assert "empty" in out and "1 labelled, 2 failed" in out
    assert (tmp_path / "out" / "good.png.areas.json").is_file()
    assert not list((tmp_path / "out").rglob("*bad*")) and not list((tmp_path / "out").rglob("*.tmp"))


def test_hostile_names_are_harmless(artifacts: Path, loaded: None, tmp_path: Path, capsys) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    names = [b"-rf.png", b"a\nb.png", b"\xff\xfe.png", b"..png", b"$(touch x).png", ("x" * 250).encode() + b".png"]
    for name in names:
        Image.fromarray(picture(8, 8)).save(folder / os.fsdecode(name), "PNG")
    classes = tmp_path / "names.txt"
    classes.write_text("<script>alert(1)</script>\n../../etc\n{}\n" + "long " * 80 + "\n")
    assert predict(artifacts, folder, tmp_path / "out", "--quiet", classes=str(classes)) == 3
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
def test_mistakes_end_in_one_line(artifacts: Path, tmp_path: Path, capsys, change, code: int, words: str) -> None:
    Image.fromarray(picture(8, 8)).save(tmp_path / "a.png")
    given = {"--image": str(tmp_path / "a.png"), "--classes": "dog", "--out": str(tmp_path / "out")} | change
    extra = [given.pop("--set")] if "--set" in given else []
    base = ["--artifacts", str(artifacts), "--dataset", "shapes", "--set", *settings(*extra)]
    if words.startswith("run `python"):
        words = f"run `python run_pipeline.py TrainDecoder --dataset shapes --artifacts {artifacts} --set "
    assert cli.main(["predict", *base, *(word for pair in given.items() for word in pair)]) == code
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and words in error
    assert not (tmp_path / "out").exists()


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


def test_bytes_of_a_file_are_a_picture(tmp_path: Path) -> None:
    Image.fromarray(picture(8, 12)).save(tmp_path / "a.png")
    assert np.array_equal(to_pixels((tmp_path / "a.png").read_bytes()), picture(8, 12))
    with pytest.raises(DataError, match="the image"):
        to_pixels(b"nonsense")
    with pytest.raises(DataError, match="a list: expected a Pillow image"):
        to_pixels([1, 2])  # type: ignore[arg-type]


def names_of(text: object) -> list[str]:
    return [entry.name for entry in read_names(str(text))]


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


def test_a_file_is_no_class_name(tmp_path: Path) -> None:
    (tmp_path / "names.csv").write_text("dog\n")
    with pytest.raises(ConfigError, match="expected names, or a file that ends in"):
        read_names(str(tmp_path / "names.csv"))


def test_photos_are_found_below_a_folder(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    for name in ("b.JPG", "a.webp", "out/x.png", "c.doc"):
        (tmp_path / name).touch()
    assert [str(photo.name) for photo in find_photos(tmp_path, tmp_path / "out")] == ["a.webp", "b.JPG"]
    with pytest.raises(DataError, match="no image in it"):
        find_photos(tmp_path / "out", tmp_path / "out")


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


# ---- export ----


def test_exported_decoder_predicts_the_same_elsewhere(segmenter: Segmenter, exported: Path) -> None:
    loaded = Segmenter.load(exported)
    assert loaded.classes == segmenter.classes == load_shipped_classes("shapes").names
    assert loaded.identity == segmenter.identity and loaded.run == segmenter.run
    image = picture(50, 70)
    assert np.array_equal(loaded.predict(image, NAMES).labels, segmenter.predict(image, NAMES).labels)


def test_export_is_one_plain_file_without_clip(exported: Path) -> None:
    with safe_open(exported, framework="pt") as file:
        about = json.loads(file.metadata()[METADATA])
    assert about["clip"]["model"] == "shapes-vit" and len(about["clip"]["fingerprint"]) == 64
    assert about["config"]["decoder"]["dim"] == 32 and len(about["seen"]) == 18
    assert not any(name.startswith(("visual", "clip")) for name in load_file(exported))
    assert [path.name for path in exported.parent.iterdir()] == [exported.name]
    assert "/" not in json.dumps(about["clip"])  # no path of the machine that wrote it


def test_predict_takes_an_exported_decoder(exported: Path, tmp_path: Path, capsys) -> None:
    Image.fromarray(picture(16, 24)).save(tmp_path / "a.png")
    given = ["--image", str(tmp_path / "a.png"), "--classes", "dog,cat", "--out", str(tmp_path / "out"), "--quiet"]
    assert cli.main(["predict", "--decoder", str(exported), *given]) == 0
    assert (tmp_path / "out" / "a.png.overlay.png").is_file()
    assert cli.main(["predict", "--decoder", str(exported), *given, "--set", "evaluate.gamma=1"]) == 2
    assert "brings its own settings" in capsys.readouterr().err


def test_other_clip_weights_are_refused(exported: Path, tmp_path: Path) -> None:
    state = load_file("model/weights/shapes-vit.safetensors")
    save_file(state, tmp_path / "same.safetensors")
    assert Segmenter.load(exported, str(tmp_path / "same.safetensors")).run  # the same numbers from another file
    save_file(state | {"visual.proj": state["visual.proj"] + 1}, tmp_path / "other.safetensors")
    with pytest.raises(DataError, match="are not those that"):
        Segmenter.load(exported, str(tmp_path / "other.safetensors"))


@pytest.mark.parametrize("damage", ["missing", "truncated", "plain", "format", "config", "shapes"])
def test_damaged_exports_are_refused_in_one_line(exported: Path, tmp_path: Path, damage: str) -> None:
    path = tmp_path / "d.safetensors"
    state = load_file(exported)
    with safe_open(exported, framework="pt") as file:
        about = json.loads(file.metadata()[METADATA])
    if damage == "truncated":
        path.write_bytes(exported.read_bytes()[:1000])
    elif damage == "plain":
        save_file(state, path)
    elif damage != "missing":
        about["format"] += damage == "format"
        about["config"]["decoder"] |= {"shapes": {"dim": 64}, "config": {"new_knob": 1}}.get(damage, {})
        save_file(state, path, {METADATA: json.dumps(about)})
    with pytest.raises(DataError) as caught:
        Segmenter.load(path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_export_names_no_local_file(artifacts: Path, segmenter: Segmenter, tmp_path: Path) -> None:
    """CLIP weights from a file: the export says that one is needed, not where this machine had it."""
    shutil.copy("model/weights/shapes-vit.safetensors", tmp_path / "clip.safetensors")
    clip = segmenter.config.clip.model_copy(update={"weights": str(tmp_path / "clip.safetensors")})
    config = segmenter.config.model_copy(update={"clip": clip})
    other = Segmenter(config, segmenter.clip, segmenter.decoder.state_dict(), segmenter.seen)
    other.save(tmp_path / "d.safetensors")
    assert str(tmp_path).encode() not in (tmp_path / "d.safetensors").read_bytes()
    with pytest.raises(DataError, match="say where it is"):
        Segmenter.load(tmp_path / "d.safetensors")
    assert Segmenter.load(tmp_path / "d.safetensors", str(tmp_path / "clip.safetensors")).seen == segmenter.seen


def test_names_may_be_longer_than_a_path() -> None:
    names = [entry.name for entry in load_shipped_classes("coco_stuff").entries]
    assert len(names) == 171 and names_of(",".join(names)) == names


def test_prompts_of_a_list_are_read_and_compared(segmenter: Segmenter) -> None:
    own = Segmenter(segmenter.config, segmenter.clip, segmenter.decoder.state_dict(), segmenter.seen)
    before, identity = own._text(("thing", "dog")), own.identity
    assert own.add_prompts([ClassEntry(0, " thing ", ("red car",)), ClassEntry(1, "dog")]) == ("thing", "dog")
    after = own._text(("thing", "dog"))
    assert torch.equal(after[1], before[1]) and not torch.equal(after[0], before[0]) and own.identity != identity
    with pytest.raises(ConfigError, match="same text to CLIP"):
        own.predict(Image.new("RGB", (32, 32)), ["thing", "red car"])
