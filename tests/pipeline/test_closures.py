"""The code of each stage, which decides whether it is stale: which files, and that an edit makes no other one stale.

    python -m tests.pipeline.test_closures     # accept the present lists, after looking at the difference

The lists are in closures.yaml, of the config `shapes`; package files without code are left out.
"""

from __future__ import annotations

import difflib
import re
import shutil
from pathlib import Path

import pytest
import yaml

from split_matching.cache.code import CODE_FOLDER, module_closure
from split_matching.configs.load import load_config
from split_matching.pipeline.plan import Plan
from split_matching.pipeline.stages import STAGES, make_plan

EXPECTED = Path(__file__).with_name("closures.yaml")
ACCEPT = "python -m tests.pipeline.test_closures"
HEADER = f"""# The files that make the result of each stage of `shapes`: an edit of their code makes the stage stale.
# Held by test_closures.py. Accept a change with: {ACCEPT}

"""


def shapes(*overrides: str) -> Plan:
    return make_plan(load_config("shapes", overrides=overrides))


def files_of(plan: Plan, stage: str) -> list[str]:
    """Files of a stage, without package files that hold no code."""
    return [name for name in plan.stage(stage).code if (CODE_FOLDER / name).stat().st_size]


def present() -> str:
    """All stages of `shapes` and their files, as YAML."""
    plan = shapes()
    lists = {stage.__name__: files_of(plan, stage.__name__) for stage in STAGES}
    return HEADER + "\n".join(yaml.safe_dump({name: files}, sort_keys=False) for name, files in lists.items())


def test_every_stage_holds_the_files_that_are_listed() -> None:
    expected, found = EXPECTED.read_text(encoding="utf-8"), present()
    if expected == found:
        return
    lines = difflib.unified_diff(expected.splitlines(), found.splitlines(), EXPECTED.name, "now", lineterm="", n=30)
    pytest.fail(f"the code of a stage has changed; if that is meant, accept it with: {ACCEPT}\n" + "\n".join(lines))


def folders(files: list[str]) -> set[str]:
    return {"/".join(Path(name).parts[:2]) for name in files}


@pytest.mark.parametrize("features", ["cached", "online"])
def test_training_holds_nothing_of_clustering_inference_or_pages(features: str) -> None:
    found = folders(files_of(shapes(f"train.features={features}"), "TrainDecoder"))
    assert not found & {"stages/candidates", "stages/inference", "stages/pages"}


@pytest.mark.parametrize("predictor", ["decoder", "dense", "regions"])
def test_evaluation_holds_its_predictor_and_clusters_only_where_clusters_are_named(predictor: str) -> None:
    found = files_of(shapes(f"evaluate.predictor={predictor}"), "Evaluate")
    assert not folders(found) & {"stages/training", "stages/pages"}
    predictors = {Path(name).stem for name in found if name.startswith("stages/inference/predictors/")}
    assert predictors == {"__init__", predictor}
    assert any(name.startswith("stages/candidates/clustering/") for name in found) == (predictor == "regions")


@pytest.mark.parametrize(("engine", "other"), [("faiss", "torch"), ("torch", "faiss")])
def test_clustering_holds_its_own_engine(engine: str, other: str) -> None:
    found = files_of(shapes(f"pseudo_masks.engine={engine}"), "ClusterPseudoMasks")
    assert f"stages/candidates/clustering/multiscale_{engine}.py" in found
    assert not [name for name in found if other in name]


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the code that makes results."""
    folder = tmp_path_factory.mktemp("code")
    for room in ("model", "stages"):
        shutil.copytree(CODE_FOLDER / room, folder / room, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def code(root: Path) -> dict[str, list[dict[str, str]]]:
    """The code of every stage as it is in a copy."""
    return {
        stage.command: [module_closure(module, root=root) for module in (stage.module, *stage.chosen)]
        for stage in shapes().stages.values()
    }


@pytest.mark.parametrize(
    ("file", "variable", "stale"),
    [
        ("stages/candidates/pseudo_masks.py", "taken", {"ClusterPseudoMasks"}),
        ("stages/candidates/clustering/multiscale_faiss.py", "cells", {"ClusterPseudoMasks", "Report"}),
        ("stages/candidates/clustering/multiscale_torch.py", "cells", set()),
        ("stages/inference/predictors/regions.py", "dense", set()),
        ("stages/inference/metrics.py", "correct", {"Evaluate"}),
    ],
)
def test_a_renamed_variable_makes_stale_only_the_stages_that_run_the_file(
    file: str, variable: str, stale: set[str], copy: Path
) -> None:
    before = code(copy)
    path = copy / file
    text = path.read_text(encoding="utf-8")
    path.write_text(re.sub(rf"\b{variable}\b", "renamed", text), encoding="utf-8")
    assert path.read_text(encoding="utf-8") != text
    after = code(copy)
    path.write_text(text, encoding="utf-8")
    assert {name for name in before if before[name] != after[name]} == stale


if __name__ == "__main__":
    EXPECTED.write_text(present(), encoding="utf-8")
    print(EXPECTED.read_text(encoding="utf-8"))
