"""The metrics on masks of VOC's photographs, against a plain computation that shares no code with the pipeline."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from split_matching.configs.class_list import load_classes
from split_matching.configs.load import load_config
from split_matching.stages.data.labels import read_all_labels
from split_matching.stages.data.source import open_source
from split_matching.stages.inference.metrics import ConfusionMatrix, compute_scores
from tests.png import unpack

IDS = {"pottedplant": 16, "sheep": 17, "sofa": 18, "train": 19, "tvmonitor": 20}
"""The unseen classes of VOC, by the published list of ids."""


def guess(ids: np.ndarray) -> np.ndarray:
    """A prediction that is often wrong: the truth moved by some pixels, and tiles of all classes elsewhere. (H, W)."""
    moved = np.roll(ids, (9, -14), (0, 1)).astype(np.int64)
    filler = 1 + np.add.outer(np.arange(ids.shape[0]) // 50 * 3, np.arange(ids.shape[1]) // 70 * 7) % 20
    return np.where((moved == 0) | (moved == 255), filler, moved)


def plain_scores(pairs: Counter[tuple[int, int]]) -> dict[str, float]:
    """pAcc, and mean IoU of seen and unseen classes and their harmonic mean, from pairs of true and predicted id."""
    right = sum(number for (true, said), number in pairs.items() if true == said)
    iou = {}
    for raw in range(1, 21):
        union = sum(number for pair, number in pairs.items() if raw in pair)
        if union:
            iou[raw] = Fraction(pairs[raw, raw], union)
    groups = [[value for raw, value in iou.items() if (raw in IDS.values()) is unseen] for unseen in (False, True)]
    seen, unseen = (sum(group) / len(group) for group in groups)
    return {
        "pacc": float(Fraction(right, pairs.total())),
        "miou_seen": float(seen),
        "miou_unseen": float(unseen),
        "hiou": float(2 * seen * unseen / (seen + unseen)),
    }


def test_scores_of_photographs_are_those_of_a_plain_computation(voc_mini: Path) -> None:
    data = load_config("voc", overrides=[f"data.root={voc_mini}"]).data
    source, classes = open_source(data, voc_mini), load_classes(data)
    assert {entry.name: entry.id for entry in classes.unseen_entries} == IDS
    confusion, pairs = ConfusionMatrix(20), Counter[tuple[int, int]]()
    for image_id in source.ids("val")[3::12]:
        stored = unpack((voc_mini / f"VOCdevkit/VOC2012/SegmentationClassAug/{image_id}.png").read_bytes())
        said = guess(stored)
        labelled = (stored != 0) & (stored != 255)
        pairs.update(zip(stored[labelled].tolist(), said[labelled].tolist(), strict=True))
        confusion.update(read_all_labels(source, image_id, classes.ids), said - 1, 255)
    scores = compute_scores(confusion, [entry.id not in classes.unseen_ids for entry in classes.entries])
    expected = plain_scores(pairs)
    assert len({true for true, _ in pairs}) >= 5 and 0.01 < expected["hiou"] < 0.95
    assert {name: getattr(scores, name) for name in expected} == pytest.approx(expected, rel=1e-12)
