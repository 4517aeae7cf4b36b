"""Which images share a call."""

from split_matching.stages.candidates.batches import equal_batches


def test_places_of_equal_keys_share_batches_of_at_most_a_size() -> None:
    keys = ["a", "b", "a", "a", "b", "c", "a", "a"]
    assert equal_batches(keys, 2) == [[0, 2], [3, 6], [7], [1, 4], [5]]
    assert equal_batches(keys, 9) == [[0, 2, 3, 6, 7], [1, 4], [5]]
    assert equal_batches([], 2) == []
