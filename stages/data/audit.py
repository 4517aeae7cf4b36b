"""check-data: what a data set holds, and what is odd about it, before anything else is run.

Looks at every image and mask of both splits, at the lists and at the folders. Unseen classes are named: this is for
people, and nothing of it reaches training.
"""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from split_matching.configs.class_list import ClassList
from split_matching.configs.schema import DataConfig
from split_matching.errors import DataError
from split_matching.stages.data.image_ids import choose_evenly
from split_matching.stages.data.images import decode_image, decode_values, read_bytes
from split_matching.stages.data.source import Source, open_source
from split_matching.stages.ground.context import Progress
from split_matching.stages.ground.ordered_map import ordered_map

SPLITS = ("train", "val")
SHOWN = 5  # examples of one kind of finding
ORIENTATION = 274  # EXIF tag
BACKGROUND_SHARE, BACKGROUND_IMAGES = 0.5, 0.9  # of pixels and images: then a class may be background (choice)

# Grey values that the colours of VOC's ids 1 to 20 get when a palette PNG is converted to grey (as Pillow does it).
_BITS = np.arange(1, 21)
_COLOURS = np.stack([((_BITS >> c & 1) << 7) | ((_BITS >> (3 + c) & 1) << 6) for c in range(3)], 1)
VOC_GREYS = frozenset(int(v) for v in (_COLOURS @ [19595, 38470, 7471] + 0x8000) >> 16)


@dataclass(frozen=True)
class Finding:
    """Something odd.

    Args:
        text: one line: what, where, what to do.
        problem: the pipeline will refuse the data or give wrong numbers; else a note.
    """

    text: str
    problem: bool


@dataclass(frozen=True)
class Look:
    """One image and its mask.

    Args:
        split: "train" or "val".
        image_id: which.
        counts: pixels of each id of the class list, ignored ids too; empty where the mask cannot be used.
        unknown: pixels of each value that is not in the list.
        sha256: of the image file; "" where there is none.
        turned: the image has an EXIF orientation.
        trouble: kind and message of what is wrong with the files; None if nothing is.
    """

    split: str
    image_id: str
    counts: Mapping[int, int] = field(default_factory=dict)
    unknown: Mapping[int, int] = field(default_factory=dict)
    sha256: str = ""
    turned: bool = False
    trouble: tuple[str, str] | None = None


@dataclass(frozen=True)
class Check:
    """All that was found.

    Args:
        classes: the class list.
        ids: the ids of each split that has a usable list.
        looks: the images that were looked at.
        findings: what is odd, problems first.
    """

    classes: ClassList
    ids: Mapping[str, Sequence[str]]
    looks: Sequence[Look]
    findings: Sequence[Finding]

    @property
    def fine(self) -> bool:
        """Whether there is no problem; notes do not count."""
        return not any(finding.problem for finding in self.findings)

    def lines(self) -> list[str]:
        """The report as text."""
        seen, unseen = len(self.classes.seen()), len(self.classes.unseen_ids)
        lines = [f"{len(self.classes.entries)} classes: {seen} seen, {unseen} unseen; ignored ids: {self._ignored()}"]
        for split, ids in self.ids.items():
            looked = sum(look.split == split for look in self.looks)
            lines.append(f"{split}: {len(ids):,} images" + (f", {looked:,} looked at" if looked < len(ids) else ""))
        lines += ["", *self._table(), ""]
        lines += [f"{'PROBLEM' if finding.problem else 'note'}: {finding.text}" for finding in self.findings]
        problems = sum(finding.problem for finding in self.findings)
        lines.append(f"problems: {problems}, notes: {len(self.findings) - problems}")
        return lines

    def _ignored(self) -> str:
        return ", ".join(str(raw) for raw in self.classes.ignore) or "none"

    def _table(self) -> list[str]:
        """Share of the pixels and number of images of each class and split."""
        pixels, images = _totals(self.looks)
        width = max(len(entry.name) for entry in self.classes.entries)
        lines = [f"{'id':>5}  {'class':<{width}}        train pixels  images    val pixels  images"]
        rows = [(e.id, e.name, "unseen" if e.id in self.classes.unseen_ids else "seen") for e in self.classes.entries]
        rows += [(raw, "(ignored)", "") for raw in self.classes.ignore]
        for raw, name, group in rows:
            cells = [_cells(pixels[split], images[split], raw) for split in SPLITS]
            lines.append(f"{raw:>5}  {name:<{width}}  {group:<6}  {cells[0]}  {cells[1]}")
        return lines


