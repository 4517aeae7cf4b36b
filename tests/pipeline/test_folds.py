"""The verb `ablate` on folds of the seen classes: its table, the gammas that it chooses, and what it never looks at."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from split_matching.configs.class_list import load_shipped_classes
from split_matching.configs.load import load_config
from split_matching.configs.schema import Config
from split_matching.pipeline.cli import main
from split_matching.pipeline.experiments.gammas import read_gammas
from split_matching.pipeline.experiments.runs import Outcome
from split_matching.pipeline.experiments.variants import Repeat, opening_comment
from split_matching.pipeline.verbs import ablate as ablation
from tests.handmade import TINY
from tests.pipeline import scored_runs
from tests.pipeline.scored_runs import by_matching, metrics_of, request, variant

ran, variants, forget_code = scored_runs.ran, scored_runs.variants, scored_runs.forget_code
REAL = [*TINY, "runtime.threads=1", "train.steps=2"]


def by_fold(config: Config) -> float:
    """Single matching is worse, and folds and seeds differ."""
    assert config.data.fold is not None
    return by_matching(config) + 10 * config.data.fold


def test_folds_give_the_table_of_variants_and_their_gammas(tmp_path, variants, ran, capsys) -> None:
    configs = ran(by_fold)
    asked = request(tmp_path, variants=variants[:2], seeds=2, on_folds=True, folds=3)
    assert ablation.ablate(asked) == 0
    assert {(config.data.folds, config.data.fold, config.train.seed) for config in configs} == {
        (3, fold, seed) for fold in range(3) for seed in (0, 1)
    }
    assert len(configs) == 3 * 3 * 2
    folder = tmp_path / "shapes" / "folds" / "main"
    table = json.loads((folder / "table.json").read_text())
    assert table["repeats"][:3] == ["fold 0, seed 0", "fold 0, seed 1", "fold 1, seed 0"]
    assert table["over"] == "3 folds of the seen classes, 2 seeds each"
    uncalibrated, tuned = table["sections"]
    assert [row["gamma"] for row in tuned["rows"]] == [0.1] * 3
    assert tuned["rows"][0]["metrics"]["hIoU"]["mean"] == pytest.approx(90.5)  # of 80, 81, 90, 91, 100, 101
    assert tuned["rows"][2]["differences"]["hIoU"] == pytest.approx(
        {"mean": -20.0, "deviation": 0.0, "count": 6, "agree": 6}
    )
    assert len(uncalibrated["rows"]) == 3
    assert any("no unseen class is scored" in note for note in table["notes"])
    assert {(run["fold"], run["seed"]) for run in table["runs"]} == {(f, s) for f in range(3) for s in (0, 1)}
    gammas = read_gammas(folder / "gammas.yaml")
    assert {name: record.gamma for name, record in gammas.items()} == {"default": 0.1, "no_mfe": 0.1, "single": 0.1}
    assert "no unseen class was looked at" in opening_comment(folder / "gammas.yaml")
    captured = capsys.readouterr()
    assert captured.out.splitlines()[-1] == str(folder / "ablation.html")
    assert "mean ± sample deviation over 3 folds of the seen classes, 2 seeds each" in captured.out
    assert captured.err.splitlines()[1].startswith("[1/18] default, fold 0, seed 0: hIoU 79.9")
    assert '<th class="n">fold 2, seed 1</th>' in (folder / "ablation.html").read_text()


def test_without_a_number_the_folds_are_those_of_the_config(tmp_path, ran) -> None:
    configs = ran(by_fold)
    arguments = ["ablate", "--artifacts", str(tmp_path), "--set", "clip.weights=random"]
    assert main([*arguments, "--folds"]) == 0
    folds = load_config("shapes").data.folds
    assert [(config.data.fold, config.train.seed) for config in configs] == [(fold, 0) for fold in range(folds)]


@pytest.mark.slow
def test_a_variant_with_a_failed_fold_gets_no_gamma(tmp_path, variants, ran) -> None:
    ran(lambda config: "no memory" if config.decoder.mfe == "none" and config.data.fold == 1 else 50.0)
    assert ablation.ablate(request(tmp_path, variants=variants, on_folds=True, folds=2)) == 1
    folder = tmp_path / "shapes" / "folds" / "main"
    assert list(read_gammas(folder / "gammas.yaml")) == ["default", "single", "twin"]
    table = json.loads((folder / "table.json").read_text())
    assert table["failures"] == [["no_mfe", "fold 1, seed 0", "no memory"]]
    assert table["sections"][0]["rows"][1]["metrics"]["hIoU"]["count"] == 1


def test_all_folds_failing_gives_no_gamma_and_a_table(tmp_path, ran) -> None:
    ran(lambda config: "no memory")
    assert ablation.ablate(request(tmp_path, on_folds=True, folds=2)) == 1
    folder = tmp_path / "shapes" / "folds" / "main"
    assert read_gammas(folder / "gammas.yaml") == {}
    assert (folder / "table.md").is_file()


def test_interrupted_folds_write_nothing(tmp_path, ran) -> None:
    ran(lambda config: "interrupt")
    assert ablation.ablate(request(tmp_path, on_folds=True)) == 130
    assert not (tmp_path / "shapes").exists()


def test_folds_run_no_config_that_sees_the_unseen_classes(tmp_path, variants, ran) -> None:
    configs = ran(lambda config: 50.0)
    ablation.ablate(request(tmp_path, variants=variants, on_folds=True))
    assert configs and all(config.data.fold is not None for config in configs)
    with pytest.raises(ValueError, match="chosen on folds alone"):
        ablation.choose_gammas({("default", Repeat(0)): Outcome(metrics=metrics_of(50.0))})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--folds", "1"], "argument --folds: '1': expected a whole number from 2"),
        (["--folds", "99"], "lower it"),
        (["--folds", "-1"], "argument --folds: '-1': expected a whole number from 2"),
        (["--folds", "--set", "train.seed=1"], "--set train.seed: it is set for every run here"),
        (["--folds", "--set", "data.fold=0"], "--set data.fold: it is set for every run here"),
        (["--folds", "--gammas", "g.yaml"], "argument --gammas: not allowed with argument --folds"),
    ],
)
def test_wrong_use_of_folds_runs_nothing(tmp_path, ran, capsys, arguments: list[str], message: str) -> None:
    configs = ran(by_fold)
    assert main(["ablate", "--artifacts", str(tmp_path / "a"), "--set", "clip.weights=random", *arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.count("\n") == 1
    assert configs == []


def relabel(source: Path, target: Path, ids: Sequence[int]) -> Path:
    """Copy a data set and give every pixel of an unseen class another unseen label, or none."""
    shutil.copytree(source, target)
    names = dict(zip(ids, [*ids[1:], 0], strict=True))
    for path in target.rglob("*.png"):
        with Image.open(path) as image:
            palette, mask = image.getpalette(), np.asarray(image)
        changed = mask.copy()
        for old, new in names.items():
            changed[mask == old] = new
        written = Image.fromarray(changed)
        written.putpalette(palette)
        written.save(path)
    return target


@pytest.mark.long
def test_folds_are_blind_to_unseen_classes(tmp_path: Path) -> None:
    unseen = sorted(load_shipped_classes("shapes").unseen_ids)
    assert main(["RenderShapes", "--artifacts", str(tmp_path / "data"), "--quiet", "--set", *REAL]) == 0
    tree = next((tmp_path / "data" / "shapes" / "shapes").iterdir())
    lighter = variant(tmp_path, "lighter", "evaluate: {candidate_weight: 0.3}")
    base = variant(tmp_path, "heavy", "evaluate: {candidate_weight: 1.0}")
    tables, gammas, contents, weights = [], [], [], []
    for name, root in (("a", tree), ("b", relabel(tree, tmp_path / "changed", unseen))):
        place = ["--artifacts", str(tmp_path / name), "--set", *REAL, "data.layout=voc", f"data.root={root}"]
        assert main(["ablate", *place, "--set-file", str(base), "--variants", str(lighter), "--folds", "2"]) == 0
        folder = tmp_path / name / "shapes"
        table = json.loads((folder / "folds" / "main" / "table.json").read_text())
        tables.append([table["sections"], [run["metrics"] for run in table["runs"]]])
        gammas.append(read_gammas(folder / "folds" / "main" / "gammas.yaml"))
        manifests = [json.loads(path.read_text()) for path in (folder / "evaluate").rglob("manifest.json")]
        assert len(manifests) == 4
        assert all(manifest["config"]["data"]["fold"] is not None for manifest in manifests)
        contents.append({m["key"]: m["content"] for m in manifests})
        weights.append(
            {json.loads(p.read_text())["content"]["weights.safetensors"] for p in folder.glob("train/*/*.json")}
        )
        scored = [path.read_text() for path in (folder / "evaluate").rglob("per_class.csv")]
        assert all(int(line.split(",")[0]) not in unseen for text in scored for line in text.splitlines()[1:])
    changed = [
        path
        for path in tree.rglob("*.png")
        if path.read_bytes() != (tmp_path / "changed" / path.relative_to(tree)).read_bytes()
    ]
    assert {path.name.partition("_")[0] for path in changed} == {"train", "val"}  # there was something to see
    assert tables[0] == tables[1]
    assert gammas[0] == gammas[1] and len(gammas[0]) == 2
    assert contents[0] == contents[1] and weights[0] == weights[1] and len(weights[0]) == 2
