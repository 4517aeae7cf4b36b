"""What a confusion matrix update costs beside torchmetrics' JaccardIndex: 512 x 512 pixels, 171 classes.

python -m benchmarks.confusion [--quick] [--json FILE]
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from benchmarks.measure import Check, Options, Report, main, paired, ratio
from split_matching.stages.inference.metrics import ConfusionMatrix

CLASSES = 171


def run(options: Options) -> Report:
    """Measure both updates in turn; then compare what they counted."""
    from torchmetrics.classification import MulticlassJaccardIndex

    side = 32 if options.quick else 512
    rng = np.random.default_rng(0)
    truth, prediction = (rng.integers(0, CLASSES, (side, side), np.uint8) for _ in range(2))
    ours = ConfusionMatrix(CLASSES)
    theirs: Any = MulticlassJaccardIndex(num_classes=CLASSES)
    tensors = [torch.from_numpy(labels.astype(np.int64)) for labels in (prediction, truth)]
    sides = paired(
        {"ours": lambda: ours.update(truth, prediction), "torchmetrics": lambda: theirs.update(*tensors)},
        options.rounds * 5,
        unit="ms an image",
    )
    if not np.array_equal(ours.counts, theirs.confmat.numpy()):
        raise SystemExit("the two confusion matrices differ: the comparison means nothing")
    faster = ratio(sides, "torchmetrics", "ours")
    return Report(
        f"{side}x{side} pixels, {CLASSES} classes, labels already in memory as each side wants them",
        sides,
        [Check("ours faster by", faster, None if options.quick else 10, "at least")],
        {"ms_per_image": sides[0].median},
    )


if __name__ == "__main__":
    main(__doc__, run)
