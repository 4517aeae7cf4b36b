"""What region embeddings by masked attention cost beside masked crops, ten regions an image.

    python -m benchmarks.regions [--quick] [--json FILE]

ViT-B/16 with random weights at 512 px; the regions are ten vertical stripes of one image. `attention` is what the stage
does by default: it continues from cached tokens of block 9 (in memory here, as float16) and runs the last three blocks.
`attention, from pixels` runs all twelve.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measure import Check, Options, Report, main, paired, ratio, scenes
from split_matching.configs.settings import ClipConfig, RegionsConfig
from split_matching.model.clip import FrozenClip
from split_matching.stages.candidates.region_embedding import RegionItem, embed_regions

REGIONS = 10


def run(options: Options) -> Report:
    """Measure both methods in turn."""
    clip_name, size = ("shapes-vit", 64) if options.quick else ("ViT-B-16", 512)
    clip = FrozenClip(ClipConfig(model=clip_name, weights="random"), options.device)
    [image] = scenes(1, size)
    grid = size // clip.patch
    stripes = np.arange(2 * grid) * REGIONS // (2 * grid)
    masks = np.broadcast_to(stripes == np.arange(REGIONS)[:, None, None], (REGIONS, 2 * grid, 2 * grid)).copy()
    dense = np.zeros((grid, grid, clip.dim), np.float32)
    crop, attention = (RegionsConfig.model_validate({"method": method}) for method in ("crop", "attention"))
    plain = clip.tower.plain_blocks(attention.blocks)
    out = clip.dense(clip.preprocess(image, size, size)[None], decoder_blocks=[plain])
    tokens = torch.cat([out.prefixes[plain], out.tokens[plain].flatten(1, 2)], 1)[0].half().cpu().numpy()

    def embed(config: RegionsConfig, cached: bool) -> None:
        item = RegionItem(masks, dense, None, tokens.astype(np.float32)) if cached else RegionItem(masks, dense, image)
        embed_regions(clip, [item], config)

    methods = {
        "crop": partial(embed, crop, False),
        "attention": partial(embed, attention, True),
        "attention, from pixels": partial(embed, attention, False),
    }
    with FlopCounterMode(display=False) as counter:
        methods["attention"]()
    sides = paired(methods, options.rounds, unit="ms an image")
    faster = ratio(sides, "crop", "attention")
    return Report(
        f"{clip_name}, {size} px, {REGIONS} regions",
        sides,
        [Check("attention faster than crop by", faster, None if options.quick else 6, "at least")],
        {"ms_per_image": sides[1].median, "flop_per_image": counter.get_total_flops()},
    )


if __name__ == "__main__":
    main(__doc__, run)
