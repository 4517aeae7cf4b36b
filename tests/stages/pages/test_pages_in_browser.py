"""The pages in a real browser: no complaint, no request, and readable on a phone and on a desktop."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from split_matching.configs.schema import Config
from split_matching.pipeline import cli
from split_matching.stages.pages.report import run
from tests.browser import Browser
from tests.stages.pages.handmade_run import make_context

pytestmark = pytest.mark.slow

WIDTHS = (390, 1280)


@pytest.fixture(scope="module")
def pages(tiny_run: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Pages of a real run: the report, and the gallery of pseudo masks."""
    folder = tmp_path_factory.mktemp("pages")
    assert cli.main(["Report", *tiny_run, "--quiet"]) == 0
    report = next(Path(tiny_run[1]).glob("shapes/report/*/report.html"))
    assert cli.main(["inspect", "pseudo_masks", *tiny_run, "--out", str(folder / "gallery.html")]) == 0
    return {"report": report, "gallery": folder / "gallery.html"}


def check(browser: Browser, name: str, page: Path, width: int) -> None:
    seen, _ = browser.view(page, width)
    if folder := os.environ.get("SPLIT_MATCHING_PICTURES"):  # to look at the pictures oneself
        (Path(folder) / f"{name}-{width}.png").write_bytes(seen.picture)
    assert seen.complaints == []
    assert seen.requests == []
    assert seen.content <= width, f"the page is {seen.content} pixels wide in a window of {width}"
    assert seen.smallest >= 11


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["report", "gallery"])
def test_pages_of_a_run_are_sound(chromium: Browser, pages: dict[str, Path], name: str, width: int) -> None:
    check(chromium, name, pages[name], width)


@pytest.mark.parametrize("width", WIDTHS)
def test_report_with_everything_and_long_names_is_sound(
    chromium: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    """All sections, published results among them, and names without a place to break."""
    config = Config.model_validate(
        {
            "dataset": "voc",
            "clip": {"weights": "random"},
            "data": {"expected_train": 10582, "expected_val": 1449},
            "report": {"examples": 2, "worst": 1},
        }
    )
    sweep = [{"gamma": g / 10, "pAcc": 5.0, "mIoU_seen": 4.0, "mIoU_unseen": 3.0, "hIoU": 3.4} for g in range(3)]
    sizes = ("side", "trained_parameters", "frozen_image_parameters", "frozen_text_parameters", "tower_flops")
    counted = dict.fromkeys((*sizes, "decoder_flops", "crop_flops"), 123_456_789_012)
    names = {1: "averylongnamewithoutabreak" * 3, 16: "anotherlongunseenname" * 4, 2: "<b>&amp;"}
    extra = {"gamma": 0.0, "gamma_sweep": sweep, "complexity": counted}
    ctx = make_context(tmp_path, monkeypatch, config=config, names=names, extra=extra)
    run(ctx)
    check(chromium, "long", ctx.out / "report.html", width)


def test_a_bad_page_is_found_out(chromium: Browser, tmp_path: Path) -> None:
    """Guards the tests above: each thing that they look for is seen where it is."""
    page = tmp_path / "bad.html"
    page.write_text(
        "<!doctype html><meta name=viewport content='width=device-width'><body>"
        "<div style='width:900px'>wide</div><p style='font-size:6px'>small</p>"
        "<script>console.error('told'); fetch('http://127.0.0.1:9/asked').catch(() => 0);"
        "setTimeout(() => { throw new Error('thrown'); });</script>"
    )
    seen, _ = chromium.view(page, 390)
    assert seen.content >= 900 and seen.smallest == 6
    assert "http://127.0.0.1:9/asked" in seen.requests
    assert any("told" in text for text in seen.complaints) and any("thrown" in text for text in seen.complaints)
