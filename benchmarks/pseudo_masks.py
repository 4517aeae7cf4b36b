"""How well cached pseudo masks cover and name *unseen* objects of training images: an analysis, never a way to tune.

    PYTHONPATH=. python benchmarks/pseudo_masks.py [--dataset shapes] [--artifacts DIR] [--set KEY=VALUE ...]

An object is an unseen class in an image that covers at least `pseudo_masks.min_area` of it. Its pseudo mask is the one
with the highest IoU; that is named right if its cached CLS embedding is nearest to the object's class among all names,
seen and unseen. Needs EmbedRegions to be fresh. To choose settings use `inspect quality`, which sees no unseen label.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from split_matching.configs.class_list import load_classes
from split_matching.configs.load import load_config
from split_matching.model.clip import FrozenClip
from split_matching.pipeline.stages import make_plan
from split_matching.stages.candidates.quality import best_overlap
from split_matching.stages.data.labels import read_all_labels
from split_matching.stages.data.source import open_source
from split_matching.stages.ground.class_text import embed_classes


def main() -> None:
    """Print the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="shapes")
    parser.add_argument("--artifacts", type=Path)
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    overrides = [f"runtime.artifacts={options.artifacts}"] if options.artifacts else []
    config = load_config(options.dataset, overrides=[*overrides, *options.set])
    plan = make_plan(config)
    if not plan["regions"].state.fresh:
        raise SystemExit(f"EmbedRegions is not fresh: run_pipeline.py EmbedRegions --dataset {options.dataset} first")
    entries = load_classes(config.data)
    ids = [entry.id for entry in entries.entries]
    unseen = [index for index, entry in enumerate(entries.entries) if entry.id in entries.unseen_ids]
    text = embed_classes(FrozenClip(config.clip), entries.entries, config.text).numpy()
    source = open_source(config.data, plan["dataset"].data_root)
    masks, regions = plan["pseudo_masks"].artifact().shards("train"), plan["regions"].artifact().shards("train")
    overlaps: list[float] = []
    right: list[bool] = []
    for image_id in masks.ids:
        truth, labels = read_all_labels(source, image_id, ids), masks.read(image_id, "labels")
        embeddings = regions.read(image_id, "embeddings").astype(np.float32)
        for index in unseen:
            wanted = truth == index
            if wanted.mean() < max(config.pseudo_masks.min_area, 1e-9):
                continue
            region, iou = best_overlap(labels, wanted)
            overlaps.append(iou)
            right.append(bool(region) and int((text @ embeddings[region - 1]).argmax()) == index)
    print(f"{len(overlaps)} unseen objects in {len(masks.ids)} training images of {options.dataset}")
    print(f"mean IoU of the best pseudo mask  {np.mean(overlaps):.3f}")
    print(f"named right by its CLS embedding  {100 * np.mean(right):.1f} %")


if __name__ == "__main__":
    main()
