"""The verb `ablate`: what is run, what is written, and how failures and interruptions end."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from split_matching.configs.load import load_config
from split_matching.errors import ConfigError
from split_matching.pipeline.cli import main
from split_matching.pipeline.experiments import runs as experiments
from split_matching.pipeline.experiments.gammas import GammaRecord, format_gammas, read_gammas
from split_matching.pipeline.experiments.machine import describe_machine
from split_matching.pipeline.experiments.variants import opening_comment, settings_key
from split_matching.pipeline.verbs import ablate as ablation
from tests.handmade import TINY
from tests.pipeline import scored_runs
from tests.pipeline.scored_runs import by_matching, request, variant

ran, variants, forget_code = scored_runs.ran, scored_runs.variants, scored_runs.forget_code
ROOT = Path(__file__).parents[2]
REAL = [*TINY, "runtime.threads=1", "train.steps=2"]


def test_machine_is_one_line() -> None:
    assert "core" in describe_machine("cpu")
    assert "\n" not in describe_machine("auto")


# --- files ------------------------------------------------------------------------------------------------------------


def test_gammas_are_read_as_written(tmp_path: Path) -> None:
    path = tmp_path / "gammas.yaml"
    records = {"default": GammaRecord(0.05, "ab12"), "no_mfe": GammaRecord(0.0, "00e1")}
    path.write_text(format_gammas(records, "words"))
    assert opening_comment(path) == "words"
    assert read_gammas(path) == records
    path.write_text("default: 0.05")
    with pytest.raises(ConfigError, match="expected gamma and settings"):
        read_gammas(path)


def test_every_ablation_says_what_it_shows_and_changes_something() -> None:
    default = load_config("shapes")
    for path in sorted((ROOT / "configs" / "ablations").glob("*.yaml")):
        assert len(opening_comment(path)) > 20, path
        load_config("shapes", [path])  # what it changes may be the default one day, so that is not asked
    assert load_config("shapes", [ROOT / "configs" / "ablations" / "single.yaml"]) != default


# --- running, with the evaluation replaced ----------------------------------------------------------------------------


def table_of(tmp_path: Path, name: str = "main") -> dict[str, Any]:
    folder = tmp_path / "shapes" / "ablations" / name
    assert sorted(path.name for path in folder.iterdir()) == ["ablation.html", "table.csv", "table.json", "table.md"]
    return json.loads((folder / "table.json").read_text())


def test_ablate_runs_every_variant_with_every_seed_and_changes_the_seed_alone(tmp_path, variants, ran) -> None:
    configs = ran(by_matching)
    assert ablation.ablate(request(tmp_path, variants=variants, seeds=2, command="the command")) == 0
    assert [config.train.seed for config in configs] == [0] * 4 + [1] * 4
    for first, second in zip(configs[:4], configs[4:], strict=True):
        assert first == second.model_copy(update={"train": second.train.model_copy(update={"seed": 0})})
    table = table_of(tmp_path)
    assert [entry["name"] for entry in table["variants"]] == ["default", "no_mfe", "single", "twin"]
    assert table["variants"][1]["shows"] == "Shows no_mfe."
    assert table["variants"][1]["changes"] == {"decoder.mfe": ['"tokens"', '"none"']}
    assert [entry["same_as"] for entry in table["variants"]] == ["", "", "", "default"]
    single = table["sections"][0]["rows"][2]
    assert single["metrics"]["hIoU"]["mean"] == pytest.approx(60.4)
    assert single["differences"]["hIoU"] == pytest.approx({"mean": -20.0, "deviation": 0.0, "count": 2, "agree": 2})
    assert table["facts"]["command"] == "the command" and table["facts"]["seconds"] == 1.5
    assert len(table["runs"]) == 8


def test_a_failing_variant_is_reported_and_the_others_go_on(tmp_path, variants, ran, capsys) -> None:
    ran(lambda config: "loss is not finite" if config.decoder.mfe == "none" and config.train.seed == 0 else 50.0)
    assert ablation.ablate(request(tmp_path, variants=variants, seeds=2)) == 1
    table = table_of(tmp_path)
    assert table["failures"] == [["no_mfe", "seed 0", "loss is not finite"]]
    rows = {row["variant"]: row for row in table["sections"][0]["rows"]}
    assert rows["no_mfe"]["metrics"]["hIoU"]["count"] == 1 and rows["single"]["metrics"]["hIoU"]["count"] == 2
    first, *lines = capsys.readouterr().err.splitlines()
    assert first == "8 runs of Evaluate, 1 at a time; 0 in the cache"
    assert len(lines) == 8
    assert lines[1].startswith("[2/8] no_mfe, seed 0: failed: loss is not finite (")
    assert lines[0].startswith("[1/8] default, seed 0: hIoU 49.9, S 80.0, U 60.0 (")
    assert " left)" in lines[6] and " left" not in lines[7]


def test_all_failing_still_writes_a_table(tmp_path, variants, ran) -> None:
    ran(lambda config: "broken")
    assert ablation.ablate(request(tmp_path, variants=variants)) == 1
    assert len(table_of(tmp_path)["failures"]) == 4


def test_an_interrupted_ablation_ends_at_once(tmp_path, variants, ran) -> None:
    configs = ran(lambda config: "interrupt" if config.train.matching == "single" else 50.0)
    assert ablation.ablate(request(tmp_path, variants=variants, seeds=2)) == 130
    assert len(configs) == 3
    assert not (tmp_path / "shapes").exists()


def test_base_files_lie_under_all_variants(tmp_path, variants, ran) -> None:
    base = variant(tmp_path, "base", "train: {matching: single, steps: 7}")
    configs = ran(by_matching)
    assert ablation.ablate(request(tmp_path, base=(base,), variants=variants, out=tmp_path / "out")) == 0
    assert {config.train.steps for config in configs} == {7}
    assert [config.train.matching for config in configs] == ["single", "single", "single", "split"]
    assert (tmp_path / "out" / "table.md").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--variants", "none.yaml"], "none.yaml: no such file"),
        (["--variants", "{tmp}/a/x.yaml", "{tmp}/b/x.yaml"], "'x' is already the name of another variant"),
        (["--variants", "{tmp}/default.yaml"], "'default' is already the name of the data set's own config"),
        (["--variants", "{tmp}/wrong.yaml"], "unknown key train.stepz"),
        (["--set-file", "{tmp}/a/x.yaml", "{tmp}/b/x.yaml"], "for a row of each, give them as --variants"),
        (["--set", "train.seed=3"], "--set train.seed: it is set for every run here"),
        (["--seeds", "0"], "argument --seeds: '0': expected a whole number from 1"),
        (["--name", "../x"], "--name '../x': expected a plain word"),
        (["--gammas", "none.yaml"], "none.yaml: no such file"),
    ],
)
def test_wrong_use_of_ablate_runs_nothing(tmp_path, ran, capsys, arguments: list[str], message: str) -> None:
    configs = ran(by_matching)
    for name in ("a/x", "b/x", "default"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        variant(tmp_path, name, "train: {steps: 5}")
    variant(tmp_path, "wrong", "train: {stepz: 5}")
    given = [argument.format(tmp=tmp_path) for argument in arguments]
    assert main(["ablate", "--artifacts", str(tmp_path / "a"), "--set", "clip.weights=random", *given]) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.count("\n") == 1
    assert configs == []


def test_missing_data_is_said_once_and_nothing_runs(tmp_path, ran, capsys) -> None:
    configs = ran(by_matching)
    arguments = ["ablate", "--dataset", "voc_cached", "--set", "clip.weights=random", "--artifacts", str(tmp_path)]
    assert main(arguments) == 3
    assert configs == [] and capsys.readouterr().err.count("\n") == 1


def test_gammas_chosen_on_folds_make_a_table_of_their_own(tmp_path, variants, ran) -> None:
    configs = ran(by_matching)
    asked = request(tmp_path, variants=variants[:2])
    assert ablation.ablate(replace(asked, on_folds=True, folds=2)) == 0
    assert [config.data.fold for config in configs] == [0] * 3 + [1] * 3
    assert ablation.ablate(asked) == 0
    table = table_of(tmp_path)
    uncalibrated, tuned = table["sections"]
    assert [row["gamma"] for row in tuned["rows"]] == [0.1] * 3
    assert tuned["rows"][2]["metrics"]["hIoU"]["mean"] == pytest.approx(60.0)
    assert uncalibrated["rows"][2]["metrics"]["hIoU"]["mean"] == pytest.approx(59.9)
    assert not any("gamma" in note for note in table["notes"])


def test_a_gamma_chosen_for_other_settings_is_not_used(tmp_path, variants, ran) -> None:
    ran(by_matching)
    asked = request(tmp_path, variants=variants[:2], name="long")
    assert ablation.ablate(replace(asked, on_folds=True, folds=2)) == 0
    variant(tmp_path, "single", "train: {matching: single, steps: 9}")
    assert ablation.ablate(asked) == 0
    table = table_of(tmp_path, "long")
    assert [row["variant"] for row in table["sections"][1]["rows"]] == ["default", "no_mfe"]
    assert any("holds no gamma for single as it is now" in note for note in table["notes"])


def test_a_recorded_gamma_outside_the_sweep_is_added_to_it(tmp_path, ran) -> None:
    configs = ran(by_matching)
    asked = request(tmp_path)
    record = GammaRecord(0.07, settings_key(load_config("shapes", overrides=asked.overrides)))
    (tmp_path / "g.yaml").write_text(format_gammas({"any": record}, "c"))
    assert ablation.ablate(asked, tmp_path / "g.yaml") == 0
    assert set(configs[0].evaluate.gamma_sweep) > {0.0, 0.07}
    assert table_of(tmp_path)["sections"][1]["rows"][0]["gamma"] == 0.07


def test_settings_key_ignores_seed_fold_and_gamma_only() -> None:
    def key(*overrides: str) -> str:
        return settings_key(load_config("shapes", overrides=["clip.weights=random", *overrides]))

    for same in ("train.seed=3", "data.fold=1", "data.folds=5", "evaluate.gamma=0.2", "evaluate.gamma_sweep=[0.5]"):
        assert key(same) == key()
    for other in ("train.steps=7", "evaluate.candidate_weight=0.5", "clip.seed=1", "shapes.seed=1"):
        assert key(other) != key()


def test_a_bug_is_a_failed_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken(stage: Any) -> Any:
        raise ImportError("two\nlines")

    monkeypatch.setattr(experiments, "_import_code", broken)
    config = load_config("shapes", overrides=request(tmp_path).overrides)
    outcome = experiments.evaluate(config)
    assert (outcome.code, outcome.error) == (1, "ImportError: two lines; rerun with --debug")


def test_several_at_once_give_every_outcome(tmp_path: Path) -> None:
    """In processes of their own; without data they fail fast, and that too comes back."""
    overrides = ["clip.weights=random", f"runtime.artifacts={tmp_path}"]
    configs = {seed: load_config("voc_cached", overrides=[*overrides, f"train.seed={seed}"]) for seed in range(3)}
    with experiments.EvaluationPool(jobs=2) as pool:
        outcomes = dict(pool.run(configs))
    assert sorted(outcomes) == [0, 1, 2]
    assert all(outcome.code == 3 and "data.root" in outcome.error for outcome in outcomes.values())


# --- real runs --------------------------------------------------------------------------------------------------------


def count(artifacts: Path, slug: str) -> int:
    return len([path for path in (artifacts / "shapes" / slug).iterdir() if len(path.name) == 16])


@pytest.mark.long
@pytest.mark.slow
def test_nothing_that_does_not_differ_runs_twice(tmp_path, variants, capsys) -> None:
    no_cls = variant(tmp_path, "no_cls", "regions: {method: mean}")
    files = [str(path) for path in (no_cls, *variants[1:])]
    arguments = ["ablate", "--artifacts", str(tmp_path), "--seeds", "2", "--set", *REAL, "--variants", *files]
    assert main(arguments) == 0
    # default and twin are the same; single differs in training alone, no_cls from the regions on
    made = {slug: count(tmp_path, slug) for slug in ("shapes", "dataset", "features", "text", "pseudo_masks")}
    assert set(made.values()) == {1}
    assert {slug: count(tmp_path, slug) for slug in ("regions", "train", "evaluate")} == {
        "regions": 2,
        "train": 6,
        "evaluate": 6,
    }
    first = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("manifest.json")}
    table = (tmp_path / "shapes" / "ablations" / "main" / "table.json").read_bytes()
    assert main(arguments) == 0
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("manifest.json")} == first
    assert (tmp_path / "shapes" / "ablations" / "main" / "table.json").read_bytes() == table
    assert capsys.readouterr().err.splitlines()[-1].endswith("(fresh)")
    page = (tmp_path / "shapes" / "ablations" / "main" / "ablation.html").read_text()
    assert [page.count(f'alt="{name} of val_') > 0 for name in ("truth", "default", "no_cls", "single", "twin")] == [
        *(True, True, True, True),
        False,  # the same settings as default: drawn once
    ]
