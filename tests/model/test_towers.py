"""Visual towers: the architectures that are understood, and SigLIP beside open_clip's own."""

import copy
import json
from functools import reduce
from pathlib import Path

import open_clip
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file

from split_matching.configs.load import load_config
from split_matching.configs.settings import ClipConfig
from split_matching.errors import ConfigError, DataError
from split_matching.model import clip_weights, hub_files
from split_matching.model.clip import FrozenClip
from split_matching.model.clip_weights import check_weights
from split_matching.model.token_encoder import TokenEncoder, split_patches
from split_matching.model.towers import ClipTower, SiglipTower, open_tower

# ---- architectures ----


@pytest.mark.parametrize(
    ("name", "kind", "patch", "native", "width", "depth", "dim"),
    [
        ("ViT-B-16", ClipTower, 16, 224, 768, 12, 512),
        ("ViT-B-16-quickgelu", ClipTower, 16, 224, 768, 12, 512),
        ("ViT-L-14", ClipTower, 14, 224, 1024, 24, 768),
        ("ViT-L-14-336", ClipTower, 14, 336, 1024, 24, 768),
        ("ViT-B-16-SigLIP", SiglipTower, 16, 224, 768, 12, 768),
        ("ViT-B-16-SigLIP-512", SiglipTower, 16, 512, 768, 12, 768),
    ],
)
def test_real_architectures_are_understood(
    name: str, kind: type, patch: int, native: int, width: int, depth: int, dim: int
) -> None:
    """The full sizes, on the meta device: every shape, no memory, no time."""
    with torch.device("meta"):
        visual = open_clip.create_model(name, pretrained=None, pretrained_text=False, device="meta").visual
        tower = open_tower(visual, name)
        tokens = 4 * 6
        x, grid = tower.embed(torch.zeros(2, 3, 4 * patch, 6 * patch))
        assert grid == (4, 6) and x.shape == (2, tower.prefix + tokens, width)
        y = tower.block(depth - 1, x)
        assert tower.pool(y).shape == (2, dim) and tower.dense(x, y, "value", grid).shape == (2, tokens, dim)
    assert type(tower) is kind
    assert (tower.patch, tower.native, tower.width, tower.depth, tower.dim) == (patch, native, width, depth, dim)


@pytest.mark.parametrize("name", ["vit_l14", "siglip"])
def test_backbone_configs_name_blocks_that_exist(name: str) -> None:
    config = load_config("voc", set_files=[Path(f"configs/backbones/{name}.yaml")])
    with torch.device("meta"):
        visual = open_clip.create_model(config.clip.model, pretrained=None, pretrained_text=False, device="meta").visual
        tower = open_tower(visual, name)
    assert max(config.features.decoder_blocks) == tower.depth
    assert config.clip.weights in open_clip.list_pretrained_tags_by_model(config.clip.model)


@pytest.fixture(scope="module")
def siglip() -> FrozenClip:
    return FrozenClip(ClipConfig(model="tiny-map", weights="random"))


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


# ---- CLIP, beside open_clip's own modules ----


@pytest.fixture(scope="module")
def clip() -> FrozenClip:
    """A small CLIP in which no bias is 0, as fresh ones are."""
    made = FrozenClip(ClipConfig(model="tiny-clip", weights="random"))
    generator = torch.Generator().manual_seed(1)
    for parameter in made.visual.parameters():
        if parameter.ndim == 1:
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return made


def test_blocks_and_pool_of_clip_are_open_clips(clip: FrozenClip) -> None:
    x, grid = clip.tower.embed(noise(2, 3, 32, 32))
    y = x
    for index, block in enumerate(clip.visual.transformer.resblocks):
        x, y = clip.tower.block(index, x), block(y)
        assert torch.allclose(x, y, atol=1e-5)
    assert grid == (4, 4)
    assert torch.allclose(clip.tower.pool(x), clip.model.encode_image(noise(2, 3, 32, 32)), atol=1e-5)
    plain = clip.visual.ln_post(y) @ clip.visual.proj
    assert torch.allclose(clip.tower.dense(y, x, "last", grid), plain[:, 1:], atol=1e-5)
    assert not torch.allclose(clip.tower.dense(y, x, "maskclip", grid), plain[:, 1:], atol=1e-2)


