"""The visual tower, called block by block, is open_clip's own."""

import socket

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F

from split_matching.configs.class_names import as_clip_reads
from split_matching.configs.settings import ClipConfig
from split_matching.errors import ConfigError, DataError
from split_matching.model.clip import FrozenClip
from split_matching.model.clip_weights import create_open_clip
from split_matching.model.hub_files import can_reach_hub
from split_matching.model.weights_identity import weights_identity

TINY = ClipConfig(model="shapes-vit", weights="random")


@pytest.fixture(scope="module")
def clip() -> FrozenClip:
    return FrozenClip(TINY)


def images(size: int = 64, count: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("quick_gelu", [False, True])
def test_cls_equals_open_clip_at_native_size(quick_gelu: bool) -> None:
    clip = FrozenClip(ClipConfig(model="shapes-vit", weights="random", quick_gelu=quick_gelu))
    batch = images(clip.native)
    with torch.no_grad():
        expected = clip.model.encode_image(batch)
    assert torch.allclose(clip.encode_image(batch), expected, atol=1e-5)
    assert torch.allclose(clip.dense(batch).cls, expected, atol=1e-5)


def test_position_table_resizes_to_other_grids(clip: FrozenClip) -> None:
    table = clip.tower.positions((16, 12))
    assert table.shape == (16 * 12, clip.width)
    native = clip.visual.positional_embedding
    assert torch.equal(clip.tower.positions((8, 8)), native[1:])
    expected = F.interpolate(
        native[1:].reshape(1, 8, 8, -1).permute(0, 3, 1, 2), size=(16, 12), mode="bicubic", align_corners=False
    )
    assert torch.allclose(table.reshape(16, 12, -1), expected[0].permute(1, 2, 0))


@pytest.mark.parametrize("variant", ["value", "maskclip", "qq", "kk", "naclip", "sclip", "last"])
def test_dense_features_are_unit_length_maps(clip: FrozenClip, variant: str) -> None:
    out = clip.dense(images(128)[:, :, :96], variant, decoder_blocks=(1, 4))
    assert out.dense.shape == (2, 12, 16, clip.dim)
    assert torch.allclose(out.dense.norm(dim=-1), torch.ones(2, 12, 16), atol=1e-5)
    assert {block: tuple(t.shape) for block, t in out.tokens.items()} == {1: (2, 12, 16, 128), 4: (2, 12, 16, 128)}
    assert {block: tuple(t.shape) for block, t in out.prefixes.items()} == {1: (2, 1, 128), 4: (2, 1, 128)}
    assert torch.allclose(clip.visual.ln_post(out.prefixes[4][:, 0]) @ clip.visual.proj, out.cls, atol=1e-5)


def test_an_image_without_a_region_has_no_embedding(clip: FrozenClip) -> None:
    none, one = torch.zeros(0, 64, dtype=torch.bool), torch.ones(1, 64, dtype=torch.bool)
    assert [tuple(e.shape) for e in clip.encode_regions(images(), [none, none], 2)] == [(0, clip.dim)] * 2
    assert [tuple(e.shape) for e in clip.encode_regions(images(), [one, none], 2)] == [(1, clip.dim), (0, clip.dim)]


def test_value_features_match_a_plain_computation(clip: FrozenClip) -> None:
    batch = images()
    x, _ = clip.tower.embed(batch)
    for block in clip.visual.transformer.resblocks[:-1]:
        x = block(x)
    last = clip.visual.transformer.resblocks[-1]
    y = last.ln_1(x)
    weight, bias = last.attn.in_proj_weight, last.attn.in_proj_bias
    v = last.attn.out_proj(y @ weight[2 * clip.width :].T + bias[2 * clip.width :])
    expected = F.normalize(clip.visual.ln_post(v) @ clip.visual.proj, dim=-1)[:, 1:].reshape(2, 8, 8, -1)
    assert torch.allclose(clip.dense(batch, "value").dense, expected, atol=1e-5)


def test_attention_over_every_patch_is_the_plain_cls(clip: FrozenClip) -> None:
    # a region's own CLS plus all patches is exactly what the plain CLS token sees
    batch = images()
    whole = torch.ones(1, 64, dtype=torch.bool)
    for blocks in (1, 2, 4):
        got = clip.encode_regions(batch, [whole, whole.repeat(2, 1)], blocks)
        expected = clip.encode_image(batch)
        assert torch.allclose(got[0], expected[:1], atol=1e-5)
        assert torch.allclose(got[1], expected[1:].expand(2, -1), atol=1e-5)


def test_attention_ignores_patches_outside_the_region(clip: FrozenClip) -> None:
    # with all blocks masked, only pixels of the region (through their own patches) can matter
    batch = images(count=1)
    other = batch.clone()
    other[:, :, :, 32:] += 1
    left = torch.zeros(8, 8, dtype=torch.bool)
    left[:, :4] = True
    both = [clip.encode_regions(b, [left.reshape(1, -1)], 1)[0] for b in (batch, other)]
    assert not torch.allclose(both[0], both[1], atol=1e-4)  # earlier blocks mix patches
    first = clip.tower.embed(batch)[0], clip.tower.embed(other)[0]
    layer = clip.visual.transformer.resblocks[0]
    mask = torch.cat([torch.ones(1, 1, 1, 1, dtype=torch.bool), left.reshape(1, 1, 1, -1)], 3)
    masked = [clip.tower.region_block(layer, x[:, :1], x[:, 1:], mask) for x in first]
    assert torch.allclose(masked[0], masked[1], atol=1e-5)


def test_bfloat16_products_give_nearly_the_same_in_float32(clip: FrozenClip) -> None:
    exact, coarse = clip, FrozenClip(TINY.model_copy(update={"precision": "bfloat16"}))
    batch, region = images(96), [torch.arange(144)[None] < 9] * 2
    expected, got = (one.dense(batch, "value", (2,)) for one in (exact, coarse))
    pairs = [
        (expected.cls, got.cls),
        (expected.dense, got.dense),
        (expected.tokens[2], got.tokens[2]),
        (exact.tokens(batch, 2), coarse.tokens(batch, 2)),
        (exact.encode_image(batch), coarse.encode_image(batch)),
        *zip(*(one.encode_regions(batch, region, 2) for one in (exact, coarse)), strict=True),
    ]
    for one, other in pairs:
        assert other.dtype == torch.float32
        assert not torch.equal(one, other)
        assert F.cosine_similarity(one, other, dim=-1).min() > 0.999
    assert torch.equal(*(one.encode_classes(["dog"], ["a {}."]) for one in (exact, coarse)))  # texts are as they were


def test_regions_do_not_depend_on_their_neighbours(clip: FrozenClip) -> None:
    batch = images(count=2)
    regions = torch.rand(5, 64, generator=torch.Generator().manual_seed(1)) > 0.5
    together = clip.encode_regions(batch, [regions, regions[:2]], 2)
    alone = clip.encode_regions(batch[:1], [regions[3:4]], 2)[0]
    assert torch.allclose(together[0][3:4], alone, atol=1e-5)
    assert clip.encode_regions(batch, [regions[:0], regions[:0]], 2)[0].shape == (0, clip.dim)


def test_preprocess_equals_open_clip(clip: FrozenClip) -> None:
    import open_clip
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (90, 90, 3), dtype=np.uint8)
    transform = open_clip.image_transform(64, is_train=False, mean=clip.mean, std=clip.std)
    assert torch.allclose(clip.preprocess(pixels, 64, 64), transform(Image.fromarray(pixels)), atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "resize", "grid"),
    [
        ((128, 128), "long", (16, 16)),
        ((375, 500), "long", (12, 16)),
        ((375, 500), "short", (16, 21)),
        ((1, 900), "long", (1, 16)),
    ],
)
def test_grid_keeps_the_aspect_ratio(
    clip: FrozenClip, shape: tuple[int, int], resize: str, grid: tuple[int, int]
) -> None:
    assert clip.grid_for(*shape, 128, resize) == grid


