"""Runs as the cache knows them: which there are, what differs in them, and how they are found."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from split_matching.cache.artifact import Artifact
from split_matching.cache.files import remove
from split_matching.cache.notes import Note, change_note
from split_matching.configs.load import load_config
from split_matching.configs.schema import Config
from split_matching.errors import ConfigError, DataError, UserError
from split_matching.pipeline import api, known_runs
from split_matching.pipeline.known_runs import check_run_name, describe_run, find_run, list_runs, settings_of_config
from split_matching.pipeline.trained_run import TrainedRun
from tests.hidden import hidden
from tests.pipeline.made_runs import make_artifact, make_run


def test_a_run_is_an_evaluation_or_a_training_without_one(tmp_path: Path) -> None:
    evaluated = make_run(tmp_path)
    again = make_run(tmp_path, gamma=0.1)  # of the same training
    trained = make_run(tmp_path, seed=1, scores=None)
    runs = list_runs(tmp_path)
    assert [run.artifact.path for run in runs] == [trained.path, again.path, evaluated.path]  # newest first
    assert [list(run.artifacts) for run in runs] == [
        ["pseudo_masks", "train"],
        ["pseudo_masks", "train", "evaluate"],
        ["pseudo_masks", "train", "evaluate"],
    ]


def test_runs_that_may_not_be_read_are_not_left_out_in_silence(tmp_path: Path) -> None:
    make_run(tmp_path)
    other = make_run(tmp_path, dataset="mine")
    with hidden(other.path.parent):
        with pytest.raises(UserError, match=f"cannot read {other.path.parent}: permission denied"):
            list_runs(tmp_path)
        with pytest.warns(UserWarning, match=f"cannot read {other.path.parent}: permission denied"):
            runs = [(run.artifact.manifest["dataset"], run.artifact.stage) for run in api.runs(tmp_path)]
    assert runs == [("mine", "train"), ("shapes", "evaluate")]  # of an evaluation that is hidden, the training


def test_what_is_known_of_a_run(tmp_path: Path) -> None:
    make_run(tmp_path, seed=3, report=True)
    make_run(tmp_path, seed=4, scores=None)
    trained, run = list_runs(tmp_path)
    assert run.metrics == {"pAcc": 90.0, "mIoU_seen": 80.0, "mIoU_unseen": 60.0, "hIoU": 68.6}
    assert (run.seed, run.seconds, run.size) == (3, 65.0, 200)  # without the shared pseudo masks
    assert run.report is not None and run.report.parts[-3] == "report"
    assert run.settings == {
        **{"pseudo_masks.merge": 0.85, "pseudo_masks.max_annotated": 0.5, "train.seed": 3, "train.steps": 600},
        **{"train.loss_quality": 1.0, "evaluate.gamma": 0.0, "evaluate.confidence": "both"},
    }
    assert (trained.metrics, trained.seed, trained.seconds, trained.size, trained.report) == ({}, 4, 60.0, 100, None)


def test_an_undefined_metric_is_absent(tmp_path: Path) -> None:
    artifact = make_run(tmp_path)
    (run,) = list_runs(tmp_path)
    summary = {"pAcc": 90.0, "mIoU_seen": 80.0}  # what Evaluate returns where no unseen class occurs
    assert (
        replace(run, artifact=replace(artifact, manifest={**artifact.manifest, "summary": summary})).metrics == summary
    )


def test_runs_are_compared_with_the_config_of_their_data_set(tmp_path: Path) -> None:
    make_run(tmp_path)
    make_run(tmp_path, seed=1, steps=300, merge=0.7)
    other, same = list_runs(tmp_path)
    assert same.differs == {}
    assert other.differs == {"train.steps": (600, 300), "pseudo_masks.merge": (0.85, 0.7)}  # the seed is told apart


def test_a_setting_that_is_younger_than_a_run_has_the_value_that_stands_for_its_absence(tmp_path: Path) -> None:
    train = make_artifact(tmp_path, "shapes", "train", {"train": {"steps": 600}, "decoder": {"dim": 128}}, {}, {})
    evaluated = {
        "evaluate": {"gamma": 0.0},
        "text": {"templates": ["a photo of a {}."]},
    }
    make_artifact(tmp_path, "shapes", "evaluate", evaluated, {"train": train}, {"pAcc": 3.0})
    make_artifact(tmp_path, "shapes", "evaluate", {"evaluate": {"predictor": "dense"}}, {}, {"pAcc": 3.0})
    baseline, run = list_runs(tmp_path)
    assert run.differs["train.loss_quality"] == (1.0, 0.0) and run.differs["evaluate.confidence"] == ("both", "none")
    assert run.younger["train.min_lr"] == 0.0 and run.younger["decoder.mfe_scales"] == [1, 2, 4]
    assert not {"train.steps", "text.prompts", "pseudo_masks.max_annotated"} & run.younger.keys()
    assert baseline.differs == {"evaluate.predictor": ("decoder", "dense")}
    config = TrainedRun(run.artifact, {**run.artifacts, "text": clip_of(tmp_path)}, usual=run.usual)._config("")
    assert (config.train.loss_quality, config.evaluate.confidence) == (0.0, "none")
    assert config.pseudo_masks.max_annotated == 0.5  # its section is not known: as usual


def clip_of(root: Path) -> Artifact:
    return make_artifact(root, "shapes", "text", {"clip": {"identity": "random:0"}}, {}, {})


def test_a_copy_of_a_config_has_runs_of_its_own(tmp_path: Path) -> None:
    """A key does not contain the data set's name."""
    run = make_run(tmp_path, steps=300)
    shutil.copytree(tmp_path / "shapes", tmp_path / "copy")
    with pytest.raises(ConfigError, match=r"2 keys .* \(copy/evaluate/\w+, shapes/evaluate/\w+\)"):
        find_run(tmp_path, run.key)
    assert find_run(tmp_path, f"copy/evaluate/{run.key}").artifact.path.parts[-3] == "copy"
    described = describe_run(tmp_path, run)  # as for a report
    assert described.artifact == run and described.differs == {"train.steps": (600, 300)} and described.seed == 0
    change_note(tmp_path, "shapes", run.key, name="base", text="one")
    assert describe_run(tmp_path, run).note == Note("base", "one")


