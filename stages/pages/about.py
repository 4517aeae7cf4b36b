"""What a report says of its run besides its results: nothing here comes from a stage, and nothing changes a result."""

from __future__ import annotations

from dataclasses import dataclass, field

from split_matching.stages.ground.context import StageContext


@dataclass(frozen=True)
class About:
    """A run as the user knows it.

    Args:
        name: what it is called; "" for nothing.
        note: any remark.
        seed: of its training; None without one.
        differs: settings that are not those of its data set's config, e.g. "train.steps=300".
    """

    name: str = ""
    note: str = ""
    seed: int | None = None
    differs: tuple[str, ...] = ()


@dataclass(frozen=True)
class ReportContext(StageContext):
    """What a report is given: see StageContext; and `about`, its run."""

    about: About = field(default_factory=About)