def test_prompts_are_averaged_after_normalising(clip: FrozenClip) -> None:
    names, templates = ["red striped", "blue plain"], ["a photo of a {}.", "{} thing", "the {}."]
    single = torch.stack([clip.encode_classes(names, [t]) for t in templates])
    assert torch.allclose(clip.encode_classes(names, templates), F.normalize(single.mean(0), dim=-1), atol=1e-6)
    with torch.no_grad():
        raw = clip.model.encode_text(clip.tokenizer(["a photo of a red striped."]))
    assert torch.allclose(single[0][:1], F.normalize(raw, dim=-1), atol=1e-6)


def test_prompts_of_a_class_are_averaged_with_its_templates(clip: FrozenClip) -> None:
    """The mean of the unit embeddings of every text of a class, one by one through open_clip."""

    def embed(text: str) -> torch.Tensor:
        with torch.no_grad():
            return F.normalize(clip.model.encode_text(clip.tokenizer([text]))[0], dim=0)

    names, prompts = (
        ["redstriped", "blue", "gone"],
        {"redstriped": ["red striped", "red"], "gone": ["green"], "x": ["y"]},
    )
    got = clip.encode_classes(names, ["a {}.", "the {}"], prompts)
    texts = [
        ["a red striped.", "the red striped", "a red.", "the red"],
        ["a blue.", "the blue"],
        ["a green.", "the green"],
    ]
    expected = torch.stack([F.normalize(torch.stack([embed(text) for text in some]).mean(0), dim=0) for some in texts])
    assert torch.allclose(got, expected, atol=1e-6)
    assert torch.equal(clip.encode_classes(names[1:2], ["a {}."]), clip.encode_classes(names[1:2], ["a {}."], {}))


