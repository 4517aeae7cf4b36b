"""Ablation: the statistics against slow loops, what is run, what is written, and what is never looked at on folds."""

from __future__ import annotations

import base64
import csv
import io
import json
import math
import shutil
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from split_matching.configs.class_list import load_classes
from split_matching.configs.load import load_config
from split_matching.configs.schema import Config
from split_matching.errors import ConfigError
from split_matching.pipeline import plan as plan_module
from split_matching.pipeline.cli import main
from split_matching.pipeline.experiments import runs as experiments
from split_matching.pipeline.experiments.gammas import GammaRecord, format_gammas, read_gammas
from split_matching.pipeline.experiments.machine import describe_machine
from split_matching.pipeline.experiments.runs import Outcome
from split_matching.pipeline.experiments.variants import Repeat, Request, opening_comment, settings_key
from split_matching.pipeline.plan import code_of
from split_matching.pipeline.stages import make_plan
from split_matching.pipeline.verbs import ablate as ablation
from split_matching.stages.pages.ablation.page import render_page
from split_matching.stages.pages.ablation.statistics import (
    METRICS,
    choose_gamma,
    metrics_at,
    paired_difference,
    read_sweep,
    spread,
)
from split_matching.stages.pages.ablation.table_text import (
    format_difference,
    format_spread,
    to_csv,
    to_json,
    to_markdown,
)
from split_matching.stages.pages.ablation.tables import DEFAULT, Run, Table, Variant, build_sections
from split_matching.stages.pages.plots import draw_intervals
from tests.handmade import TINY

ROOT = Path(__file__).parents[2]
NAN = math.nan


def values(rng: np.random.Generator, count: int, missing: float = 0.3) -> list[float]:
    return [NAN if rng.random() < missing else float(rng.normal(50, 10)) for _ in range(count)]


