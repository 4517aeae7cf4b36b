"""A data set of one's own: where files are found, which ids they get, class lists, configs by path, and a whole run."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from split_matching.configs.class_list import ClassEntry, load_classes
from split_matching.configs.data_settings import DataConfig
from split_matching.configs.load import load_config
from split_matching.errors import ConfigError, DataError
from split_matching.pipeline.cli import main
from split_matching.pipeline.experiments.variants import Request
from split_matching.pipeline.stages import make_plan
from split_matching.pipeline.trained_run import load_segmenter
from split_matching.stages.data.images import read_image, read_mask
from split_matching.stages.data.source import Source, open_source
from tests import folder_data
from tests.error_lines import check_error, error_line
from tests.folder_data import settings, write

TINY = (
    "clip.weights=random", "clip.model=shapes-vit", "features.size=32", "features.decoder_blocks=[2,4]",
    "pseudo_masks.windows=[2]", "decoder.dim=16", "decoder.heads=2", "decoder.ffn=16", "decoder.layers=1",
    "decoder.seen_queries=4", "decoder.candidate_queries=3", "train.steps=2", "train.batch=2",
)  # fmt: skip


def source_of(root: Path, *more: str) -> Source:
    config = load_config("folder", overrides=settings(root, *more))
    return open_source(config.data, config.data.root)


# ---- files and ids ----


@pytest.mark.parametrize("palette", [False, True])
def test_equal_names_in_two_splits_are_two_images(tmp_path: Path, palette: bool) -> None:
    source = source_of(write(tmp_path, palette=palette))
    assert source.ids("train") == ["train.a", "train.b", "train.c"]
    assert source.ids("val") == ["val.a", "val.d"]
    assert source.image_path("val.a") == tmp_path / "images/val/a.jpg"
    np.testing.assert_array_equal(read_mask(source.mask_path("val.a")), folder_data.stripes((3, 4, 0)))
    assert read_image(source.image_path("train.a")).shape == (24, 32, 3)


def test_lists_of_ids(tmp_path: Path) -> None:
    write(tmp_path, {"": {"a": (0,), "b": (1,)}, "more": {"c": (2,)}})
    (tmp_path / "train.txt").write_text("b\nmore/c\n")
    (tmp_path / "val.txt").write_text("a\n")
    source = source_of(tmp_path, "data.train_split=train.txt", "data.val_split=val.txt")
    assert source.ids("train") == ["b", "more.c"] and source.ids("val") == ["a"]
    assert source.mask_path("more.c") == tmp_path / "masks/more/c.png"


def test_the_layout_of_cityscapes(tmp_path: Path) -> None:
    ends = {"image_end": "_leftImg8bit.png", "mask_end": "_gtFine_labelTrainIds.png"}
    write(tmp_path, {"train/aachen": {"x_1": (0, 1)}, "train/ulm": {"x_1": (2,)}, "val/bonn": {"y": (3,)}}, **ends)
    Image.new("L", (32, 24)).save(tmp_path / "masks/train/ulm/x_1_gtFine_color.png")
    (tmp_path / "images").rename(tmp_path / "leftImg8bit")
    (tmp_path / "masks").rename(tmp_path / "gtFine")
    source = source_of(
        tmp_path,
        "data.image_folder=leftImg8bit",
        "data.mask_folder=gtFine",
        "data.image_suffix=_leftImg8bit.png",
        "data.mask_suffix=_gtFine_labelTrainIds.png",
    )
    assert source.ids("train") == ["train.aachen.x_1", "train.ulm.x_1"] and source.ids("val") == ["val.bonn.y"]
    assert source.mask_path("train.ulm.x_1").name == "x_1_gtFine_labelTrainIds.png"
    assert source.stray_masks() == []


def test_images_and_masks_in_one_folder(tmp_path: Path) -> None:
    write(tmp_path)
    shutil.copytree(tmp_path / "masks", tmp_path / "images", dirs_exist_ok=True)
    more = ("data.mask_folder=images", "data.image_suffix=.jpg")
    source = source_of(tmp_path, *more)
    assert source.ids("val") == ["val.a", "val.d"]
    assert source.mask_path("val.d") == tmp_path / "images/val/d.png"


def test_links_lead_round_only_once(tmp_path: Path) -> None:
    write(tmp_path / "real")
    (tmp_path / "images").symlink_to(tmp_path / "real/images")
    (tmp_path / "masks").symlink_to(tmp_path / "real/masks")
    (tmp_path / "real/images/train/again").symlink_to(tmp_path / "real/images")
    shutil.copy(tmp_path / "real/classes.txt", tmp_path)
    assert source_of(tmp_path).ids("train") == ["train.a", "train.b", "train.c"]


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    write(tmp_path)
    message = error_line(lambda: source_of(tmp_path, "data.image_folder=pictures"))
    assert "pictures" in message and "there is images, masks" in message and "data.image_folder=NAME" in message
    message = error_line(lambda: source_of(tmp_path, "data.train_split=training").ids("train"))
    assert "there is train, val" in message and "data.train_split=NAME" in message
    message = error_line(lambda: source_of(tmp_path, "data.val_split=val.txt").ids("val"))
    assert "val.txt: no such list" in message
    message = error_line(lambda: load_classes(load_config("folder", overrides=settings(tmp_path / "none")).data))
    assert f"data.root: {tmp_path}/none: no such folder" in message
    message = error_line(lambda: source_of(tmp_path, "data.image_suffix=_x.png").ids("val"))
    assert "_x.png" in message and "data.image_suffix" in message
    (tmp_path / "masks/val/a.png").unlink()
    message = error_line(lambda: source_of(tmp_path).mask_path("val.a"))
    assert "masks/val/a.png" in message and "data.mask_suffix" in message
    assert "data.mask_folder=NAME" in error_line(lambda: source_of(tmp_path, "data.mask_folder=x").mask_path("val.a"))
    message = error_line(lambda: source_of(tmp_path).image_path("a"))
    assert "no image a" in message and "did you mean train.a" in message


def test_polygons_are_looked_for_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder may hold as many files as images, so a look at each for each image would take hours."""
    write(tmp_path)
    (tmp_path / "instances_train.json").touch()
    source, looks, glob = source_of(tmp_path, "data.mask_folder=x"), [], Path.glob
    monkeypatch.setattr(Path, "glob", lambda path, pattern: looks.append(path) or glob(path, pattern))
    for image_id in source.ids("train"):
        assert "instances_train.json holds polygons" in error_line(lambda name=image_id: source.mask_path(name))
    assert len(source.ids("train")) == 3 and len(looks) == len(set(looks)) > 0


