"""Image ids that somebody typed, and some of many."""

from __future__ import annotations

import pytest

from split_matching.errors import DataError
from split_matching.stages.data.image_ids import check_ids_exist, choose_evenly

IDS = ["000000000139", "000000000285", "2007_000032"]


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ("139", "did you mean 000000000139?"),
        ("2007_00032", "did you mean 2007_000032?"),
        ("2007_000033", "did you mean 2007_000032?"),
        ("zebra", "expected ids such as 000000000139, 000000000285, 2007_000032"),
    ],
)
def test_an_unknown_id_is_named_with_what_was_probably_meant(given: str, hint: str) -> None:
    with pytest.raises(DataError) as caught:
        check_ids_exist([IDS[0], given], IDS, "images")
    assert str(caught.value) == f"no image {given!r} among the 3 images: {hint}"


def test_known_ids_pass() -> None:
    check_ids_exist(IDS, IDS, "images")
    check_ids_exist([], [], "images")


def test_chosen_ids_are_evenly_spread_in_order_and_bounded() -> None:
    ids = [f"{n:03d}" for n in range(100)]
    assert choose_evenly(ids, 3) == ["000", "033", "066"]
    assert choose_evenly(ids[:10], 4) == ["000", "002", "005", "007"]
    assert choose_evenly(ids, 200) == ids and choose_evenly(ids, 100) == ids
    assert choose_evenly(ids, 0) == [] and choose_evenly([], 5) == []
