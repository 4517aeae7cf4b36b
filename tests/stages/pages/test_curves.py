"""Curves of the report: the training log, the calibration sweep."""

from __future__ import annotations

from pathlib import Path

import pytest

from split_matching.errors import CorruptError
from split_matching.stages.pages.curves import read_log
from split_matching.stages.pages.formats import UNDEFINED
from tests.stages.pages.handmade_run import LOG, SWEEP, alts, make_context, page_of


def test_curves_show_what_the_log_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = page_of(make_context(tmp_path / "split", monkeypatch, log=LOG))
    assert "Candidate group over training steps: cosine" in alts(page)
    single = [{key: value for key, value in line.items() if not key.startswith("candidate")} for line in LOG]
    page = page_of(make_context(tmp_path / "single", monkeypatch, log=single))
    assert "Seen group over training steps: class" in alts(page)
    assert not any(alt.startswith("Candidate") for alt in alts(page))


def test_an_empty_log_leaves_the_section_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = page_of(make_context(tmp_path, monkeypatch, log=[]))
    assert not any(attrs.get("id") == "training" for attrs in page.of("section"))


def test_calibration_sweep_is_sorted_and_undefined_is_a_dash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = page_of(make_context(tmp_path, monkeypatch, extra={"gamma": 0.1, "gamma_sweep": SWEEP}))
    table = f"gamma mIoU seen mIoU unseen hIoU 0 72.0 {UNDEFINED} {UNDEFINED} this run · 0.1 70.0 51.2 59.2"
    assert table in page.text


def test_one_gamma_is_no_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = page_of(make_context(tmp_path, monkeypatch, extra={"gamma": 0.0, "gamma_sweep": SWEEP[:1]}))
    assert not any(attrs.get("id") == "calibration" for attrs in page.of("section"))


@pytest.mark.parametrize("line", ["{", "[1]", '{"loss": 1}', '{"step": "x"}'])
def test_broken_log_is_named(line: str, tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n\n' + line + "\n")
    with pytest.raises(CorruptError, match=r"metrics\.jsonl line 3 is not"):
        read_log(path)