def test_masks_that_images_share_are_found_by_the_settings_alone(tmp_path: Path) -> None:
    source = source_of(write(tmp_path), "data.image_folder=images/{split}", "data.mask_folder=none")
    assert source.shared_masks({"train": ["train.a", "train.b"], "val": ["val.a", "val.d"]}) == [("train.a", "val.a")]
    source = source_of(tmp_path, "data.mask_folder=none")
    assert source.shared_masks({split: source.ids(split) for split in ("train", "val")}) == []


@pytest.mark.parametrize("line", ["../secret", "/etc/passwd", "..", "a b", "images/../../x", "-x"])
def test_hostile_lists_are_errors(tmp_path: Path, line: str) -> None:
    write(tmp_path)
    (tmp_path / "train.txt").write_text(f"train.a\n{line}\n")
    source = source_of(tmp_path, "data.train_split=train.txt")
    assert "train.txt, line 2" in error_line(lambda: source.ids("train"))


def test_two_files_of_one_id_are_named(tmp_path: Path) -> None:
    write(tmp_path)
    image = tmp_path / "images/train/a.jpg"
    shutil.copy(image, tmp_path / "images/train/a.jpeg")
    shutil.copy(image, tmp_path / "images/train/b.png")
    message = error_line(lambda: source_of(tmp_path).ids("train"))
    assert (
        "2 image ids are of several files" in message
        and "a.jpg" in message
        and "a.jpeg" in message
        and "rename one" in message
    )
    assert source_of(tmp_path).ids("val") == ["val.a", "val.d"]


