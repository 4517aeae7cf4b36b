"""What the values and colours of masks probably are where they do not fit the class list: one line each."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from split_matching.configs.class_list import ClassList
from split_matching.configs.colour_table import find_tables, unpack
from split_matching.configs.data_settings import DataConfig
from split_matching.errors import format_count
from split_matching.stages.data.image_audit import COLOURED, KINDS, MOST_COLOURS, ImageAudit
from split_matching.stages.data.layouts.voc import voc_palette
from split_matching.stages.data.listing import SPLITS

SHOWN = 5  # examples of one kind of finding
BACKGROUND_SHARE, BACKGROUND_IMAGES = 0.5, 0.9  # of pixels and images: then a class may be background (choice)

TWO_VALUES = (0, 255)
TWO_VALUES_MASKS, WHITE_SHARE = 0.1, 0.15
"""Masks of 0 and 255 alone among others that are told, and the share of 255 in them that is too much for void: then
they are a problem (choice)."""

TWO_VALUES_REMEDY = (
    "If 255 is a class, as in masks of black and white, give both ids: classes.txt with the lines `0: NAME` and "
    "`255: NAME`, and no data.ignore"
)

SHOWN_COLOURS = 12

_COLOURS = np.array(voc_palette()).reshape(256, 3)[1:21]
VOC_GREYS = frozenset(int(grey) for grey in (_COLOURS @ [19595, 38470, 7471] + 0x8000) >> 16)
"""What the colours of VOC's ids 1 to 20 become when a palette PNG is converted to grey, as Pillow does it."""

Audits = Sequence[ImageAudit]


@dataclass(frozen=True)
class Finding:
    """Something odd.

    Args:
        text: one line: what, where, what to do.
        problem: the pipeline will reject the data or give wrong numbers; else it is a note.
    """

    text: str
    problem: bool


def find_in_masks(data: DataConfig, classes: ClassList, audits: Audits) -> Iterator[Finding]:
    """Yield what is odd about the values of masks, and which files cannot be used."""
    yield from _find_bad_files(data, classes, audits)
    yield from _find_unknown_ids(data, classes, audits)
    yield from _find_two_values(classes, audits)
    yield from _find_own_palettes(audits)


def _find_bad_files(data: DataConfig, classes: ClassList, audits: Audits) -> Iterator[Finding]:
    """Files that are absent or unusable, by kind."""
    kinds: dict[str, list[str]] = {}
    for audit in audits:
        if audit.error:
            kinds.setdefault(audit.error[0], []).append(audit.error[1])
    for kind, messages in kinds.items():
        found = format_count(len(messages), KINDS[kind], kind)
        yield Finding(f"{found}, first: {messages[0]}{_describe_colours(data, classes, audits, kind)}", True)


def _describe_colours(data: DataConfig, classes: ClassList, audits: Audits, kind: str) -> str:
    """The colours of coloured masks with their shares, and the tables that know them."""
    pixels: Counter[int] = Counter()
    for audit in audits:
        pixels.update(audit.colours)
    if kind != COLOURED or not pixels:
        return ""
    shown = [f"{unpack(colour)} {100 * n / pixels.total():.1f} %" for colour, n in pixels.most_common(SHOWN_COLOURS)]
    more = f" and {len(pixels) - len(shown)} more" if len(pixels) > len(shown) else ""
    tables = find_tables(pixels, classes.names_by_id, classes.ignore)
    setting = f"--set data.colours={tables[0]}" if tables else ""
    if data.layout != "folder":
        setting = f"the layout folder reads them, with data.colours={tables[0]}" if tables else ""
    known = f"; {' or '.join(tables)} has these: {setting}" if tables else ""
    many = "; so many are a photograph, or edges that were smoothed" if len(pixels) >= MOST_COLOURS else ""
    return f". Their colours: {', '.join(shown)}{more}{known or many}"


