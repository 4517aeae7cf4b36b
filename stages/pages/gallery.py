"""A page of all pseudo masks: a slider for `pseudo_masks.merge`, filters, and a map of the regions' embeddings.

The page loads nothing. Its one script is inline and allowed by its digest; without it, the worst images are plain
pictures. What the script shows comes as JSON that the template escapes, and it makes no markup of it. No unseen name
and no unseen annotation is on the page. Unseen names are read for colours alone: those of the seen classes follow from
the whole list, to be the same on all pages.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from split_matching.cache.files import atomic_write
from split_matching.stages.candidates.sweep import settings_of
from split_matching.stages.data.image_ids import choose_evenly
from split_matching.stages.ground.context import StageContext
from split_matching.stages.pages.colours import class_colours, hex_colours, region_colours
from split_matching.stages.pages.formats import page_template, read_script
from split_matching.stages.pages.gallery_image import GalleryImage
from split_matching.stages.pages.gallery_maker import GalleryMaker
from split_matching.stages.pages.gallery_numbers import RegionCurves, principal_plane
from split_matching.stages.pages.gallery_stills import make_stills
from split_matching.stages.pages.sheets.sources import States, describe_sources

SCRIPTS = ("gallery.js", "gallery_map.js")
COLOURS = 64
"""Colours of the regions of an image; beyond that they repeat."""


def write_gallery(ctx: StageContext, states: States, path: Path, limit: int) -> list[str]:
    """Write the page of the training images.

    Args:
        ctx: inputs `dataset`, `features`, `pseudo_masks`, and `text` where there is.
        states: of the artifacts.
        path: the HTML file to write.
        limit: most images; of more, evenly spread ones are shown.

    Returns:
        What to print: how many images, and their quality.
    """
    ids = ctx.inputs["pseudo_masks"].shards("train").ids
    config = ctx.config.pseudo_masks
    merges = settings_of(config)
    own = merges.index(config.merge)
    maker = GalleryMaker(ctx, merges, own)
    curves = RegionCurves(merges, ctx.config.decoder.candidate_queries)
    images: list[GalleryImage] = []
    embeddings: list[np.ndarray[Any, np.dtype[np.float32]]] = []
    chosen = choose_evenly(ids, limit)
    for done, made in enumerate(maker.make(chosen), 1):
        images.append(made.image)
        embeddings.append(made.embeddings)
        curves.add(made.sweep)
        ctx.progress(done, len(chosen))
    classes = [entry.name for entry in ctx.config.classes.seen]
    points = principal_plane(np.concatenate(embeddings))
    page = {
        "dataset": ctx.inputs["pseudo_masks"].manifest["dataset"],
        "total": len(ids),
        "classes": classes,
        "class_colours": hex_colours(class_colours(ctx.config.classes.all.names, classes)),
        "stale": [
            f"{ctx.inputs[name].manifest['stage']} is {state}" for name, state in states.items() if state != "fresh"
        ],
        "provenance": describe_sources(ctx.inputs, ("pseudo_masks", "features", "text"), states),
        "own": own,
        "method": ctx.config.regions.method,
        "curves": curves.describe(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8") as stream:
        stream.writelines(render_gallery(images, points, page))
    return _summarise(images, own, len(ids))


def render_gallery(images: Sequence[GalleryImage], points: Sequence[int], page: dict[str, Any]) -> Iterator[str]:
    """Yield the page in parts.

    Args:
        images: in the order that they are shown in.
        points: of every region at the config's setting, image by image: x and y on the map, 0..1000; empty for no map.
        page: `dataset`, `total` (images that there are), `classes` (names), `class_colours`, lists of lines `stale` and
            `provenance`, `own` (place of the config's setting), `method` (of the embeddings), `curves` (see
            RegionCurves).
    """
    script, script_hash = read_script(*SCRIPTS)
    data = {
        "images": [image.describe() for image in images],
        "points": list(points),
        "colours": hex_colours(region_colours(COLOURS)),
        **{name: page[name] for name in ("classes", "class_colours", "own", "curves")},
    }
    return page_template("gallery.html.j2").generate(
        **page,
        images=images,
        data=json.dumps(data, separators=(",", ":")),
        merge=page["curves"]["merges"][page["own"]],
        stills=make_stills(images, page["own"], page["classes"]),
        points_shown=bool(points),
        named=any(len(image.names) for image in images),
        script=script,
        script_hash=script_hash,
    )


def _summarise(images: Sequence[GalleryImage], own: int, total: int) -> list[str]:
    ranked = sorted((image.quality, image.id) for image in images if math.isfinite(image.quality))
    regions = sum(int(image.table.maps[own].max(initial=0)) for image in images) / len(images)
    lines = [f"{len(images)} of {total} training images, {regions:.1f} regions an image"]
    if ranked:
        low, middle, high = np.quantile([quality for quality, _ in ranked], [0.05, 0.5, 0.95])
        lines.append(f"quality {middle:.3f} in the middle, nine in ten images between {low:.3f} and {high:.3f}")
        lines.append(f"worst: {', '.join(image_id for _, image_id in ranked[:5])}")
    return lines
