"""A page of all pseudo masks: thumbnails to filter and sort in a browser.

The page loads nothing. Its one script is inline and allowed by its digest; it sees numbers only, so a name from a file
reaches the page through the template's autoescape and nothing else. Unseen names are not read at all.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from split_matching.stages.candidates.features import training_features
from split_matching.stages.candidates.pseudo_masks import clustered_field
from split_matching.stages.data.images import read_image
from split_matching.stages.data.layouts import open_source
from split_matching.stages.ground.context import StageContext
from split_matching.stages.pages import figures
from split_matching.stages.pages.image_sheets import (
    Names,
    States,
    matching_regions,
    provenance,
    region_colours,
    region_labels,
    separation,
)
from split_matching.stages.pages.report import page_template

THUMBNAIL_SIDE = 136
"""Longer side of a thumbnail, pixels (choice: 1,000 images make a page of about 10 MB)."""

_QUALITY = 72  # of the JPEGs
_NOWHERE = -1


@dataclass(frozen=True)
class Card:
    """One image of the gallery.

    Args:
        id: of the image.
        picture: image and pseudo masks, as a `data:` URI.
        width: of the picture, pixels.
        height: of the picture, pixels.
        quality: mean over the regions of how well they stand apart; NaN where it is not defined.
        seen: indices of the annotated seen classes.
        near: index of the nearest seen class of each region; empty when not known.
        areas: share of the image of each region, percent.
        words: what is said of each region.
    """

    id: str
    picture: str
    width: int
    height: int
    quality: float
    seen: tuple[int, ...]
    near: tuple[int, ...]
    areas: tuple[float, ...]
    words: tuple[str, ...]

    @property
    def colours(self) -> list[str]:
        """A colour for each region."""
        return figures.hex_colours(region_colours(len(self.areas)))


def write_gallery(ctx: StageContext, states: States, path: Path, limit: int) -> list[str]:
    """Write the page of the training images.

    Args:
        ctx: inputs `dataset`, `features`, `pseudo_masks`, and `regions` and `text` where there are.
        states: how the artifacts stand.
        path: the HTML file to write.
        limit: most images; more are thinned evenly.

    Returns:
        What to print: how many images, and their quality.
    """
    masks = ctx.inputs["pseudo_masks"].shards("train")
    chosen = thinned(masks.ids, limit)
    maker = _Cards(ctx)
    cards = [maker.card(image_id) for image_id in chosen]
    cards.sort(key=lambda card: (math.isnan(card.quality), card.quality, card.id))
    script = (Path(__file__).parent / "templates" / "gallery.js").read_text(encoding="utf-8")
    hashed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page = {
        "dataset": ctx.inputs["pseudo_masks"].manifest["dataset"],
        "cards": cards,
        "total": len(masks.ids),
        "classes": [entry.name for entry in ctx.config.classes.seen],
        "named": any(card.near for card in cards),
        "stale": [
            f"{ctx.inputs[slug].manifest['stage']} is {state}" for slug, state in states.items() if state != "fresh"
        ],
        "provenance": provenance(ctx.inputs, ("pseudo_masks", "features", "regions", "text"), states),
        "script": script,
        "script_hash": hashed,
    }
    html = page_template("gallery.html.j2").render(page)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_text(html, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return _said(cards, len(masks.ids))


def thinned(ids: Sequence[str], limit: int) -> list[str]:
    """Return at most `limit` ids, evenly spread."""
    count = min(limit, len(ids))
    return [ids[index * len(ids) // count] for index in range(count)]


def _said(cards: Sequence[Card], total: int) -> list[str]:
    known = [card.quality for card in cards if math.isfinite(card.quality)]
    regions = sum(len(card.areas) for card in cards) / len(cards)
    lines = [f"{len(cards)} of {total} training images, {regions:.1f} regions an image"]
    if known:
        low, middle, high = np.quantile(known, [0.05, 0.5, 0.95])
        lines.append(f"quality {middle:.3f} in the middle, nine in ten images between {low:.3f} and {high:.3f}")
        lines.append(f"worst: {', '.join(card.id for card in cards[:5])}")
    return lines


class _Cards:
    """Makes cards; every set of shards is opened once.

    Args:
        ctx: see `write_gallery`.
    """

    def __init__(self, ctx: StageContext) -> None:
        self.inputs = ctx.inputs
        self.masks = ctx.inputs["pseudo_masks"].shards("train")
        self.features = training_features(ctx)
        self.field = clustered_field(self.features.fields, ctx.config.pseudo_masks)
        self.source = open_source(ctx.config.data, ctx.data_root)
        self.classes = {int(entry.id): index for index, entry in enumerate(ctx.config.classes.seen)}
        self.annotated = {
            str(entry["id"]): entry["classes"] for entry in ctx.inputs["dataset"].json("train.json")["images"]
        }
        self.regions = matching_regions(ctx.inputs)
        self.names = Names(ctx.inputs["text"]) if self.regions else None

    def card(self, image_id: str) -> Card:
        labels = self.masks.read(image_id, "labels")
        apart = separation(self.features.read(image_id, self.field), labels)
        areas = tuple(round(100 * float((labels == region + 1).mean()), 1) for region in range(len(apart)))
        ranked = []
        if self.regions and self.names:
            ranked = self.names.nearest(self.regions.read(image_id, "embeddings"))
        named = [f", {self.names.words(row, 2)}" for row in ranked] if self.names else [""] * len(areas)
        image = figures.resize_image(read_image(self.source.image_path(image_id)), THUMBNAIL_SIDE)
        painted = figures.overlay(image, region_labels(labels), region_colours(len(areas)), alpha=0.55, none=_NOWHERE)
        pair = np.concatenate([image, painted], 1)
        return Card(
            id=image_id,
            picture=figures.jpeg_data_uri(pair, _QUALITY),
            width=pair.shape[1],
            height=pair.shape[0],
            quality=float(np.nanmean(apart)) if np.isfinite(apart).any() else math.nan,
            seen=tuple(self.classes[raw] for raw in self.annotated.get(image_id, ()) if raw in self.classes),
            near=tuple(row[0][0] for row in ranked),
            areas=areas,
            words=tuple(f"{area} %{name}" for area, name in zip(areas, named, strict=True)),
        )
