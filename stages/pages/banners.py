"""What a reader must know before any number of a run: on its page, and in the table that a run ends with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from split_matching.errors import format_count
from split_matching.stages.ground.context import StageContext

Banner = Mapping[str, str]
"""`kind` (red, blue, amber), `title` and `text`."""


def list_banners(ctx: StageContext, metrics: Mapping[str, Any], unseen: int) -> list[Banner]:
    """Return what limits the meaning of the numbers of a run.

    Args:
        ctx: input `dataset`; reads `clip.weights` and `data` of the config.
        metrics: content of `metrics.json`.
        unseen: how many classes were scored as unseen.
    """
    config = ctx.config
    banners = []
    if config.clip.weights == "random":
        text = "Random CLIP weights: these numbers mean nothing. They show only that every stage ran."
        banners.append({"kind": "red", "title": "Plumbing only", "text": text})
    if config.data.fold is not None:
        text = (
            f"Fold {config.data.fold} of {config.data.folds}: “unseen” means {unseen} seen classes that were hidden to "
            "choose settings. The truly unseen classes are not scored here."
        )
        banners.append({"kind": "blue", "title": "Tuning run", "text": text})
    if config.data.layout == "shapes":
        text = "Rendered scenes made for this project. The numbers do not compare with any published data set."
        banners.append({"kind": "amber", "title": "Embedded data set", "text": text})
    return [*banners, *_subset_banner(ctx), *_foreign_banner(metrics)]


def is_foreign(metrics: Mapping[str, Any]) -> bool:
    """Whether the decoder was trained on another data set."""
    return bool(metrics.get("extra", {}).get("trained_on"))


def _foreign_banner(metrics: Mapping[str, Any]) -> Iterator[Banner]:
    """Say that the decoder was trained on another data set, and which classes it has seen there."""
    if not is_foreign(metrics):
        return
    extra = metrics["extra"]
    seen = ", ".join(extra["seen"]) or "none"
    text = f"The decoder is {extra['trained_on']}. “Seen” are the classes that had masks there, by their names: {seen}."
    yield {"kind": "blue", "title": "Trained on another data set", "text": text}


def _subset_banner(ctx: StageContext) -> Iterator[Banner]:
    """Say that the run saw a part of the published splits, or was a trial on some images of any data set."""
    data = ctx.config.data
    parts = [
        f"{have:,} of {whole:,} {word} images"
        for split, word, whole in (("train", "training", data.expected_train), ("val", "validation", data.expected_val))
        if whole and (have := len(ctx.inputs["dataset"].json(f"{split}.json")["images"])) != whole
    ]
    if parts:
        text = f"This run used {' and '.join(parts)} of the published protocol; do not compare with published numbers."
        yield {"kind": "amber", "title": "Not the full data set", "text": text}
    elif trial := ctx.inputs["dataset"].manifest.get("config", {}).get("data", {}).get("images"):
        text = f"A trial on {format_count(len(trial), 'image')} named with --images; do not compare it with other runs."
        yield {"kind": "amber", "title": "Not the full data set", "text": text}
