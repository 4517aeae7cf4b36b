"""How close the bare forward pass of CLIP's image tower comes to the machine's own matrix product rate.

    python -m benchmarks.forward [--quick] [--json FILE]

ViT-B/16 with random weights on one 512 x 512 image (on a GPU 16, in bf16). `ours` is the pass that extraction makes
(dense features and four token maps); `open_clip` is its own code for the image embedding, with a position table of this
size. Operations are counted by
torch's own counter; the product is measured between the passes.
"""

from __future__ import annotations

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measure import Check, Options, Report, Side, main, paired
from split_matching.configs.settings import ClipConfig
from split_matching.model.clip import FrozenClip


def run(options: Options) -> Report:
    """Measure both passes and the matrix product."""
    name, size = ("shapes-vit", 64) if options.quick else ("ViT-B-16", 512)
    gpu = options.device == "cuda"
    batch = 16 if gpu else 1
    clip = FrozenClip(ClipConfig(model=name, weights="random"), options.device)
    theirs = FrozenClip(ClipConfig(model=name, weights="random"), options.device).model
    grid = (size // clip.patch, size // clip.patch)
    table = torch.cat([theirs.visual.positional_embedding[:1], clip.tower.positions(grid)])
    theirs.visual.positional_embedding = torch.nn.Parameter(table, requires_grad=False)
    images = torch.randn(batch, 3, size, size, device=options.device)
    blocks = (2, 4) if options.quick else (3, 6, 9, 12)
    side = 256 if options.quick else 8192 if gpu else 2048
    matrix = torch.randn(side, side).to(options.device, torch.bfloat16 if gpu else torch.float32)

    def ours() -> None:
        with torch.autocast(options.device, torch.bfloat16, enabled=gpu):
            clip.dense(images, "value", blocks)

    def plain() -> None:
        with torch.inference_mode(), torch.autocast(options.device, torch.bfloat16, enabled=gpu):
            theirs.encode_image(images)

    flops = []
    torch.backends.mha.set_fastpath_enabled(False)  # the counter does not see into the fused attention of torch
    for work in (ours, plain):
        with FlopCounterMode(display=False) as counter:
            work()
        flops.append(counter.get_total_flops())
    torch.backends.mha.set_fastpath_enabled(True)
    times = paired({"ours": ours, "open_clip": plain, "matrix product": lambda: matrix @ matrix}, options.rounds, 1.0)
    operations = (*flops, 2 * side**3)
    rates = [
        Side(time.name, "GFLOP/s", tuple(count / value / 1e9 for value in time.samples))
        for time, count in zip(times, operations, strict=True)
    ]
    share = rates[0].median / rates[2].median
    per_image = [Side(f"{t.name}, time", "ms an image", tuple(1000 * v / batch for v in t.samples)) for t in times[:2]]
    return Report(
        f"{name}, {size} px, batch {batch}, {'bf16' if gpu else 'float32'}, random weights",
        [*rates, *per_image],
        [
            Check("ours over the matrix product", 100 * share, None if options.quick else 60, "at least", "%"),
            Check("open_clip over the matrix product", 100 * rates[1].median / rates[2].median, unit="%"),
        ],
        {"flop_per_image": flops[0] / batch, "ms_per_image": per_image[0].median, "batch": batch},
    )


if __name__ == "__main__":
    main(__doc__, run)
