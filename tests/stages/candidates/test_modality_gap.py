"""Clustering of dense features whose CLIP has the modality gap of web-scale CLIP."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmarks.modality_gap import BUNDLED, count_regions, widen_gap
from split_matching.configs.class_list import load_shipped_classes
from split_matching.configs.load import load_config
from split_matching.configs.settings import PseudoMasksConfig
from split_matching.model.clip import FrozenClip


def test_the_gap_keeps_the_order_of_classes_and_narrows_cosines(tmp_path: Path) -> None:
    names = [entry.name for entry in load_shipped_classes("shapes").entries]
    found, tokens = [], []
    for gap in ((0.0, 0.0), (1.8, 2.3)):
        path = tmp_path / f"{gap}.safetensors"
        save_file(widen_gap(load_file(BUNDLED), *gap), path)
        clip = FrozenClip(load_config("shapes").clip, "cpu", path)
        text = clip.encode_classes(names, ["a photo of a {} object."])
        images = torch.randn(20, 3, 64, 64, generator=torch.Generator().manual_seed(0))
        cosines = torch.nn.functional.normalize(clip.encode_image(images), dim=1) @ text.T
        found.append((cosines, float((text @ text.T).mean()), clip.logit_scale))
        tokens.append(clip.tokens(images, load_config("shapes").pseudo_masks.block))
    (before, alike_before, scale_before), (after, alike, scale) = found
    assert torch.equal(*tokens), "what `shapes` clusters lies before the projection, and knows no gap"
    assert (before.argmax(1) == after.argmax(1)).float().mean() > 0.9
    assert after.std() < 0.5 * before.std() and alike > alike_before + 0.25
    assert scale == pytest.approx(scale_before * (2.8 * 3.3) ** 0.5, rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["faiss", "torch"])
def test_the_gap_changes_no_number_of_regions(tmp_path: Path, engine: str) -> None:
    counts = []
    for gap in (0.0, 1.8, 3.5):
        path = tmp_path / f"{gap}.safetensors"
        save_file(widen_gap(load_file(BUNDLED), gap, gap), path)
        counts.append(count_regions(path, 12, PseudoMasksConfig(engine=engine)))
    (cosine, regions), *others = counts
    assert regions > 2.5 and others[-1][0] > cosine + 0.15
    assert [number for _, number in others] == pytest.approx([regions] * 2, rel=0.1)
