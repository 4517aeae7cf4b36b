"""The query decoder: shapes, symmetry, padding, and MFE's identity start."""

import pytest
import torch
import torch.nn.functional as F

from split_matching.configs.settings import DecoderConfig
from split_matching.model.query_decoder import MultiScaleEnhancement, QueryDecoder
from split_matching.model.votes import fuse, group_votes, label_map, query_probabilities

CONFIG = DecoderConfig(dim=32, heads=4, ffn=48, layers=2, seen_queries=5, candidate_queries=4, upsample=2)


def decoder(**changes: object) -> QueryDecoder:
    torch.manual_seed(0)
    return QueryDecoder(CONFIG.model_copy(update=changes), width=12, maps=2, dim=10).eval()


def tokens(height: int = 6, width: int = 7) -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    return [torch.randn(2, height, width, 12, generator=g) for _ in range(2)]


def whole(maps: list[torch.Tensor]) -> torch.Tensor:
    return torch.ones(maps[0].shape[:3], dtype=torch.bool)


@pytest.mark.parametrize("upsample", [1, 2, 4])
def test_output_shapes(upsample: int) -> None:
    maps = tokens()
    outputs = decoder(upsample=upsample)(maps, whole(maps))
    assert len(outputs) == CONFIG.layers + 1
    assert outputs[-1].masks.shape == (2, 9, 6 * upsample, 7 * upsample)
    assert outputs[-1].embeddings.shape == (2, 9, 10) and outputs[-1].no_object.shape == (2, 9)
    assert torch.allclose(outputs[-1].embeddings.norm(dim=-1), torch.ones(2, 9), atol=1e-5)


def test_enhancement_starts_as_identity() -> None:
    x = torch.randn(2, 8, 5, 7)
    assert torch.equal(MultiScaleEnhancement(8)(x, torch.ones(2, 5, 7, dtype=torch.bool)), x)


@pytest.mark.parametrize("upsample", [1, 2, 4])
@pytest.mark.parametrize("shape", [(6, 7), (5, 3)])
def test_padded_equals_alone(shape: tuple[int, int], upsample: int) -> None:
    """An image gives the same prediction whatever shares its batch."""
    model, maps = decoder(upsample=upsample), tokens(*shape)
    with torch.no_grad():
        for branch in model.enhance.branches:  # a trained MFE, not the identity of the start
            torch.nn.init.normal_(branch[-1].weight, std=0.2)
            torch.nn.init.normal_(branch[-1].bias, std=0.2)
    alone = model(maps, whole(maps))[-1]
    padded = [F.pad(t, (0, 0, 0, 9 - shape[1], 0, 10 - shape[0])) for t in maps]
    valid = torch.zeros(2, 10, 9, dtype=torch.bool)
    valid[:, : shape[0], : shape[1]] = True
    together = model(padded, valid)[-1]
    height, width = shape[0] * upsample, shape[1] * upsample
    assert torch.allclose(together.embeddings, alone.embeddings, atol=1e-5)
    assert torch.allclose(together.masks[:, :, :height, :width], alone.masks, atol=1e-4)


def test_queries_are_equivariant_to_permutation() -> None:
    model, maps = decoder(), tokens()
    before = model(maps, whole(maps))[-1]
    order = torch.randperm(9, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        model.queries.copy_(model.queries[order].clone())
        model.query_positions.copy_(model.query_positions[order].clone())
    after = model(maps, whole(maps))[-1]
    assert torch.allclose(after.masks, before.masks[:, order], atol=1e-4)
    assert torch.allclose(after.embeddings, before.embeddings[:, order], atol=1e-4)


def test_attention_does_not_look_at_padding() -> None:
    model = decoder(mfe=False, upsample=1)
    maps = tokens()
    valid = whole(maps)
    valid[1, :, 5:] = False
    changed = [t.clone() for t in maps]
    for t in changed:
        t[1, :, 5:] += 3
    first, second = (model(m, valid)[-1] for m in (maps, changed))
    assert torch.allclose(first.embeddings, second.embeddings, atol=1e-5)
    assert torch.allclose(first.masks[:, :, :, :5], second.masks[:, :, :, :5], atol=1e-4)


@pytest.mark.parametrize("masked", [True, False])
def test_masked_attention_never_gives_nan(masked: bool) -> None:
    model, maps = decoder(masked_attention=masked), tokens()
    with torch.no_grad():
        for parameter in model.mask_head[-1].parameters():
            parameter.zero_()  # every mask is empty: each query must then see everything
    assert torch.isfinite(model(maps, whole(maps))[-1].embeddings).all()


def test_probabilities_equal_a_plain_loop() -> None:
    model, maps = decoder(), tokens()
    output = model(maps, whole(maps))[-1]
    text = F.normalize(torch.randn(7, 10, generator=torch.Generator().manual_seed(3)), dim=-1)
    got = query_probabilities(output, text, 5, 20.0)
    for b in range(2):
        for q in range(9):
            logits = 20.0 * output.embeddings[b, q] @ text.T
            knows_nothing = torch.cat([logits, output.no_object[b, q : q + 1]]).softmax(0)[:-1]
            assert torch.allclose(got[b, q], knows_nothing if q < 5 else logits.softmax(0), atol=1e-5)


def test_votes_of_groups_equal_a_plain_loop() -> None:
    seen = torch.tensor([True, False, True])
    for own in (False, True):
        got = group_votes(seen, 2, 5, 0.3, own)
        for query in range(5):
            for entry in range(3):
                expected = 1.0 if query < 2 else 0.3
                if own and bool(seen[entry]) != (query < 2):
                    expected = 0.0
                assert got[query, entry] == torch.tensor(expected)


def test_fusion_is_a_geometric_mean_that_keeps_the_vote() -> None:
    own = torch.tensor([[[0.2, 0.1, 0.1], [0.5, 0.3, 0.2]]])
    named = torch.tensor([[[0.1, 0.8, 0.1], [torch.nan] * 3]])
    fused = fuse(own, named, 0.5)
    expected = torch.tensor([(0.5 * 0.1) ** 0.5, (0.25 * 0.8) ** 0.5, (0.25 * 0.1) ** 0.5])
    assert torch.allclose(fused[0, 0], 0.4 * expected / expected.sum(), atol=1e-6)
    assert torch.equal(fused[0, 1], own[0, 1])
    assert torch.allclose(fuse(own, named, 0.0)[0, 0], own[0, 0], atol=1e-6)
    assert torch.allclose(fuse(own, named, 1.0)[0, 0], 0.4 * named[0, 0], atol=1e-6)


def test_gamma_moves_ties_to_unseen() -> None:
    scores = torch.tensor([[[0.5]], [[0.45]]])
    seen = torch.tensor([True, False])
    assert label_map(scores, seen, 0.0, 2, 2).unique().tolist() == [0]
    assert label_map(scores, seen, 0.1, 2, 2).unique().tolist() == [1]
