"""The gallery's own script, run in Chromium: its slider, filters, map and large pictures."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from split_matching.configs.load import load_config
from split_matching.pipeline import cli
from split_matching.pipeline.stages import make_plan
from split_matching.stages.pages.gallery import render_gallery
from split_matching.stages.pages.gallery_image import GalleryImage, RegionTable
from tests.browser import Browser

pytestmark = pytest.mark.long

DOT = "R0lGODlhAQABAIAAAP///wAAACwAAAAAAQABAAACAkQBADs="  # a picture of one pixel


@pytest.fixture(scope="module")
def gallery(tiny_run: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gallery") / "gallery.html"
    assert cli.main(["inspect", "pseudo_masks", *tiny_run, "--out", str(path)]) == 0
    return path


def test_regions_at_the_slider_are_those_of_the_stage(chromium: Browser, gallery: Path, tiny_run: list[str]) -> None:
    for merge in (0.6, 0.85, 0.93, 0.98):
        settings = [*tiny_run[3:], f"pseudo_masks.merge={merge}"]
        assert cli.main(["ClusterPseudoMasks", *tiny_run[:2], "--set", *settings, "--quiet"]) == 0
        plan = make_plan(load_config("shapes", overrides=[f"runtime.artifacts={tiny_run[1]}", *settings]))
        shard = plan["pseudo_masks"].artifact().shards("train")
        stored = {image_id: shard.read(image_id, "labels").ravel().tolist() for image_id in shard.ids}
        script = f"""(async () => {{
          const at = merges.indexOf({merge});
          show(at);
          const found = {{}};
          for (const card of cards) found[card.id] = await regionsAt(card.id, at);
          return {{ found, counts: cards.map((card) => regionsOf(card).length), value: byId("value").textContent }};
        }})()"""
        seen, page = chromium.view(gallery, 1280, script=script)
        assert page["found"] == stored and page["value"] == f"{merge:.2f}" and seen.complaints == []
        assert sorted(page["counts"]) == sorted(max(cells) for cells in stored.values())


def test_a_card_is_drawn_again_when_the_slider_moves(chromium: Browser, gallery: Path) -> None:
    script = """(async () => {
      const wait = () => new Promise((done) => setTimeout(done, 400));
      const look = () => {
        const card = document.querySelector("#grid article");
        const pixels = card.querySelector("canvas").getContext("2d").getImageData(0, 0, 192, 192).data;
        return [card.querySelector("summary").textContent, card.querySelectorAll("li").length,
                new Set(new Uint32Array(pixels.buffer)).size];
      };
      await wait();
      const drawn = [];
      for (const at of [0, merges.length - 1]) {
        slider.value = at;
        slider.dispatchEvent(new Event("input"));
        await wait();
        drawn.push(look());
      }
      return drawn;
    })()"""
    _, drawn = chromium.view(gallery, 1280, script=script)
    for words, rows, _ in drawn:
        assert words == f"{rows} region{'' if rows == 1 else 's'}"
    assert drawn[0][1] < drawn[1][1] and drawn[0][2] < drawn[1][2], "more regions, more colours"


def test_an_image_is_enlarged_and_the_keys_lead_on(chromium: Browser, gallery: Path) -> None:
    script = """(async () => {
      await new Promise((done) => setTimeout(done, 400));
      const press = (key) => large.dispatchEvent(new KeyboardEvent("keydown", { key }));
      const head = () => large.querySelector("h2").textContent;
      const order = [...document.querySelectorAll("#grid article")].map((card) => card.dataset.id);
      document.querySelector("#grid .sides").click();
      const first = [large.open, head()];
      press("ArrowRight");
      const second = head();
      press("ArrowUp");
      return { order, first, second, place: place - data.own };
    })()"""
    _, found = chromium.view(gallery, 1280, script=script)
    assert found["first"] == [True, found["order"][0]] and found["second"] == found["order"][1]
    assert found["place"] == 1


def test_a_lasso_shows_the_images_of_its_regions(chromium: Browser, gallery: Path) -> None:
    script = """(async () => {
      byId("map").open = true;
      await new Promise((done) => setTimeout(done, 300));
      const canvas = document.querySelector("#plane > canvas"), box = canvas.getBoundingClientRect();
      canvas.setPointerCapture = () => {};  // of a real pointer only
      const send = (kind, x, y) => canvas.dispatchEvent(
        new PointerEvent(kind, { clientX: box.left + x * box.width, clientY: box.top + y * box.height }));
      const loop = (x, y) => {
        send("pointerdown", 0, 0);
        for (const [a, b] of [[x, 0], [x, y], [0, y], [0, 0]]) send("pointermove", a, b);
        send("pointerup", 0, 0);
        return [...document.querySelectorAll("#grid article:not([hidden])")].map((card) => card.dataset.id).sort();
      };
      return { left: loop(0.5, 1), all: loop(1, 1), free: (byId("free").click(), byId("shown").textContent) };
    })()"""
    seen, found = chromium.view(gallery, 1280, script=script)
    data = json.loads(page_data(gallery))
    expected, taken = set(), 0
    for image in data["images"]:
        place = max(n for n, start in enumerate(image["starts"]) if start <= data["own"])
        for _ in image["maps"][place]:
            if data["points"][taken] < 500:
                expected.add(image["id"])
            taken += 2
    assert found["left"] == sorted(expected) and len(expected) > 0
    assert len(found["all"]) == 4 and found["free"] == "4" and seen.complaints == []


def page_data(page: Path) -> str:
    from html import unescape

    return unescape(page.read_text().split('<template id="data">')[1].split("</template>")[0])


def region_map(count: int, first: int) -> np.ndarray:
    """A map of 25 cells with `count` regions; the largest has `first` cells, the others one."""
    cells = np.zeros(25, np.uint8)
    cells[:first] = min(count, 1)
    cells[first : first + max(count - 1, 0)] = np.arange(2, count + 1)
    return cells.reshape(5, 5)


def test_3000_images_are_filtered_and_sorted_at_once(chromium: Browser, tmp_path: Path) -> None:
    """By id, class, area and number of regions, alone and together; the times are those of a busy machine."""
    images = []
    for i in range(3000):
        count, first = i % 7, 1 + i % 12
        near = [[((i + k) % 5, 50)] for k in range(count)]
        table = RegionTable([region_map(count, first)])
        images.append(GalleryImage(f"t{i:04d}", DOT, (100, 100), i / 3000, (i % 3,), table, near))
    curves = {"merges": [0.85], "queries": 4, "regions": [3], "covered": [9], "crowded": [1], "iou": None}
    page = {"dataset": "many", "total": 3000, "classes": list("abcde"), "stale": [], "provenance": []}
    page |= {"class_colours": ["#102030"] * 5}
    page |= {"own": 0, "method": "crop", "curves": curves}
    (tmp_path / "many.html").write_text("".join(render_gallery(images, [], page)), encoding="utf-8")

    def areas(i: int) -> list[float]:
        return [4.0 * (1 + i % 12), *[4.0] * (i % 7 - 1)] if i % 7 else []

    filters: list[tuple[dict[str, int | str], Callable[[int], bool]]] = [
        ({"id": "T01"}, lambda i: 100 <= i < 200),
        ({"seen": 1}, lambda i: i % 3 == 1),
        ({"near": 2}, lambda i: any((i + k) % 5 == 2 for k in range(i % 7))),
        ({"few": 2, "many": 3}, lambda i: 2 <= i % 7 <= 3),
        ({"small": 10, "large": 12}, lambda i: any(10 <= area <= 12 for area in areas(i))),
        ({"seen": 0, "few": 5, "small": 40}, lambda i: i % 3 == 0 and i % 7 > 4 and max(areas(i)) >= 40),
    ]
    _, found = chromium.view(
        tmp_path / "many.html",
        1280,
        script=f"""(async () => {{
      const form = document.getElementById("controls");
      const choose = (name, value) => {{
        form.elements[name].value = value;
        form.elements[name].dispatchEvent(new Event("input", {{ bubbles: true }}));
      }};
      const timed = {json.dumps([values for values, _ in filters])}.map((values) => {{
        for (const name of ["id", "seen", "near", "few", "many", "small", "large"]) choose(name, "");
        const start = performance.now();
        for (const name in values) choose(name, values[name]);
        document.body.offsetHeight;
        return [document.querySelectorAll("#grid article:not([hidden])").length, performance.now() - start];
      }});
      form.reset();
      await new Promise((done) => setTimeout(done, 600));
      const start = performance.now();
      choose("order", "quality down");
      document.body.offsetHeight;
      const sorting = performance.now() - start;
      const filled = document.querySelectorAll("#grid .sides").length;
      const first = document.querySelector("#grid article").dataset.id;
      choose("id", first);  // a picture of all of them would be too large
      return {{ timed, sorting, filled, first }};
    }})()""",
    )
    wanted = [sum(fits(i) for i in range(3000)) for _, fits in filters]
    assert [count for count, _ in found["timed"]] == wanted and all(0 < count < 3000 for count in wanted)
    assert found["first"] == "t2999"
    assert 0 < found["filled"] < 300, "only what is near the window is drawn"
    assert max(found["sorting"], *(milliseconds for _, milliseconds in found["timed"])) < 3000
