"""The query decoder: shapes, symmetry, padding, and MFE's identity start."""

import pytest
import torch
import torch.nn.functional as F

from split_matching.configs.settings import DecoderConfig
from split_matching.model.query_decoder import MultiScaleEnhancement, QueryDecoder, sine_positions
from tests.model.plain_decoder import plain_decoder, plain_positions

CONFIG = DecoderConfig(dim=32, heads=4, ffn=48, layers=2, seen_queries=5, candidate_queries=4, upsample=2)


def decoder(**changes: object) -> QueryDecoder:
    torch.manual_seed(0)
    return QueryDecoder(CONFIG.model_copy(update=changes), blocks=(1, 2), width=12, dim=10).eval()


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


def test_the_last_layer_alone_is_that_of_all() -> None:
    outputs = decoder()(tokens(), whole(tokens()))
    (last,) = outputs.last()
    for found, wanted in zip(vars(last).values(), vars(outputs[CONFIG.layers]).values(), strict=True):
        assert torch.equal(found, wanted)


def trained(model: QueryDecoder) -> QueryDecoder:
    """The decoder with no weight at its start: no norm is the identity, no bias is zero."""
    g = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=g))
    return model


@pytest.mark.parametrize(
    ("shape", "changes"),
    [
        ((6, 7), {}),
        ((4, 8), {"mfe_scales": (1, 3)}),
        ((1, 3), {}),
        ((6, 7), {"masked_attention": False}),
        ((5, 6), {"mfe": "none"}),
        ((5, 6), {"mfe": "pixels", "mfe_scales": (1, 2, 4, 8)}),
        ((5, 6), {"mfe": "layers"}),
    ],
)
def test_decoder_equals_plain_steps(shape: tuple[int, int], changes: dict[str, object]) -> None:
    model, maps = trained(decoder(**changes)), tokens(*shape)
    with torch.no_grad():
        outputs = model(maps, whole(maps))
        for image in range(2):
            expected = plain_decoder(model, [t[image] for t in maps])
            for output, values in zip(outputs, expected, strict=True):
                for found, wanted in zip(vars(output).values(), values, strict=True):
                    assert torch.allclose(found[image], wanted, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("dim", [8, 32, 34])
def test_positions_are_sines_of_the_shares_of_each_own_grid(dim: int) -> None:
    valid = torch.zeros(2, 5, 4, dtype=torch.bool)
    valid[0], valid[1, :3, :2] = True, True
    found = sine_positions(valid, dim).unflatten(1, (5, 4))
    assert torch.allclose(found[0].flatten(0, 1), plain_positions(5, 4, dim), atol=1e-5)
    assert torch.allclose(found[1, :3, :2].flatten(0, 1), plain_positions(3, 2, dim), atol=1e-5)


def test_number_of_parameters() -> None:
    """By hand: d 32, feed-forward 48, 2 layers, 9 queries, 2 maps of width 12, CLIP width 10, masks twice as fine."""
    maps = 2 * (2 * 12 + 12 * 32 + 32)
    enhance = 3 * (32 * 16 * 9 + 16 + 16 * 32 + 32)
    pixels = 32 * 16 * 4 + 16 + 16 * 16 + 16
    layer = 3 * 2 * 32 + 8 * (32 * 32) + 8 * 32 + 2 * 32 * 48 + 48 + 32  # norms, q k v out twice, feed-forward
    heads = 2 * 32 + 2 * (32 * 32 + 32) + 32 * 16 + 16 + 32 * 32 + 32 + 32 * 10 + 10 + 2 * (32 + 1)
    assert sum(p.numel() for p in decoder().parameters()) == maps + enhance + pixels + 2 * layer + 2 * 9 * 32 + heads


def test_prompts_are_drawn_as_those_of_vpt() -> None:
    torch.manual_seed(0)
    prompts = QueryDecoder(CONFIG.model_copy(update={"prompts": 5}), blocks=(2, 4), width=12, dim=10).prompts
    assert prompts.shape == (4, 5, 12)
    assert prompts.max() <= 0.5 and prompts.min() >= -0.5  # (3 / 12) ** 0.5
    assert prompts.max() > 0.48 and prompts.min() < -0.48
    assert decoder().prompts is None


def test_enhancement_starts_as_identity() -> None:
    x = torch.randn(2, 8, 5, 7)
    assert torch.equal(MultiScaleEnhancement(8, (1, 2, 4))(x, torch.ones(2, 5, 7, dtype=torch.bool)), x)


@pytest.mark.parametrize("upsample", [1, 2, 4])
@pytest.mark.parametrize("shape", [(6, 7), (5, 3)])
@pytest.mark.parametrize("mfe", ["tokens", "pixels", "layers"])
def test_padded_equals_alone(shape: tuple[int, int], upsample: int, mfe: str) -> None:
    """An image gives the same prediction whatever shares its batch."""
    model, maps = decoder(upsample=upsample, mfe=mfe), tokens(*shape)
    with torch.no_grad():
        for branch in (branch for enhance in model.enhance for branch in enhance.branches):
            torch.nn.init.normal_(branch[-1].weight, std=0.2)  # a trained MFE, not the identity of the start
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
    model = decoder(mfe="none", upsample=1)
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
