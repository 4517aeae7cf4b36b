"""What the gallery keeps of one image: its regions at every setting of `merge`, small enough for a thousand in a page.

A region is the same at two settings if its cells are. So there is a table of distinct regions, and for each distinct
region map a list of rows of it. The maps hold these rows and differ little from each to the next: as differences,
deflated, all maps of an image take a few hundred bytes.
"""

from __future__ import annotations

import base64
import zlib
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from split_matching.stages.ground.region_map import masks_of

NAMES = 2
"""Nearest seen classes that are shown of a region."""


@dataclass(frozen=True)
class RegionTable:
    """The distinct regions of an image over all settings.

    Args:
        maps: region maps, one a setting. Shapes: (H', W'), uint8.
    """

    maps: Sequence[NDArray[np.uint8]]

    @cached_property
    def starts(self) -> list[int]:
        """Places in `maps` where another map begins."""
        return [
            place for place, map_ in enumerate(self.maps) if not place or not np.array_equal(map_, self.maps[place - 1])
        ]

    @cached_property
    def _found(self) -> tuple[list[list[int]], NDArray[np.bool_]]:
        rows: dict[bytes, int] = {}
        masks: list[NDArray[np.bool_]] = []
        members = []
        for start in self.starts:
            regions = []
            for mask in masks_of(self.maps[start]):
                row = rows.setdefault(mask.tobytes(), len(masks))
                if row == len(masks):
                    masks.append(mask)
                regions.append(row)
            members.append(regions)
        return members, np.array(masks, bool).reshape(len(masks), *self.maps[0].shape)

    @property
    def members(self) -> list[list[int]]:
        """For each distinct map the rows of its regions 1..R."""
        return self._found[0]

    def members_at(self, place: int) -> list[int]:
        """Return the rows of the regions 1..R of the map at a place in `maps`."""
        return self.members[bisect_right(self.starts, place) - 1]

    @property
    def masks(self) -> NDArray[np.bool_]:
        """The distinct regions. Shape: (rows, H', W')."""
        return self._found[1]

    @cached_property
    def colours(self) -> list[int]:
        """A number for each row, so that regions of one map differ, and the largest part of what splits keeps its own.

        From the coarsest map to the finest: a new region takes the number of what it lies in most, if that is free,
        else the lowest free one.
        """
        chosen: dict[int, int] = {}
        before: list[int] = []
        for regions in self.members:
            taken = {chosen[row] for row in regions if row in chosen}
            for row in regions:
                if row in chosen:
                    continue
                inside = (self.masks[before] & self.masks[row]).sum((1, 2)) if before else np.zeros(1)
                wanted = chosen[before[int(inside.argmax())]] if inside.any() else 0
                free = next(number for number in range(len(taken) + 1) if number not in taken)
                chosen[row] = free if wanted in taken else wanted
                taken.add(chosen[row])
            before = regions
        return [chosen[row] for row in range(len(self.masks))]

    def pack(self) -> str:
        """Return the distinct maps, each less the one before: 1 + row of a cell, 0 for none; uint16, zlib, base64."""
        before = np.zeros(self.maps[0].shape, np.uint16)
        parts = []
        for start, regions in zip(self.starts, self.members, strict=True):
            cells = np.array([0, *(row + 1 for row in regions)], np.uint16)[self.maps[start]]
            parts.append((cells - before).astype("<u2").tobytes())  # modulo 65536
            before = cells
        return base64.b64encode(zlib.compress(b"".join(parts), 9)).decode("ascii")


@dataclass(frozen=True)
class GalleryImage:
    """One image of the gallery.

    Args:
        id: of the image.
        picture: a small JPEG, base64.
        size: width and height of it, pixels.
        quality: how well its regions are separated at the config's setting; NaN where it is not defined.
        seen: indices of the annotated seen classes.
        table: its regions.
        names: of every row of the table, the nearest seen classes: (index, cosine in percent); () when not known.
    """

    id: str
    picture: str
    size: tuple[int, int]
    quality: float
    seen: tuple[int, ...]
    table: RegionTable
    names: Sequence[Sequence[tuple[int, int]]] = field(default=())

    def describe(self) -> dict[str, Any]:
        """Return what the page's script filters and sorts by, as JSON values; areas in tenths of a percent."""
        areas = [round(1000 * float(mask.mean())) for mask in self.table.masks]
        names = self.names or [()] * len(areas)
        rows = zip(areas, self.table.colours, names, strict=True)
        return {
            "id": self.id,
            "size": self.size,
            "grid": [*reversed(self.table.maps[0].shape)],
            "quality": None if np.isnan(self.quality) else round(self.quality, 4),
            "seen": self.seen,
            "starts": self.table.starts,
            "maps": self.table.members,
            "regions": [[area, colour, *(value for pair in near for value in pair)] for area, colour, near in rows],
        }
