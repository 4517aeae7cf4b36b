"""What changes when the small CLIP of `shapes` gets the modality gap of web-scale CLIP: hardly anything should.

    python -m benchmarks.modality_gap [--gap IMAGE TEXT] [--scenes 100] [--train 3] [--set KEY=VALUE ...]

In web-scale CLIP all image embeddings have a large component in common, and all text embeddings another one. Cosines
then lie in a narrow band, and the logit scale is large; rankings of classes are what they would be without. The script
adds such components to the bundled weights. It prints regions an image and, with --train, mIoU of seen classes, mIoU of
unseen classes and hIoU of so many seeds, mean and deviation, with CLIP's score of each region and without.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.measure import ROOT
from split_matching.configs.load import load_config
from split_matching.configs.settings import PseudoMasksConfig
from split_matching.model.clip import FrozenClip
from split_matching.stages.candidates.clustering import cluster
from split_matching.stages.data.shapes import render_scene, scene_rng

BUNDLED = ROOT / "model/weights/shapes-vit.safetensors"
ALONE = ("evaluate.fusion=0", "evaluate.candidate_weight=1")


def widen_gap(weights: Mapping[str, Tensor], image: float, text: float) -> dict[str, Tensor]:
    """Add a common component to all embeddings of either tower, and raise the logit scale accordingly.

    Args:
        weights: of open_clip's CLIP, by name.
        image: squared length of the component of images, over that of an embedding without it (its mean over inputs
            of the last norm, taken as independent with the norm's weights as deviations).
        text: the same for texts.

    Returns:
        The new weights. 1.8 and 2.3 give a mean text-text cosine of 0.80 on the names of VOC, as real CLIP has.
    """
    changed = {name: tensor.float().clone() for name, tensor in weights.items()}
    projections = changed["visual.proj"], changed["text_projection"]
    norms = ("visual.ln_post", "ln_final")
    # the least used direction of texts, and one that no text reaches: neither changes an order of classes
    directions = torch.linalg.svd(changed["ln_final.weight"][:, None] * projections[1], full_matrices=True)[2]
    reach = len(projections[1])
    seldom, beyond = directions[reach - 1], directions[reach:]
    used = (changed["visual.ln_post.weight"][:, None] * projections[0]) @ beyond.T
    away = torch.linalg.svd(used, full_matrices=True)[2][-1] @ beyond
    for norm, projection, direction, gap in zip(norms, projections, (away, seldom), (image, text), strict=True):
        length = (changed[f"{norm}.weight"][:, None] * projection).norm() * gap**0.5
        shift = torch.linalg.lstsq(projection.T, (length * direction)[:, None]).solution[:, 0]
        changed[f"{norm}.bias"] += shift
    changed["logit_scale"] += 0.5 * float(np.log((1 + image) * (1 + text)))
    return {name: tensor.contiguous() for name, tensor in changed.items()}


def count_regions(weights: Path, scenes: int, config: PseudoMasksConfig) -> tuple[float, float]:
    """Mean cosine of two cells of an image, and regions an image, of dense features of training scenes."""
    clip = FrozenClip(load_config("shapes").clip, "cpu", weights)
    cosines, regions = [], []
    for index in range(scenes):
        pixels = clip.preprocess(render_scene(scene_rng(0, "train", index)).image, 128, 128)
        dense = clip.dense(pixels[None], "value").dense[0].numpy()
        cosines.append(float((dense.reshape(-1, dense.shape[-1]).mean(0) ** 2).sum()))
        regions.append(int(cluster(dense, config).max()))
    return float(np.mean(cosines)), float(np.mean(regions))


def train(weights: Path, seeds: int, overrides: list[str]) -> str:
    """Train and evaluate some seeds; mean and sample deviation of S, U and h, as a cell of the table."""
    rows = []
    for seed in range(seeds):
        command = [sys.executable, "run_pipeline.py", "Evaluate", "--dataset", "shapes", "--quiet", "--set"]
        settings = [f"clip.weights={weights}", f"train.seed={seed}", *overrides]
        done = subprocess.run([*command, *settings], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
        found = json.loads(Path(done.stdout.splitlines()[-1]).read_text())
        rows.append([found[name] for name in ("mIoU_seen", "mIoU_unseen", "hIoU")])
    means, spread = np.mean(rows, 0), np.std(rows, 0, ddof=1) if seeds > 1 else np.zeros(3)
    return " / ".join(f"{mean:.1f} ± {deviation:.1f}" for mean, deviation in zip(means, spread, strict=True))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gap", nargs=2, type=float, action="append", metavar=("IMAGE", "TEXT"))
    parser.add_argument("--scenes", type=int, default=100, help="for the regions an image")
    parser.add_argument("--train", type=int, default=0, metavar="SEEDS")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE")
    given = parser.parse_args()
    print("| gap, image and text | logit scale | cosine of two cells | regions an image | S / U / h | decoder alone |")
    print("|---|---:|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        for image, text in ((0.0, 0.0), *(given.gap or [(1.8, 2.3), (3.5, 4.0)])):
            path = Path(folder) / f"gap-{image}-{text}.safetensors"
            weights = widen_gap(load_file(BUNDLED), image, text)
            save_file(weights, path)
            cosine, regions = count_regions(path, given.scenes, PseudoMasksConfig())
            cells = [train(path, given.train, [*given.set, *more]) if given.train else "" for more in ((), ALONE)]
            scale = float(weights["logit_scale"].exp())
            print(
                f"| {image}, {text} | {scale:.0f} | {cosine:.2f} | {regions:.1f} | {cells[0]} | {cells[1]} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
