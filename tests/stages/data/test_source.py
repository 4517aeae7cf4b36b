"""Layouts of data sets: each is one file, found by its name, and no stage depends on those of other data sets."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import get_args

import pytest

from split_matching.cache.code import CODE_FOLDER, module_closure
from split_matching.configs.data_settings import DataConfig
from split_matching.configs.load import load_config
from split_matching.pipeline.stages import make_plan
from split_matching.stages.data.source import layout_module, load_layout

FOLDER = "stages/data/layouts"
NAMES = get_args(DataConfig.model_fields["layout"].annotation)


def layout_files(code: dict[str, str]) -> set[str]:
    return {Path(path).stem for path in code if path.startswith(f"{FOLDER}/")} - {"__init__"}


def test_every_layout_of_the_schema_is_one_file() -> None:
    assert {path.stem for path in (CODE_FOLDER / FOLDER).glob("*.py")} - {"__init__"} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_layout_names_fields_that_exist(name: str) -> None:
    layout = load_layout(name)
    assert set(layout.images) | set(layout.masks) | set(layout.lists) <= set(DataConfig.model_fields)
    assert set(layout.images) <= set(layout.masks)


@pytest.mark.parametrize(
    ("dataset", "files"),
    [("voc_cached", {"voc"}), ("shapes", {"shapes", "voc"}), ("coco_stuff_cached", {"coco_stuff"})],
)
def test_the_code_of_a_stage_holds_the_layout_of_its_config_and_no_other(dataset: str, files: set[str]) -> None:
    plan = make_plan(load_config(dataset, overrides=["clip.weights=random"]))
    opens = {"dataset", "features", "pseudo_masks", "regions", "train", "evaluate", "report"}
    assert {name: layout_files(plan[name].code) for name in plan.stages} == {
        name: files if name in opens else set() for name in plan.stages
    }


def test_a_new_layout_changes_no_fingerprint(tmp_path: Path) -> None:
    plan = make_plan(load_config("voc", overrides=["clip.weights=random"]))
    modules = {stage.module for stage in plan.stages.values()} | {layout_module("voc")}
    for room in ("model", "stages"):
        shutil.copytree(CODE_FOLDER / room, tmp_path / room, ignore=shutil.ignore_patterns("__pycache__"))
    before = {module: module_closure(module, root=tmp_path) for module in modules}
    (tmp_path / FOLDER / "folder2.py").write_text("from split_matching.stages.data.layouts.folder import LAYOUT\n")
    assert {module: module_closure(module, root=tmp_path) for module in modules} == before
    assert layout_files(module_closure(layout_module("folder2"), root=tmp_path)) == {"folder2", "folder"}
