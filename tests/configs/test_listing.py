"""What `config` prints: every setting with its type, default and origin, and the JSON schema of config files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator

from split_matching.configs.listing import as_yaml, config_schema, describe_type, list_settings
from split_matching.configs.load import list_paths, load_config, load_with_origins
from split_matching.errors import ConfigError
from split_matching.pipeline.cli import main

FILES = sorted(
    path
    for folder in ("", "ablations", "backbones", "schedules", "splits")
    for path in Path("configs", folder).glob("*.yaml")
)


def listed(*parts: str, overrides: tuple[str, ...] = ()) -> dict[str, str]:
    """The lines of values by path, without section headings and comments above."""
    config, origins = load_with_origins("shapes", (), overrides)
    section, lines = "", {}
    for line, _ in as_yaml(list_settings(config, origins, parts), config):
        if line.endswith(":") and "#" not in line:
            section = line[:-1]
        elif ": " in line and not line.lstrip().startswith("#"):
            lines[f"{section}.{line.split(':')[0].strip()}".strip(".")] = line.strip()
    return lines


def test_the_listing_is_a_set_file_of_the_same_config(tmp_path):
    overrides = ["train.lr=1e-5", "data.root=/data/voc", "text.templates=['a \"{}\": #1']", "clip.weights=a b"]
    config, origins = load_with_origins("voc", (), overrides)
    lines = [line for line, _ in as_yaml(list_settings(config, origins), config)]
    (tmp_path / "all.yaml").write_text("\n".join(lines))
    assert load_config("voc", [tmp_path / "all.yaml"]) == config


def test_every_setting_is_listed_once_with_a_description():
    config, origins = load_with_origins("voc")
    settings = list_settings(config, origins)
    fields = [path for path in list_paths() if "." in path or path == "dataset"]
    assert [setting.path for setting in settings] == fields
    assert all(setting.description for setting in settings)


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("train.lr", "lr: 0.002  # * number > 0; default 0.0001; from configs/shapes.yaml"),
        ("train.seed", "seed: 0  # int >= 0; default"),
        ("train.steps", "steps: 20000  # int >= 1; default; from --set"),
        ("train.log_every", "log_every: 20  # int >= 1; changes no result; default"),
        ("train.scale_range", "scale_range: [0.5, 2.0]  # [number > 0, number > 0]; default"),
        ("train.flip", "flip: true  # true | false; default"),
        ("clip.weights", "weights: bundled  # * text; default openai; from configs/shapes.yaml"),
        ("clip.seed", "seed: 0  # int >= 0; default"),
        ("features.resize", "resize: long  # short | long; default"),
        ("features.shifts", "shifts: 2  # * int >= 1, <= 4; default 1; from configs/shapes.yaml"),
        ("data.fold", "fold: null  # int >= 0 | null; default"),
        ("data.unseen", "unseen: []  # list of text; default"),
        ("clip.quick_gelu", "quick_gelu: auto  # true | false | auto; default"),
        ("runtime.scheduler", "scheduler: null  # text | null; changes no result; default"),
    ],
)
def test_a_line_says_type_range_default_and_origin(path: str, line: str):
    assert listed(path, overrides=("train.steps=20000",)) == {path: line}


def test_values_that_nobody_wrote_have_an_origin_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert listed("runtime.artifacts")["runtime.artifacts"].endswith(
        "default artifacts; from where it runs, or another setting"
    )


def test_only_what_changes_no_result_is_called_so():
    marked = {path for path, line in listed().items() if "changes no result" in line}
    assert {"runtime.workers", "runtime.shard_size", "runtime.artifacts", "data.root"} <= marked
    assert not marked & {"clip.weights", "clip.seed", "train.steps", "pseudo_masks.k", "evaluate.trained_on"}


def test_parts():
    assert listed("train", "clip.model").keys() == {
        path for path in list_paths() if path.startswith("train.") or path == "clip.model"
    }
    with pytest.raises(ConfigError, match=r"no setting train\.lrate: did you mean train\.lr\?"):
        listed("train.lrate")
    with pytest.raises(ConfigError, match=r"no setting trane: did you mean train\?"):
        listed("trane")


def test_json_says_the_same(capsys):
    assert main(["config", "train.lr", "features.size", "--dataset", "shapes", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["dataset"] == "shapes" and [row["path"] for row in found["settings"]] == ["features.size", "train.lr"]
    assert found["settings"][1] == {
        "path": "train.lr",
        "value": 0.002,
        "default": 0.0001,
        "changed": True,
        "from": "configs/shapes.yaml",
        "runtime": False,
        "type": "number > 0",
        "schema": {"exclusiveMinimum": 0, "type": "number"},
        "description": "Peak learning rate (AdamW).",
    }


# ---- the JSON schema ----


@pytest.fixture(scope="module")
def schema() -> dict[str, object]:
    made = config_schema()
    Draft202012Validator.check_schema(made)
    return made


@pytest.mark.parametrize("path", FILES, ids=str)
def test_shipped_files_are_valid(path: Path, schema: dict[str, object]):
    Draft202012Validator(schema).validate(yaml.safe_load(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        ("train:", True),
        ("{}", True),
        ("data: {train_split: 2012}", True),
        ("data: {root: ../data, ignore: [255]}", True),
        ("train: {steps: 0}", False),
        ("train: {lr: 0}", False),
        ("train: {stepz: 1}", False),
        ("train: {matching: doubled}", False),
        ("train: {scale_range: [1.0]}", False),
        ("trane: {steps: 1}", False),
    ],
)
def test_the_schema_accepts_what_load_accepts(text: str, valid: bool, schema: dict[str, object], tmp_path: Path):
    assert Draft202012Validator(schema).is_valid(yaml.safe_load(text)) == valid
    (tmp_path / "x.yaml").write_text(text)
    try:
        load_config("shapes", [tmp_path / "x.yaml"])
        accepted = True
    except ConfigError:
        accepted = False
    assert accepted == valid


def test_the_schema_says_nothing_of_ours(capsys):
    assert main(["config", "--schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert schema == config_schema() and schema["$schema"].startswith("https://json-schema.org/")
    lr = schema["$defs"]["TrainConfig"]["properties"]["min_lr"]
    assert lr == {
        "default": 0.0,
        "description": "Learning rate at the end of the decay (peers: 1e-6).",
        "minimum": 0,
        "type": "number",
    }


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({"type": "number", "minimum": 0, "maximum": 1}, "number >= 0, <= 1"),
        ({"type": "array", "items": {"type": "integer", "minimum": 1}}, "list of int >= 1"),
        ({"anyOf": [{"type": "string", "format": "path"}, {"type": "null"}]}, "path | null"),
        ({"enum": ["a", "b"], "type": "string"}, "a | b"),
        ({"type": ["string", "number"]}, "text"),
    ],
)
def test_types_as_words(schema: dict, text: str):
    assert describe_type(schema) == text
