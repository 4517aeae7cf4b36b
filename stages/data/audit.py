"""Audit of a data set: what it holds, and what is odd about it, before anything else is run.

Reads every image and mask of both splits, the lists and the folders. Unseen classes are named: this is for people, and
nothing of it reaches training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from split_matching.configs.class_list import ClassList
from split_matching.configs.data_settings import DataConfig
from split_matching.errors import DataError, format_count
from split_matching.stages.data.findings import find_all
from split_matching.stages.data.image_audit import ImageAudit, audit_image
from split_matching.stages.data.image_ids import choose_evenly
from split_matching.stages.data.listing import SPLITS
from split_matching.stages.data.mask_findings import Finding, count_totals
from split_matching.stages.data.source import Source, open_source
from split_matching.stages.ground.context import Progress
from split_matching.stages.ground.ordered_map import ordered_map


@dataclass(frozen=True)
class Audit:
    """All that was found.

    Args:
        classes: the class list.
        ids: the ids of each split that has a usable list.
        images: what was found in the images that were read.
        findings: what is odd, problems first.
    """

    classes: ClassList
    ids: Mapping[str, Sequence[str]]
    images: Sequence[ImageAudit]
    findings: Sequence[Finding]

    @property
    def passed(self) -> bool:
        """Whether there is no problem; notes do not count."""
        return not any(finding.problem for finding in self.findings)

    def lines(self) -> list[str]:
        """The report as text."""
        seen, unseen = len(self.classes.seen()), len(self.classes.unseen_ids)
        ignored = ", ".join(str(raw) for raw in self.classes.ignore) or "none"
        total = format_count(len(self.classes.entries), "class", "classes")
        lines = [f"{total}: {seen} seen, {unseen} unseen; ignored ids: {ignored}"]
        for split, ids in self.ids.items():
            read = sum(image.split == split for image in self.images)
            partly = f", {read:,} read" if read < len(ids) else ""
            lines.append(f"{split}: {format_count(len(ids), 'image')}{partly}")
        lines += ["", *self._format_table(), ""]
        lines += [f"{'PROBLEM' if finding.problem else 'note'}: {finding.text}" for finding in self.findings]
        problems = sum(finding.problem for finding in self.findings)
        lines.append(f"problems: {problems}, notes: {len(self.findings) - problems}")
        return lines

    def _format_table(self) -> list[str]:
        """Share of the pixels and number of images of each class and split."""
        pixels, images = count_totals(self.images)
        width = max(len(entry.name) for entry in self.classes.entries)
        lines = [f"{'id':>5}  {'class':<{width}}        train pixels  images    val pixels  images"]
        rows = [(e.id, e.name, "unseen" if e.id in self.classes.unseen_ids else "seen") for e in self.classes.entries]
        rows += [(raw, "(ignored)", "") for raw in self.classes.ignore]
        for raw, name, group in rows:
            cells = [_format_cells(pixels[split], images[split], raw) for split in SPLITS]
            lines.append(f"{raw:>5}  {name:<{width}}  {group:<6}  {cells[0]}  {cells[1]}")
        return lines


def _format_cells(pixels: Mapping[int, int], images: Mapping[int, int], raw: int) -> str:
    total = sum(pixels.values())
    share = f"{100 * pixels.get(raw, 0) / total:.2f} %" if total else "-"
    return f"{share:>10}  {images.get(raw, 0):>6}"


def audit_data(
    data: DataConfig,
    classes: ClassList,
    root: Path | None,
    progress: Progress,
    limit: int | None = None,
    threads: int = 0,
) -> Audit:
    """Read a data set, and say what it holds and what is odd.

    Args:
        data: the `data` section.
        classes: its class list.
        root: folder of the raw files.
        progress: called with (done, total) images.
        limit: largest number of images of each split, evenly spread over its list; None for all.
        threads: that decode; 0 for one a core.

    Returns:
        What was found.

    Raises:
        DataError: there is no data set: no root, no such folder, or no usable list.
    """
    source = open_source(data, root)
    ids, unusable_lists = _read_lists(source)
    chosen = {split: members if limit is None else choose_evenly(members, limit) for split, members in ids.items()}
    jobs = [(split, image_id) for split, members in chosen.items() for image_id in members]
    images = []
    for done, image in enumerate(ordered_map(lambda job: audit_image(source, *job, classes), jobs, threads), start=1):
        images.append(image)
        progress(done, len(jobs))
    findings = [*unusable_lists, *find_all(source, data, classes, ids, images)]
    return Audit(classes, ids, images, sorted(findings, key=lambda finding: not finding.problem))


def _read_lists(source: Source) -> tuple[dict[str, list[str]], list[Finding]]:
    """Return the ids of each split that has a usable list, and what is wrong with the lists that are not."""
    ids: dict[str, list[str]] = {}
    errors = []
    for split in SPLITS:
        try:
            ids[split] = source.ids(split)
        except DataError as error:
            errors.append(error)
    if not ids:
        raise errors[0]
    return ids, [Finding(str(error), True) for error in errors]
