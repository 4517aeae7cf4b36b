"""Numbers of regions by hand."""

from typing import Any

import numpy as np
import pytest

from split_matching.stages.candidates.region_counts import count_regions, describe_regions


class Maps:
    """Region maps of 10 cells; image `i` has `counts[i]` regions of a cell each."""

    def __init__(self, *counts: int) -> None:
        self.counts = {f"{place:03d}": count for place, count in enumerate(counts)}
        self.ids = tuple(self.counts)

    def read(self, image_id: str, field: str) -> Any:
        assert field == "labels"
        labels = np.zeros((2, 5), np.uint8)
        labels.ravel()[: self.counts[image_id]] = np.arange(1, self.counts[image_id] + 1)
        return labels


def count(*counts: int) -> dict[str, Any]:
    maps: Any = Maps(*counts)
    return count_regions(maps)


def test_regions_are_counted() -> None:
    assert count(0, 2, 2, 4) == {
        "regions": 2.0,
        "regions_5": 0.0,
        "regions_95": 4.0,
        "regions_most": 4,
        "without_regions": 25.0,
        "region_area": 10.0,
        "images_by_regions": [1, 0, 2, 0, 1],
    }
    assert count(0, 0)["region_area"] == 0


def test_the_line_says_how_many_regions_no_query_can_take() -> None:
    """Of 8 regions the fourth of the last image is beyond three queries."""
    assert describe_regions(count(0, 2, 2, 4), 3)[0] == (
        "2.0 regions an image (5 %: 0, 95 %: 4, most: 4), none in 25.0 % of the images; "
        "a region is 10.0 % of an image; 12.5 % of the regions are beyond the 3 candidate queries"
    )


@pytest.mark.parametrize(
    ("counts", "queries", "warning"),
    [
        ((1, 1, 2, 2), 9, "half of the images have at most one region: raise pseudo_masks.merge"),
        ((1, 2, 2), 9, ""),
        ((2,) * 19 + (6,), 5, ""),
        (
            (2,) * 9 + (6,),
            5,
            "10 % of the images have more regions than queries: raise decoder.candidate_queries above 5",
        ),
        ((2,) * 9 + (6,), 6, ""),
        ((2,) * 9 + (6,), 0, ""),
    ],
)
def test_bad_numbers_are_warned_of(counts: tuple[int, ...], queries: int, warning: str) -> None:
    lines = describe_regions(count(*counts), queries)
    assert len(lines) == 1 + bool(warning) and warning in lines[-1]
