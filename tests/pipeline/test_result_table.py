"""The table that Evaluate and Report end with."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from split_matching.configs.load import load_config
from split_matching.configs.slices import build_slice
from split_matching.pipeline.cli import main
from split_matching.pipeline.run.result_table import list_result

METRICS = {"pAcc": 94.64, "mIoU_seen": 80.06, "mIoU_unseen": None, "hIoU": None, "extra": {}}
CLASSES = """id,name,group,iou,accuracy
1,cat,seen,71.2500,80
2,'=dog,unseen,12.3400,20
3,cow,unseen,nan,nan
5,sky,seen,50.5000,60
6,sea,seen,0.0400,1
"""


class Artifact:
    """A folder with the face of an artifact."""

    def __init__(self, path: Path, trial: tuple[str, ...]) -> None:
        self.path = path
        self.manifest = {"config": {"data": {"images": list(trial)}}}

    def file(self, name: str) -> Path:
        return self.path / name

    def json(self, name: str) -> Any:
        return {"images": ["a", "b"]} if name != "metrics.json" else json.loads((self.path / name).read_text())


class Plan(dict[str, Any]):
    config: Any


def lines(tmp_path: Path, *overrides: str, dataset: str = "voc", trial: tuple[str, ...] = ()) -> list[str]:
    (tmp_path / "metrics.json").write_text(json.dumps(METRICS))
    (tmp_path / "per_class.csv").write_text(CLASSES)
    config = load_config(dataset, overrides=overrides)
    artifact = Artifact(tmp_path, trial)
    plan = Plan({name: SimpleNamespace(artifact=lambda: artifact) for name in ("evaluate", "dataset")})
    plan["report"] = SimpleNamespace(slice=build_slice(config, ("data", "clip.weights"), {}))
    plan.config = config
    return [line for line, _ in list_result(SimpleNamespace(plan=plan))]  # type: ignore[arg-type]


def test_numbers_and_the_worst_classes_that_count(tmp_path: Path) -> None:
    assert lines(tmp_path, "data.expected_train=2", "data.expected_val=2") == [
        "",
        "percent     pAcc   mIoU S   mIoU U     hIoU",
        "voc         94.6     80.1        -        -",
        "worst classes: sea 0.0 (seen), =dog 12.3 (unseen), sky 50.5 (seen)",
        "",
    ]


def test_what_limits_the_numbers_is_said_in_80_columns(tmp_path: Path) -> None:
    found = lines(tmp_path, "clip.weights=random")
    text = " ".join(found)
    assert "Plumbing only: Random CLIP weights: these numbers mean nothing." in text
    assert "Not the full data set: This run used 2 of 10,582 training images and 2 of 1,449 validation images" in text
    assert all(len(line) < 80 for line in found)
    trial = " ".join(lines(tmp_path, dataset="shapes", trial=("a", "b", "c")))
    assert "Not the full data set: A trial on 3 images" in trial and "Embedded data set: Rendered scenes" in trial
    assert "Tuning run: Fold 1 of 3: “unseen” means 2 seen classes" in " ".join(lines(tmp_path, "data.fold=1"))


@pytest.mark.slow
def test_evaluate_ends_with_it_and_the_path(tiny_run: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["Evaluate", *tiny_run]) == 0
    out = capsys.readouterr().out.splitlines()
    folder = Path(out[-1]).parent
    metrics = json.loads((folder / "metrics.json").read_text())
    row = next(line for line in out if line.startswith("shapes "))
    assert [float(cell) for cell in row.split()[1:]] == [
        pytest.approx(metrics[name], abs=0.051) for name in ("pAcc", "mIoU_seen", "mIoU_unseen", "hIoU")
    ]
    with (folder / "per_class.csv").open(newline="") as file:
        worst = min((float(row["iou"]), row["name"]) for row in csv.DictReader(file) if row["iou"] != "nan")
    assert "worst classes: " in "".join(out) and any(f"{worst[0]:.1f} (" in line for line in out)
    assert main(["Evaluate", *tiny_run, "--quiet"]) == 0
    assert capsys.readouterr().out.splitlines() == [out[-1]]
