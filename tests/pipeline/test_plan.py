"""The real stages' table: what enters which key, and what a stage may look at."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from split_matching.configs.class_list import ClassList
from split_matching.configs.load import load_config
from split_matching.configs.schema import Config
from split_matching.configs.section import Section
from split_matching.errors import ConfigError, DataError
from split_matching.pipeline.plan import Plan
from split_matching.pipeline.stages import STAGES, make_plan
from tests.conftest import VocTree

RANDOM = "clip.weights=random"
SETTINGS = {
    "runtime.artifacts": "elsewhere",
    "runtime.device": "cpu",
    "runtime.workers": "3",
    "runtime.threads": "2",
    "runtime.shard_size": "7",
    "runtime.batch": "5",
    "runtime.cache_mb": "1",
    "runtime.scheduler": "node1:8082",
    "runtime.engine": "slurm",
    "runtime.slurm": "--time=60",
    "runtime.remote": "file:///somewhere",
    "train.checkpoint_every": "3",
    "train.log_every": "7",
    "data.root": "/somewhere",
}


def plan(*overrides: str, dataset: str = "shapes") -> Plan:
    return make_plan(load_config(dataset, overrides=[RANDOM, *overrides]))


def keys(some: Plan) -> dict[str, str]:
    return {name: stage.key for name, stage in some.stages.items()}


def changed(*overrides: str) -> set[str]:
    """Return the stages whose keys differ from those of the default config."""
    before, after = keys(plan()), keys(plan(*overrides))
    return {name for name in before if before[name] != after[name]}


def runtime_fields(model: type[Section], path: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        extra: Any = field.json_schema_extra or {}
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from runtime_fields(field.annotation, f"{name}.")
        elif extra.get("runtime"):
            yield f"{path}{name}"


IDENTITIES = {"clip.weights", "clip.seed", "evaluate.trained_on"}
"""What they lead to enters keys, not where it lies."""


@pytest.mark.parametrize(
    "field", sorted({*runtime_fields(Config)} - IDENTITIES - {"data.download"})
)  # of `folder` only
def test_runtime_field_enters_no_key(field: str) -> None:
    assert field in SETTINGS, "a new runtime field needs a value in this test"
    needed = ["runtime.slurm=--time=60"] if field == "runtime.engine" else []
    assert changed(f"{field}={SETTINGS[field]}", *needed) == set()


@pytest.mark.parametrize(
    ("override", "first"),
    [
        ("shapes.seed=1", {"shapes", "dataset"}),
        ("data.val_split=other", {"dataset"}),
        ("features.size=64", {"features"}),
        ("clip.seed=1", {"text", "features"}),
        ("text.templates=['{}']", {"text", "evaluate"}),
        ("pseudo_masks.merge=0.8", {"pseudo_masks", "regions", "train"}),
        ("regions.method=mean", {"regions"}),
        ("decoder.layers=2", {"train"}),
        ("train.lr=1e-4", {"train"}),
        ("evaluate.gamma=0.1", {"evaluate"}),
        ("report.examples=3", {"report"}),
    ],
)
def test_semantic_field_enters_the_keys_that_read_it_and_all_below(override: str, first: set[str]) -> None:
    some = plan()
    below = {s for s in some.stages if first & {member.name for member in some.closure(s)}}
    assert changed(override) == below


def test_every_semantic_field_enters_some_key() -> None:
    online = ("train.features=online", "evaluate.mode=slide")
    variants = [(), ("pseudo_masks.method=kmeans",), online, ("train.validate_every=9",)]
    read = {path for overrides in variants for stage in plan(*overrides).stages.values() for path in stage.reads}
    sections = {path for path in read if "." not in path}
    for section, field in Config.model_fields.items():
        if not (isinstance(field.annotation, type) and issubclass(field.annotation, Section)) or section == "runtime":
            continue
        for name in field.annotation.model_fields:
            assert section in sections or f"{section}.{name}" in read, f"{section}.{name} is read by no stage"


def test_folds_share_features() -> None:
    assert not changed("data.fold=0") & {"shapes", "dataset", "features"}
    assert {"text", "train", "evaluate"} <= changed("data.fold=0")


@pytest.mark.parametrize("predictor", ["decoder", "dense", "regions"])
def test_other_classes_in_a_fold_are_another_evaluation(predictor: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before, without = (plan(f"evaluate.predictor={predictor}", *fold)["evaluate"].key for fold in (["data.fold=0"], []))
    monkeypatch.setattr(ClassList, "hidden", lambda self, fold, folds=3: self.seen()[:1] if fold is not None else ())
    assert plan(f"evaluate.predictor={predictor}", "data.fold=0")["evaluate"].key != before
    assert plan(f"evaluate.predictor={predictor}")["evaluate"].key == without


def test_unseen_names_enter_no_key_before_evaluation() -> None:
    some = plan()
    names = [entry.name for entry in some["evaluate"].slice.classes.all.unseen_entries]
    for name in ("dataset", "features", "text", "pseudo_masks", "regions", "train"):
        values = str(some[name].recipe.config)
        assert not any(unseen in values for unseen in names), name


def test_prompts_of_unseen_classes_enter_no_key_before_evaluation(tmp_path: Path) -> None:
    """Nor do those of a seen class that a fold hides; those of a class that is trained on enter all keys below."""

    def changed_by(name: str, *overrides: str) -> set[str]:
        found = []
        for word in ("one", "two"):
            entries = "".join(
                f"  - {{id: {i}, name: {n}{f', prompts: [{word}]' * (n == name)}}}\n" for i, n in enumerate("abcd")
            )
            (tmp_path / "mine.yaml").write_text(f"ignore: [255]\nclasses:\n{entries}unseen: [d]\n")
            found.append(keys(plan(f"data.classes={tmp_path / 'mine.yaml'}", *overrides)))
        return {stage for stage in found[0] if found[0][stage] != found[1][stage]}

    after = {"evaluate", "report"}
    assert changed_by("d") == after
    assert changed_by("b") == {"text", "train", *after}
    assert changed_by("b", "data.fold=1") == after
    assert changed_by("a", "data.fold=1") == {"text", "train", *after}


def test_weights_are_known_by_their_bytes(tmp_path: Path) -> None:
    for name in ("a.pt", "b.pt"):
        (tmp_path / name).write_bytes(b"weights")
    first, second = (keys(plan(f"clip.weights={tmp_path / name}")) for name in ("a.pt", "b.pt"))
    assert first["features"] == second["features"]
    (tmp_path / "b.pt").write_bytes(b"others!")
    assert keys(plan(f"clip.weights={tmp_path / 'b.pt'}"))["features"] != first["features"]


def test_pretrained_clip_comes_first_only_if_asked_for() -> None:
    assert "pretrain" not in {s.name for s in plan().closure("report")}
    asked = plan("clip.weights=pretrain")
    assert "pretrain" in {s.name for s in asked.closure("text")}
    assert keys(asked)["text"] != keys(plan("clip.weights=pretrain", "pretrain.steps=5"))["text"]
    assert "pretrain" not in {s.name for s in asked.closure("dataset")}


def test_photographs_are_not_rendered() -> None:
    assert not {"shapes", "pretrain"} & set(plan(dataset="voc").stages)
    with pytest.raises(ConfigError, match="RenderShapes does not exist for dataset voc"):
        plan(dataset="voc").stage("RenderShapes")


SLIDING = ("features.persist=false", "train.features=online", "evaluate.mode=slide")


@pytest.mark.parametrize(
    ("overrides", "kept"),
    [
        ((), ("train", "val")),
        (("evaluate.mode=slide",), ("train", "val")),  # beside those of training images, whatever evaluation reads
        (("features.persist=false", "train.features=online"), ("val",)),
        (SLIDING, ()),
        (("features.persist=false", "train.features=online", "decoder.prompts=2"), ()),
        ((*SLIDING, "evaluate.predictor=dense"), ("val",)),
        ((*SLIDING, "evaluate.predictor=regions"), ("val",)),
    ],
)
def test_features_are_cached_only_where_a_stage_reads_them(overrides: tuple[str, ...], kept: tuple[str, ...]) -> None:
    some = plan(*overrides)
    assert (some["features"].splits if "features" in some.stages else ()) == kept
    reads_images = "evaluate.mode=slide" in overrides or "decoder.prompts=2" in overrides
    trained = not any("predictor" in override for override in overrides)
    assert ("features" in some["evaluate"].upstream) == (not (reads_images and trained))
    assert ("features" in some["report"].upstream) == ("val" in kept)


def test_a_report_without_cached_features_holds_the_code_that_computes_them() -> None:
    for overrides, computes in (((), False), (SLIDING, True)):
        report = plan(*overrides)["report"]
        files = {"stages/candidates/computed_features.py", "stages/candidates/extractor.py", "model/clip.py"}
        assert (files <= report.code.keys()) == computes and bool(files & report.code.keys()) == computes
        assert ("images.json" in report.upstream["dataset"]) == computes
    first, *others = (keys(plan(*SLIDING, *more)) for more in ((), ("features.variant=qq",), ("clip.seed=1",)))
    assert all(first["report"] != other["report"] for other in others)


def test_a_stage_that_a_config_does_without_says_why() -> None:
    with pytest.raises(ConfigError, match=r"ExtractFeatures does not exist for dataset voc: features.persist is false"):
        plan(dataset="voc").stage("ExtractFeatures")


def test_missing_root_is_one_line_with_the_remedy() -> None:
    with pytest.raises(DataError, match=r"--set data.root=PATH"):
        print(plan(dataset="voc")["dataset"].state)
    states = plan(dataset="voc").states()
    assert "data.root" in str(states["dataset"])
    assert str(states["text"]) == "missing"


def test_raw_files_decide_about_freshness_and_lists_about_the_key(voc_tree: Any) -> None:
    tree: VocTree = voc_tree()
    root = f"data.root={tree.root}"
    before = plan(root, dataset="voc")["dataset"]
    inputs = before.recipe.inputs
    tree.write_image("2007_000001", (30, 40), seed=5)
    after = plan(root, dataset="voc")["dataset"]
    assert (after.key, after.recipe.inputs == inputs) == (before.key, False)
    tree.write_list("val", ["2007_000002", "2007_000003"])
    assert plan(root, dataset="voc")["dataset"].key != before.key


def test_stages_are_in_order_and_their_modules_exist() -> None:
    names: list[str] = []
    for stage in plan("clip.weights=pretrain").stages.values():
        assert set(stage.upstream) <= set(names)
        assert importlib.util.find_spec(stage.module) is not None
        names.append(stage.name)
    assert names == [stage.name for stage in STAGES] and len(set(names)) == len(names)


def test_every_stage_has_a_task_that_luigi_finds() -> None:
    from split_matching.pipeline.run import tasks

    for stage in STAGES:
        task = getattr(tasks, stage.__name__)
        assert task.__doc__


def test_evaluation_reads_the_weights_that_were_asked_for() -> None:
    every = "train.validate_every=10"
    read = [plan(every, *more)["evaluate"].upstream["train"] for more in ((), ("evaluate.checkpoint=best",))]
    assert read == [("weights.safetensors",), ("best.safetensors",)]
