"""Labels a user's own images one by one, and writes the results so that an interruption leaves no part of a file.

For each image NAME there are three files: NAME.overlay.png with a legend, NAME.index.png whose pixel values are places
in the list of names (a palette makes them visible), and NAME.areas.json, which is written last and records what the
other two were made from. An image whose record is the same as now is not labelled again.
"""

from __future__ import annotations

import errno
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from split_matching.cache.files import atomic_write, parse_json
from split_matching.errors import DataError, one_line
from split_matching.stages.data.images import read_bytes
from split_matching.stages.data.photos import AREAS, INDEX, OVERLAY, Photo, decode_photo
from split_matching.stages.ground.picture_files import write_picture
from split_matching.stages.inference.segmenter import Prediction, Segmenter
from split_matching.stages.pages.colours import class_colours
from split_matching.stages.pages.legend import INK, PAPER, SOFT_INK, SWATCH, draw_swatch, load_font
from split_matching.stages.pages.overlays import overlay, scale_to_side

FORMAT = 2
OVERLAY_SIDES = (480, 1600)
"""Least and greatest longer side of an overlay, pixels (choice: room for the legend, small enough to send)."""


def label_photos(
    segmenter: Segmenter,
    photos: Sequence[Photo],
    names: Sequence[str],
    out: Path,
    progress: Callable[[int, int], None],
    complain: Callable[[str], None],
) -> dict[str, int]:
    """Label images and write the results.

    Args:
        segmenter: the trained decoder.
        photos: the images.
        names: class names.
        out: folder of the results; it is made where it is absent.
        progress: called with (done, total).
        complain: called with one line for every image that fails.

    Returns:
        How many were `labelled`, `kept` from before, and `failed`.
    """
    counts = {"labelled": 0, "kept": 0, "failed": 0}
    for done, photo in enumerate(photos, 1):
        try:
            counts[_label(segmenter, photo, names, out)] += 1
        except DataError as error:
            counts["failed"] += 1
            complain(str(error))
        except OSError as error:
            if error.errno not in (errno.ENAMETOOLONG, errno.EILSEQ):
                raise
            counts["failed"] += 1
            complain(f"{one_line(str(photo.path))}: no result can have this name ({error.strerror}); rename the file")
        progress(done, len(photos))
    return counts


def _label(segmenter: Segmenter, photo: Photo, names: Sequence[str], out: Path) -> str:
    """Label one image, unless its results are there; return "labelled" or "kept"."""
    data = read_bytes(photo.path)
    made_from = {
        "format": FORMAT,
        "image_sha256": hashlib.sha256(data).hexdigest(),
        "decoder": segmenter.identity,
        "names": list(names),
    }
    picture, index, areas = (out / f"{photo.name}{end}" for end in (OVERLAY, INDEX, AREAS))
    if picture.is_file() and index.is_file() and _read_record(areas) == made_from:
        return "kept"
    pixels = decode_photo(data, photo.path)
    prediction = segmenter.predict(pixels, names)
    areas.parent.mkdir(parents=True, exist_ok=True)
    areas.unlink(missing_ok=True)  # the other two are about to change
    colours = class_colours(segmenter.classes, prediction.names)
    _write_png(picture, Image.fromarray(draw_overlay(pixels, prediction, colours)))
    _write_index(index, prediction.labels, colours)
    with atomic_write(areas, sync=False) as temporary:
        temporary.write_text(json.dumps(_describe(prediction, segmenter, made_from), indent=1) + "\n", encoding="utf-8")
    return "labelled"


def _describe(prediction: Prediction, segmenter: Segmenter, made_from: dict[str, Any]) -> dict[str, Any]:
    """Return what is written about one image."""
    height, width = prediction.labels.shape
    entries = zip(prediction.names, prediction.pixels(), prediction.seen, strict=True)
    return {
        "width": width,
        "height": height,
        "classes": [
            {"index": i, "name": name, "pixels": count, "share": count / (height * width), "seen_in_training": seen}
            for i, (name, count, seen) in enumerate(entries)
        ],
        "run": segmenter.run,
        "made_from": made_from,
    }


