"""The pages in a real browser: no complaint, no request, and readable on a phone and on a desktop."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from split_matching.configs.schema import Config
from split_matching.pipeline import cli
from split_matching.pipeline.known_runs import list_runs
from split_matching.pipeline.run_page import write_page
from split_matching.pipeline.run_tables import to_json
from split_matching.stages.pages.report import run
from tests.browser import Browser
from tests.pipeline.made_runs import make_run
from tests.stages.pages.handmade_run import LOG, make_context

pytestmark = pytest.mark.long

WIDTHS = (390, 1280)


@pytest.fixture(scope="module")
def pages(tiny_run: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Pages of a real run, the report and the gallery of pseudo masks; and one of runs that were made by hand."""
    folder = tmp_path_factory.mktemp("pages")
    assert cli.main(["Report", *tiny_run, "--quiet"]) == 0
    report = next(Path(tiny_run[1]).glob("shapes/report/*/report.html"))
    assert cli.main(["inspect", "pseudo_masks", *tiny_run, "--out", str(folder / "gallery.html")]) == 0
    root = folder / "cache"
    for seed, scores in enumerate(((90.0, 80.0, 60.0, 68.6), (91.0, 85.0, 55.0, 66.8), None, (80.0, 70.0, 71.0, 70.5))):
        make_run(root, seed=seed, steps=100 * (seed + 1), scores=scores, report=seed == 1)
    runs = list_runs(root)
    write_page(folder / "runs.html", runs)
    (folder / "runs.json").write_text(to_json(runs))
    return {"report": report, "gallery": folder / "gallery.html", "runs": folder / "runs.html"}


def check(browser: Browser, name: str, page: Path, width: int) -> None:
    seen, _ = browser.view(page, width)
    if folder := os.environ.get("SPLIT_MATCHING_PICTURES"):  # to look at the pictures oneself
        (Path(folder) / f"{name}-{width}.png").write_bytes(seen.picture)
    assert seen.complaints == []
    assert seen.requests == []
    assert seen.content <= width, f"the page is {seen.content} pixels wide in a window of {width}"
    assert seen.smallest >= 11


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["report", "gallery", "runs"])
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
    ctx = make_context(tmp_path, monkeypatch, config=config, names=names, log=LOG, extra=extra)
    run(ctx)
    check(chromium, "long", ctx.out / "report.html", width)


def test_the_first_picture_is_on_the_first_screen(chromium: Browser, pages: dict[str, Path]) -> None:
    for width, height in ((390, 844), (1280, 900)):
        script = "document.querySelector('article.example img').getBoundingClientRect().bottom"
        _, bottom = chromium.view(pages["report"], width, height, script)
        assert bottom <= height, width


def test_the_report_sorts_enlarges_and_leads_to_images(chromium: Browser, pages: dict[str, Path]) -> None:
    script = """(async () => {
      const table = document.querySelector("table.sortable");
      const column = (place) => [...table.tBodies[0].rows].map((row) => row.cells[place].textContent);
      const press = (place) => table.tHead.rows[0].cells[place].querySelector("button").click();
      press(1);
      const names = column(1);
      press(6);
      const pixels = column(6).map((text) => Number(text.replaceAll(",", "")));
      const viewer = document.getElementById("viewer");
      const pictures = [...document.querySelectorAll("article.example")].map(
        (article) => [...article.querySelectorAll("figure img")].map((image) => image.src));
      document.querySelectorAll("article.example .enlarge")[2].click();
      const shown = viewer.querySelector("img");
      const first = [viewer.open, shown.src === pictures[0][2]];
      const key = (name) => {
        document.activeElement.dispatchEvent(new KeyboardEvent("keydown", { key: name, bubbles: true }));
      };
      viewer.querySelector(".kinds button").click();
      key("4");
      const prediction = shown.src === pictures[0][3];
      key("+");
      const scale = new DOMMatrix(shown.style.transform).a;
      key("ArrowRight");
      const next = [shown.src === pictures[1][3], new DOMMatrix(shown.style.transform).a];
      const kinds = [...viewer.querySelectorAll(".kinds button")].map((one) => [one.textContent, one.ariaPressed]);
      viewer.querySelector("[data-do=close]").click();
      document.querySelectorAll("details").forEach((details) => { details.open = false; });
      const links = [...document.querySelectorAll(".matrix a")];
      const link = links.find((a) => document.querySelector(a.hash).closest("details"));
      link.click();
      await new Promise((done) => setTimeout(done, 100));
      const unfolded = document.querySelector(link.hash).closest("details").open;
      const cell = link.parentElement;
      cell.click();
      return { names, pixels, first, prediction, scale, next, kinds, closed: !viewer.open, unfolded,
        told: document.getElementById("cell").textContent === cell.title,
        copies: document.querySelectorAll("details.form .copy").length };
    })()"""
    seen, value = chromium.view(pages["report"], 1280, script=script)
    assert value["names"] == sorted(value["names"]) and len(value["names"]) == 24
    assert value["pixels"] == sorted(value["pixels"], reverse=True)
    assert (
        value["first"] == [True, True] and value["prediction"] and value["scale"] == 1.5 and value["next"] == [True, 1]
    )
    kinds = [["image", "false"], ["pseudo mask", "false"], ["truth", "false"], ["prediction", "true"]]
    assert value["kinds"] == kinds and value["closed"]
    assert value["unfolded"] and value["told"] and value["copies"] == 3
    assert seen.complaints == []


def test_runs_sort(chromium: Browser, pages: dict[str, Path]) -> None:
    script = """(() => {
      const table = document.querySelector("table.sortable");
      const order = () => [...table.tBodies[0].rows].map((row) => row.cells[0].textContent.trim());
      const button = table.tHead.rows[0].cells[1].querySelector("button");
      const orders = [order()];
      for (let times = 0; times < 2; times++) { button.click(); orders.push(order()); }
      return orders;
    })()"""
    _, (listed, best, worst) = chromium.view(pages["runs"], 1280, script=script)
    keys = {
        row["key"][:8]: row["metrics"].get("hIoU")
        for row in json.loads((pages["runs"].parent / "runs.json").read_text())
    }
    assert set(listed) == set(keys)
    scores = [keys[key] for key in best if keys[key] is not None]
    assert scores == sorted(scores, reverse=True) and [keys[key] for key in worst[: len(scores)]] == scores[::-1]
    assert all(keys[key] is None for key in (*best[len(scores) :], *worst[len(scores) :]))


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