@pytest.fixture(autouse=True)
def _no_held_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs hold the code for the life of a process; other tests are not to inherit that."""
    code_of.cache_clear()


# --- statistics -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_spread_equals_a_loop(seed: int) -> None:
    given = values(np.random.default_rng(seed), 9)
    known = [value for value in given if value == value]
    found = spread(given)
    assert found.count == len(known)
    assert found.mean == pytest.approx(statistics.mean(known))
    assert found.deviation == pytest.approx(statistics.stdev(known))
    assert len(found.values) == 9


@pytest.mark.parametrize(("given", "mean", "count"), [([], NAN, 0), ([NAN, NAN], NAN, 0), ([3.0, NAN], 3.0, 1)])
def test_spread_of_too_little_has_no_deviation(given: list[float], mean: float, count: int) -> None:
    found = spread(given)
    assert (found.mean == mean or math.isnan(mean)) and found.count == count
    assert math.isnan(found.deviation)


@pytest.mark.parametrize("seed", range(5))
def test_paired_difference_equals_a_loop(seed: int) -> None:
    rng = np.random.default_rng(seed)
    mine, base = values(rng, 12), values(rng, 12)
    pairs = [a - b for a, b in zip(mine, base, strict=True) if a == a and b == b]
    mean = statistics.mean(pairs)
    found = paired_difference(mine, base)
    assert found.mean == pytest.approx(mean)
    assert found.deviation == pytest.approx(statistics.stdev(pairs))
    assert (found.count, found.agree) == (len(pairs), sum(1 for pair in pairs if pair * mean > 0))


def test_pairing_takes_out_what_seeds_share() -> None:
    base = [10.0, 50.0, 90.0]
    found = paired_difference([11.0, 51.0, 91.5], base)
    assert found.deviation < 1 < spread(base).deviation
    assert format_difference(found) == "+1.2 ± 0.3 (3/3)"


def test_paired_difference_refuses_other_seeds() -> None:
    with pytest.raises(ValueError, match="1 values cannot be paired with 3"):
        paired_difference([1.0], [1.0, 2.0, 3.0])


def test_text_of_undefined_numbers() -> None:
    assert (
        format_spread(spread([NAN])) == format_difference(None) == format_difference(paired_difference([], [])) == "–"
    )
    assert format_spread(spread([50.04])) == "50.0"


def sweep_of(by_gamma: dict[float, float]) -> dict[float, dict[str, float]]:
    return {gamma: dict.fromkeys(METRICS, value) for gamma, value in by_gamma.items()}


@pytest.mark.parametrize("seed", range(5))
def test_gamma_is_the_best_of_the_mean_sweep(seed: int) -> None:
    rng = np.random.default_rng(seed)
    gammas = [0.0, 0.05, 0.1, 0.2]
    table = rng.normal(size=(3, 4)).tolist()
    best = max(range(4), key=lambda column: sum(row[column] for row in table))
    assert choose_gamma([sweep_of(dict(zip(gammas, row, strict=True))) for row in table]) == gammas[best]


@pytest.mark.parametrize(
    ("sweeps", "gamma"),
    [
        ([], None),
        ([{0.0: NAN}], None),
        ([{0.0: 1.0, 0.1: 1.0}], 0.0),  # among equals the smallest
        ([{0.0: 1.0, 0.1: 9.0}, {0.0: 2.0}], 0.0),  # 0.1 was not tried by all
        ([{0.0: 1.0, 0.1: 9.0}, {0.0: 2.0, 0.1: NAN}], 0.0),  # means over different runs do not compare
    ],
)
def test_gamma_with_gaps(sweeps: list[dict[float, float]], gamma: float | None) -> None:
    assert choose_gamma([sweep_of(sweep) for sweep in sweeps]) == gamma


def metrics_of(hiou: float | None, gamma: float = 0.0, others: Sequence[tuple[float, float]] = ()) -> dict[str, Any]:
    point = {"pAcc": 90.0, "mIoU_seen": 80.0, "mIoU_unseen": 60.0}
    sweep = [{**point, "gamma": g, "hIoU": h} for g, h in [*others, (gamma, hiou)]]
    return {**point, "hIoU": hiou, "extra": {"gamma": gamma, "gamma_sweep": sweep}}


def test_a_sweep_is_read_with_the_configured_gamma_and_null_as_nan() -> None:
    metrics = metrics_of(None, gamma=0.07, others=[(0.2, 5.0), (0.0, 6.0)])
    metrics["extra"]["gamma_sweep"].pop()
    sweep = read_sweep(metrics)
    assert list(sweep) == [0.0, 0.07, 0.2]
    assert math.isnan(sweep[0.07]["hIoU"]) and sweep[0.2]["hIoU"] == 5.0
    assert metrics_at([sweep, None], 0.2)["hIoU"].count == 1


# --- tables -----------------------------------------------------------------------------------------------------------


REPEATS = ("seed 0", "seed 1", "seed 2")


def some_runs(gamma: float = 0.0) -> list[Run]:
    runs = [
        Run(
            DEFAULT,
            f"seed {seed}",
            gamma,
            {0.0: dict.fromkeys(METRICS, 70.0 + seed), 0.1: dict.fromkeys(METRICS, 80.0)},
        )
        for seed in range(3)
    ]
    single = [Run("single", f"seed {seed}", 0.0, {0.0: dict.fromkeys(METRICS, 50.0 - seed)}) for seed in (0, 2)]
    return [*runs, *single]


def test_rows_pair_the_runs_that_both_have() -> None:
    (section,) = build_sections([DEFAULT, "single", "gone"], REPEATS, some_runs(), {})
    assert [row.variant for row in section.rows] == [DEFAULT, "single"]
    assert section.rows[0].differences == {}
    single = section.rows[1]
    assert math.isnan(single.metrics["hIoU"].values[1])
    assert (single.differences["hIoU"].mean, single.differences["hIoU"].count) == (-22.0, 2)


@pytest.mark.parametrize(
    ("configured", "tuned", "names"),
    [
        (0.0, {}, ["uncalibrated"]),
        (0.0, {DEFAULT: 0.1}, ["uncalibrated", "tuned"]),
        (0.1, {}, ["uncalibrated", "configured"]),
        (0.1, {DEFAULT: 0.0}, ["uncalibrated", "configured", "tuned"]),
        (0.1, {DEFAULT: 0.1, "single": 0.0}, ["uncalibrated", "tuned"]),
    ],
)
def test_which_tables_there_are(configured: float, tuned: dict[str, float], names: list[str]) -> None:
    sections = build_sections([DEFAULT, "single"], REPEATS, some_runs(configured), tuned)
    assert [section.name for section in sections] == names
    assert sections[0].rows[0].metrics["hIoU"].mean == 71.0
    assert {row.variant: row.gamma for row in sections[-1].rows} == (tuned or {DEFAULT: configured, "single": 0.0})


def a_table() -> Table:
    sections = build_sections([DEFAULT, "single"], REPEATS, some_runs(), {DEFAULT: 0.1, "single": 0.1})
    variants = (Variant(DEFAULT), Variant("single", "a.yaml", "a <b>| c", {"train.matching": ("1", "2")}, DEFAULT))
    facts = {"command": "run <it>", "machine": "M", "some of it made on": "", "seconds": 7300.0}
    failures = (("single", "seed 1", "<script>x"),)
    return Table("shapes", REPEATS, "3 seeds", variants, sections, failures, ("a note",), facts)


def test_markdown_has_every_row_and_fact() -> None:
    text = to_markdown(a_table())
    assert "| single | 49.0 ± 1.4 |" in text
    assert "-22.0 ± 2.8 (2/2) |" in text
    for part in ("`single`: a <b>| c", "same settings as `default`", "seed 1: <script>x", "a note", "`run <it>`"):
        assert part in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in rows} == {9, 10}  # without and with the column gamma


def test_csv_and_json_hold_the_numbers_and_no_nan() -> None:
    table = a_table()
    rows = list(csv.DictReader(io.StringIO(to_csv(table))))
    assert [(row["table"], row["variant"]) for row in rows[:2]] == [
        ("uncalibrated", DEFAULT),
        ("uncalibrated", "single"),
    ]
    assert float(rows[1]["hIoU_difference_mean"]) == -22.0
    assert rows[0]["hIoU_difference_mean"] == ""
    assert "nan" not in to_csv(table).lower()
    plain = json.loads(json.dumps(to_json(table), allow_nan=False))
    assert plain["sections"][0]["rows"][1]["metrics"]["hIoU"]["values"] == [50.0, None, 48.0]


def test_page_is_self_contained_escaped_and_deterministic() -> None:
    page = render_page(a_table())
    assert page == render_page(a_table())
    assert "<script" not in page and "&lt;script&gt;x" in page and "run &lt;it&gt;" in page
    links = [part.split('"')[0] for name in ("src", "href") for part in page.split(f'{name}="')[1:]]
    assert all(link.startswith(("data:", "#")) for link in links)
    assert sum(link.startswith("data:image/svg+xml") for link in links) == 2
    assert "2 h 01 min" in page


def test_intervals_are_drawn_with_gaps_and_without_values() -> None:
    for groups in ({"a": [1.0, NAN, 3.0], "b": [2.0], "c": [NAN]}, {"a": []}):
        uri = draw_intervals(groups, title="t", xlabel="x")
        assert uri == draw_intervals(groups, title="t", xlabel="x")
        assert b"<svg" in base64.b64decode(uri.split(",")[1])


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

Score = Callable[[Config], float | str]


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> Callable[[Score], list[Config]]:
    """`ran(score)` replaces the evaluation: hIoU is `score(config)` less the distance of gamma from 0.1; text fails.

    The list that is returned receives every config that runs.
    """

    def replace(score: Score) -> list[Config]:
        configs: list[Config] = []

        def evaluate(config: Config, debug: bool = False) -> Outcome:
            configs.append(config)
            found = score(config)
            if isinstance(found, str):
                return Outcome(130 if found == "interrupt" else 1, found)
            own, gammas = config.evaluate.gamma, config.evaluate.gamma_sweep
            others = [(gamma, found - abs(gamma - 0.1)) for gamma in gammas]
            return Outcome(metrics=metrics_of(found - abs(own - 0.1), own, others), seconds={"a": 1.5})

        monkeypatch.setattr(experiments, "evaluate", evaluate)
        return configs

    return replace


def request(tmp_path: Path, **more: Any) -> Request:
    overrides = ("clip.weights=random", f"runtime.artifacts={json.dumps(str(tmp_path))}")
    return Request("shapes", **{"overrides": overrides, **more})


def variant(tmp_path: Path, name: str, text: str) -> Path:
    path = tmp_path / f"{name}.yaml"
    path.write_text(f"# Shows {name}.\n{text}\n")
    return path


@pytest.fixture
def variants(tmp_path: Path) -> tuple[Path, ...]:
    return (
        variant(tmp_path, "no_mfe", "decoder: {mfe: false}"),
        variant(tmp_path, "single", "train: {matching: single}"),
        variant(tmp_path, "twin", "train: {matching: split}"),
    )


def by_matching(config: Config) -> float:
    return 60.0 + config.train.seed if config.train.matching == "single" else 80.0 + config.train.seed


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
    assert table["variants"][1]["changes"] == {"decoder.mfe": ["true", "false"]}
    assert [entry["same_as"] for entry in table["variants"]] == ["", "", "", "default"]
    single = table["sections"][0]["rows"][2]
    assert single["metrics"]["hIoU"]["mean"] == pytest.approx(60.4)
    assert single["differences"]["hIoU"] == pytest.approx({"mean": -20.0, "deviation": 0.0, "count": 2, "agree": 2})
    assert table["facts"]["command"] == "the command" and table["facts"]["seconds"] == 1.5
    assert len(table["runs"]) == 8


def test_a_failing_variant_is_reported_and_the_others_go_on(tmp_path, variants, ran, capsys) -> None:
    ran(lambda config: "loss is not finite" if not config.decoder.mfe and config.train.seed == 0 else 50.0)
    assert ablation.ablate(request(tmp_path, variants=variants, seeds=2)) == 1
    table = table_of(tmp_path)
    assert table["failures"] == [["no_mfe", "seed 0", "loss is not finite"]]
    rows = {row["variant"]: row for row in table["sections"][0]["rows"]}
    assert rows["no_mfe"]["metrics"]["hIoU"]["count"] == 1 and rows["single"]["metrics"]["hIoU"]["count"] == 2
    lines = capsys.readouterr().err.splitlines()
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
        (["--set-file", "none.yaml"], "none.yaml: no such file"),
        (["--set-file", "{tmp}/a/x.yaml", "{tmp}/b/x.yaml"], "'x' is already the name of another variant"),
        (["--set-file", "{tmp}/default.yaml"], "'default' is already the name of the data set's own config"),
        (["--set-file", "{tmp}/wrong.yaml"], "unknown key train.stepz"),
        (["--set", "train.seed=3"], "--set train.seed: it is set for every run here"),
        (["--seeds", "0"], "argument --seeds: 0 is not at least 1"),
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
    arguments = ["ablate", "--dataset", "voc", "--set", "clip.weights=random", "--artifacts", str(tmp_path)]
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


def test_code_that_is_edited_during_a_run_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_config("shapes", overrides=["clip.weights=random"])
    code_of.cache_clear()  # of stages that other tests asked for
    make_plan(config)["shapes"].import_module()
    before = make_plan(config)["shapes"].code
    monkeypatch.setattr(plan_module, "module_closure", lambda module: {"stages/edited.py": "1"})
    assert make_plan(config)["shapes"].code == before
    assert make_plan(config)["report"].code["stages/edited.py"] == "1"
    code_of.cache_clear()


# --- folds of the seen classes ----------------------------------------------------------------------------------------


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
    assert captured.err.startswith("[1/18] default, fold 0, seed 0: hIoU 79.9")
    assert '<th class="n">fold 2, seed 1</th>' in (folder / "ablation.html").read_text()


def test_without_a_number_the_folds_are_those_of_the_config(tmp_path, ran) -> None:
    configs = ran(by_fold)
    arguments = ["ablate", "--artifacts", str(tmp_path), "--set", "clip.weights=random"]
    assert main([*arguments, "--folds"]) == 0
    folds = load_config("shapes").data.folds
    assert [(config.data.fold, config.train.seed) for config in configs] == [(fold, 0) for fold in range(folds)]


def test_a_variant_with_a_failed_fold_gets_no_gamma(tmp_path, variants, ran) -> None:
    ran(lambda config: "no memory" if not config.decoder.mfe and config.data.fold == 1 else 50.0)
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
        (["--folds", "1"], "data.folds"),
        (["--folds", "99"], "lower it"),
        (["--folds", "-1"], "argument --folds: -1 is not at least 1"),
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


def test_several_at_once_give_every_outcome(tmp_path: Path) -> None:
    """In processes of their own; without data they fail fast, and that too comes back."""
    overrides = ["clip.weights=random", f"runtime.artifacts={tmp_path}"]
    configs = {seed: load_config("voc", overrides=[*overrides, f"train.seed={seed}"]) for seed in range(3)}
    with experiments.EvaluationPool(jobs=2) as pool:
        outcomes = dict(pool.run(configs))
    assert sorted(outcomes) == [0, 1, 2]
    assert all(outcome.code == 3 and "data.root" in outcome.error for outcome in outcomes.values())


# --- real runs --------------------------------------------------------------------------------------------------------

REAL = [*TINY, "runtime.threads=1", "train.steps=2"]


def count(artifacts: Path, slug: str) -> int:
    return len([path for path in (artifacts / "shapes" / slug).iterdir() if len(path.name) == 16])


def test_nothing_that_does_not_differ_runs_twice(tmp_path, variants, capsys) -> None:
    no_cls = variant(tmp_path, "no_cls", "regions: {method: mean}")
    files = [str(path) for path in (no_cls, *variants[1:])]
    arguments = ["ablate", "--artifacts", str(tmp_path), "--seeds", "2", "--set", *REAL, "--set-file", *files]
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


def test_folds_are_blind_to_unseen_classes(tmp_path: Path) -> None:
    unseen = sorted(load_classes("shapes").unseen_ids)
    assert main(["RenderShapes", "--artifacts", str(tmp_path / "data"), "--quiet", "--set", *REAL]) == 0
    tree = next((tmp_path / "data" / "shapes" / "shapes").iterdir())
    lighter = variant(tmp_path, "lighter", "evaluate: {candidate_weight: 0.3}")
    base = variant(tmp_path, "heavy", "evaluate: {candidate_weight: 1.0}")
    tables, gammas, contents, weights = [], [], [], []
    for name, root in (("a", tree), ("b", relabel(tree, tmp_path / "changed", unseen))):
        place = ["--artifacts", str(tmp_path / name), "--set", *REAL, "data.layout=voc", f"data.root={root}"]
        assert main(["ablate", *place, "--base", str(base), "--set-file", str(lighter), "--folds", "2"]) == 0
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