def test_what_is_wrong_elsewhere_does_not_end_the_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = {"train": {"steps": 5}, "decoder": ["odd"], "classes": {"all": 3}}
    train = make_artifact(tmp_path, "voc", "train", config, {}, {})
    make_artifact(tmp_path, "voc", "evaluate", {"evaluate": None}, {"train": train}, {"pAcc": "x", "hIoU": 3.0})
    make_run(tmp_path, steps=300)
    (tmp_path / "shapes/notes").mkdir()
    (tmp_path / f"shapes/notes/{list_runs(tmp_path)[0].key[:16]}.json").write_text("{")

    def load(dataset: str) -> Config:
        if dataset == "voc":
            raise ConfigError("configs/voc.yaml: unknown key")
        return load_config(dataset)

    monkeypatch.setattr(known_runs, "load_config", load)
    shapes, odd = list_runs(tmp_path)
    assert shapes.differs == {"train.steps": (600, 300)} and shapes.note == Note()
    assert odd.settings == {"train.steps": 5} and odd.metrics == {"hIoU": 3.0} and odd.differs == {}


def test_runs_of_a_config_that_is_gone_are_compared_with_most_of_them(tmp_path: Path) -> None:
    for seed, steps in ((0, 900), (1, 900), (2, 50)):
        make_run(tmp_path, dataset="mine", seed=seed, steps=steps)
    assert [run.differs for run in list_runs(tmp_path)] == [{"train.steps": (900, 50)}, {}, {}]
    assert list_runs(tmp_path)[0].settings["classes.unseen"] == ["cow"]
    assert list_runs(tmp_path)[0].settings["classes"] == ["cat", "tv (tv, screen)", "cow"]


