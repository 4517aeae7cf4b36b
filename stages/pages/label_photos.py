"""Labels a user's own images one by one, and writes what comes out so that an interruption leaves no halves.

For each image NAME three files appear: NAME.overlay.png with a legend, NAME.index.png whose pixel values are places in
the list of names (a palette makes them visible), and NAME.areas.json, which is written last and says what the other two
were made from: an image whose record is there and says the same is not labelled again.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from split_matching.errors import DataError
from split_matching.stages.data.images import read_bytes
from split_matching.stages.data.photos import Photo, decode_photo, shown
from split_matching.stages.inference.segmenter import Prediction, Segmenter
from split_matching.stages.pages import figures
from split_matching.stages.pages.sheet import font

FORMAT = 1
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
        out: folder of the results; made.
        progress: called with (done, total).
        complain: called with one line for every image that cannot be read.

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
            complain(f"{shown(photo.path)}: no result can have this name ({error.strerror}); rename the file")
        progress(done, len(photos))
    return counts


def _label(segmenter: Segmenter, photo: Photo, names: Sequence[str], out: Path) -> str:
    data = read_bytes(photo.path)
    made = {
        "format": FORMAT,
        "image_sha256": hashlib.sha256(data).hexdigest(),
        "decoder": segmenter.identity,
        "names": list(names),
    }
    overlay, index, areas = (out / f"{photo.name}{end}" for end in (".overlay.png", ".index.png", ".areas.json"))
    if overlay.is_file() and index.is_file() and _recorded(areas) == made:
        return "kept"
    pixels = decode_photo(data, photo.path)
    prediction = segmenter.predict(pixels, names)
    areas.parent.mkdir(parents=True, exist_ok=True)
    areas.unlink(missing_ok=True)  # it vouches for the other two, which are about to change
    colours = figures.palette(len(prediction.names))
    _write(overlay, _png(draw_overlay(pixels, prediction, colours)))
    _write(index, _index_png(prediction.labels, colours))
    _write(areas, (json.dumps(_areas(prediction, segmenter, made), indent=1) + "\n").encode())
    return "labelled"


def _areas(prediction: Prediction, segmenter: Segmenter, made: dict[str, Any]) -> dict[str, Any]:
    """What is written about one image."""
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
        "made_from": made,
    }


def _recorded(path: Path) -> Any:
    """What an earlier run says that it made the results from; None if it says nothing."""
    try:
        return json.loads(path.read_bytes())["made_from"]
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
    picture = figures.overlay(figures.resize_image(image, side), prediction.labels, colours, hatched=hatched)
    total = prediction.labels.size
    order = sorted(enumerate(prediction.pixels()), key=lambda item: (-item[1], item[0]))
    entries = [(place, f"{100 * count / total:.1f} %") for place, count in order if count]
    return _with_legend(picture, prediction, colours, entries)


def _with_legend(
    picture: NDArray[np.uint8], prediction: Prediction, colours: NDArray[np.uint8], entries: list[tuple[int, str]]
) -> NDArray[np.uint8]:
    """Put a picture above as many columns of legend entries as its width has room for."""
    width = max(picture.shape[1], 260)
    text, line, margin, swatch = font(14), 26, 12, 16
    labels = {place: prediction.names[place] for place, _ in entries}
    need = max(text.getlength(f"{labels[place]}   {share}") for place, share in entries) + swatch + 24
    columns = max(1, min(len(entries), int((width - 2 * margin) // need)))
    rows = -(-len(entries) // columns)
    cell = (width - 2 * margin) // columns
    strange = any(not prediction.seen[place] for place, _ in entries)
    height = picture.shape[0] + (rows + strange) * line + 2 * margin
    canvas = Image.new("RGB", (width, height), (255, 255, 255))
    canvas.paste(Image.fromarray(picture), ((width - picture.shape[1]) // 2, 0))
    pen = ImageDraw.Draw(canvas)
    for number, (place, share) in enumerate(entries):
        left = margin + number // rows * cell
        middle = picture.shape[0] + margin + number % rows * line + line // 2
        box = (left, middle - swatch // 2, left + swatch, middle + swatch // 2)
        pen.rectangle(box, tuple(int(value) for value in colours[place]), (120, 120, 120))
        for shift in () if prediction.seen[place] else (0, 6, 12):
            pen.line((box[0] + shift, box[3] - 1, box[0] + shift + 4, box[1] + 1), (255, 255, 255), 1)
        room = cell - swatch - 24 - text.getlength(f"   {share}")
        name = _shortened(labels[place], lambda part: text.getlength(part) <= room)  # noqa: B023
        pen.text((left + swatch + 8, middle), name, (31, 38, 48), text, anchor="lm")
        pen.text((left + swatch + 8 + text.getlength(f"{name}   "), middle), share, (91, 100, 112), text, anchor="lm")
    if strange:
        pen.text((margin, height - margin - line // 2), "hatched: not in training", (91, 100, 112), font(12), "lm")
    return np.asarray(canvas)


def _shortened(name: str, fits: Callable[[str], bool]) -> str:
    """Return a name, cut with an ellipsis where it does not fit."""
    if fits(name):
        return name
    for length in range(len(name) - 1, 0, -1):
        if fits(f"{name[:length]}…"):
            return f"{name[:length]}…"
    return "…"


def _index_png(labels: NDArray[np.uint8], colours: NDArray[np.uint8]) -> bytes:
    image = Image.fromarray(labels)
    image.putpalette(colours.ravel().tolist())
    return _saved(image)


def _png(pixels: NDArray[np.uint8]) -> bytes:
    return _saved(Image.fromarray(pixels))


def _saved(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _write(path: Path, content: bytes) -> None:
    """Write a file that is wholly there or not at all."""
    temporary = path.with_name(f".{hashlib.sha256(path.name.encode(errors='surrogateescape')).hexdigest()[:16]}.tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
