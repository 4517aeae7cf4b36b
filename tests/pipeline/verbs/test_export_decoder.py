"""The verb `export` for decoders, and the file that it writes, in use; that of pseudo masks is in test_export.py."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from split_matching.configs.class_list import load_shipped_classes
from split_matching.errors import DataError
from split_matching.pipeline import cli
from split_matching.stages.inference.exported_decoder import METADATA
from split_matching.stages.inference.segmenter import Segmenter
from tests.conftest import noise

NAMES = ["red striped", "plain", "traffic cone"]


@pytest.fixture(scope="module")
def exported(tiny_run: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("export") / "out" / "decoder.safetensors"
    assert cli.main(["export", *tiny_run, "--out", str(path)]) == 0
    return path


def test_exported_decoder_predicts_the_same_elsewhere(segmenter: Segmenter, exported: Path) -> None:
    loaded = Segmenter.load(exported)
    assert loaded.classes == segmenter.classes == load_shipped_classes("shapes").names
    assert loaded.identity == segmenter.identity and loaded.run == segmenter.run
    image = noise(50, 70)
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
    Image.fromarray(noise(16, 24)).save(tmp_path / "a.png")
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


def test_export_names_no_local_file(segmenter: Segmenter, tmp_path: Path) -> None:
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
