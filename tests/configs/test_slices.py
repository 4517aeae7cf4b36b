"""Slices of a config: what a stage may read, and what enters its cache key."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from pydantic import Field

from split_matching.configs.load import load_config
from split_matching.configs.schema import Config
from split_matching.configs.section import Section, added
from split_matching.configs.settings import TrainConfig
from split_matching.configs.slices import ClassIds, build_slice

IDENTITY = {"clip.identity": "random:0"}


def test_slice_gives_what_was_declared_and_nothing_else():
    cut = build_slice(load_config("voc"), ["features", "data.fold", "clip.identity"], IDENTITY)
    assert cut.features.size == 512 and cut.data.fold is None and cut.clip.identity == "random:0"
    for path, read in (
        ("text", lambda: cut.text),
        ("data.folds", lambda: cut.data.folds),
        ("clip.model", lambda: cut.clip.model),
        ("classes", lambda: cut.classes),
    ):
        with pytest.raises(AttributeError, match=f"did not declare '{path}'"):
            read()


def test_section_and_virtual_value_stand_side_by_side():
    cut = build_slice(load_config("voc"), ["clip", "clip.identity"], IDENTITY)
    assert (cut.clip.model, cut.clip.identity) == ("ViT-B-16", "random:0")


def test_virtual_class_values_follow_the_fold():
    config = load_config("voc", overrides=["data.fold=0", "data.folds=3"])
    cut = build_slice(config, ["classes.ids", "classes.seen_ids", "classes.seen", "classes.all"])
    assert cut.classes.seen_ids == (2, 3, 4, 6, 7, 8, 11, 12, 13, 15)
    assert [entry.id for entry in cut.classes.seen] == list(cut.classes.seen_ids)
    assert cut.classes.ids == ClassIds(tuple(range(1, 21)), tuple(range(1, 16)), (0, 255))
    assert cut.classes.all.ids == tuple(range(1, 21))


def test_training_slices_hold_no_unseen_name_or_id():
    values = build_slice(load_config("voc"), ["classes.seen_ids", "classes.seen"]).key_values()
    assert not any(name in str(values) for name in ("sheep", "sofa", "pottedplant", "tvmonitor"))
    assert max(values["classes"]["seen_ids"]) == 15
    assert not any(prompt in str(values) for prompt in ("potted plant", "television", "computer monitor"))
    assert {"id": 11, "name": "diningtable", "prompts": ["dining table"]} in values["classes"]["seen"]
    hidden = build_slice(load_config("voc", overrides=["data.fold=1"]), ["classes.seen"])  # hides diningtable
    assert "dining" not in str(hidden.key_values()) and "dining" not in repr(hidden.classes.seen)


def test_a_class_without_prompts_has_the_key_values_of_the_time_before_them():
    values = build_slice(load_config("voc"), ["classes.seen", "classes.all"]).key_values()["classes"]
    assert values["seen"][0] == values["all"]["entries"][0] == {"id": 1, "name": "aeroplane"}
    assert "prompts" not in build_slice(load_config("voc"), ["text"]).key_values()["text"]
    plain = build_slice(load_config("voc", overrides=["text.prompts=false"]), ["text"]).key_values()["text"]
    assert plain["prompts"] is False


def test_runtime_fields_are_readable_but_not_in_the_key():
    reads = ["train", "runtime", "data.root"]
    one = build_slice(load_config("voc", overrides=["data.root=/a", "train.checkpoint_every=1"]), reads)
    two = build_slice(load_config("voc", overrides=["data.root=/b", "runtime.workers=5"]), reads)
    assert one.data.root == Path("/a") and one.train.checkpoint_every == 1 and two.runtime.workers == 5
    assert one.key_values() == two.key_values()
    assert set(one.key_values()) == {"train"}


def test_every_semantic_field_changes_the_key_of_its_section():
    before = build_slice(load_config("voc"), ["features"]).key_values()
    for override in ("features.size=64", "features.resize=long", "features.variant=qq", "features.decoder_blocks=[1]"):
        assert build_slice(load_config("voc", overrides=[override]), ["features"]).key_values() != before


def test_equal_values_written_differently_give_equal_keys():
    one = build_slice(load_config("voc", overrides=["train.lr=1e-4", "train.clip_grad=1"]), ["train"])
    two = build_slice(load_config("voc", overrides=["train.lr=0.0001", "train.clip_grad=1.0"]), ["train"])
    assert repr(one.key_values()) == repr(two.key_values())


def test_key_values_are_a_copy():
    cut = build_slice(load_config("voc"), ["features"])
    cut.key_values()["features"]["size"] = 1
    assert cut.key_values()["features"]["size"] == 512


def test_slices_travel_to_other_processes():
    cut = build_slice(load_config("voc"), ["features", "data.fold", "classes.seen"])
    there = pickle.loads(pickle.dumps(cut))
    assert there.key_values() == cut.key_values() and there.classes.seen == cut.classes.seen


@pytest.mark.parametrize("path", ["nothing", "train.nothing", "classes.nothing", "dataset", "clip.identity"])
def test_wrong_declarations_are_found_at_once(path):
    with pytest.raises(ValueError, match=path.replace(".", r"\.")):
        build_slice(load_config("voc"), [path])


# ---- a field that is added later ----


class LaterTrain(TrainConfig):
    """The section of a later version."""

    loss_edge: float = Field(0.0, json_schema_extra=added(neutral=0.0))
    blocks: tuple[int, ...] = Field((), json_schema_extra=added(neutral=[]))


class LaterMore(Section):
    """A section that an earlier version did not have."""

    sharpen: bool = Field(False, json_schema_extra=added(neutral=False))


class LaterConfig(Config):
    """The config of a later version."""

    train: LaterTrain = LaterTrain()
    more: LaterMore = LaterMore()


def test_a_field_that_is_added_changes_no_key_while_it_is_neutral():
    before = build_slice(Config(), ["train", "data.fold"])
    after = build_slice(LaterConfig(), ["train", "data.fold", "more"])
    assert after.key_values() == before.key_values()
    assert after.train.loss_edge == 0 and after.more.sharpen is False
    one_field = build_slice(LaterConfig(), ["train.steps", "train.loss_edge"])
    assert one_field.key_values() == {"train": {"steps": 20000}}


def test_the_manifest_records_it_all_the_same():
    recorded = build_slice(LaterConfig(), ["train", "more"]).recorded_values()
    assert recorded["train"]["loss_edge"] == 0.0 and recorded["train"]["blocks"] == []
    assert recorded["more"] == {"sharpen": False}
    plain = build_slice(Config(), ["pretrain"])  # no field of it was added later
    assert plain.recorded_values() == plain.key_values()


@pytest.mark.parametrize(
    ("values", "entry"),
    [({"loss_edge": 0.5}, {"loss_edge": 0.5}), ({"blocks": (3,)}, {"blocks": [3]})],
)
def test_any_other_value_enters_the_key(values, entry):
    neutral = build_slice(LaterConfig(), ["train"]).key_values()["train"]
    set_otherwise = build_slice(LaterConfig(train=LaterTrain(**values)), ["train"]).key_values()["train"]
    assert set_otherwise == {**neutral, **entry}


def test_a_default_that_is_changed_later_enters_the_key():
    """What is left out is the neutral value that was recorded, not the default of the day."""

    class ChangedTrain(TrainConfig):
        loss_edge: float = Field(0.5, json_schema_extra=added(neutral=0.0))

    class ChangedConfig(Config):
        train: ChangedTrain = ChangedTrain()

    plain = build_slice(Config(), ["train"]).key_values()["train"]
    assert build_slice(ChangedConfig(), ["train"]).key_values()["train"] == {**plain, "loss_edge": 0.5}
    chosen = ChangedConfig(train=ChangedTrain(loss_edge=0.0))
    assert build_slice(chosen, ["train"]).key_values()["train"] == plain
