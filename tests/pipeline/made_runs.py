"""Runs of a cache without any computation: manifests as the stages would write them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

from split_matching.cache import build as build_module
from split_matching.cache.artifact import Artifact
from split_matching.cache.build import open_build
from split_matching.cache.entry import Entry, Recipe
from split_matching.cache.keys import digest

CLASSES = {
    "entries": [
        {"id": 1, "name": "cat"},
        {"id": 2, "name": "tv", "prompts": ["tv", "screen"]},
        {"id": 3, "name": "cow"},
    ],
    "unseen": [3],
    "ignore": [],
}
COMMANDS = {
    "pseudo_masks": "ClusterPseudoMasks",
    "text": "EmbedText",
    "train": "TrainDecoder",
    "evaluate": "Evaluate",
    "report": "Report",
}
_made = itertools.count()


def make_artifact(
    root: Path,
    dataset: str,
    stage: str,
    config: Mapping[str, Any],
    upstream: Mapping[str, Artifact],
    summary: Mapping[str, Any],
    seconds: float = 10.0,
) -> Artifact:
    """A result of one file of 100 bytes, made a minute after the one before."""
    created = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=next(_made))
    made = {**build_module.circumstances(), "created": created.isoformat(timespec="milliseconds")}
    keys = {name: artifact.key for name, artifact in upstream.items()}
    key = digest([dataset, stage, config, keys])
    contents = {f"{name}/out": artifact.content_of(("out",)) for name, artifact in upstream.items()}
    recipe = Recipe(COMMANDS[stage], 1, config, {"stages/a.py": "1"}, contents, keys)
    build = open_build(Entry(root, dataset, stage, key), recipe)
    (build.path / "out").write_text(key.ljust(100, "."))
    with patch.object(build_module, "circumstances", lambda: made), build.lock() as held:
        assert held
        return build.commit(seconds, summary)


def make_run(
    root: Path,
    *,
    dataset: str = "shapes",
    seed: int = 0,
    steps: int = 600,
    merge: float = 0.85,
    scores: tuple[float, float, float, float] | None = (90.0, 80.0, 60.0, 68.6),
    gamma: float = 0.0,
    report: bool = False,
) -> Artifact:
    """A run of some settings: the artifact of its evaluation, or of its training if there are no scores."""
    masks = make_artifact(
        root, dataset, "pseudo_masks", {"pseudo_masks": {"merge": merge, "max_annotated": 0.5}}, {}, {"regions": 3.5}
    )
    trained = {"train": {"seed": seed, "steps": steps, "loss_quality": 1.0}}
    train = make_artifact(root, dataset, "train", trained, {"pseudo_masks": masks}, {"steps": steps}, 60.0)
    if scores is None:
        return train
    config = {"evaluate": {"gamma": gamma, "confidence": "both"}} | (
        {} if dataset == "shapes" else {"classes": {"all": CLASSES}}
    )
    names = ("pAcc", "mIoU_seen", "mIoU_unseen", "hIoU")
    evaluate = make_artifact(
        root, dataset, "evaluate", config, {"train": train}, dict(zip(names, scores, strict=True)), 5.0
    )
    if report:
        make_artifact(root, dataset, "report", {"report": {"examples": 1}}, {"evaluate": evaluate}, {})
    return evaluate