def test_a_block_of_clip_sees_what_the_mask_shows(clip: FrozenClip) -> None:
    x = noise(2, 6, clip.width)
    mask = torch.tensor([[True] * 4 + [False] * 2, [True] * 6])[:, None, None]
    got = clip.tower.block(1, x, mask)
    assert torch.allclose(got[:1, :4], clip.tower.block(1, x[:1, :4]), atol=1e-5)
    assert torch.allclose(got[1:], clip.tower.block(1, x[1:]), atol=1e-5)


@pytest.mark.parametrize("blocks", [1, 2])
def test_regions_of_clip_beside_a_loop(clip: FrozenClip, blocks: int) -> None:
    """CLS of a region attends to itself and to the patches of the region, taken from the plain forward pass."""
    layers = clip.visual.transformer.resblocks
    allowed = torch.rand(2, 3, 16, generator=torch.Generator().manual_seed(3)) > 0.6
    x, _ = clip.tower.embed(noise(2, 3, 32, 32))
    for layer in layers[: len(layers) - blocks]:
        x = layer(x)
    got = clip.tower.regions(x, allowed, blocks)
    assert clip.tower.plain_blocks(blocks) == len(layers) - blocks and got.shape == (2, 3, clip.dim)
    for image in range(2):
        for region in range(3):
            tokens = x[image]
            cls = tokens[:1]
            for layer in layers[len(layers) - blocks :]:
                seen = layer.ln_1(torch.cat([cls, tokens[1:][allowed[image, region]]]))[None]
                cls = cls + layer.attn(seen[:, :1], seen, seen, need_weights=False)[0][0]
                cls = cls + layer.mlp(layer.ln_2(cls))
                tokens = layer(tokens[None])[0]
            expected = clip.visual.ln_post(cls[0]) @ clip.visual.proj
            assert torch.allclose(got[image, region], expected, atol=1e-5)


def test_regions_need_as_many_blocks_as_there_are(clip: FrozenClip, siglip: FrozenClip) -> None:
    assert [clip.tower.plain_blocks(blocks) for blocks in (1, 2)] == [1, 0]
    for blocks in (0, 3):
        with pytest.raises(ConfigError, match=f"regions.blocks {blocks} does not fit this tower: expected 1 to 2"):
            clip.tower.plain_blocks(blocks)
    assert siglip.tower.plain_blocks(9) == siglip.depth  # the pool alone sees the region


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_images_of_a_padded_batch_have_their_own_positions(request: pytest.FixtureRequest, name: str) -> None:
    tower = request.getfixturevalue(name).tower
    grids = [(2, 3), (4, 4), (4, 1)]
    batch = noise(3, 3, 32, 32)
    x, grid = tower.embed(batch, grids)
    assert grid == (4, 4) and torch.allclose(tower.embed(batch[:1], grids[:1])[0], x[:1], atol=1e-6)
    cells = x[:, tower.prefix :].unflatten(1, grid)
    for row, (h, w) in enumerate(grids):
        alone, own = tower.embed(batch[row : row + 1, :, : 8 * h, : 8 * w])
        assert own == (h, w)
        assert torch.allclose(cells[row, :h, :w], alone[0, tower.prefix :].unflatten(0, own), atol=1e-5)
        assert torch.allclose(x[row, : tower.prefix], alone[0, : tower.prefix], atol=1e-6)
    assert torch.equal(tower.embed(batch, [(4, 4)] * 3)[0], tower.embed(batch)[0])


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("trunk.global_pool", "avg"),
        ("trunk.num_prefix_tokens", 1),
        ("trunk.pos_embed", None),
        ("trunk.attn_pool.latent_len", 2),
        ("trunk.attn_pool.pos_embed", torch.nn.Parameter(torch.zeros(1))),
        ("trunk.attn_pool.mlp", None),
        *((f"trunk.{name}", torch.nn.ReLU()) for name in ("norm_pre", "patch_drop", "fc_norm", "head")),
        *((f"trunk.attn_pool.{name}", torch.nn.ReLU()) for name in ("q_norm", "k_norm")),
        ("head", torch.nn.Sequential(torch.nn.ReLU())),
    ],
)
def test_a_siglip_with_anything_more_is_rejected(siglip: FrozenClip, path: str, value: object) -> None:
    visual = copy.deepcopy(siglip.visual)
    assert SiglipTower.fits(visual)
    *parts, name = path.split(".")
    setattr(reduce(getattr, parts, visual), name, value)
    assert not SiglipTower.fits(visual)


# ---- SigLIP ----


