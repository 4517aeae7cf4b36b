"""The tables of an ablation: the statistics against slow loops, their text forms, and the page."""

from __future__ import annotations

import base64
import csv
import io
import json
import math
import statistics

import numpy as np
import pytest

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
from split_matching.stages.pages.ablation.tables import DEFAULT, Evaluation, Table, Variant, build_sections
from split_matching.stages.pages.plots import draw_intervals
from tests.pipeline.scored_runs import metrics_of

NAN = math.nan


def values(rng: np.random.Generator, count: int, missing: float = 0.3) -> list[float]:
    return [NAN if rng.random() < missing else float(rng.normal(50, 10)) for _ in range(count)]


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


def test_a_sweep_is_read_with_the_configured_gamma_and_null_as_nan() -> None:
    metrics = metrics_of(None, gamma=0.07, others=[(0.2, 5.0), (0.0, 6.0)])
    metrics["extra"]["gamma_sweep"].pop()
    sweep = read_sweep(metrics)
    assert list(sweep) == [0.0, 0.07, 0.2]
    assert math.isnan(sweep[0.07]["hIoU"]) and sweep[0.2]["hIoU"] == 5.0
    assert metrics_at([sweep, None], 0.2)["hIoU"].count == 1


# --- tables -----------------------------------------------------------------------------------------------------------


REPEATS = ("seed 0", "seed 1", "seed 2")


def some_runs(gamma: float = 0.0) -> list[Evaluation]:
    runs = [
        Evaluation(
            DEFAULT,
            f"seed {seed}",
            gamma,
            {0.0: dict.fromkeys(METRICS, 70.0 + seed), 0.1: dict.fromkeys(METRICS, 80.0)},
        )
        for seed in range(3)
    ]
    single = [Evaluation("single", f"seed {seed}", 0.0, {0.0: dict.fromkeys(METRICS, 50.0 - seed)}) for seed in (0, 2)]
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
