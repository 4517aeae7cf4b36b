"""`PrepareDataset --dataset pascal_context --download` on stand-ins of the archives, served on this machine."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from split_matching.configs.class_list import load_shipped_classes
from split_matching.configs.load import load_config
from split_matching.configs.published_results import load_published
from split_matching.configs.slices import build_slice
from split_matching.errors import DataError
from split_matching.stages.data.download import fetch as download
from split_matching.stages.data.download import pascal_context
from split_matching.stages.data.download.fetch import Archive
from split_matching.stages.data.download.pascal_context import LABELS, read_context_mask
from tests.error_lines import check_error
from tests.served import Served, serving
from tests.stages.data.download.test_data_sets import SHAPE, lines, picture, prepare, tar

TRAIN, VAL = ["2008_000001", "2008_000002"], ["2008_000003", "2008_000004"]
UNSEEN = {
    "otseg": ["cow", "motorbike", "sofa", "cat", "boat", "fence", "bird", "tvmonitor", "keyboard", "aeroplane"],
    "cascade": ["aeroplane", "bed", "bedclothes", "boat", "bottle", "car", "cloth", "cow", "keyboard", "plate"],
}
KNOWN = {2: "aeroplane", 23: "bicycle", 258: "motorbike", 284: "person", 397: "table", 427: "tvmonitor", 458: "wood"}
"""Some of the 459 labels, from the list that is published with the annotations."""


def labels_of(image_id: str) -> np.ndarray:
    """Labels of 459: left one of the 59, right one that is none of them."""
    labels = np.full(SHAPE, list(KNOWN)[int(image_id[-1])], np.uint16)
    labels[:, 8:] = 1  # accordion
    return labels


def mat(labels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    savemat(buffer, {"LabelMap": labels}, do_compression=True)
    return buffer.getvalue()


@pytest.fixture
def context(monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    base = "VOCdevkit/VOC2010"
    voc = tar(
        {
            f"{base}/ImageSets/Main/train.txt": lines(TRAIN),
            f"{base}/ImageSets/Main/val.txt": lines([*VAL, "2008_000005"]),  # one that is not annotated
            f"{base}/ImageSets/Main/cow_train.txt": b"2008_000001 -1\n",
            f"{base}/Annotations/2008_000001.xml": b"<annotation/>",
            **{f"{base}/JPEGImages/{i}.jpg": picture(i) for i in [*TRAIN, *VAL, "2008_000005"]},
        },
        "w",
    )
    labels = tar(
        {"trainval/labels.txt": b"1: accordion\n", **{f"trainval/{i}.mat": mat(labels_of(i)) for i in TRAIN + VAL}},
        "w:gz",
    )
    files = {"voc.tar": voc, "context.tar.gz": labels}
    monkeypatch.setattr(download, "PAUSE", 0.0)
    with serving(files) as served:
        for function, name in (("image_archive", "voc.tar"), ("label_archive", "context.tar.gz")):
            archive = Archive(f"{served.url}/{name}", name, hashlib.md5(files[name]).hexdigest())
            monkeypatch.setattr(pascal_context, function, lambda archive=archive: archive)
        yield served


def test_from_nothing(context: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert prepare(tmp_path, dataset="pascal_context") == 0
    base = tmp_path / "data/VOCdevkit/VOC2010"
    assert sorted(path.name for path in base.iterdir()) == ["ImageSets", "JPEGImages", "SegmentationClassContext"]
    by_name = {entry.name: entry.id for entry in load_shipped_classes("pascal_context").entries}
    for image_id in TRAIN + VAL:
        mask = np.asarray(Image.open(base / f"SegmentationClassContext/{image_id}.png"))
        expected = by_name[list(KNOWN.values())[int(image_id[-1])]]
        assert (mask[:, :8] == expected).all() and (mask[:, 8:] == 0).all()
    images = json.loads((Path(capsys.readouterr().out.splitlines()[-1]) / "images.json").read_text())
    assert [[entry["id"] for entry in images[split]] for split in ("train", "val")] == [TRAIN, VAL]
    assert not list((tmp_path / "data").rglob("*.partial"))
    assert prepare(tmp_path, dataset="pascal_context") == 0 and len(context.requests) == 2


def test_ready_label_maps_need_no_download(tmp_path: Path, context: Served) -> None:
    assert prepare(tmp_path, dataset="pascal_context") == 0
    again = ["data.root=" + str(tmp_path / "data"), "data.expected_train=2"]
    assert prepare(tmp_path, *again, dataset="pascal_context", more=()) == 0


def test_an_interrupted_conversion_goes_on(context: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, seen = pascal_context.read_context_mask, []

    def stop(data: bytes, where: str) -> np.ndarray:
        if len(seen) == 2:
            raise KeyboardInterrupt
        seen.append(where)
        return whole(data, where)

    monkeypatch.setattr(pascal_context, "read_context_mask", stop)
    assert prepare(tmp_path, dataset="pascal_context") == 130
    monkeypatch.setattr(
        pascal_context, "read_context_mask", lambda data, where: seen.append(where) or whole(data, where)
    )
    assert prepare(tmp_path, dataset="pascal_context") == 0
    assert len(seen) == len(set(seen)) == 4 and len(context.requests) == 2


@pytest.mark.parametrize(
    "content", [b"nonsense", mat(np.full((2, 2), 460)), mat(np.full((2, 2), 0.5)), mat(np.zeros((0, 0)))]
)
def test_damaged_annotations_are_named(content: bytes) -> None:
    check_error(lambda: read_context_mask(content, "a.mat"), "a.mat: ", "LabelMap", kind=DataError)


def test_the_classes_are_those_of_the_labels() -> None:
    entries = load_shipped_classes("pascal_context").entries
    assert len(entries) == len(LABELS) == 59 and [e.id for e in entries] == list(range(1, 60))
    assert [e.name for e in entries] == sorted(e.name for e in entries)  # as the 459 labels are sorted
    for label, name in KNOWN.items():
        assert entries[LABELS.index(label)].name == name


def test_both_unseen_sets_and_no_row_of_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, files, methods in (
        ("otseg", (), ["OTSeg+"]),
        ("cascade", ("configs/splits/pascal_context_cascade.yaml",), ["Cascade-CLIP"]),
    ):
        config = load_config("pascal_context", [Path(__file__).parents[4] / file for file in files])
        found = build_slice(config, ("classes.all", "classes.published")).classes
        assert {entry.name for entry in found.all.unseen_entries} == set(UNSEEN[name])
        assert len(found.all.seen()) == 49 and [row.method for row in found.published] == methods
    config = load_config("pascal_context", overrides=["data.unseen=[cow]"])
    assert build_slice(config, ("classes.published",)).classes.published == ()
    assert (
        build_slice(load_config("voc", overrides=["data.unseen=[cow]"]), ("classes.published",)).classes.published == ()
    )
    assert len(load_published("pascal_context")) == 5 and load_published("voc", ["cow"]) == ()
