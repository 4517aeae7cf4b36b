"""Bad input through the real command line: each kind ends in one line and its exit code, or is taken as it should be.

A row of the table says how the input is spoilt, which exit code is due, and what the one line holds. `{image}` and the
like stand for paths. Rows with code 0 are input that looks bad and is not; they say what must come out.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.conftest import VocTree, blocks
from tests.pipeline.bad_input.configs import CONFIGS
from tests.pipeline.bad_input.files import IMAGES, MASKS, SPLITS, cut
from tests.pipeline.bad_input.place import Place, Row, run
from tests.pipeline.bad_input.weights import WEIGHTS_ROWS

TABLE = {"image": IMAGES, "mask": MASKS, "split": SPLITS, "config": CONFIGS, "weights": WEIGHTS_ROWS}
ROWS = [pytest.param(row, id=f"{kind}: {row.name}") for kind, rows in TABLE.items() for row in rows]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    tree = VocTree(tmp_path / "data")
    for name, masks in (("trainaug", {"t0": blocks(0, 1, 16, 255), "t1": blocks(2)}), ("val", {"v0": blocks(3, 17)})):
        tree.write_list(name, list(masks))
        for image_id, mask in masks.items():
            tree.write_image(image_id, (24, 32))
            tree.write_mask(image_id, mask)
    return Place(tmp_path, tree)


def left_behind(cache: Path) -> list[str]:
    """Files in a cache that are no part of a whole artifact, nothing that a next run resumes from, and no log."""
    found = []
    for path in cache.rglob("*"):
        whole = (path.parent / "manifest.json").is_file() and ".partial" not in str(path)
        resumable = path.parent.name.endswith(".partial") and path.name in ("build.json", "build.lock", "bad_files.txt")
        scaffold = path.parent.name.endswith(".partial") and re.fullmatch(r"train-00000\.h5\.lock", path.name)
        if path.is_file() and path.parent.name not in ("logs", ".running") and not (whole or resumable or scaffold):
            found.append(path.relative_to(cache).as_posix())
    return found


@pytest.mark.parametrize("row", ROWS)
def test_bad_input_is_one_line_and_leaves_nothing(row: Row, place: Place, capfd: pytest.CaptureFixture[str]) -> None:
    row.spoil(place)
    capfd.readouterr()
    code = run(place, row.verb)
    printed = capfd.readouterr()
    assert code == row.code, printed.err
    if row.code == 0:
        assert row.holds(place)
        return
    assert printed.out == ""
    assert printed.err.startswith("error: ") and printed.err.endswith("\n")
    assert printed.err.count("\n") == 1 and "Traceback" not in printed.err and "--debug" not in printed.err
    assert printed.err[:-1].isprintable()
    assert row.message and row.message.format_map(place.names()) in printed.err
    assert not (place.folder / "pwned").exists(), "a pickle was loaded"
    assert left_behind(place.cache) == []
    assert not list(place.cache.glob(f"voc_cached/{SLUGS[row.verb]}/*/manifest.json"))


SLUGS = {"PrepareDataset": "dataset", "EmbedText": "text", "ExtractFeatures": "features"}


def test_debug_shows_where_it_came_from(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    cut(place.tree.image("t0"), 0)
    place.arguments.append("--debug")
    assert run(place, "PrepareDataset") == 3
    assert "Traceback" in capsys.readouterr().err


def test_a_run_continues_when_its_input_is_whole_again(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    data = place.tree.image("t0").read_bytes()
    cut(place.tree.image("t0"), 0)
    assert run(place, "ExtractFeatures") == 3
    place.tree.image("t0").write_bytes(data)
    assert run(place, "ExtractFeatures") == 0
    assert left_behind(place.cache) == []


def test_table_is_long_enough_and_each_row_has_a_name_of_its_own() -> None:
    names = [param.id for param in ROWS]
    assert len(names) == len(set(names)) >= 40
    assert all(row.message for rows in TABLE.values() for row in rows if row.code)
