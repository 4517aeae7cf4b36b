"""`load_run`: a run of the cache from Python, by its key or name, without its config; and `--name`, which names it."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from split_matching.errors import DataError
from split_matching.model.weights_identity import BUNDLED
from split_matching.pipeline import known_runs, trained_run
from split_matching.pipeline.cli import main
from split_matching.pipeline.known_runs import list_runs
from split_matching.pipeline.trained_run import load_run, load_segmenter
from tests.pipeline.made_runs import make_artifact, make_run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def root(tiny_run: list[str]) -> Path:
    """A cache with a run that is called "tiny"."""
    folder = Path(tiny_run[1])
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert main(["Evaluate", *tiny_run, "--quiet", "--name", "tiny"]) == 0
    new = [path for path in folder.rglob("*") if path.is_file() and before.get(path) != path.stat().st_mtime_ns]
    assert {path.parent.name for path in new} == {"notes"}  # all was fresh: only the name is new
    return folder


@pytest.fixture(scope="module")
def expected(tiny_run: list[str]) -> str:
    """What the decoder of the run depends on and is, as one digest, loaded by its config."""
    return load_segmenter("shapes", [f"runtime.artifacts={tiny_run[1]}", *tiny_run[3:]]).identity


def test_a_run_that_was_named_when_it_ran_is_loaded_by_its_name(root: Path, expected: str) -> None:
    run = load_run("tiny", root)
    assert run.key == load_run(run.key[:12], str(root)).key and run.artifact.stage == "evaluate"
    assert run.metrics.keys() <= {"pAcc", "mIoU_seen", "mIoU_unseen", "hIoU"} and run.metrics["pAcc"] >= 0
    assert run.seed == 0 and run.settings["train.steps"] == 6 and run.differs["train.steps"] == (600, 6)
    masks = run.artifacts["pseudo_masks"]
    assert masks.shards("train").ids[0] == "train_000000"
    segmenter = run.segmenter()
    assert segmenter.identity == expected
    labels = segmenter.predict(np.zeros((40, 60, 3), np.uint8), ["white checked", "purple plain"]).labels
    assert labels.shape == (40, 60) and labels.max() <= 1


def test_a_training_is_loaded_as_well(root: Path, expected: str) -> None:
    run = load_run("tiny", root)
    trained = load_run(f"train/{run.artifacts['train'].key}", root)
    assert trained.artifact.stage == "train" and trained.metrics == {}
    decoder = trained.segmenter().decoder.state_dict()
    assert all(np.array_equal(decoder[name], value) for name, value in run.segmenter().decoder.state_dict().items())


def test_the_config_need_not_be_there(root: Path, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (known_runs, trained_run):
        monkeypatch.setattr(module, "known_datasets", list)
    run = load_run("tiny", root)
    assert run.differs == {}
    assert run.segmenter().identity == expected


def test_clip_weights_must_be_those_of_the_run(root: Path, expected: str, tmp_path: Path) -> None:
    copy = tmp_path / "clip.safetensors"
    shutil.copy(BUNDLED / "shapes-vit.safetensors", copy)
    assert load_run("tiny", root).segmenter(clip_weights=str(copy)).identity == expected
    copy.write_bytes(copy.read_bytes() + b" ")
    with pytest.raises(DataError, match=r"are sha256:\w+, and .* is another file: give clip_weights=PATH"):
        load_run("tiny", root).segmenter(clip_weights=str(copy))


def test_a_run_without_a_decoder_says_so(tmp_path: Path) -> None:
    artifact = make_artifact(tmp_path, "shapes", "evaluate", {"evaluate": {"predictor": "dense"}}, {}, {"pAcc": 3.0})
    run = load_run(artifact.key, tmp_path)
    assert run.metrics == {"pAcc": 3.0} and run.seed is None
    with pytest.raises(DataError, match="has no decoder of its own"):
        run.segmenter()


def test_what_cannot_be_loaded_says_why(tmp_path: Path) -> None:
    make_run(tmp_path)
    train = list_runs(tmp_path)[0].artifacts["train"]
    with pytest.raises(DataError, match="its result of EmbedText, which names the seen classes, is gone"):
        load_run(train.key, tmp_path).segmenter()
    text = make_artifact(tmp_path, "shapes", "text", {"clip": {"identity": "random:0"}}, {}, {})
    config = {"evaluate": {"gamma": 0.0, "gone": 3}}
    artifact = make_artifact(tmp_path, "shapes", "evaluate", config, {"train": train, "text": text}, {})
    with pytest.raises(DataError, match=r"evaluate.gone: .*; it was made by another version"):
        load_run(artifact.key, tmp_path).segmenter()