def _read_record(path: Path) -> Any:
    """Return what an earlier run made the results from; None if it recorded nothing."""
    try:
        return parse_json(path.read_bytes())["made_from"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def draw_overlay(image: NDArray[np.uint8], prediction: Prediction, colours: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Draw labels over an image and a legend below it: swatch, name and share, largest first; unseen names hatched.

    Args:
        image: Shape: (H, W, 3), uint8.
        prediction: its labels.
        colours: one a name. Shape: (n, 3), uint8.

    Returns:
        Shape: (H', W', 3), uint8.
    """
    side = min(max(max(image.shape[:2]), OVERLAY_SIDES[0]), OVERLAY_SIDES[1])
    hatched = ~np.array(prediction.seen)
    picture = overlay(scale_to_side(image, side), prediction.labels, colours, hatched=hatched)
    total = prediction.labels.size
    order = sorted(enumerate(prediction.pixels()), key=lambda item: (-item[1], item[0]))
    entries = [(place, f"{100 * count / total:.1f} %") for place, count in order if count]
    return _add_legend(picture, prediction, colours, entries)


def _add_legend(
    picture: NDArray[np.uint8], prediction: Prediction, colours: NDArray[np.uint8], entries: list[tuple[int, str]]
) -> NDArray[np.uint8]:
    """Put a picture above as many columns of legend entries as its width has room for."""
    width = max(picture.shape[1], 260)
    text, line, margin = load_font(14), 26, 12
    need = max(text.getlength(f"{prediction.names[place]}   {share}") for place, share in entries) + SWATCH + 24
    columns = max(1, min(len(entries), int((width - 2 * margin) // need)))
    rows = -(-len(entries) // columns)
    cell = (width - 2 * margin) // columns
    any_unseen = any(not prediction.seen[place] for place, _ in entries)
    height = picture.shape[0] + (rows + any_unseen) * line + 2 * margin
    canvas = Image.new("RGB", (width, height), PAPER)
    canvas.paste(Image.fromarray(picture), ((width - picture.shape[1]) // 2, 0))
    pen = ImageDraw.Draw(canvas)
    for number, (place, share) in enumerate(entries):
        left = margin + number // rows * cell
        middle = picture.shape[0] + margin + number % rows * line + line // 2
        draw_swatch(pen, left, middle - SWATCH // 2, colours[place], not prediction.seen[place])
        name = _shorten(prediction.names[place], cell - SWATCH - 24 - text.getlength(f"   {share}"))
        left += SWATCH + 8
        pen.text((left, middle), name, INK, text, anchor="lm")
        pen.text((left + text.getlength(f"{name}   "), middle), share, SOFT_INK, text, anchor="lm")
    if any_unseen:
        pen.text((margin, height - margin - line // 2), "hatched: not in training", SOFT_INK, load_font(12), "lm")
    return np.asarray(canvas)


def _shorten(name: str, width: float) -> str:
    """Return a name of the legend, cut with an ellipsis where it is wider than `width` pixels."""
    text = load_font(14)
    if text.getlength(name) <= width:
        return name
    for length in range(len(name) - 1, 0, -1):
        if text.getlength(f"{name[:length]}…") <= width:
            return f"{name[:length]}…"
    return "…"


def _write_index(path: Path, labels: NDArray[np.uint8], colours: NDArray[np.uint8]) -> None:
    """Write labels as pixel values, with a palette that makes them visible."""
    image = Image.fromarray(labels)
    image.putpalette(colours.ravel().tolist())
    _write_png(path, image)


def _write_png(path: Path, image: Image.Image) -> None:
    with atomic_write(path, sync=False) as temporary:
        write_picture(image, temporary, "PNG")