def _find_unknown_ids(data: DataConfig, classes: ClassList, audits: Audits) -> Iterator[Finding]:
    """Ids outside the class list, and what they look like."""
    coloured = bool(data.colours)
    pixels: Counter[int] = Counter()
    masks: dict[int, list[ImageAudit]] = {}
    for audit in audits:
        pixels.update(audit.unknown)
        for value in audit.unknown:
            masks.setdefault(value, []).append(audit)
    if not pixels:
        return
    whole = sum(pixels.values()) + sum(sum(audit.counts.values()) for audit in audits)
    shown = [
        f"{unpack(value) if coloured else value} ({100 * number / whole:.2f} %, "
        f"{format_count(len(masks[value]), 'mask')}, e.g. that of {masks[value][0].image_id})"
        for value, number in pixels.most_common(SHOWN)
    ]
    more = f" and {len(pixels) - SHOWN} more" if len(pixels) > SHOWN else ""
    if coloured:
        grey = all(len(set(unpack(value))) == 1 for value in pixels) and not any(audit.counts for audit in audits)
        remedy = "all are grey, so masks hold ids: leave data.colours out" if grey else "add them to data.colours"
        yield Finding(f"colours without an id of the class list: {', '.join(shown)}{more}; {remedy}", True)
        return
    published = data.layout == "coco_stuff"  # whose values are no ids of the class list
    why = "use the masks that were published" if published else _explain(classes, audits, set(pixels))
    yield Finding(f"{'values' if published else 'ids'} outside the class list: {', '.join(shown)}{more}; {why}", True)


def _explain(classes: ClassList, audits: Audits, unknown: set[int]) -> str:
    """What ids outside the list probably are, and what to do about them."""
    first, last = min(classes.ids), max(classes.ids)
    occurring = {raw for audit in audits for raw in audit.counts}
    if unknown == {last + 1}:
        return _weigh_shift(classes, audits, first, last + 1)
    if unknown == {0}:
        lower = "data.first_id=0" if classes.by_place else "lower the ids of the list by one"
        shifted = f"; or, as {last} never occurs, ids are one lower: {lower}" if last not in occurring else ""
        return f"if it is background: --set 'data.ignore={_ids(0, *classes.ignore)}'{shifted}"
    if unknown == {TWO_VALUES[1]}:
        return f"if it is void: --set 'data.ignore={_ids(255, *classes.ignore)}'. {TWO_VALUES_REMEDY}"
    if len(unknown) > 2 and unknown <= VOC_GREYS:
        return (
            "these are the grey values of VOC's colours: a palette PNG was converted to grey. Use the original masks, "
            "whose palette indices are the ids"
        )
    values = {*unknown, *occurring} - {0, *classes.ignore}
    step = math.gcd(*values)
    if step > 1 and len(values) > 1 and max(unknown) // step <= last:
        return (
            f"all ids are multiples of {step}: were they spread to be seen? Use the original masks, or divide by {step}"
        )
    if len(unknown) > 30:
        return "so many values are no class ids; are these colours, a depth map or a compressed (JPEG) mask?"
    return "add them to the class list or to data.ignore, or correct the masks"


def _weigh_shift(classes: ClassList, audits: Audits, first: int, extra: int) -> str:
    """Two readings of an id one above the list, the likelier first: all ids are shifted, or it is void at the end."""
    usable = [audit for audit in audits if audit.usable]
    whole = sum(sum(audit.counts.values()) + sum(audit.unknown.values()) for audit in usable)
    share = sum(audit.counts.get(first, 0) for audit in usable) / whole
    often = sum(first in audit.counts for audit in usable) / len(usable)
    pixels = f"id {first} covers {100 * share:.0f} % of all pixels and is in {100 * often:.0f} % of the masks"
    end = f"{extra} is void at the end of the list: --set 'data.ignore={_ids(extra, *classes.ignore)}'"
    higher = f"data.first_id={first + 1}" if classes.by_place else "(with the ids of the list raised by one)"
    shift = (
        f"ids are one higher, with {first} for background: --set {higher} 'data.ignore={_ids(first, *classes.ignore)}'"
    )
    # background fills most of nearly every mask, or is left out of the masks altogether
    shifted = share == 0 or (share >= BACKGROUND_SHARE and often >= BACKGROUND_IMAGES)
    likely, other = (shift, end) if shifted else (end, shift)
    return f"{pixels}, so probably {likely}. Otherwise {other}. The contact sheet shows which is right"