def _cells(pixels: Mapping[int, int], images: Mapping[int, int], raw: int) -> str:
    total = sum(pixels.values())
    share = f"{100 * pixels.get(raw, 0) / total:.2f} %" if total else "-"
    return f"{share:>10}  {images.get(raw, 0):>6}"


def _totals(looks: Iterable[Look]) -> tuple[dict[str, Counter[int]], dict[str, Counter[int]]]:
    """Pixels and images of each id, by split."""
    pixels: dict[str, Counter[int]] = {split: Counter() for split in SPLITS}
    images: dict[str, Counter[int]] = {split: Counter() for split in SPLITS}
    for look in looks:
        pixels[look.split].update(look.counts)
        images[look.split].update(look.counts.keys())
    return pixels, images


def check_data(
    data: DataConfig,
    classes: ClassList,
    root: Path | None,
    progress: Progress,
    limit: int | None = None,
    threads: int = 0,
) -> Check:
    """Look at a data set.

    Args:
        data: the `data` section.
        classes: its class list.
        root: folder of the raw files.
        progress: called with (done, total) images.
        limit: most images of each split, evenly spread over its list; None for all.
        threads: that decode; 0 for one a core.

    Returns:
        What was found.

    Raises:
        DataError: there is no data set: no root, no such folder, or no usable list.
    """
    source = open_source(data, root)
    ids: dict[str, list[str]] = {}
    errors = []
    for split in SPLITS:
        try:
            ids[split] = source.ids(split)
        except DataError as error:
            errors.append(error)
    if not ids:
        raise errors[0]
    chosen = {split: members if limit is None else choose_evenly(members, limit) for split, members in ids.items()}
    jobs = [(split, image_id) for split, members in chosen.items() for image_id in members]
    looks = []
    for done, look in enumerate(ordered_map(lambda job: look_at(source, *job, classes), jobs, threads), start=1):
        looks.append(look)
        progress(done, len(jobs))
    findings = [Finding(str(error), True) for error in errors]
    findings += [finding for find in FINDERS for finding in find(classes, ids, looks)]
    findings += [*_about_counts(data, ids), *_about_strays(source)]
    return Check(classes, ids, looks, sorted(findings, key=lambda finding: not finding.problem))


def look_at(source: Source, split: str, image_id: str, classes: ClassList) -> Look:
    """Look at one image and its mask; nothing that is wrong with them raises."""
    kind, sha256, turned = "images are absent", "", False
    try:
        image_path = source.image_path(image_id)
        data = read_bytes(image_path)
        sha256 = hashlib.sha256(data).hexdigest()
        kind = "images cannot be decoded"
        shape = decode_image(data, image_path).shape[:2]
        turned = Image.open(io.BytesIO(data)).getexif().get(ORIENTATION, 1) != 1
        kind = "masks are absent"
        mask_path = source.mask_path(image_id)
        content = read_bytes(mask_path)
        kind = "masks cannot be used"
        if (mode := _mode(content)) in COLOURED:
            return Look(split, image_id, {}, {}, sha256, turned, (f"masks are coloured ({mode})", str(mask_path)))
        values = decode_values(content, mask_path)
        kind = "masks have another size than their images"
        values = decode_values(content, mask_path, (shape[0], shape[1]))
    except DataError as error:
        return Look(split, image_id, {}, {}, sha256, turned, (kind, str(error)))
    table, known = source.mask_table(mask_path), {*classes.ids, *classes.ignore}
    counts, unknown = Counter[int](), Counter[int]()
    for value, number in zip(*np.unique(values, return_counts=True), strict=True):
        raw = int(value) if table is None else table[int(value)] if int(value) < len(table) else -1
        if raw in known:
            counts[raw] += int(number)
        else:
            unknown[int(value)] += int(number)
    return Look(split, image_id, counts, unknown, sha256, turned)