def test_of_two_equally_common_values_that_of_the_earliest_run_is_usual(tmp_path: Path) -> None:
    for steps in (700, 800):
        make_run(tmp_path, dataset="mine", steps=steps)
    assert [run.differs for run in list_runs(tmp_path)] == [{"train.steps": (700, 800)}, {}]


def test_runs_are_compared_with_a_config_that_is_given(tmp_path: Path) -> None:
    make_run(tmp_path, dataset="mine", steps=700)
    (tmp_path / "mine.yaml").write_text("data: {layout: shapes, classes: shapes}\ntrain: {steps: 700}\n")
    (run,) = list_runs(tmp_path, load_config(str(tmp_path / "mine.yaml")))
    assert set(run.differs) == {"classes", "classes.unseen"}  # its classes are not those of shapes


def test_all_that_may_change_a_result_of_a_config_is_compared() -> None:
    found = settings_of_config(load_config("shapes", overrides=["clip.weights=random", "clip.seed=3"]))
    assert found["train.steps"] == 600 and found["features.decoder_blocks"] == [1, 2, 3, 4]
    assert found["clip.identity"] == "random:3"
    assert "blue dotted" in found["classes"] and len(found["classes"]) == 24
    assert set(found["classes.unseen"]).isdisjoint(found["classes.seen"]) and len(found["classes.unseen"]) == 6
    assert not [name for name in found if name.startswith(("runtime.", "train.log_every", "data.root"))]


def test_a_run_whose_sources_are_gone_is_still_a_run(tmp_path: Path) -> None:
    make_run(tmp_path)
    (run,) = list_runs(tmp_path)
    remove(run.artifacts["pseudo_masks"].path)
    (run,) = list_runs(tmp_path)
    assert list(run.artifacts) == ["train", "evaluate"] and "pseudo_masks.merge" not in run.settings


def test_a_run_is_found_by_its_key_and_by_its_name(tmp_path: Path) -> None:
    first, second = make_run(tmp_path), make_run(tmp_path, seed=1)
    for artifact, name in ((first, "base"), (second, "seed one")):
        change_note(tmp_path, "shapes", artifact.key, name=name, text="")
    assert find_run(tmp_path, second.key[:10]).artifact == second
    assert find_run(tmp_path, "base").artifact == first
    training = find_run(tmp_path, f"train/{list_runs(tmp_path)[0].artifacts['train'].key}")
    assert training.artifact.stage == "train" and training.seed == 1 and training.usual["train.steps"] == 600
    with pytest.raises(DataError, match=r"no run in .* has the name 'wide'"):
        find_run(tmp_path, "wide")
    with pytest.raises(DataError, match=r"no artifact in .* begins with 0"):
        find_run(tmp_path, "0" * 64)
    change_note(tmp_path, "shapes", second.key, name="base", text="")
    with pytest.raises(ConfigError, match="2 runs have the name 'base'"):
        find_run(tmp_path, "base")


def test_an_evaluation_without_a_name_has_that_of_its_training(tmp_path: Path) -> None:
    make_run(tmp_path)
    (run,) = list_runs(tmp_path)
    change_note(tmp_path, "shapes", run.artifacts["train"].key, name="trained", text="of the training")
    assert list_runs(tmp_path)[0].note == Note("trained")
    change_note(tmp_path, "shapes", run.key, name="", text="of the evaluation")
    assert list_runs(tmp_path)[0].note == Note("trained", "of the evaluation")
    change_note(tmp_path, "shapes", run.key, name="evaluated", text="")
    assert list_runs(tmp_path)[0].note == Note("evaluated")


@pytest.mark.parametrize("name", ["", " ", "two\nlines", "x" * 81, "abba", "train/49ae"])
def test_a_name_is_a_line_that_is_no_key(name: str) -> None:
    with pytest.raises(ConfigError, match=r"expected one line|reads as the digits of a key"):
        check_run_name(name)
    assert check_run_name("größere Bilder, 2") == "größere Bilder, 2"
