"""`--images`: a quick trial on a few images, kept apart in the cache."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from split_matching.configs.load import load_config
from split_matching.pipeline.cli import main
from split_matching.pipeline.stages import make_plan


@pytest.fixture
def prepare(
    tmp_path: Path, voc_tree: Callable[..., Any], make_mask: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """Prepares four training and two validation images, or some of them; returns the exit code and what was said."""
    tree = voc_tree(train={f"t{i}": make_mask(0, 1 + i) for i in range(4)}, val={f"v{i}": make_mask(2) for i in (0, 1)})

    def run(*more: str) -> tuple[int, str]:
        capsys.readouterr()
        place = ["--dataset", "voc_cached", "--artifacts", str(tmp_path / "cache"), "--quiet"]
        code = main(["PrepareDataset", *place, "--set", f"data.root={tree.root}", *more])
        captured = capsys.readouterr()
        return code, captured.err if code else captured.out.splitlines()[-1]

    return run


def ids_in(folder: str) -> dict[str, list[str]]:
    images = json.loads((Path(folder) / "images.json").read_text())
    return {split: [image["id"] for image in members] for split, members in images.items()}


def test_trial_is_cut_to_its_images_and_kept_apart(prepare: Callable[..., tuple[int, str]]) -> None:
    _, whole = prepare()
    _, trial = prepare("--images", "t2,v1,t0")
    assert trial != whole
    assert ids_in(trial) == {"train": ["t0", "t2"], "val": ["v1"]}
    assert ids_in(whole) == {"train": ["t0", "t1", "t2", "t3"], "val": ["v0", "v1"]}
    assert prepare("--images", "v1, t0,t2,t0")[1] == trial  # order and repetition do not matter
    assert prepare()[1] == whole


@pytest.mark.parametrize(
    ("images", "code", "message"),
    [
        ("t0,t9", 3, "no image 't9' among the 6 images: did you mean t"),
        ("t00", 3, "no image 't00' among the 6 images: did you mean t0?"),
        ("v0", 3, "a trial needs a training image: add one to --images, for example t0"),
        ("t0,,v0", 2, "expected ids with commas between them"),
        ("", 2, "expected ids with commas between them"),
    ],
)
def test_trial_on_images_that_cannot_be_is_one_line(
    images: str, code: int, message: str, prepare: Callable[..., tuple[int, str]]
) -> None:
    found, said = prepare("--images", images)
    lines = [line for line in said.splitlines() if line.startswith("error: ")]
    assert found == code and len(lines) == 1 and message in lines[0]


def test_without_a_validation_image_nothing_but_the_lists_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = [
        "--dataset",
        "shapes",
        "--artifacts",
        str(tmp_path),
        "--set",
        "shapes.train_scenes=2",
        "shapes.val_scenes=1",
    ]
    assert main(["Evaluate", *place, "--images", "train_000000,train_000001"]) == 3
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("error: Evaluate: this trial has no validation image: add one to --images (log: ")
    assert sorted(path.name for path in (tmp_path / "shapes").iterdir()) == ["dataset", "logs", "shapes"]


def test_key_of_the_whole_data_set_does_not_hold_the_field() -> None:
    """It came later than the first caches; and a field that is never used makes nothing stale."""
    plans = [
        make_plan(load_config("voc_cached", [], ["clip.weights=random", *more])) for more in ((), ("data.images=[a]",))
    ]
    assert ["data.images" in plan["dataset"].reads for plan in plans] == [False, True]