COLOURED = ("RGB", "RGBA", "LA", "CMYK", "YCbCr", "1")


def _mode(content: bytes) -> str:
    try:
        return Image.open(io.BytesIO(content)).mode
    except Exception:  # Pillow's decoders answer damaged bytes with almost any exception; decoding will say what it is
        return ""


# ---- what is odd ----

Ids = Mapping[str, Sequence[str]]


def _about_files(classes: ClassList, ids: Ids, looks: Sequence[Look]) -> Iterable[Finding]:
    """Files that are absent or unusable, by kind."""
    kinds: dict[str, list[str]] = {}
    for look in looks:
        if look.trouble:
            kinds.setdefault(look.trouble[0], []).append(look.trouble[1])
    for kind, messages in kinds.items():
        text = f"{len(messages)} {kind}, first: {messages[0]}"
        if kind.startswith("masks are coloured"):
            text += "; expected class ids: a palette or grey PNG. Replace each colour by the id of its class"
        yield Finding(text, True)


def _about_unknown(classes: ClassList, ids: Ids, looks: Sequence[Look]) -> Iterable[Finding]:
    """Ids outside the class list, and what they look like."""
    pixels: Counter[int] = Counter()
    masks: dict[int, list[Look]] = {}
    for look in looks:
        pixels.update(look.unknown)
        for value in look.unknown:
            masks.setdefault(value, []).append(look)
    if not pixels:
        return
    whole = sum(pixels.values()) + sum(sum(look.counts.values()) for look in looks)
    shown = [
        f"{value} ({100 * number / whole:.2f} %, {len(masks[value])} masks, e.g. that of {masks[value][0].image_id})"
        for value, number in pixels.most_common(SHOWN)
    ]
    more = f" and {len(pixels) - SHOWN} more" if len(pixels) > SHOWN else ""
    yield Finding(
        f"ids outside the class list: {', '.join(shown)}{more}; {_meaning(classes, looks, set(pixels))}", True
    )


def _meaning(classes: ClassList, looks: Sequence[Look], unknown: set[int]) -> str:
    """What ids outside the list probably are, and what to do about them."""
    first, last = min(classes.ids), max(classes.ids)
    occurring = {raw for look in looks for raw in look.counts}
    if unknown == {last + 1}:
        return (
            f"the list ends at {last}, so ids are probably one higher, with 0 for background: --set "
            f"data.first_id={first + 1} 'data.ignore=[0,255]', or mend the ids of the list"
        )
    if unknown == {0}:
        shifted = f"; or, as {last} never occurs, ids are one lower: data.first_id=0" if last not in occurring else ""
        return f"if it is background: --set 'data.ignore=[0,255]'{shifted}"
    if len(unknown) > 2 and unknown <= VOC_GREYS:
        return (
            "these are the grey values of VOC's colours: a palette PNG was converted to grey. Use the original masks, "
            "whose palette indices are the ids"
        )
    if len(unknown) > 30:
        return "so many values are no class ids; are these colours, a depth map or a compressed (JPEG) mask?"
    return "add them to the class list or to data.ignore, or mend the masks"


