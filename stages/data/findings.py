"""Problems and oddities of a data set, each told in one line: what, where, what to do."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from split_matching.configs.class_list import ClassList
from split_matching.configs.colour_table import find_tables, unpack
from split_matching.configs.data_settings import DataConfig
from split_matching.errors import DataError, format_count
from split_matching.stages.data.folder_files import PICTURES, describe_endings
from split_matching.stages.data.image_audit import COLOURED, KINDS, MOST_COLOURS, ImageAudit
from split_matching.stages.data.images import TURN
from split_matching.stages.data.layouts.voc import voc_palette
from split_matching.stages.data.listing import SPLITS
from split_matching.stages.data.prepare import OWN_MASKS
from split_matching.stages.data.source import Source

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


@dataclass(frozen=True)
class Finding:
    """Something odd.

    Args:
        text: one line: what, where, what to do.
        problem: the pipeline will reject the data or give wrong numbers; else it is a note.
    """

    text: str
    problem: bool


Ids = Mapping[str, Sequence[str]]
Audits = Sequence[ImageAudit]


def find_all(source: Source, data: DataConfig, classes: ClassList, ids: Ids, audits: Audits) -> list[Finding]:
    """Return all that is odd.

    Args:
        source: the raw files.
        data: the `data` section.
        classes: the class list.
        ids: the ids of each split that has a usable list.
        audits: of the images that were read.
    """
    return [
        *_find_bad_files(classes, audits),
        *_find_unknown_ids(classes, audits, bool(data.colours)),
        *_find_two_values(classes, audits),
        *_find_own_palettes(audits),
        *_find_shared_masks(source, ids),
        *_find_odd_names(classes),
        *_find_odd_classes(classes, ids, audits),
        *_find_duplicates(ids, audits),
        *_find_rotated(audits),
        *_find_subsets(data, ids),
        *_find_stray_masks(source),
    ]


def count_totals(audits: Iterable[ImageAudit]) -> tuple[dict[str, Counter[int]], dict[str, Counter[int]]]:
    """Return the pixels and the images of each id, by split."""
    pixels: dict[str, Counter[int]] = {split: Counter() for split in SPLITS}
    images: dict[str, Counter[int]] = {split: Counter() for split in SPLITS}
    for audit in audits:
        pixels[audit.split].update(audit.counts)
        images[audit.split].update(audit.counts.keys())
    return pixels, images


def _find_bad_files(classes: ClassList, audits: Audits) -> Iterator[Finding]:
    """Files that are absent or unusable, by kind."""
    kinds: dict[str, list[str]] = {}
    for audit in audits:
        if audit.error:
            kinds.setdefault(audit.error[0], []).append(audit.error[1])
    for kind, messages in kinds.items():
        found = format_count(len(messages), KINDS[kind], kind)
        yield Finding(f"{found}, first: {messages[0]}{_describe_colours(classes, audits, kind)}", True)


def _describe_colours(classes: ClassList, audits: Audits, kind: str) -> str:
    """The colours of coloured masks with their shares, and the tables that know them."""
    pixels: Counter[int] = Counter()
    for audit in audits:
        pixels.update(audit.colours)
    if kind != COLOURED or not pixels:
        return ""
    shown = [f"{unpack(colour)} {100 * n / pixels.total():.1f} %" for colour, n in pixels.most_common(SHOWN_COLOURS)]
    more = f" and {len(pixels) - len(shown)} more" if len(pixels) > len(shown) else ""
    tables = find_tables(pixels, classes.names_by_id, classes.ignore)
    known = f"; {' or '.join(tables)} has these: --set data.colours={tables[0]}" if tables else ""
    many = "; so many are a photograph, or edges that were smoothed" if len(pixels) >= MOST_COLOURS else ""
    return f". Their colours: {', '.join(shown)}{more}{known or many}"


def _find_unknown_ids(classes: ClassList, audits: Audits, coloured: bool) -> Iterator[Finding]:
    """Ids outside the class list, and what they look like."""
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
    yield Finding(
        f"ids outside the class list: {', '.join(shown)}{more}; {_explain(classes, audits, set(pixels))}", True
    )


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
            f"masks have palettes of their own, so that their indices are no ids: colour {_list(moved[:1])}. Use masks "
            "that no program has repacked, or give the id of each colour: data.colours",
            True,
        )


def _find_shared_masks(source: Source, ids: Ids) -> Iterator[Finding]:
    """Images that would have one mask."""
    pairs = [f"{one} and {other}" for one, other in source.shared_masks(ids)]
    if pairs:
        yield Finding(f"images would share a mask: {_list(pairs)}; {OWN_MASKS}", True)


def _find_odd_names(classes: ClassList) -> Iterator[Finding]:
    """Names that are no classes, and names that are one text to CLIP."""
    if classes.ignored_names:
        names = [f"{raw} ({name})" for raw, name in classes.ignored_names.items()]
        yield Finding(f"named in the class list and ignored, so no class: {_list(names)}", False)
    pairs = [f"{first!r} and {second!r}" for first, second in classes.alike]
    if pairs:
        yield Finding(f"CLIP reads as the same text, so that it cannot tell apart: {_list(pairs)}; rename one", False)


def _find_odd_classes(classes: ClassList, ids: Ids, audits: Audits) -> Iterator[Finding]:
    """Classes that never occur, masks without any class, and a class that may be background."""
    usable = [audit for audit in audits if audit.counts]
    if not usable:
        return
    empty = [audit for audit in usable if not set(audit.counts) & set(classes.ids)]
    if len(empty) == len(usable):
        values = sorted({raw for audit in usable for raw in audit.counts})[:SHOWN]
        yield Finding(f"no mask has a pixel of any class, only of ignored ids ({', '.join(map(str, values))})", True)
        return
    if empty:
        without = format_count(len(empty), "mask has", "masks have")
        yield Finding(f"{without} no pixel of any class, e.g. of {empty[0].image_id}", False)
    yield from _find_missing_classes(classes, ids, audits)
    yield from _find_odd_first_class(classes, usable)


def _find_missing_classes(classes: ClassList, ids: Ids, audits: Audits) -> Iterator[Finding]:
    """Classes that no mask of a split has."""
    pixels, _ = count_totals(audits)
    for split in SPLITS:
        wanted = classes.entries if split == "val" else classes.seen()
        never = [entry.name for entry in wanted if not pixels[split].get(entry.id)]
        read = sum(audit.split == split for audit in audits)
        whole = split in ids and read == len(ids[split])
        if whole and pixels[split] and len(never) == len(wanted):
            kind = "seen class" if split == "train" else "class"
            yield Finding(
                f"no mask of {split} has a pixel of any {kind}: correct the masks, or choose other images", True
            )
        elif whole and never:
            result = "cannot be learnt" if split == "train" else f"{'has' if len(never) == 1 else 'have'} no score"
            found = format_count(len(never), "class never occurs", "classes never occur")
            yield Finding(f"{found} in {split} and {result}: {_list(never)}", False)
        elif split in ids and never:
            found = format_count(len(never), "class does", "classes do")
            yield Finding(f"{found} not occur in the {read} images of {split} that were read: {_list(never)}", False)


def _find_odd_first_class(classes: ClassList, usable: Audits) -> Iterator[Finding]:
    """A first class that occurs nowhere, or nearly everywhere: ids may be counted from another number."""
    pixels, images = count_totals(usable)
    first = classes.entries[0]
    share = sum(pixels[split][first.id] for split in SPLITS) / sum(pixels[split].total() for split in SPLITS)
    often = sum(images[split][first.id] for split in SPLITS) / len(usable)
    if classes.by_place and first.id == 0 and not often:
        yield Finding(
            f"id 0 ({first.name}), the first of the list, is in no mask; if ids are counted from 1, all classes are "
            "shifted: --set data.first_id=1",
            False,
        )
    if share >= BACKGROUND_SHARE and often >= BACKGROUND_IMAGES and len(classes.entries) > 2:
        place = "data.first_id" if classes.by_place else "the ids of the list"
        yield Finding(
            f"id {first.id} ({first.name}) covers {100 * share:.0f} % of all pixels and is in {100 * often:.0f} % of "
            f"the images; if it is really background, ids are shifted: see {place} and data.ignore",
            False,
        )


def _find_duplicates(ids: Ids, audits: Audits) -> Iterator[Finding]:
    """Images that are in both lists, or whose files are equal byte by byte."""
    both = sorted(set(ids.get("train", ())) & set(ids.get("val", ())))
    if both:
        found = format_count(len(both), "image is", "images are")
        yield Finding(f"{found} in both lists: {_list(both)}; remove them from one", True)
    by_file: dict[str, dict[str, str]] = {}
    for audit in audits:
        if audit.sha256 and not audit.undecodable:
            by_file.setdefault(audit.sha256, {}).setdefault(audit.image_id, audit.split)
    groups = [group for group in by_file.values() if len(group) > 1]
    across = [_name_equals(group) for group in groups if len(set(group.values())) > 1]
    within = [_name_equals(group) for group in groups if len(set(group.values())) == 1]
    if across:
        found = format_count(len(across), "image is", "images are")
        yield Finding(f"{found} in training and in validation: {_list(across)}; remove one", True)
    if within:
        found = format_count(len(within), "image is", "images are")
        yield Finding(f"{found} several times in one split: {_list(within)}", False)


def _name_equals(group: Mapping[str, str]) -> str:
    """Images of one content, one of each split first."""
    first = {split: image_id for image_id, split in reversed(list(group.items()))}
    names = list(dict.fromkeys([*(first[split] for split in SPLITS if split in first), *group]))
    return " = ".join(names[:3]) + (f" = {len(names) - 3} more" if len(names) > 3 else "")


def _find_rotated(audits: Audits) -> Iterator[Finding]:
    """Images that other programs show rotated."""
    rotated = [audit.image_id for audit in audits if audit.rotated]
    if rotated:
        found = format_count(len(rotated), "image has", "images have")
        yield Finding(
            f"{found} an EXIF orientation, which is not applied: {_list(rotated)}; if masks were drawn on the upright "
            f"images, turn the images' pixels, {TURN}",
            False,
        )


def _find_subsets(data: DataConfig, ids: Ids) -> Iterator[Finding]:
    """Splits that are not the whole data set."""
    for split, expected in (("train", data.expected_train), ("val", data.expected_val)):
        if expected is not None and split in ids and len(ids[split]) != expected:
            yield Finding(
                f"{split} has {format_count(len(ids[split]), 'image')}, the published split {expected:,}: "
                "results do not compare with published ones",
                False,
            )


def _find_stray_masks(source: Source) -> Iterator[Finding]:
    """Masks that no image belongs to, and files that are taken for no images."""
    try:
        strays = source.stray_masks()
        others = source.left_out()
    except (DataError, OSError):
        return  # a folder is missing: that is another finding
    if strays:
        found = format_count(len(strays), "mask belongs", "masks belong")
        yield Finding(f"{found} to no image, e.g. {strays[0]}", False)
    if others:
        yield Finding(
            f"{format_count(len(others), 'file')} beside the images with no picture's name: "
            f"{describe_endings(others)}; expected {', '.join(PICTURES)}: convert or rename images among them",
            False,
        )


def _list(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{', '.join(names[:SHOWN])}{more}"
