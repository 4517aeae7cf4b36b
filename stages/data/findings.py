"""Problems and oddities of a data set, each told in one line: what, where, what to do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from split_matching.configs.class_list import ClassList
from split_matching.configs.data_settings import DataConfig
from split_matching.errors import DataError, format_count
from split_matching.stages.data.folder_files import PICTURES, describe_endings
from split_matching.stages.data.images import TURN
from split_matching.stages.data.listing import SPLITS
from split_matching.stages.data.mask_findings import (
    BACKGROUND_IMAGES,
    BACKGROUND_SHARE,
    SHOWN,
    Audits,
    Finding,
    count_totals,
    find_ids_one_lower,
    find_in_masks,
    measure_id,
    name_some,
)
from split_matching.stages.data.prepare import OWN_MASKS
from split_matching.stages.data.source import Source

Ids = Mapping[str, Sequence[str]]


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
        *find_in_masks(data, classes, audits),
        *_find_shared_masks(source, ids),
        *_find_odd_names(classes),
        *_find_odd_classes(classes, ids, audits),
        *_find_duplicates(ids, audits),
        *_find_rotated(audits),
        *_find_subsets(data, ids),
        *_find_stray_masks(source),
    ]


def _find_shared_masks(source: Source, ids: Ids) -> Iterator[Finding]:
    """Images that would have one mask."""
    pairs = [f"{one} and {other}" for one, other in source.shared_masks(ids)]
    if pairs:
        yield Finding(f"images would share a mask: {name_some(pairs)}; {OWN_MASKS}", True)


def _find_odd_names(classes: ClassList) -> Iterator[Finding]:
    """Names that are no classes, and names that are one text to CLIP."""
    if classes.ignored_names:
        names = [f"{raw} ({name})" for raw, name in classes.ignored_names.items()]
        yield Finding(f"named in the class list and ignored, so no class: {name_some(names)}", False)
    pairs = [f"{first!r} and {second!r}" for first, second in classes.alike]
    if pairs:
        yield Finding(
            f"CLIP reads as the same text, so that it cannot tell apart: {name_some(pairs)}; rename one", False
        )


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
    if all(split in ids and _count_read(split, audits) == len(ids[split]) for split in SPLITS):
        yield from find_ids_one_lower(classes, usable)


def _count_read(split: str, audits: Audits) -> int:
    return sum(audit.split == split for audit in audits)


def _find_missing_classes(classes: ClassList, ids: Ids, audits: Audits) -> Iterator[Finding]:
    """Classes that no mask of a split has."""
    pixels, _ = count_totals(audits)
    for split in SPLITS:
        wanted = classes.entries if split == "val" else classes.seen()
        never = [entry.name for entry in wanted if not pixels[split].get(entry.id)]
        read = _count_read(split, audits)
        whole = split in ids and read == len(ids[split])
        if whole and pixels[split] and len(never) == len(wanted):
            kind = "seen class" if split == "train" else "class"
            yield Finding(
                f"no mask of {split} has a pixel of any {kind}: correct the masks, or choose other images", True
            )
        elif whole and never:
            result = "cannot be learnt" if split == "train" else f"{'has' if len(never) == 1 else 'have'} no score"
            found = format_count(len(never), "class never occurs", "classes never occur")
            yield Finding(f"{found} in {split} and {result}: {name_some(never)}", False)
        elif split in ids and never:
            found = format_count(len(never), "class does", "classes do")
            yield Finding(
                f"{found} not occur in the {read} images of {split} that were read: {name_some(never)}", False
            )


def _find_odd_first_class(classes: ClassList, usable: Audits) -> Iterator[Finding]:
    """A first class that occurs nowhere, or nearly everywhere: ids may be counted from another number."""
    first = classes.entries[0]
    share, often = measure_id(first.id, usable)
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
        yield Finding(f"{found} in both lists: {name_some(both)}; remove them from one", True)
    by_file: dict[str, dict[str, str]] = {}
    for audit in audits:
        if audit.sha256 and not audit.undecodable:
            by_file.setdefault(audit.sha256, {}).setdefault(audit.image_id, audit.split)
    groups = [group for group in by_file.values() if len(group) > 1]
    across = [_name_equals(group) for group in groups if len(set(group.values())) > 1]
    within = [_name_equals(group) for group in groups if len(set(group.values())) == 1]
    if across:
        found = format_count(len(across), "image is", "images are")
        yield Finding(f"{found} in training and in validation: {name_some(across)}; remove one", True)
    if within:
        found = format_count(len(within), "image is", "images are")
        yield Finding(f"{found} several times in one split: {name_some(within)}", False)


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
            f"{found} an EXIF orientation, which is not applied: {name_some(rotated)}; if masks were drawn on the "
            f"upright images, turn the images' pixels, {TURN}",
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
