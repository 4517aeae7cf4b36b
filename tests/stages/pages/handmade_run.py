"""Every upstream artifact of a tiny run on the VOC class list, made by hand, and the report of it as a parsed page."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from split_matching.configs.class_list import ClassEntry, ClassList, load_shipped_classes
from split_matching.configs.schema import Config
from split_matching.configs.slices import build_slice
from split_matching.stages.ground.context import StageContext
from split_matching.stages.inference.metric_files import write_confused, write_metrics, write_per_image
from split_matching.stages.inference.metrics import ConfusionMatrix
from split_matching.stages.pages import examples
from split_matching.stages.pages.report import run

READS = ("report", "pseudo_masks", "data", "clip.weights", "classes.published")


IDS = ("img_0", "img_1", "img_2", "img_3")


SIZE = (24, 36)


FULL = {"data": {"expected_train": 10582, "expected_val": 1449}}


class FakeShards:
    """Arrays by (image id, field)."""

    def __init__(self, arrays: Mapping[tuple[str, str], np.ndarray]) -> None:
        self._arrays = arrays

    fields = ("dense",)

    def read(self, image_id: str, field: str) -> np.ndarray:
        return self._arrays[image_id, field]


class FakeArtifact:
    """The face of `cache.artifact.Artifact` that the report uses."""

    def __init__(self, stage: str, path: Path, manifest: dict[str, Any], shards: FakeShards | None = None) -> None:
        self.stage, self.path, self.manifest, self._shards = stage, path, manifest, shards
        self.key = manifest["key"]
        path.mkdir(parents=True, exist_ok=True)

    def file(self, name: str) -> Path:
        return self.path / name

    def json(self, name: str) -> Any:
        return json.loads((self.path / name).read_text(encoding="utf-8"))

    def shards(self, split: str) -> FakeShards:
        assert split == ("train" if self.stage == "pseudo_masks" else "val")
        assert self._shards is not None
        return self._shards


def manifest(stage: str, number: int, **more: Any) -> dict[str, Any]:
    created = f"2025-06-01T10:0{number}:00Z"
    return {"stage": stage, "key": f"{number}" * 64, "seconds": 1.5 * number, "created": created, **more}


def truth_of(place: int, classes: ClassList) -> np.ndarray:
    """Raw ids: a class on the left, another on the right, void between, background below."""
    mask = np.zeros(SIZE, np.uint8)
    mask[:16, :16] = classes.ids[place]
    mask[:16, 20:] = classes.unseen_entries[place].id
    mask[:16, 16:20] = 255
    return mask


def write_data(root: Path, classes: ClassList) -> None:
    """Write a small VOC tree."""
    voc = root / "VOCdevkit" / "VOC2012"
    for folder in ("JPEGImages", "SegmentationClassAug", "ImageSets/Segmentation"):
        (voc / folder).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for place, image_id in enumerate(IDS):
        pixels = rng.integers(0, 256, (*SIZE, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(voc / "JPEGImages" / f"{image_id}.jpg")
        Image.fromarray(truth_of(place, classes)).save(voc / "SegmentationClassAug" / f"{image_id}.png")
    for split in ("trainaug", "val"):
        (voc / "ImageSets" / "Segmentation" / f"{split}.txt").write_text("\n".join(IDS) + "\n")


LOG = [
    {"step": step, "loss": 9 - step / 20, "lr": 1e-4, "grad_norm": 1.0, "seen_class": 2.0, "candidate_cosine": 0.5}
    for step in range(0, 100, 20)
]


MATCHING = [
    {"step": step, "images": 2, "seen_score": 0.5, "seen_iou": step / 100, "seen_queries": [2, 1, 0]}
    | {"candidate_score": 0.4, "candidate_iou": 0.3, "candidate_queries": [0, 2]}
    for step in range(0, 100, 20)
]


SWEEP = [
    {"gamma": 0.1, "mIoU_seen": 70.0, "mIoU_unseen": 51.25, "hIoU": 59.2},
    {"gamma": 0.0, "mIoU_seen": 72.0, "mIoU_unseen": None, "hIoU": None},
]


def make_context(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    config: Config | None = None,
    names: Mapping[int, str] | None = None,
    log: Sequence[dict[str, Any]] = (),
    extra: dict[str, Any] | None = None,
) -> StageContext:
    """Make every upstream artifact of a tiny run on the VOC class list.

    `log=LOG` is for tests of curves: most of the time of a page with them goes into drawing them.
    """
    config = config or Config.model_validate({"dataset": "voc", "report": {"examples": 3, "worst": 1}})
    classes = load_shipped_classes(config.data.classes)
    write_data(tmp_path / "data", classes)
    entries = [ClassEntry(e.id, (names or {}).get(e.id, e.name)) for e in classes.entries]
    confusion = ConfusionMatrix(len(entries))
    most, where = np.zeros((2, len(entries), len(entries)), np.int64)
    predictions = {}
    for place, image_id in enumerate(IDS):
        raw = truth_of(place, classes)
        table = np.full(256, 255, np.uint8)
        table[list(classes.ids)] = np.arange(len(entries))
        truth = table[raw]
        labels = np.where(truth == 255, 0, truth).astype(np.uint8)
        labels[:, 30:] = 1
        confusion.update(truth, labels, 255)
        own = ConfusionMatrix(len(entries))
        own.update(truth, labels, 255)
        more = own.counts > most
        most[more], where[more] = own.counts[more], place
        predictions[image_id, "labels"] = labels
    # one region covers the left half of every image, another a strip at the right
    halves = np.array([[1, 1, 1, 0, 0, 2]] * 4, np.uint8)
    regions = {(image_id, "labels"): halves for image_id in IDS}
    dense = {(image_id, "dense"): np.ones((4, 6, 8), np.float16) for image_id in IDS}
    images = [
        {"id": image_id, "labels_sha256": "0", "classes": [classes.ids[n], classes.unseen_entries[n].id]}
        for n, image_id in enumerate(IDS)
    ]
    inputs = {
        "dataset": FakeArtifact("dataset", tmp_path / "dataset", manifest("PrepareDataset", 1)),
        "features": FakeArtifact("features", tmp_path / "features", manifest("ExtractFeatures", 2), FakeShards(dense)),
        "pseudo_masks": FakeArtifact(
            "pseudo_masks",
            tmp_path / "masks",
            manifest("ClusterPseudoMasks", 3, summary={"regions_per_image": 6.25}),
            FakeShards(regions),
        ),
        "train": FakeArtifact(
            "train", tmp_path / "train", manifest("TrainDecoder", 4, versions={"numpy": "2.0", "torch": "2.9"})
        ),
        "evaluate": FakeArtifact(
            "evaluate",
            tmp_path / "evaluate",
            manifest("Evaluate", 5, config={"evaluate": {"gamma": 0.0}}),
            FakeShards(predictions),
        ),
    }
    for split in ("train", "val"):
        (tmp_path / "dataset" / f"{split}.json").write_text(json.dumps({"images": images}))
    for name, records in (("metrics", log), ("matching", MATCHING if log else ())):
        lines = "".join(json.dumps(record) + "\n" for record in records)
        (tmp_path / "train" / f"{name}.jsonl").write_text(lines)
    seen = [entry.id not in classes.unseen_ids for entry in entries]
    write_metrics(tmp_path / "evaluate", confusion, entries, seen, extra)
    write_confused(tmp_path / "evaluate" / "confused.csv", most, where, IDS)
    ious = [(image_id, 0.5, 0.1 * (place + 1)) for place, image_id in enumerate(IDS)]
    write_per_image(tmp_path / "evaluate" / "per_image.csv", [*ious, ("without labels", math.nan, math.nan)])
    regions_of_any = np.array([[1, 1, 2], [0, 3, 3]], np.uint8)
    monkeypatch.setattr(examples, "cluster", lambda dense, config: regions_of_any)
    monkeypatch.setattr(examples, "field_to_cluster", lambda fields, config: "dense")
    out = tmp_path / "out"
    out.mkdir(exist_ok=True)
    return StageContext(
        config=build_slice(config, READS),
        inputs=inputs,  # type: ignore[arg-type]
        out=out,
        data_root=tmp_path / "data",
    )


class Page(HTMLParser):
    """Collects tags, attributes and visible text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.ids: dict[str, str] = {}
        self.feed(text)
        self.text = " ".join(" ".join(self.texts).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if not self.tags or self.tags[-1][0] != "style" or "{" not in data:
            self.texts.append(data)

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


def page_of(ctx: StageContext) -> Page:
    run(ctx)
    return Page((ctx.out / "report.html").read_text(encoding="utf-8"))


def alts(page: Page) -> list[str]:
    return [str(attrs["alt"]) for attrs in page.of("img")]