def _ids(*ids: int) -> str:
    return f"[{','.join(map(str, sorted(set(ids))))}]"


def _find_two_values(classes: ClassList, audits: Audits) -> Iterator[Finding]:
    """Masks of 0 and 255 alone, the black and white of image editors: 255 is ignored by default."""
    pixels: Counter[int] = Counter()
    for audit in audits:
        pixels.update(audit.counts)
        pixels.update(audit.unknown)
    if TWO_VALUES[1] not in classes.ignore:
        return
    if set(pixels) == set(TWO_VALUES):
        share = 100 * pixels[TWO_VALUES[1]] / pixels.total()
        yield Finding(
            f"all masks hold 0 and 255 alone, and 255 is ignored: {share:.0f} % of all pixels are dropped. "
            f"{TWO_VALUES_REMEDY}",
            True,
        )
        return
    some = [audit for audit in audits if TWO_VALUES[1] in audit.counts and set(audit.counts) <= set(TWO_VALUES)]
    white = sum(audit.counts[TWO_VALUES[1]] for audit in some)
    if len(some) > 1 and len(some) >= TWO_VALUES_MASKS * len(audits):
        count = format_count(len(some), "mask holds", "masks hold")
        yield Finding(
            f"{count} 0 and 255 alone, and 255 is ignored, e.g. that of {some[0].image_id}; if these are black and "
            "white among masks of ids, give their pixels the id of their class",
            white >= WHITE_SHARE * sum(sum(audit.counts.values()) for audit in some),
        )


def _find_own_palettes(audits: Audits) -> Iterator[Finding]:
    """Masks whose palettes give a colour different indices: a program has numbered the colours of each file anew."""
    first: dict[int, tuple[int, str]] = {}
    moved: list[str] = []
    for audit in audits:
        for index, colour in audit.palette.items():
            before, image_id = first.setdefault(colour, (index, audit.image_id))
            if before != index:
                moved.append(f"{unpack(colour)} has index {before} in {image_id} and {index} in {audit.image_id}")
    if moved:
        yield Finding(
            f"masks have palettes of their own, so that their indices are no ids: colour {moved[0]}. Use masks "
            "that no program has repacked, or give the id of each colour: data.colours",
            True,
        )


def find_ids_one_lower(classes: ClassList, usable: Audits) -> Iterator[Finding]:
    """Ids from which one was taken, as `reduce_zero_label` of mmsegmentation does: 0 is a class, and 255 what was 0."""
    occurring = {raw for audit in usable for raw in audit.counts}
    first, last = min(classes.ids), max(classes.ids)
    if first != 1 or not {0, 255} <= occurring & set(classes.ignore) or last in occurring or len(classes.ids) < 3:
        return
    share, often = measure_id(0, usable)
    if share < BACKGROUND_SHARE or often < BACKGROUND_IMAGES:  # else 0 is background
        yield Finding(
            f"0 and 255 occur, both ignored, and {last} never does: was one taken from all ids, so that 0 is "
            f"{classes.entries[0].name}? Use the original masks, or lower the ids of the list by one",
            True,
        )


def measure_id(raw: int, usable: Audits) -> tuple[float, float]:
    """Return the share of an id among all pixels, and of the images that have it."""
    pixels, images = count_totals(usable)
    share = sum(pixels[split][raw] for split in SPLITS) / sum(pixels[split].total() for split in SPLITS)
    return share, sum(images[split][raw] for split in SPLITS) / len(usable)


def count_totals(audits: Iterable[ImageAudit]) -> tuple[dict[str, Counter[int]], dict[str, Counter[int]]]:
    """Return the pixels and the images of each id, by split."""
    pixels: dict[str, Counter[int]] = {split: Counter() for split in SPLITS}
    images: dict[str, Counter[int]] = {split: Counter() for split in SPLITS}
    for audit in audits:
        pixels[audit.split].update(audit.counts)
        images[audit.split].update(audit.counts.keys())
    return pixels, images


def name_some(names: Sequence[str]) -> str:
    """Return the first names, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{', '.join(names[:SHOWN])}{more}"
