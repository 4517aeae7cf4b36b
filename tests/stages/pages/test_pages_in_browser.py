"""The pages in a real browser: no complaint, no request, and readable on a phone and on a desktop."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from split_matching.configs.schema import Config
from split_matching.pipeline import cli
from split_matching.stages.pages.gallery import Card, render_gallery
from split_matching.stages.pages.report import run
from tests.browser import Browser, find_browser, open_browser
from tests.stages.pages.handmade_run import make_context

pytestmark = pytest.mark.slow

WIDTHS = (390, 1280)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    path = find_browser()
    if path is None:
        pytest.skip("no Chromium on this machine: the pages were not opened in a browser (apt-get install chromium)")
    with open_browser(path) as browser:
        yield browser


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


def test_gallery_filters_and_sorts(chromium: Browser, pages: dict[str, Path]) -> None:
    script = """(() => {
      const form = document.getElementById("controls");
      const cards = () => [...document.querySelectorAll("#grid article:not([hidden])")];
      const visible = () => cards().map((card) => card.dataset.id);
      const choose = (name, value) => {
        form.elements[name].value = value;
        form.elements[name].dispatchEvent(new Event("input", { bubbles: true }));
      };
      const all = visible();
      choose("order", "id up");
      const sorted = visible();
      choose("few", "99");
      return { all, sorted, none: visible(), shown: document.getElementById("shown").textContent };
    })()"""
    seen, value = chromium.view(pages["gallery"], 1280, script=script)
    assert value["sorted"] == sorted(value["all"]) and len(value["all"]) == 4
    assert value["none"] == [] and value["shown"] == "0" and seen.complaints == []


def test_gallery_of_1000_images_filters_at_once(chromium: Browser, tmp_path: Path) -> None:
    """By class, area and number of regions, alone and together; the times are those of a busy machine."""
    dot = "data:image/gif;base64,R0lGODlhAQABAAAAACwAAAAAAQABAAA="
    cards = []
    for i in range(1000):
        areas = tuple(float((i + 10 * k) % 50) for k in range(i % 7))
        near = tuple((i + k) % 5 for k in range(i % 7))
        cards.append(
            Card(f"t{i:04d}", dot, 272, 136, i / 1000, (i % 3,), near, areas, tuple(f"{area} %" for area in areas))
        )
    page = {"dataset": "many", "total": 1000, "classes": list("abcde"), "stale": [], "provenance": []}
    (tmp_path / "many.html").write_text(render_gallery(cards, page), encoding="utf-8")
    filters: list[tuple[dict[str, int], Callable[[Card], bool]]] = [
        ({"seen": 1}, lambda card: 1 in card.seen),
        ({"near": 2}, lambda card: 2 in card.near),
        ({"few": 2, "many": 3}, lambda card: 2 <= len(card.areas) <= 3),
        ({"small": 10, "large": 12}, lambda card: any(10 <= area <= 12 for area in card.areas)),
        (
            {"seen": 0, "few": 5, "small": 40},
            lambda card: 0 in card.seen and len(card.areas) > 4 and max(card.areas) >= 40,
        ),
    ]
    choices = json.dumps([values for values, _ in filters])
    _, found = chromium.view(
        tmp_path / "many.html",
        1280,
        script=f"""(() => {{
      const form = document.getElementById("controls");
      const choose = (name, value) => {{
        form.elements[name].value = value;
        form.elements[name].dispatchEvent(new Event("input", {{ bubbles: true }}));
      }};
      const names = ["seen", "near", "few", "many", "small", "large"];
      const timed = {choices}.map((values) => {{
        for (const name of names) choose(name, "");
        const start = performance.now();
        for (const name in values) choose(name, values[name]);
        document.body.offsetHeight;
        return [document.querySelectorAll("#grid article:not([hidden])").length, performance.now() - start];
      }});
      const start = performance.now();
      choose("order", "quality down");
      document.body.offsetHeight;
      return {{ timed, sorting: performance.now() - start, first: document.querySelector("#grid article").dataset.id }};
    }})()""",
    )
    wanted = [sum(fits(card) for card in cards) for _, fits in filters]
    assert [count for count, _ in found["timed"]] == wanted and all(0 < count < 1000 for count in wanted)
    assert found["first"] == "t0999"
    assert max(found["sorting"], *(milliseconds for _, milliseconds in found["timed"])) < 2000


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
