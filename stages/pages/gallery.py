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
from typing import Any

import numpy as np

from split_matching.cache.files import atomic_write
from split_matching.stages.candidates.clustering import field_to_cluster
from split_matching.stages.candidates.computed_features import open_training_features
from split_matching.stages.data.image_ids import choose_evenly
from split_matching.stages.data.images import read_image
from split_matching.stages.data.source import open_source
from split_matching.stages.ground.context import StageContext
from split_matching.stages.pages.colours import hex_colours, region_colours
from split_matching.stages.pages.formats import page_template, read_template
from split_matching.stages.pages.overlays import jpeg_data_uri, resize_image
from split_matching.stages.pages.sheets.regions import (
    SeenNames,
    draw_regions,
    measure_separation,
    open_embeddings,
)
from split_matching.stages.pages.sheets.sources import States, describe_sources

THUMBNAIL_SIDE = 136
"""Longer side of a thumbnail, pixels (choice: 1,000 images make a page of about 10 MB)."""

_QUALITY = 72  # of the JPEGs


@dataclass(frozen=True)
class Card:
    """One image of the gallery.

    Args:
        id: of the image.
        picture: image and pseudo masks, as a `data:` URI.
        width: of the picture, pixels.
        height: of the picture, pixels.
        quality: mean over the regions of how well they are separated; NaN where it is not defined.
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
        return hex_colours(region_colours(len(self.areas)))


def write_gallery(ctx: StageContext, states: States, path: Path, limit: int) -> list[str]:
    """Write the page of the training images.

    Args:
        ctx: inputs `dataset`, `features`, `pseudo_masks`, and `regions` and `text` where there are.
        states: of the artifacts.
        path: the HTML file to write.
        limit: most images; of more, evenly spread ones are shown.

    Returns:
        What to print: how many images, and their quality.
    """
    ids = ctx.inputs["pseudo_masks"].shards("train").ids
    maker = CardMaker(ctx)
    cards = [maker.make(image_id) for image_id in choose_evenly(ids, limit)]
    cards.sort(key=lambda card: (math.isnan(card.quality), card.quality, card.id))
    page = {
        "dataset": ctx.inputs["pseudo_masks"].manifest["dataset"],
        "total": len(ids),
        "classes": [entry.name for entry in ctx.config.classes.seen],
        "stale": [
            f"{ctx.inputs[name].manifest['stage']} is {state}" for name, state in states.items() if state != "fresh"
        ],
        "provenance": describe_sources(ctx.inputs, ("pseudo_masks", "features", "regions", "text"), states),
    }
    html = render_gallery(cards, page)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        temporary.write_text(html, encoding="utf-8")
    return _summarise(cards, len(ids))


def render_gallery(cards: Sequence[Card], page: dict[str, Any]) -> str:
    """Return the page.

    Args:
        cards: the images, in the order that they are shown in.
        page: `dataset`, `total` (images that there are), `classes` (names), and lists of lines `stale` and
            `provenance`.
    """
    script = read_template("gallery.js")
    return page_template("gallery.html.j2").render(
        **page,
        cards=cards,
        named=any(card.near for card in cards),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def _summarise(cards: Sequence[Card], total: int) -> list[str]:
    known = [card.quality for card in cards if math.isfinite(card.quality)]
    regions = sum(len(card.areas) for card in cards) / len(cards)
    lines = [f"{len(cards)} of {total} training images, {regions:.1f} regions an image"]
    if known:
        low, middle, high = np.quantile(known, [0.05, 0.5, 0.95])
        lines.append(f"quality {middle:.3f} in the middle, nine in ten images between {low:.3f} and {high:.3f}")
        lines.append(f"worst: {', '.join(card.id for card in cards[:5])}")
    return lines


class CardMaker:
    """Makes cards; every set of shards is opened once.

    Args:
        ctx: see `write_gallery`.
    """

    def __init__(self, ctx: StageContext) -> None:
        self.masks = ctx.inputs["pseudo_masks"].shards("train")
        self.features = open_training_features(ctx)
        self.field = field_to_cluster(self.features.fields, ctx.config.pseudo_masks)
        self.source = open_source(ctx.config.data, ctx.data_root)
        self.classes = {int(entry.id): index for index, entry in enumerate(ctx.config.classes.seen)}
        self.annotated = {
            str(entry["id"]): entry["classes"] for entry in ctx.inputs["dataset"].json("train.json")["images"]
        }
        self.embeddings = open_embeddings(ctx.inputs)
        self.names = SeenNames(ctx.inputs["text"]) if self.embeddings else None

    def make(self, image_id: str) -> Card:
        """Return the card of one training image."""
        labels = self.masks.read(image_id, "labels")
        apart = measure_separation(self.features.read(image_id, self.field), labels)
        areas = tuple(round(100 * float((labels == region + 1).mean()), 1) for region in range(len(apart)))
        ranked = []
        if self.embeddings and self.names:
            ranked = self.names.rank(self.embeddings.read(image_id, "embeddings"))
        named = [f", {self.names.format(row, 2)}" for row in ranked] if self.names else [""] * len(areas)
        image = resize_image(read_image(self.source.image_path(image_id)), THUMBNAIL_SIDE)
        pair = np.concatenate([image, draw_regions(image, labels, 0.55)], 1)
        return Card(
            id=image_id,
            picture=jpeg_data_uri(pair, _QUALITY),
            width=pair.shape[1],
            height=pair.shape[0],
            quality=float(np.nanmean(apart)) if np.isfinite(apart).any() else math.nan,
            seen=tuple(self.classes[raw] for raw in self.annotated.get(image_id, ()) if raw in self.classes),
            near=tuple(row[0][0] for row in ranked),
            areas=areas,
            words=tuple(f"{area} %{name}" for area, name in zip(areas, named, strict=True)),
        )
