"""Building a config: layers, errors, and the described config."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from split_matching.configs.load import known_datasets, load_config, load_with_origins
from split_matching.configs.schema import Config
from split_matching.configs.strict_yaml import parse_value, read_mapping
from split_matching.errors import ConfigError
from tests.error_lines import error_line

ROOT = Path(__file__).parents[2]


def write(folder: Path, text: str, name: str = "extra.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def config_error(*overrides: str, dataset: str = "voc", files: tuple[Path, ...] = ()) -> str:
    return error_line(lambda: load_config(dataset, files, overrides), ConfigError)


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


# ---- errors ----


def test_unknown_dataset_lists_the_known_ones():
    message = config_error(dataset="vocc")
    assert "vocc" in message and "did you mean voc?" in message
    assert all(name in message for name in known_datasets())


@pytest.mark.parametrize("dataset", ["../configs/voc", "", "classes/voc"])
def test_dataset_is_no_path(dataset):
    assert "expected one of" in config_error(dataset=dataset)


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
    message = config_error(override)
    assert message.startswith("--set") and override.split("=")[0] in message
    assert f"did you mean {closest}?" in message


def test_unknown_key_in_a_file_names_the_file(tmp_path):
    path = write(tmp_path, "train:\n  stepz: 3\n")
    message = config_error(files=(path,))
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
def test_invalid_values(override, words):
    message = config_error(override)
    assert all(word in message for word in words), message


def test_an_error_names_the_layer_that_set_the_value(tmp_path):
    path = write(tmp_path, "train:\n  steps: -1\n")
    assert config_error("train.batch=4", files=(path,)).startswith(f"{path}: train.steps is -1")


def test_a_good_override_replaces_a_bad_value_of_a_file(tmp_path):
    path = write(tmp_path, "train:\n  steps: -1\n")
    assert load_config("voc", [path], ["train.steps=7"]).train.steps == 7


def test_more_folds_than_seen_classes_are_an_error():
    assert "15 seen classes" in config_error("data.fold=0", "data.folds=16")


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
    message = config_error(files=(path,))
    assert message.startswith(str(path)) and all(word in message for word in words), message


def test_missing_and_unreadable_files(tmp_path):
    assert "no such file" in config_error(files=(tmp_path / "absent.yaml",))
    assert "cannot be read" in config_error(files=(tmp_path,))
    latin = tmp_path / "latin.yaml"
    latin.write_bytes(b"dataset: \xe9\xff\n")
    assert "UTF-8" in config_error(files=(latin,))


# ---- origins ----


def test_every_value_has_the_origin_that_set_it_last(tmp_path):
    file = write(tmp_path, "train: {steps: 7, batch: 2}\nclip: {weights: random}\n")
    config, origins = load_with_origins("shapes", [file], ["train.batch=4"])
    assert (config.train.steps, config.train.batch, config.train.lr) == (7, 4, 2e-3)
    expected = {"train.steps": str(file), "train.batch": "--set", "train.lr": "configs/shapes.yaml"}
    assert {path: origins[path] for path in expected} == expected
    assert "train.seed" not in origins


# ---- the schema ----


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


def test_a_file_is_read_as_it_is_now_whatever_its_last_reader_did_with_it(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("train: {steps: 3}\n")
    read_mapping(path, "a")["train"]["steps"] = 4
    assert read_mapping(path, "a") == {"train": {"steps": 3}}
    path.write_text("train: {steps: 5}\n")
    assert read_mapping(path, "a") == {"train": {"steps": 5}}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("10", 10),
        ("007", "007"),
        ("0x1F", 31),
        ("0o17", 15),
        ("-5", -5),
        ("2007_000032", "2007_000032"),
        ("1:30", "1:30"),
    ],
)
def test_whole_numbers_are_those_of_yaml_1_2(text, value):
    """Image ids of VOC and ids with zeros in front mean what they look like."""
    assert parse_value(text) == value


def test_a_number_with_zeros_in_front_is_decimal():
    assert load_config("voc", overrides=["train.steps=020000"]).train.steps == 20000


@pytest.mark.parametrize("setting", ["colours=camvid", "mask_suffix=_m.png", "image_folder=x", "image_prefix=a"])
def test_settings_of_folders_are_refused_elsewhere(setting):
    name = setting.partition("=")[0]
    assert f"data.{name} is for data.layout folder, not voc" in config_error(f"data.{setting}")


def test_a_word_in_a_list_is_no_number():
    assert "data.ignore is [true, 255]: expected a number" in config_error("data.ignore=[yes, 255]")


def test_a_dotted_key_in_a_file_is_named_as_what_it_should_be(tmp_path):
    path = write(tmp_path, "train.steps: 5\n")
    assert "unknown key train.steps; expected `train: {steps: ...}`" in config_error(files=(path,))


def test_a_decoder_from_elsewhere_has_no_folds():
    message = config_error("evaluate.trained_on=/a.safetensors", "data.fold=0", dataset="shapes")
    assert "data.fold hides classes of a training here" in message