def test_random_weights_follow_the_seed() -> None:
    state = torch.random.get_rng_state()
    first, again, other = (
        create_open_clip(ClipConfig(model="shapes-vit", weights="random", seed=s)).visual.proj for s in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize(
    ("clip", "error", "words"),
    [
        (ClipConfig(model="ViT-Q-99", weights="random"), ConfigError, "ViT-Q-99"),
        (ClipConfig(model="shapes-vit", weights="no-such-tag"), ConfigError, "no-such-tag"),
        (ClipConfig(model="shapes-vit", weights="/nowhere/clip.pt"), DataError, "/nowhere/clip.pt"),
        (ClipConfig(model="RN50", weights="random"), ConfigError, "plain ViT"),
    ],
)
def test_errors_name_the_culprit(clip: ClipConfig, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        FrozenClip(clip)


def test_weights_of_another_architecture_are_rejected(tmp_path) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "other.safetensors"
    save_file({"visual.proj": torch.zeros(3, 3)}, path)
    with pytest.raises(DataError, match="no text tower"):
        FrozenClip(ClipConfig(model="shapes-vit", weights=str(path)))


def test_identity_is_the_bytes_not_the_path(tmp_path) -> None:
    for name in ("a.pt", "b.pt"):
        (tmp_path / name).write_bytes(b"weights")
    first, second = (weights_identity(ClipConfig(weights=str(tmp_path / n))) for n in ("a.pt", "b.pt"))
    assert first == second and first.startswith("sha256:")
    (tmp_path / "b.pt").write_bytes(b"other weights")
    assert weights_identity(ClipConfig(weights=str(tmp_path / "b.pt"))) != first
    assert weights_identity(ClipConfig(weights="random", seed=3)) == "random:3"
    assert weights_identity(ClipConfig(weights="openai")) == "tag:openai"


@pytest.mark.parametrize(
    ("proxies", "answers", "reachable"), [({}, True, True), ({}, False, False), ({"https": "x"}, False, True)]
)
def test_the_hub_is_reachable_if_it_answers_or_a_proxy_does(
    monkeypatch: pytest.MonkeyPatch, proxies: dict[str, str], answers: bool, reachable: bool
) -> None:
    asked: list[object] = []

    def connect(address: object, timeout: float) -> socket.socket:
        asked.append(address)
        if not answers:
            raise OSError("no network")
        return socket.socket()

    monkeypatch.setattr("split_matching.model.hub_files.getproxies", lambda: proxies)
    monkeypatch.setattr("split_matching.model.hub_files.socket.create_connection", connect)
    places = {"https://a.example": ("a.example", 443), "http://b:8080": ("b", 8080), "http://c": ("c", 80)}
    for endpoint, address in places.items():
        monkeypatch.setattr("split_matching.model.hub_files.ENDPOINT", endpoint)
        assert can_reach_hub() is reachable
        assert proxies or asked[-1] == address


def test_missing_tag_without_network_says_which_file_and_how(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr("split_matching.model.hub_files.getproxies", dict)
    monkeypatch.setattr("split_matching.model.hub_files.socket.create_connection", unreachable)
    monkeypatch.setattr("split_matching.model.hub_files.try_to_load_from_cache", lambda repository, name: None)
    with pytest.raises(DataError) as caught:
        FrozenClip(ClipConfig(model="ViT-B-16", weights="openai"))
    message = str(caught.value)
    assert "open_clip_model.safetensors" in message and "\n" not in message
    assert "--set clip.weights=PATH clip.quick_gelu=true" in message  # OpenAI's weights need QuickGELU


@pytest.mark.slow
def test_bundled_clip_names_unseen_scenes_zero_shot() -> None:
    """The acceptance bar of the small CLIP: 95 % top-1 on new single-object scenes, over all 24 names."""
    from split_matching.stages.training.pretrain import probe

    assert probe(FrozenClip(ClipConfig(model="shapes-vit", weights="bundled")), 240) >= 0.95


@pytest.mark.parametrize(("tag", "quick"), [("openai", True), ("laion2b_s34b_b88k", False)])
def test_activation_is_the_one_the_weights_were_trained_with(
    monkeypatch: pytest.MonkeyPatch, tag: str, quick: bool
) -> None:
    import open_clip

    seen: dict[str, object] = {}
    real = open_clip.create_model

    def without_download(name: str, pretrained: str | None, **settings: object) -> object:
        seen.update(settings, name=name, pretrained=pretrained)
        return real("shapes-vit", pretrained=None, **settings)  # makes in no time what ViT-B-16 takes seconds for

    monkeypatch.setattr("split_matching.model.clip_weights._check_available", lambda clip: None)
    monkeypatch.setattr("split_matching.model.clip_weights.open_clip.create_model", without_download)
    model = create_open_clip(ClipConfig(model="ViT-B-16", weights=tag))
    assert (seen["name"], seen["pretrained"]) == ("ViT-B-16", tag)
    activations = {type(block.mlp.gelu).__name__ for block in model.visual.transformer.resblocks}
    assert activations == ({"QuickGELU"} if quick else {"GELU"})


def test_more_region_blocks_than_the_tower_has_are_rejected(clip: FrozenClip) -> None:
    with pytest.raises(ConfigError, match=r"regions.blocks 5 .* 1 to 4"):
        clip.encode_regions(images(), [torch.ones(1, 64, dtype=torch.bool)] * 2, 5)


def test_braces_in_templates_are_just_text(clip: FrozenClip) -> None:
    assert clip.encode_classes(["red"], ["a {} {thing}"]).shape == (1, clip.dim)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("red plain", "Red Plain"), ("red plain", "red  plain"), ("red plain", "red\u00a0plain"), ("a&b", "a&amp;b"),
        ("red plain", "red-plain"), ("cat", "cats"), ("red " * 80 + "cat", "red " * 80 + "dog"), ("tv1", "tv 1"),
        ("it's", "it s"),
        ("\ufb01re", "fire"), ("\uff21", "a"), ("a_b", "a b"), ("red " * 60 + "cat", "red " * 60 + "dog"),
    ],
)  # fmt: skip
def test_names_are_alike_where_their_tokens_are(first: str, second: str) -> None:
    """Against open_clip's tokenizer."""
    tokens = open_clip.get_tokenizer("ViT-B-16")([f"a photo of a {first}.", f"a photo of a {second}."])
    assert (as_clip_reads(first) == as_clip_reads(second)) == bool((tokens[0] == tokens[1]).all())
