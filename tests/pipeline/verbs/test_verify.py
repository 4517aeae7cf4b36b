"""The verb `verify`."""

from __future__ import annotations

import pytest

from split_matching.cache.artifact import Artifact
from tests.pipeline.toy_project import Toy


def test_verify_all_reads_what_other_configs_made(project: Toy) -> None:
    project.run("Squares", "--set", "pseudo_masks.k=9")
    shard = project.newest("squares") / "train-00001.h5"
    project.run("Total")
    shard.write_bytes(shard.read_bytes()[:-1] + b"?")
    assert project.run("verify") == 0  # the present config does not reach it
    assert project.run("verify", "--all") == 4
    name = f"shapes/squares/{shard.parent.name}"
    assert [line for line in project.out if "altered" in line] == [
        f"{name}: {shard} is altered, renamed to {shard}.damaged: run its config again"
    ]
    assert len([line for line in project.out if line.endswith(" as written")]) == 4
    project.run("Squares", "--set", "pseudo_masks.k=9")
    assert project.run("verify", "--all") == 0
    (shard.parent / "manifest.json").write_text("{}")
    assert project.run("verify", "--all") == 4
    assert f"{name}: its manifest is damaged or absent: `gc` removes it" in project.out


def test_a_result_that_is_made_again_meanwhile_is_left_alone(project: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    project.run("Total")
    folder, real = project.newest("total"), Artifact.damaged_files

    def make_again(artifact: Artifact) -> list[str]:
        """Another process does so while this one reads the files."""
        if artifact.path != folder:
            return list(real(artifact))
        monkeypatch.setattr(Artifact, "damaged_files", real)
        assert project.run("Total", "--force") == 0
        return ["total.txt"]

    monkeypatch.setattr(Artifact, "damaged_files", make_again)
    assert project.run("verify") == 0
    assert not list(folder.glob("*.damaged"))