def _about_classes(classes: ClassList, ids: Ids, looks: Sequence[Look]) -> Iterable[Finding]:
    """Classes that never occur, masks without any class, and a class that may be background."""
    usable = [look for look in looks if look.counts]
    if not usable:
        return
    pixels, images = _totals(usable)
    empty = [look for look in usable if not set(look.counts) & set(classes.ids)]
    if len(empty) == len(usable):
        values = sorted({raw for look in usable for raw in look.counts})[:SHOWN]
        yield Finding(f"no mask has a pixel of any class, only of ignored ids ({', '.join(map(str, values))})", True)
        return
    if empty:
        yield Finding(f"{len(empty)} masks have no pixel of any class, e.g. of {empty[0].image_id}", False)
    for split in SPLITS:
        wanted = classes.entries if split == "val" else classes.seen()
        never = [entry.name for entry in wanted if not pixels[split].get(entry.id)]
        if split in ids and never:
            result = "cannot be learnt" if split == "train" else "have no score"
            yield Finding(f"{len(never)} classes never occur in {split} and {result}: {_some(never)}", False)
    total, both = sum((pixels[split] for split in SPLITS), Counter[int]()), len(usable)
    first = classes.entries[0]
    share = total[first.id] / sum(total.values())
    often = sum(images[split][first.id] for split in SPLITS) / both
    if share >= BACKGROUND_SHARE and often >= BACKGROUND_IMAGES and len(classes.entries) > 2:
        yield Finding(
            f"id {first.id} ({first.name}) covers {100 * share:.0f} % of all pixels and is in {100 * often:.0f} % of "
            "the images; if it is background in truth, ids are shifted: see data.first_id and data.ignore",
            False,
        )


def _about_duplicates(classes: ClassList, ids: Ids, looks: Sequence[Look]) -> Iterable[Finding]:
    """Images that are in both lists, or whose files are equal byte by byte."""
    both = sorted(set(ids.get("train", ())) & set(ids.get("val", ())))
    if both:
        yield Finding(f"{len(both)} images are in both lists: {_some(both)}; remove them from one", True)
    by_file: dict[str, dict[str, str]] = {}
    for look in looks:
        if look.sha256:
            by_file.setdefault(look.sha256, {}).setdefault(look.image_id, look.split)
    groups = [group for group in by_file.values() if len(group) > 1]
    across = [_equal(group) for group in groups if len(set(group.values())) > 1]
    within = [_equal(group) for group in groups if len(set(group.values())) == 1]
    if across:
        yield Finding(f"{len(across)} training images are validation images too: {_some(across)}; remove one", True)
    if within:
        yield Finding(f"{len(within)} images are several times in one split: {_some(within)}", False)


def _equal(group: Mapping[str, str]) -> str:
    """Images of one content, one of each split first."""
    first = {split: image_id for image_id, split in reversed(list(group.items()))}
    names = list(dict.fromkeys([*(first[split] for split in SPLITS if split in first), *group]))
    return " = ".join(names[:3]) + (f" = {len(names) - 3} more" if len(names) > 3 else "")


def _about_orientation(classes: ClassList, ids: Ids, looks: Sequence[Look]) -> Iterable[Finding]:
    """Images that other programs show turned."""
    turned = [look.image_id for look in looks if look.turned]
    if turned:
        yield Finding(f"{len(turned)} images have an EXIF orientation, which is not applied: {_some(turned)}", False)


FINDERS: tuple[Callable[[ClassList, Ids, Sequence[Look]], Iterable[Finding]], ...] = (
    _about_files,
    _about_unknown,
    _about_classes,
    _about_duplicates,
    _about_orientation,
)


def _about_counts(data: DataConfig, ids: Ids) -> Iterable[Finding]:
    """Splits that are not the whole data set."""
    for split, expected in (("train", data.expected_train), ("val", data.expected_val)):
        if expected is not None and split in ids and len(ids[split]) != expected:
            yield Finding(
                f"{split} has {len(ids[split]):,} images, the published split {expected:,}: results do not compare "
                "with published ones",
                False,
            )


def _about_strays(source: Source) -> Iterable[Finding]:
    """Masks that no image belongs to."""
    try:
        strays = source.stray_masks()
    except (DataError, OSError):
        return  # a folder is missing: said already
    if strays:
        yield Finding(f"{len(strays)} masks belong to no image, e.g. {strays[0]}", False)


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{', '.join(names[:SHOWN])}{more}"
