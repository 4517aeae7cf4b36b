"""Real text embeddings and positions of OpenAI's ViT-B/16, where they are at hand; random ones look different."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from split_matching.configs.class_list import load_shipped_classes
from split_matching.configs.schema import DecoderConfig
from split_matching.model.query_decoder import QueryOutput
from split_matching.model.towers import ClipTower
from split_matching.model.votes import query_probabilities


def read(folder: Path, name: str) -> torch.Tensor:
    return torch.from_numpy(np.load(folder / f"{name}.npy").astype(np.float32))


@pytest.mark.parametrize(
    ("table", "classes"), [("voc12_single", "voc"), ("coco_single", "coco_stuff"), ("coco_multi", "coco_stuff")]
)
def test_a_query_like_the_text_of_a_class_votes_for_that_class(clip_text: Path, table: str, classes: str) -> None:
    """Names are 0.8 alike on average in real CLIP: the default temperature must tell them apart."""
    text = F.normalize(read(clip_text, table), dim=1)  # (C, D)
    count = len(load_shipped_classes(classes).entries)
    assert text.shape == (count, 512)
    apart = text @ text.T - 2 * torch.eye(count)
    assert apart.max(1).values.mean() > 0.87  # of the nearest other name
    nothing = torch.zeros(1, count)
    output = QueryOutput(text[None], nothing, nothing, torch.zeros(1, count, 1, 1))
    temperature = DecoderConfig().temperature
    votes = query_probabilities(output, text, 0, (temperature, temperature))[0]  # (C, C), as candidate queries
    assert votes.argmax(1).tolist() == list(range(count))
    assert votes.diagonal().min() > 0.15 and votes.diagonal().mean() > 0.5


def regions_like(text: torch.Tensor) -> torch.Tensor:
    """Image embeddings with the cosines of real CLIP: 0.27 to the right name, 0.247 to the best wrong one on average.

    The common component of all texts, the rest of the own text, and something that no text has. (C, D) -> (C, D).
    """
    common = F.normalize(text.mean(0), dim=0)
    own = F.normalize(text - (text @ common)[:, None] * common, dim=1)
    beyond = torch.linalg.svd(text, full_matrices=True)[2][len(text) :]
    noise = F.normalize(torch.randn(len(text), len(beyond), generator=torch.Generator().manual_seed(0)) @ beyond, dim=1)

    def best_wrong(share: float) -> tuple[float, torch.Tensor]:
        cosine = 0.27 * (1 - share)
        parts = cosine / (text @ common)[:, None] * common + 0.27 * share / (text * own).sum(1, keepdim=True) * own
        cosines = parts @ text.T
        return float((cosines - torch.eye(len(text))).max(1).values.mean()), parts

    shares = torch.linspace(0, 1, 1001).tolist()
    share = min(shares, key=lambda value: abs(best_wrong(value)[0] - 0.247))
    parts = best_wrong(share)[1]
    return parts + (1 - (parts**2).sum(1, keepdim=True)).sqrt() * noise


def test_a_candidate_wins_its_region_against_a_seen_query_that_leaks(clip_text: Path) -> None:
    """With the 171 names of COCO-Stuff: the candidates' temperature is CLIP's, 100; with the seen group's they lose."""
    text = F.normalize(read(clip_text, "coco_multi"), dim=1)
    regions = regions_like(text)
    cosines = regions @ text.T
    assert torch.allclose(cosines.diagonal(), torch.tensor(0.27), atol=1e-3)
    assert (cosines - torch.eye(171)).max(1).values.mean() == pytest.approx(0.247, abs=1e-3)
    nothing = torch.zeros(1, 171)
    output = QueryOutput(regions[None], nothing, nothing, torch.zeros(1, 171, 1, 1))
    won = {}
    for temperature in (100.0, DecoderConfig().temperature):
        votes = query_probabilities(output, text, 0, (1.0, temperature))[0]  # (C, C)
        others = votes.clone().fill_diagonal_(0)  # beside these the seen query: it is sure, and covers a tenth
        won[temperature] = (votes.diagonal() > others.max(1).values + 0.1).float()
    assert won[100.0].mean() >= 0.95
    assert won[30.0].mean() < 0.05


def test_names_that_need_prompts_are_read_badly(clip_text: Path) -> None:
    """Why class lists have prompts: both tables have one template, so equal names have equal embeddings."""
    voc, coco = (F.normalize(read(clip_text, f"{table}_single"), dim=1) for table in ("voc12", "coco"))
    places = [{e.name: i for i, e in enumerate(load_shipped_classes(n).entries)} for n in ("voc", "coco_stuff")]

    def alike(one: str, other: str) -> float:
        return float(voc[places[0][one]] @ coco[places[1][other]])

    assert alike("bicycle", "bicycle") > 0.999
    assert alike("aeroplane", "airplane") > 0.96 and alike("motorbike", "motorcycle") > 0.96  # words, and no prompts
    assert alike("tvmonitor", "tv") < alike("bus", "train")  # further than two things are from each other
    assert alike("pottedplant", "potted plant") < 0.95

    def mean_cosine(names: list[str]) -> float:
        text = coco[[places[1][name] for name in names]]
        return float((text @ text.T).fill_diagonal_(0).sum() / (len(names) * (len(names) - 1)))

    # "-other" brings names together that have nothing else in common
    assert mean_cosine([name for name in places[1] if name.endswith("-other")]) > 0.84
    assert mean_cosine([name for name in places[1] if "-" not in name]) < 0.78
    nearest = coco[places[1]["mouse"]] @ coco.T
    assert {list(places[1])[i] for i in nearest.topk(4).indices.tolist()} == {"mouse", "cat", "cow", "dog"}


def test_resized_positions_keep_their_neighbourhood(clip_text: Path) -> None:
    """A real table of 14 x 14 positions on a grid of 32 x 32, as for images of 512 pixels."""
    table = read(clip_text, "vit_b16_positions")[1:]  # without CLS

    class Tower(ClipTower):
        def __init__(self) -> None:
            self.grid = (14, 14)

        def table(self) -> torch.Tensor:
            return table

    assert Tower().positions((14, 14)) is table
    resized = F.normalize(Tower().positions((32, 32)), dim=1).reshape(32, 32, -1)
    beside = (resized[:, 1:] * resized[:, :-1]).sum(-1)
    across = (resized[:, 16:] * resized[:, :16]).sum(-1)
    assert beside.min() > 0.6 and beside.mean() > across.mean() + 0.2
