"""State files of wrong fields with a right digest are damage; what may not be read is not taken for absent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from split_matching.cache.accept import accept_code
from split_matching.cache.artifact import load_artifact
from split_matching.cache.build import open_build
from split_matching.cache.entry import PROGRESS, Entry, read_progress
from split_matching.cache.files import write_json
from split_matching.cache.folders import read_inputs
from split_matching.errors import CorruptError, UserError
from tests.cache.example_builds import IDS, RECIPE, make_plain, make_shard, make_sharded, plan_of, shards_of
from tests.hidden import hidden

WRONG = (None, True, -1, float("nan"), "x", ["x"], [[1]], {"x": None}, {"x": {}}, {"x": ["x"]})
"""None of these is right in any place of a build.json, a sidecar or a checkpoint.json but some texts."""


def rewrite(path: Path, **changes: Any) -> None:
    """Change fields of a JSON file of ours, with the digest that then fits; a field of the value `...` is removed."""
    value = {**json.loads(path.read_text()), **changes}
    del value["digest"]
    write_json(path, {name: item for name, item in value.items() if item is not ...})


@pytest.mark.parametrize("wrong", [*WRONG, ...], ids=repr)
@pytest.mark.parametrize("field", ["key", "code", "inputs", "plan"])
def test_a_build_of_wrong_fields_is_thrown_away(entry: Entry, field: str, wrong: Any) -> None:
    build = open_build(entry, RECIPE, plan_of(4))
    make_shard(build, 1, shards_of(4)[1])
    rewrite(build.path / "build.json", **{field: wrong})
    assert str(entry.state(RECIPE)) == "missing (would remove 1 finished shard of a damaged build)"
    assert not entry.has_build(RECIPE) and entry.cuts(RECIPE) == [] and read_inputs(build.path) == {}
    said: list[str] = []
    assert not open_build(entry, RECIPE, plan_of(4), say=said.append).is_done("train", 1)
    assert said == [f"removes 1 finished shard of other code or inputs from {build.path}"]


@pytest.mark.parametrize("wrong", [*WRONG, ...], ids=repr)
@pytest.mark.parametrize("field", ["bytes", "sha256", "data", "layout", "seconds"])
def test_a_shard_with_a_sidecar_of_wrong_fields_is_made_again(entry: Entry, field: str, wrong: Any) -> None:
    build = open_build(entry, RECIPE, plan_of(4))
    for index, ids in enumerate(shards_of(4)):
        make_shard(build, index, ids)
    rewrite(build.path / "train-00001.h5.done.json", **{field: wrong})
    early = wrong is ... and field in ("layout", "seconds")  # what the first shards did not have
    assert [build.is_done("train", index) for index in range(3)] == [True, early, True]
    assert build.shard_seconds() <= 0.3 and entry.damaged_shards() == []
    assert make_sharded(entry).shards("train").read(IDS[5], "x").tolist() == [0, 1, 4, 9, 16]


def test_a_build_that_may_not_be_read_is_left_as_it_is(entry: Entry) -> None:
    """Nobody knows whether it is another one, which would be thrown away with its finished shards."""
    build = open_build(entry, RECIPE, plan_of(4))
    make_shard(build, 1, shards_of(4)[1])
    for name, ask in (
        ("build.json", lambda: open_build(entry, RECIPE, plan_of(4))),
        ("build.json", lambda: entry.state(RECIPE)),
        ("train-00001.h5.done.json", lambda: build.is_done("train", 1)),
    ):
        with hidden(build.path / name), pytest.raises(UserError, match=rf"cannot read .*{name}: permission denied"):
            ask()
    assert open_build(entry, RECIPE, plan_of(4)).is_done("train", 1)


@pytest.mark.parametrize("wrong", [*WRONG, ...], ids=repr)
@pytest.mark.parametrize("field", ["step", "steps", "seconds"])
def test_progress_of_wrong_fields_is_none(tmp_path: Path, field: str, wrong: Any) -> None:
    write_json(tmp_path / PROGRESS, {"step": 2, "steps": 5, "seconds": 0.5})
    assert read_progress(tmp_path) == (2, 5, 0.5)
    rewrite(tmp_path / PROGRESS, **{field: wrong})
    assert read_progress(tmp_path) == (0, 0, 0.0)


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("key", "k"),
        ("key", ...),
        ("code", {"a.py": 1}),
        ("inputs", {"a": None}),
        ("plan", {"train": [1]}),
        ("files", {}),
        ("files", {"out.txt": {"bytes": "4", "sha256": "0" * 64}}),
        ("files", {"out.txt": {"bytes": 4}}),
        ("files", {"out.txt": "0" * 64}),
        ("files", {"../out.txt": {"bytes": 4, "sha256": "0" * 64}}),
        ("files", {"/etc/passwd": {"bytes": 4, "sha256": "0" * 64}}),
        ("content", {"out.txt": 1}),
        ("content", {}),
        ("seconds", -1),
        ("created", 2026),
        ("summary", ["x"]),
        ("upstream", {"shapes": 1}),
        ("adopted", 1),
        ("equal_inputs", {"numbers/train": "0"}),
        ("versions", []),
    ],
)
def test_a_manifest_of_wrong_fields_is_damage(entry: Entry, field: str, wrong: Any) -> None:
    path = make_plain(entry).path / "manifest.json"
    rewrite(path, **{field: wrong})
    with pytest.raises(CorruptError, match=r"manifest\.json is altered: run the stage again"):
        load_artifact(path.parent)
    assert entry.state(RECIPE).name == "corrupt"
    assert make_plain(entry).file("out.txt").read_text() == "text"
    assert entry.state(RECIPE).fresh


@pytest.mark.parametrize("text", ["[]", "1", "{", "\xff", "[" * 100_000])
def test_what_took_the_place_of_a_manifest_is_left_alone(entry: Entry, text: str) -> None:
    artifact = make_plain(entry)
    (artifact.path / "manifest.json").write_text(text, encoding="latin-1")
    with pytest.raises(CorruptError, match="made again meanwhile"):
        accept_code(artifact, {"stages/a.py": "2"})
    assert (artifact.path / "manifest.json").read_text(encoding="latin-1") == text