def test_a_folder_without_permission_is_not_called_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the system says it: tests may run as root, who may read everything."""
    write(tmp_path)
    real = os.scandir

    def scandir(path: object) -> object:
        if str(path).endswith(closed):
            raise PermissionError(13, "Permission denied")
        return real(path)  # type: ignore[call-overload]

    monkeypatch.setattr(os, "scandir", scandir)
    for closed in ("images", "images/train"):
        check_error(lambda: source_of(tmp_path).ids("train"), f"{tmp_path / closed}: cannot be read", "permission")
    closed = "masks"
    (tmp_path / "masks/val/a.png").unlink()
    check_error(lambda: source_of(tmp_path).mask_path("val.a"), f"{tmp_path / 'masks'}: cannot be read")


def test_fingerprint_follows_the_files(tmp_path: Path) -> None:
    write(tmp_path)
    before = source_of(tmp_path).fingerprint()
    with (tmp_path / "masks/val/a.png").open("ab") as file:
        file.write(b"x")
    assert source_of(tmp_path).fingerprint() != before


# ---- class lists ----


def classes(root: Path, *more: str) -> list[ClassEntry]:
    return list(load_classes(load_config("folder", overrides=[f"data.root={root}", *more]).data).entries)


def test_a_plain_list_counts_from_first_id(tmp_path: Path) -> None:
    write(tmp_path)
    found = load_classes(load_config("folder", overrides=settings(tmp_path)).data)
    assert found.ids == (0, 1, 2, 3, 4) and found.ignore == (255,)
    assert [entry.name for entry in found.unseen_entries] == ["dog", "kite"]
    found = load_classes(load_config("folder", overrides=settings(tmp_path, "data.first_id=1", "data.ignore=[0]")).data)
    assert found.ids == (1, 2, 3, 4, 5) and found.ignore == (0,)


def test_a_plain_list_may_name_background(tmp_path: Path) -> None:
    write(tmp_path, names=("background", *folder_data.NAMES))
    found = load_classes(load_config("folder", overrides=settings(tmp_path, "data.ignore=[0, 255]")).data)
    assert found.entries[0] == ClassEntry(1, "wall") and len(found.entries) == 5


@pytest.mark.parametrize("sign", ["\x1b", "\x07", "\u202e", "\u2067", "\u200f", "\ufeff"])
@pytest.mark.parametrize("ending", ["txt", "yaml"])
def test_names_with_signs_that_steer_a_terminal_are_errors(tmp_path: Path, sign: str, ending: str) -> None:
    path = tmp_path / f"list.{ending}"
    names = ["wall", f"d{sign}og"]
    text = json.dumps({"classes": names, "ignore": [255]}) if ending == "yaml" else "\n".join(names)
    path.write_text(text, encoding="utf-8")
    data = DataConfig(classes=str(path), unseen=["wall"])
    check_error(lambda: load_classes(data), path, ascii(f"d{sign}og"), "character", kind=ConfigError)


def test_names_may_be_of_any_language(tmp_path: Path) -> None:
    names = ["\u0645\u06cc\u200c\u0631\u0648\u062f", "\u6728", "gr\u00fcn\u00a0e"]
    (tmp_path / "list.txt").write_text("\n".join(names), encoding="utf-8")
    found = load_classes(DataConfig(classes=str(tmp_path / "list.txt"), unseen=[names[0]]))
    assert [entry.name for entry in found.entries] == names


def test_a_text_list_may_give_ids(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "classes.txt").write_text("7: wall\n8:  traffic light\n11\tdog\n")
    assert classes(tmp_path, "data.unseen=[dog]") == [
        ClassEntry(7, "wall"), ClassEntry(8, "traffic light"), ClassEntry(11, "dog"),
    ]  # fmt: skip
    assert "first_id" in error_line(lambda: classes(tmp_path, "data.unseen=[dog]", "data.first_id=1"), ConfigError)


def test_yaml_lists_take_names_or_ids(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "mine.yaml").write_text("ignore: [255]\nclasses: [a, b, c]\nunseen: [c, 0]\n")
    found = load_classes(load_config("folder", overrides=[f"data.root={tmp_path}", "data.classes=mine.yaml"]).data)
    assert found.unseen_ids == {0, 2}
    more = [f"data.root={tmp_path}", "data.classes=mine.yaml", "data.unseen=[b]"]
    assert load_classes(load_config("folder", overrides=more).data).unseen_ids == {1}
    more = ["data.root=x", "data.classes=voc", "data.unseen=[cat, dog]"]
    assert load_classes(load_config("folder", overrides=more).data).unseen_ids == {8, 12}


@pytest.mark.parametrize(
    ("text", "more", "words"),
    [
        ("a\nb\n", (), ["no class is unseen", "data.unseen"]),
        ("a\nb\n", ("data.unseen=[B]",), ["'B'", "did you mean b?"]),
        ("a\n\nb\n", ("data.unseen=[b]",), ["line 2", "empty"]),
        ("a\nb\na\n", ("data.unseen=[b]",), ["name a appears twice"]),
        ("a\nb\n", ("data.unseen=[a, b]",), ["every class is unseen"]),
        ("a\nb\n", ("data.unseen=[a, a]",), ["appears twice"]),
        ("", ("data.unseen=[a]",), ["classes.txt"]),
    ],
)
def test_broken_lists_end_in_one_line(tmp_path: Path, text: str, more: tuple[str, ...], words: list[str]) -> None:
    (tmp_path / "classes.txt").write_text(text)
    message = error_line(lambda: classes(tmp_path, *more), ConfigError)
    assert all(word in message for word in [str(tmp_path), *words]), message


def test_without_a_root_or_a_list(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert load_config("folder").data.root is None  # so that `config` can show the settings
    assert main(["PrepareDataset", "--dataset", "folder", "--artifacts", str(tmp_path)]) == 3
    assert "data.root is not set" in capsys.readouterr().err
    assert "classes.txt: no such file" in error_line(lambda: classes(tmp_path), ConfigError)


# ---- configs by path ----


def test_a_config_beside_the_data(tmp_path: Path) -> None:
    shutil.copy(Path(__file__).parents[4] / "configs/folder.yaml", tmp_path / "rooms.yaml")
    text = (tmp_path / "rooms.yaml").read_text().replace("# root: .  ", "root: .  ")
    (tmp_path / "rooms.yaml").write_text(text.replace("# unseen: [sofa, train]", "unseen: [dog, kite]"))
    write(tmp_path)
    config = load_config(str(tmp_path / "rooms.yaml"))
    assert config.dataset == "rooms" and config.data.root == tmp_path
    assert len(load_classes(config.data).entries) == 5
    more = ["data.root=x", "data.classes=voc", "data.unseen=[cat]"]
    assert load_config(str(tmp_path / "rooms.yaml"), overrides=more).data.root == Path.cwd() / "x"


def test_paths_of_configs_are_checked(tmp_path: Path) -> None:
    (tmp_path / "voc.yaml").write_text("data: {layout: folder}\n")
    (tmp_path / "a b.yaml").write_text("")
    assert "rename the file" in error_line(lambda: load_config(str(tmp_path / "voc.yaml")), ConfigError)
    assert "folder of the cache" in error_line(lambda: load_config(str(tmp_path / "a b.yaml")), ConfigError)
    assert "no such file" in error_line(lambda: load_config(str(tmp_path / "none.yaml")), ConfigError)
    (tmp_path / "x.yaml").write_text("data: {rot: 1}\n")
    assert "unknown key data.rot" in error_line(lambda: load_config(str(tmp_path / "x.yaml")), ConfigError)


def test_experiments_on_a_config_of_ones_own_have_its_name(tmp_path: Path) -> None:
    (tmp_path / "rooms.yaml").write_text(f"data: {{layout: folder}}\nruntime: {{artifacts: {tmp_path / 'cache'}}}\n")
    request = Request(dataset=str(tmp_path / "rooms.yaml"))
    assert request.folder == tmp_path / "cache/rooms/ablations/main"


def test_shipped_data_go_below_the_checkout() -> None:
    root = Path(__file__).parents[4]
    assert load_config("voc").data.root == root / "data/voc"
    assert load_config("coco_stuff").data.root == root / "data/coco_stuff"


def test_keys_hold_what_the_layout_reads_and_nothing_of_other_layouts(tmp_path: Path) -> None:
    write(tmp_path)
    plan = make_plan(load_config("folder", overrides=settings(tmp_path)))
    assert set(plan["features"].reads) >= {"data.layout", "data.image_folder", "data.image_suffix"}
    assert "data.mask_suffix" not in plan["features"].reads
    assert set(plan["train"].reads) >= {"data.mask_folder", "data.mask_suffix", "data.image_folder"}
    voc = make_plan(load_config("voc"))
    assert not any(path.startswith("data.image_") for path in voc.stages["train"].reads)


# ---- whole runs ----


@pytest.mark.slow
@pytest.mark.parametrize("fold", ["null", "0"])
def test_every_stage_runs_on_a_folder(tmp_path: Path, fold: str, capsys: pytest.CaptureFixture[str]) -> None:
    root = write(tmp_path / "rooms", palette=fold == "0")
    (root / "rooms.yaml").write_text("data: {layout: folder, root: ., classes: classes.txt, unseen: [dog, kite],"
                                     " train_split: train, val_split: val, mask_folder: masks}\n")  # fmt: skip
    more = [*TINY, f"data.fold={fold}", "evaluate.fusion=0.3"]
    command = ["--dataset", str(root / "rooms.yaml"), "--artifacts", str(tmp_path / "cache"), "--set", *more]
    assert main(["Report", *command]) == 0
    page = Path(capsys.readouterr().out.splitlines()[-1]).read_text()
    assert "Plumbing only" in page and "Not the full data set" not in page
    scored = next((tmp_path / "cache/rooms/evaluate").rglob("per_class.csv")).read_text()
    assert len(scored.splitlines()) == (6 if fold == "null" else 4) and ("kite" in scored) == (fold == "null")
    metrics = json.loads(next((tmp_path / "cache/rooms/evaluate").rglob("metrics.json")).read_text())
    assert metrics["images"] == 2
    train = json.loads(next((tmp_path / "cache/rooms/dataset").rglob("train.json")).read_text())["images"]
    assert [entry["classes"] for entry in train] == [[0, 1], [2], [1, 2]]


def test_a_decoder_of_ones_own_data_labels_photographs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Which names had masks in training comes from the user's own list, whatever fold or override is laid over it."""
    root = write(tmp_path / "rooms")
    (root / "rooms.yaml").write_text("data: {layout: folder, root: ., classes: classes.txt, unseen: [dog, kite],"
                                     " train_split: train, val_split: val, mask_folder: masks}\n")  # fmt: skip
    given = ["--dataset", str(root / "rooms.yaml"), "--artifacts", str(tmp_path / "cache"), "--set", *TINY]
    photo = ["--image", str(root / "images/val"), "--classes", "wall, dog, traffic cone", "--out", str(tmp_path / "o")]
    assert main(["predict", *photo, *given]) == 3  # before it is trained: the command that is named is one that works
    assert f"TrainDecoder --dataset {root / 'rooms.yaml'} --artifacts {tmp_path / 'cache'}" in capsys.readouterr().err
    assert main(["TrainDecoder", *given]) == 0
    assert main(["predict", *photo, *given]) == 0
    areas = json.loads((tmp_path / "o/a.jpg.areas.json").read_text())
    assert [entry["seen_in_training"] for entry in areas["classes"]] == [True, False, False]
    overrides = [f"runtime.artifacts={tmp_path / 'cache'}", *TINY]
    assert load_segmenter(str(root / "rooms.yaml"), overrides).seen == ("wall", "door", "cat")
    with pytest.raises(DataError, match=r"TrainDecoder --dataset \S+rooms.yaml --set .*data.unseen"):
        load_segmenter(str(root / "rooms.yaml"), [*overrides, "data.unseen=[wall]"])
    assert main(["export", *given, "--out", str(tmp_path / "decoder.safetensors")]) == 0
