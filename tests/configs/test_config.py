"""Configs: layers, errors, class lists."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from split_matching.configs import class_list as classes_module
from split_matching.configs.class_list import ClassEntry, load_shipped_classes
from split_matching.configs.load import describe, known_datasets, load_config
from split_matching.configs.schema import Config
from split_matching.errors import ConfigError

ROOT = Path(__file__).parents[2]


def write(folder: Path, text: str, name: str = "extra.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def refusal(*overrides: str, dataset: str = "voc", files: tuple[Path, ...] = ()) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(dataset, files, overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message


# ---- layers ----


@pytest.mark.parametrize("dataset", known_datasets())
def test_every_dataset_loads(dataset):
    config = load_config(dataset)
    assert config.dataset == dataset


def test_voc_states_the_protocol():
    config = load_config("voc")
    assert (config.data.layout, config.data.train_split, config.data.val_split) == ("voc", "trainaug", "val")
    assert (config.clip.model, config.clip.weights) == ("ViT-B-16", "openai")
    assert config.features.decoder_blocks == (3, 6, 9, 12)


def test_later_layers_win(tmp_path):
    first = write(tmp_path, "train: {steps: 1, batch: 2}\n", "a.yaml")
    second = write(tmp_path, "train: {batch: 3, warmup: 4}\n", "b.yaml")
    config = load_config("voc", [first, second], ["train.warmup=5", "train.warmup=6"])
    assert (config.train.steps, config.train.batch, config.train.warmup) == (1, 3, 6)


def test_scientific_notation_is_a_number():
    assert load_config("voc", overrides=["train.lr=3e-5"]).train.lr == 3e-5


@pytest.mark.parametrize(
    ("override", "section", "field", "expected"),
    [
        ("pseudo_masks.windows=[2, 6]", "pseudo_masks", "windows", (2, 6)),
        ("train.flip=false", "train", "flip", False),
        ("data.fold=null", "data", "fold", None),
        ("data.val_split=2012", "data", "val_split", "2012"),
        ("clip.weights=a=b", "clip", "weights", "a=b"),
        ("clip.weights=a: b", "clip", "weights", "a: b"),
        ("data.root=/data/x", "data", "root", Path("/data/x")),
    ],
)
def test_override_values(override, section, field, expected):
    config = load_config("voc", overrides=[override])
    assert getattr(getattr(config, section), field) == expected


def test_home_is_expanded_in_paths():
    assert load_config("voc", overrides=["data.root=~/voc"]).data.root == Path.home() / "voc"


def test_empty_section_changes_nothing(tmp_path):
    assert load_config("voc", [write(tmp_path, "train:\n")]) == load_config("voc")


def test_config_is_frozen():
    with pytest.raises(ValidationError):
        load_config("voc").train.steps = 3  # type: ignore[misc]


# ---- refusals ----


def test_unknown_dataset_lists_the_known_ones():
    message = refusal(dataset="vocc")
    assert "vocc" in message and "did you mean voc?" in message
    assert all(name in message for name in known_datasets())


@pytest.mark.parametrize("dataset", ["../configs/voc", "", "classes/voc"])
def test_dataset_is_no_path(dataset):
    assert "expected one of" in refusal(dataset=dataset)


@pytest.mark.parametrize(
    ("override", "closest"),
    [
        ("train.stepps=3", "train.steps"),
        ("trian.steps=3", "train.steps"),
        ("featurs={size: 3}", "features"),
        ("gamma=0.1", "evaluate.gamma"),
        ("train.gamma=0.1", "evaluate.gamma"),
        ("features.size.x=3", "features.size"),
    ],
)
def test_unknown_key_names_source_path_and_closest(override, closest):
    message = refusal(override)
    assert message.startswith("--set") and override.split("=")[0] in message
    assert f"did you mean {closest}?" in message


def test_unknown_key_in_a_file_names_the_file(tmp_path):
    path = write(tmp_path, "train:\n  stepz: 3\n")
    message = refusal(files=(path,))
    assert message.startswith(str(path)) and "train.stepz" in message and "train.steps" in message


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.steps=0", ["train.steps is 0", "greater than or equal to 1", "leave it out"]),
        ("train.steps=many", ["train.steps is many", "integer"]),
        ("train.steps=1.5", ["train.steps is 1.5", "fractional"]),
        ("train.steps=yes", ["train.steps is true", "a number"]),
        ("train.lr=.nan", ["train.lr", "finite"]),
        ("features.variant=clever", ["features.variant is clever", "'value'"]),
        ("pseudo_masks.windows=[4, 0]", ["pseudo_masks.windows", "is 0"]),
        ("pseudo_masks.windows=[]", ["pseudo_masks.windows", "at least 1"]),
        ("text.templates=['a photo']", ["--set", "a photo", "{}"]),
        ("decoder.heads=7", ["--set", "256", "7"]),
        ("data.fold=3", ["--set", "fold 3", "0..2"]),
        ("features=3", ["features is 3", "features.size"]),
        ("data.classes=nothing", ["data.classes", "nothing", "voc"]),
        ("dataset=other", ["--set", "--dataset"]),
        ("train.steps", ["section.key=value"]),
        ("=3", ["section.key=value"]),
        ("train..steps=3", ["section.key=value"]),
        ("train.steps=[1", ["train.steps", "not YAML"]),
    ],
)
def test_refused_values(override, words):
    message = refusal(override)
    assert all(word in message for word in words), message


def test_refusal_names_the_layer_that_set_the_value(tmp_path):
    path = write(tmp_path, "train:\n  steps: -1\n")
    assert refusal("train.batch=4", files=(path,)).startswith(f"{path}: train.steps is -1")


def test_a_good_override_mends_a_bad_file(tmp_path):
    path = write(tmp_path, "train:\n  steps: -1\n")
    assert load_config("voc", [path], ["train.steps=7"]).train.steps == 7


def test_more_folds_than_seen_classes_are_refused():
    assert "15 seen classes" in refusal("data.fold=0", "data.folds=16")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("train: {steps: 1\n", ["broken YAML", "line"]),
        ("train:\n  steps: 1\ntrain:\n  batch: 2\n", ["'train' appears twice", "line 3"]),
        ("- train\n", ["expected `key: value`"]),
        ("1: 2\n", ["key 1", "quote"]),
        ("train: [1]\n", ["train is [1]"]),
        ("a: !!python/object/apply:os.getcwd []\n", ["broken YAML"]),
    ],
)
def test_broken_files(tmp_path, text, words):
    path = write(tmp_path, text)
    message = refusal(files=(path,))
    assert message.startswith(str(path)) and all(word in message for word in words), message


def test_missing_and_unreadable_files(tmp_path):
    assert "no such file" in refusal(files=(tmp_path / "absent.yaml",))
    assert "cannot be read" in refusal(files=(tmp_path,))
    latin = tmp_path / "latin.yaml"
    latin.write_bytes(b"dataset: \xe9\xff\n")
    assert "UTF-8" in refusal(files=(latin,))


# ---- describe ----


def test_described_config_loads_as_itself(tmp_path):
    config = load_config("voc", overrides=["train.lr=1e-5", "data.root=/data/voc", "text.templates=['a \"{}\": #1']"])
    assert load_config("voc", [write(tmp_path, describe(config))]) == config


def test_description_explains_every_field_and_marks_runtime():
    lines = describe(load_config("voc")).splitlines()
    by_key = {line.split(":")[0].strip(): line for line in lines if line.startswith("  ")}
    assert "runtime" in by_key["shard_size"] and "Images a shard." in by_key["shard_size"]
    assert "runtime" not in by_key["merge"]
    assert all("  # " in line for line in by_key.values())


# ---- classes ----


def test_voc_classes():
    voc = load_shipped_classes("voc")
    assert voc.ids == tuple(range(1, 21)) and voc.ignore == (0, 255)
    assert [entry.name for entry in voc.unseen_entries] == ["pottedplant", "sheep", "sofa", "train", "tvmonitor"]
    assert voc.seen()[0] == ClassEntry(1, "aeroplane") and len(voc.seen()) == 15


def test_folds_hide_every_seen_class_once():
    voc = load_shipped_classes("voc")
    hidden = [entry for fold in range(4) for entry in voc.hidden(fold, 4)]
    assert sorted(entry.id for entry in hidden) == [entry.id for entry in voc.seen()]
    assert voc.hidden(1, 4) == voc.seen()[1::4]
    assert set(voc.seen(1, 4)) == set(voc.seen()) - set(voc.hidden(1, 4))
    assert voc.hidden(None) == ()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ignore: [0]\nclasses: [{id: 1, name: a}, {id: 1, name: b}]\nunseen: [1]\n", ["id 1 appears twice"]),
        ("ignore: [0]\nclasses: [{id: 1, name: a}, {id: 2, name: a}]\nunseen: [1]\n", ["name a appears twice"]),
        ("ignore: [1]\nclasses: [{id: 1, name: a}, {id: 2, name: b}]\nunseen: [1]\n", ["id 1", "`ignore`"]),
        ("ignore: [0]\nclasses: [{id: 1, name: a}, {id: 2, name: b}]\nunseen: [3]\n", ["unseen id 3"]),
        ("ignore: [0]\nclasses: [{id: 1, name: a}, {id: 2, name: b}]\nunseen: [1, 2]\n", ["every class is unseen"]),
        ("ignore: [0]\nclasses: [{id: 1, name: ' '}, {id: 2, name: b}]\nunseen: [1]\n", ["classes.0.name"]),
        ("classes: [{id: 1, name: a}, {id: 2, name: b}]\nunseen: [1]\n", ["ignore", "required"]),
    ],
)
def test_broken_class_lists(tmp_path, monkeypatch, text, words):
    write(tmp_path, text, "mine.yaml")
    monkeypatch.setattr(classes_module, "FOLDER", tmp_path)
    with pytest.raises(ConfigError) as caught:
        load_shipped_classes("mine")
    assert "\n" not in str(caught.value)
    assert all(word in str(caught.value) for word in ["configs/classes/mine.yaml", *words]), str(caught.value)


def test_every_field_has_a_description():
    for section in Config.model_fields.values():
        for name, field in getattr(section.annotation, "model_fields", {}).items():
            assert field.description, name


def test_reading_a_config_needs_no_heavy_library():
    code = (
        "import sys; from split_matching.configs.load import load_config;"
        "from split_matching.configs.slices import build_slice;"
        "build_slice(load_config('voc'), ['features', 'classes.seen']);"
        "print(sorted({'torch', 'numpy', 'h5py', 'open_clip', 'luigi', 'faiss', 'PIL'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_only_what_changes_no_result_is_called_so() -> None:
    lines = {line.split(":")[0].strip(): line for line in describe(load_config("shapes")).splitlines() if ":" in line}
    marked = {name for name, line in lines.items() if "changes no result" in line}
    assert {"workers", "shard_size", "artifacts"} <= marked
    assert not marked & {"weights", "steps", "k"}
    clip = describe(load_config("shapes")).split("\nclip:\n")[1].split("\n\n")[0]
    assert "seed: " in clip and "changes no result" not in clip
