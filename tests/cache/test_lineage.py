"""What an artifact was made from, by manifests alone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from split_matching.cache.artifact import Artifact
from split_matching.cache.entry import Entry, Recipe
from split_matching.cache.files import remove, self_digest
from split_matching.cache.keys import digest
from split_matching.cache.lineage import trace
from split_matching.cache.names import MANIFEST
from tests.cache.example_builds import make_plain


def make(root: Path, stage: str, text: str, *sources: Artifact, key: str = "") -> Artifact:
    """An artifact of a text file, made from others."""
    inputs = {f"{source.stage}/out.txt": source.content_of(("out.txt",)) for source in sources}
    recipe = Recipe(stage.title(), inputs=inputs, upstream={source.stage: source.key for source in sources})
    return make_plain(Entry(root, "toy", stage, digest(key or f"{stage} {text}")), text, recipe)


def forget_keys(artifact: Artifact) -> Artifact:
    """Make its manifest one of the time before it named the keys of what it is made from."""
    manifest = {name: value for name, value in artifact.manifest.items() if name not in ("upstream", "digest")}
    (artifact.path / MANIFEST).write_text(json.dumps({**manifest, "digest": self_digest(manifest)}))
    return replace(artifact, manifest=manifest)


def names(found: dict[str, Artifact]) -> list[tuple[str, str]]:
    return [(stage, (artifact.path / "out.txt").read_text()) for stage, artifact in found.items()]


def test_all_upstream_is_found_once_and_comes_first(tmp_path: Path) -> None:
    lists = make(tmp_path, "lists", "a")
    left, right = make(tmp_path, "left", "b", lists), make(tmp_path, "right", "c", lists)
    make(tmp_path, "left", "of another run", lists)
    found = trace(make(tmp_path, "end", "d", left, right))
    assert names(found) == [("lists", "a"), ("left", "b"), ("right", "c"), ("end", "d")]


def test_equal_contents_of_other_settings_are_told_apart_by_the_key(tmp_path: Path) -> None:
    wanted = make(tmp_path, "lists", "same", key="wanted")
    newer = make(tmp_path, "lists", "same", key="newer")
    end = make(tmp_path, "end", "d", wanted)
    assert trace(end)["lists"].path == wanted.path
    # an early manifest knows contents only: the newest of them is taken
    assert trace(forget_keys(end))["lists"].path == newer.path


def test_an_early_manifest_needs_all_of_the_contents(tmp_path: Path) -> None:
    wanted = make(tmp_path, "lists", "a")
    make(tmp_path, "lists", "b")
    assert trace(forget_keys(make(tmp_path, "end", "d", wanted)))["lists"].path == wanted.path


def test_an_early_manifest_is_not_of_what_holds_nothing_of_that_name(tmp_path: Path) -> None:
    wanted, newer = make(tmp_path, "lists", "a"), make(tmp_path, "lists", "b")
    manifest = {**newer.manifest, "files": {}, "content": {}, "created": "9999"}
    (newer.path / MANIFEST).write_text(json.dumps({**manifest, "digest": self_digest(manifest)}))
    assert trace(forget_keys(make(tmp_path, "end", "d", wanted)))["lists"].path == wanted.path


def test_what_was_removed_is_left_out(tmp_path: Path) -> None:
    lists = make(tmp_path, "lists", "a")
    middle = make(tmp_path, "middle", "b", lists)
    end = make(tmp_path, "end", "c", middle)
    remove(middle.path)
    assert names(trace(end)) == [("end", "c")]
    remove(lists.path)
    assert names(trace(forget_keys(end))) == [("end", "c")]
