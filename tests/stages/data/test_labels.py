"""Ids of masks become labels: what training may know, and what evaluation counts."""

import numpy as np

from split_matching.configs.data_settings import DataConfig
from split_matching.stages.data.labels import (
    IGNORE,
    UNANNOTATED,
    all_labels,
    read_all_labels,
    read_seen_labels,
    seen_labels,
)
from split_matching.stages.data.source import open_source

VOC_IDS = range(1, 21)


def test_seen_labels_know_one_value_beside_the_seen_classes():
    mask = np.array([[0, 255, 16, 20], [1, 15, 2, 7]], np.uint8)
    labels = seen_labels(mask, range(1, 16))
    assert labels.dtype == np.uint8
    assert labels.tolist() == [[UNANNOTATED] * 4, [0, 14, 1, 6]]


def test_all_labels_ignore_what_is_no_class():
    labels = all_labels(np.array([[0, 255, 16, 1]], np.uint8), VOC_IDS)
    assert labels.tolist() == [[IGNORE, IGNORE, 15, 0]]


def test_ids_with_gaps_map_to_their_place():
    assert seen_labels(np.array([[90, 3, 40]], np.uint8), (90, 3)).tolist() == [[0, 1, UNANNOTATED]]


def test_ids_of_16_bits_map_to_their_place():
    assert all_labels(np.array([[0, 299, 300, 65535]], np.uint16), [299, 65535]).tolist() == [[255, 0, 255, 1]]
    assert all_labels(np.array([[254, 255]], np.uint8), range(255)).tolist() == [[254, IGNORE]]


def test_labels_read_through_a_source(voc_tree, make_mask):
    tree = voc_tree(train={"a": make_mask(0, 1, 16, 255)}, val={"b": make_mask(0, 1, 16, 255)})
    source = open_source(DataConfig(), tree.root)
    labels, annotated = read_seen_labels(source, "a", range(1, 16))
    assert labels[0, ::8].tolist() == [UNANNOTATED, 0, UNANNOTATED, UNANNOTATED]
    np.testing.assert_array_equal(annotated, labels == 0)
    assert read_all_labels(source, "b", VOC_IDS)[0, ::8].tolist() == [IGNORE, 0, 15, IGNORE]
