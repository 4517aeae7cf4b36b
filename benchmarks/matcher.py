"""What split matching costs beside Hugging Face's Mask2Former matcher on the same tensors.

    python -m benchmarks.matcher [--quick] [--json FILE]

B = 16, Q = 100, 20 targets an image, 128 x 128 masks. Ours: 40 seen queries against 10 classes and 60 candidates
against 10 pseudo masks, on all cells. Hugging Face: all 100 queries against all 20, on its default 12,544 sampled
points. `ours, one group` gives our cost and assignment the same 100 x 20 problem.
"""

from __future__ import annotations

import torch

from benchmarks.measure import Check, Options, Report, main, paired, ratio
from split_matching.model.matcher import CostWeights, SplitMatcher

CLASSES = 20


def run(options: Options) -> Report:
    """Measure the matchers in turn."""
    from transformers.models.mask2former.modeling_mask2former import Mask2FormerHungarianMatcher

    batch, queries, targets, size = (2, 10, 4, 16) if options.quick else (16, 100, 20, 128)
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(batch, queries, size, size, generator=generator).to(options.device)
    truth = (torch.rand(batch, targets, size, size, generator=generator) > 0.7).float().to(options.device)
    scores = torch.randn(batch, queries, CLASSES + 1, generator=generator).to(options.device)
    labels = [torch.randint(0, CLASSES, (targets,), generator=generator).to(options.device) for _ in range(batch)]
    theirs = Mask2FormerHungarianMatcher(cost_class=2.0, cost_mask=5.0, cost_dice=5.0).to(options.device)
    costs = CostWeights(similarity=2.0, mask=5.0, dice=5.0)
    ours = SplitMatcher(costs, costs)
    flat, masks = logits.flatten(2), truth.flatten(2)
    valid = torch.ones(batch, size * size, device=options.device)
    affinity = torch.stack([s.softmax(-1)[:, label] for s, label in zip(scores, labels, strict=True)])  # (B, Q, T)
    seen, first = 2 * queries // 5, targets // 2

    def split() -> None:
        ours(
            (affinity[:, :seen, :first], flat[:, :seen], masks[:, :first]),
            (affinity[:, seen:, first:], flat[:, seen:], masks[:, first:]),
            valid,
            ([first] * batch, [targets - first] * batch),
        )

    def one() -> None:
        nothing = (affinity[:, :0, :0], flat[:, :0], masks[:, :0])
        ours((affinity, flat, masks), nothing, valid, ([targets] * batch, [0] * batch))

    sides = paired(
        {
            "ours, split": split,
            "ours, one group": one,
            "Hugging Face": lambda: theirs(logits, scores, list(truth), labels),
        },
        options.rounds,
        unit="ms a batch",
    )
    faster = ratio(sides, "Hugging Face", "ours, split")
    return Report(
        f"B = {batch}, Q = {queries}, {targets} targets, {size}x{size} masks",
        sides,
        [
            Check("split faster than Hugging Face by", faster, None if options.quick else 4, "at least"),
            Check("one group faster than Hugging Face by", ratio(sides, "Hugging Face", "ours, one group")),
        ],
        {"ms_per_batch": sides[0].median},
    )


if __name__ == "__main__":
    main(__doc__, run)