def test_siglip_embeds_images_as_open_clip_does(siglip: FrozenClip) -> None:
    batch = noise(2, 3, 32, 32)
    with torch.no_grad():
        expected = siglip.model.encode_image(batch)
    assert torch.allclose(siglip.encode_image(batch), expected, atol=1e-5)
    assert torch.allclose(siglip.dense(batch).cls, expected, atol=1e-5)


def test_siglip_in_bfloat16_is_nearly_the_same(siglip: FrozenClip) -> None:
    batch = noise(2, 3, 24, 40)
    exact = siglip.dense(batch)
    siglip.precision = "bfloat16"
    coarse = siglip.dense(batch)
    siglip.precision = "float32"
    for one, other in ((exact.cls, coarse.cls), (exact.dense, coarse.dense)):
        assert other.dtype == torch.float32
        assert not torch.equal(one, other)
        assert torch.nn.functional.cosine_similarity(one, other, dim=-1).min() > 0.999


def test_siglip_dense_value_is_the_pool_of_one_token(siglip: FrozenClip) -> None:
    tower = siglip.tower
    x, grid = tower.embed(noise(1, 3, 24, 40))
    for index in range(tower.depth):
        x = tower.block(index, x)
    alone = torch.cat([tower.trunk.attn_pool(tower.trunk.norm(x[:, n : n + 1])) for n in range(x.shape[1])])
    got = siglip.dense(noise(1, 3, 24, 40)).dense.flatten(1, 2)[0]
    assert grid == (3, 5) and torch.allclose(got, F.normalize(alone, dim=-1), atol=1e-5)


def test_siglip_regions_are_the_pool_of_their_tokens(siglip: FrozenClip) -> None:
    batch = noise(2, 3, 32, 32)
    region = torch.zeros(1, 16, dtype=torch.bool)
    region[0, :5] = True
    got = siglip.encode_regions(batch, [region, torch.cat([region, ~region])], 1)
    x, _ = siglip.tower.embed(batch)
    for index in range(siglip.depth):
        x = siglip.tower.block(index, x)
    expected = siglip.tower.trunk.attn_pool(siglip.tower.trunk.norm(x[:, :5]))
    assert torch.allclose(got[0], expected[:1], atol=1e-5) and torch.allclose(got[1][:1], expected[1:], atol=1e-5)
    whole = siglip.encode_regions(batch, [region | True] * 2, 1)
    assert torch.allclose(torch.cat(whole), siglip.encode_image(batch), atol=1e-5)


def test_siglip_tower_in_the_loop_equals_the_cached_features(siglip: FrozenClip) -> None:
    images = [torch.randint(0, 256, (h, w, 3), dtype=torch.uint8).numpy() for h, w in ((32, 32), (16, 24))]
    patches, valid = torch.randn(2, 4, 4, 192), torch.zeros(2, 4, 4, dtype=torch.bool)
    for row, image in enumerate(images):
        cut = torch.from_numpy(split_patches(image, 8)).float()
        patches[row, : cut.shape[0], : cut.shape[1]] = cut
        valid[row, : cut.shape[0], : cut.shape[1]] = True
    maps = TokenEncoder(siglip, (1, 3))(patches, valid)
    for row, image in enumerate(images):
        h, w = image.shape[0] // 8, image.shape[1] // 8
        expected = siglip.dense(siglip.preprocess(image, *image.shape[:2])[None], decoder_blocks=(1, 3)).tokens
        for got, block in zip(maps, (1, 3), strict=True):
            assert torch.allclose(got[row, :h, :w], expected[block][0], atol=2e-5)


@pytest.mark.parametrize("variant", ["maskclip", "qq", "kk", "naclip", "sclip", "last"])
def test_siglip_has_no_variants_of_a_cls_tower(siglip: FrozenClip, variant: str) -> None:
    with pytest.raises(ConfigError, match=rf"features.variant {variant} needs .* use value"):
        siglip.dense(noise(1, 3, 32, 32), variant)


