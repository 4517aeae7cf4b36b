"""The verb `diff`."""

from __future__ import annotations

import json

from split_matching.cache.files import write_json
from tests.pipeline.toy_project import Toy


def test_diff_names_config_code_environment_and_results(project: Toy) -> None:
    project.run("Squares")
    first = project.newest("squares").name
    project.edit("squares", "* ctx.config.pseudo_masks.k", "* ctx.config.pseudo_masks.k * 2")
    project.run("Squares", "--set", "pseudo_masks.k=12")
    second = project.newest("squares").name
    assert project.run(f"diff {first[:8]} {second}") == 0
    assert project.out[0].startswith(f"- Squares {first} (shapes), made ")
    assert "  pseudo_masks.k: 8 -> 12" in project.out
    assert "  toy_stages/squares.py" in project.out
    assert f"  Squares {first} -> {second}" in project.out and "environment: the same" in project.out
    assert project.out[-1] == "contents: different"
    assert project.run(f"diff {first} {first}") == 0
    assert project.out[-1] == "the same artifact"


def test_diff_refuses_unknown_and_impossible_keys_in_one_line(project: Toy) -> None:
    project.run("Numbers")
    key = project.newest("shapes").name
    for word, message in (("0" * 16, "no artifact in "), ("xyz", "has the name 'xyz'")):
        assert project.run(f"diff {key} {word}") == 3
        assert len(project.err) == 1 and message in project.err[0]


def test_diff_refuses_the_beginning_of_several_keys(project: Toy) -> None:
    for scenes in range(17):  # two of 17 keys begin alike
        assert project.run("Numbers", "--set", f"shapes.train_scenes={scenes + 1}") == 0
    first = [path.name[0] for path in (project.folder / "artifacts/shapes/shapes").iterdir()]
    start = next(digit for digit in first if first.count(digit) > 1)
    assert project.run(f"diff {start} {start}") == 2
    assert len(project.err) == 1 and f"{first.count(start)} keys begin with {start} (shapes/" in project.err[0]


def test_a_prefix_may_name_the_stage(project: Toy) -> None:
    project.run("Page")
    key = project.newest("total").name
    assert project.run(f"diff total/{key[:2]} squares/{project.newest('squares').name[:2]}") == 0
    assert project.run(f"diff squares/{key} {key}") == 3


def test_of_two_stages_only_what_both_were_made_from_is_compared(project: Toy) -> None:
    project.run("Page")
    total, squares = project.newest("total").name, project.newest("squares").name
    assert project.run(f"diff total/{total} squares/{squares}") == 0
    assert "settings: the same" in project.out and "  Total (only in -)" in project.out
    project.run("Squares", "--set", "shapes.train_scenes=9")
    assert project.run(f"diff total/{total} squares/{project.newest('squares').name}") == 0
    place = project.out.index("settings:")
    assert project.out[place + 1 : place + 3] == ["  shapes.train_scenes: 10 -> 9", ""]


def test_control_characters_of_a_manifest_reach_no_terminal(project: Toy) -> None:
    """A copied cache may hold what anybody wrote, with a digest that fits."""
    project.run("Total")
    first = project.newest("total")
    project.run("Total", "--set", "train.steps=7")
    path = project.newest("total") / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["summary"] = {"total": "\x1b[31mred\nline"}
    manifest["code"]["a\x1b[2J.py"] = "0"
    del manifest["digest"]
    write_json(path, manifest)
    assert project.run(f"diff {first.name} {path.parent.name}") == 0
    assert any("\\x1b[31mred\\nline" in line for line in project.out)
    assert project.run("status", "--set", "train.steps=7") == 0
    assert "stale (code a\\x1b[2J.py)" in project.state_of("Total")
    assert all(line.isprintable() for line in project.out)