def test_siglip_preprocessing_is_not_clips() -> None:
    """A local SigLIP file carries no mean: it comes with the architecture."""
    pixels = clip_weights._pixel_statistics("ViT-B-16-SigLIP", None)
    assert pixels == {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
    assert clip_weights._pixel_statistics("ViT-B-16", None)["mean"] == pytest.approx(
        (0.48145466, 0.4578275, 0.40821073)
    )


@pytest.mark.parametrize("name", ["convnext_base", "coca_ViT-B-32", "EVA02-B-16", "RN50"])
def test_other_towers_are_rejected(name: str) -> None:
    with torch.device("meta"):
        visual = open_clip.create_model(name, pretrained=None, pretrained_text=False, device="meta").visual
    with pytest.raises(ConfigError, match="no plain ViT tower"):
        open_tower(visual, name)


def test_siglip_says_what_its_tokenizer_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clip_weights, "can_reach_hub", lambda: False)
    monkeypatch.setattr(clip_weights.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(hub_files, "try_to_load_from_cache", lambda repository, name: None)
    siglip = ClipConfig(model="ViT-B-16-SigLIP", weights="random")
    with pytest.raises(DataError, match=r"hf download timm/ViT-B-16-SigLIP`, and copy the folder models--timm"):
        check_weights(siglip)
    with monkeypatch.context() as patch:
        patch.setattr(clip_weights, "can_reach_hub", lambda: True)
        check_weights(siglip)  # it will be downloaded
    with monkeypatch.context() as patch:
        patch.setattr(hub_files, "try_to_load_from_cache", lambda repository, name: f"/cache/{name}")
        check_weights(siglip)  # it is here
    monkeypatch.setattr(clip_weights.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match="pip install transformers"):
        check_weights(siglip)


@pytest.mark.parametrize("name", ["tiny-clip", "tiny-map"])
@pytest.mark.parametrize("size", [(50, 70), (32, 32), (90, 33)])
def test_preprocessing_at_the_native_size_is_open_clips(name: str, size: tuple[int, int]) -> None:
    """open_clip crops the middle; given that crop, both make the same numbers."""
    clip = FrozenClip(ClipConfig(model=name, weights="random"))
    pixels = torch.randint(0, 256, (*size, 3), dtype=torch.uint8, generator=torch.manual_seed(0)).numpy()
    transform = open_clip.transform.image_transform_v2(
        open_clip.transform.PreprocessCfg(**clip.visual.preprocess_cfg), is_train=False
    )
    side = min(size)
    top, left = (size[0] - side) // 2, (size[1] - side) // 2
    square = pixels[top : top + side, left : left + side]
    assert torch.allclose(clip.preprocess(square, 32, 32), transform(Image.fromarray(square)), atol=1e-6)


@pytest.mark.parametrize("grid", [(8, 6), (4, 4), (3, 2)])
@pytest.mark.parametrize("name", ["tiny-clip", "tiny-map"])
def test_positions_are_resized_as_timm_does(name: str, grid: tuple[int, int]) -> None:
    from timm.layers import resample_abs_pos_embed

    tower = FrozenClip(ClipConfig(model=name, weights="random")).tower
    expected = resample_abs_pos_embed(tower.table()[None], grid, (4, 4), num_prefix_tokens=0, antialias=False)
    assert torch.allclose(tower.positions(grid), expected[0], atol=1e-5)


@pytest.mark.parametrize("templates", [["a photo of a {}."], ["a photo of a {}.", "there is the {} in the scene."]])
def test_prompts_are_embedded_as_open_clip_does(templates: list[str]) -> None:
    clip = FrozenClip(ClipConfig(model="tiny-clip", weights="random"))
    names = ["dog", "traffic cone", "pottedplant"]
    expected = open_clip.build_zero_shot_classifier(clip.model, clip.tokenizer, names, templates)
    assert torch.allclose(clip.encode_classes(names, templates), expected.T, atol=1e-5)


# ---- through the stages ----


@pytest.mark.parametrize("method", ["crop", "attention"])
def test_siglip_goes_through_every_stage(tmp_path: Path, method: str) -> None:
    """Features, pseudo masks, regions, online training with prompts, and evaluation with fusion."""
    from split_matching.stages.inference import evaluate
    from tests.handmade import Chain

    chain = Chain(
        tmp_path,
        *(
            "clip.model=tiny-map",
            "features.decoder_blocks=[1, 3]",
            "pseudo_masks.block=null",
            f"regions.method={method}",
        ),
        *("train.features=online", "decoder.prompts=2", "train.steps=2", "evaluate.fusion=0.5"),
        *("evaluate.fusion_floor=0", f"evaluate.fusion_method={method}", "features.shifts=1"),
    ).to_regions()
    chain.train()
    folder = chain.whole(evaluate, "evaluate")
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["images"] == 2 and 0 <= metrics["pAcc"] <= 100
    state = load_file(tmp_path / "train" / "weights.safetensors")
    assert state["prompts"].shape == (3, 2, 48) and all(torch.isfinite(value).all() for value in state.values())
