"""Local checkpoints: every format, what is refused, the activation, and architectures built without weights."""

import hashlib
import json
import pickle
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path

import open_clip
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file

from split_matching.configs.load import load_config
from split_matching.configs.schema import ClipConfig
from split_matching.errors import ConfigError, DataError
from split_matching.model import clip_weights, hub_files
from split_matching.model.clip import FrozenClip
from split_matching.model.clip_weights import check_weights, create_open_clip
from split_matching.model.token_encoder import TokenEncoder, split_patches
from split_matching.model.towers import ClipTower, SiglipTower, open_tower
from split_matching.model.weight_files import read_weight_file
from split_matching.pipeline.stages import make_plan

TINY = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8},
    "text_cfg": {"context_length": 20, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
SIGLIP = {
    "embed_dim": 48,
    "init_logit_bias": -10,
    "custom_text": True,
    "vision_cfg": {"image_size": 32, "timm_model_name": "vit_tiny_map_test", "timm_pool": "map", "timm_proj": "none"},
    "text_cfg": {
        "context_length": 20,
        "vocab_size": 49408,
        "width": 48,
        "heads": 2,
        "layers": 1,
        "no_causal_mask": True,
        "proj_bias": True,
        "pool_type": "last",
    },
}


@pytest.fixture(scope="module", autouse=True)
def small_architectures(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Adds tiny-clip, and tiny-map: a SigLIP tower that takes no time to make."""
    from timm.models import register_model
    from timm.models.vision_transformer import VisionTransformer

    @register_model
    def vit_tiny_map_test(pretrained: bool = False, **settings: object) -> VisionTransformer:
        fixed = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 3, "num_heads": 2, "class_token": False}
        keep = {name: settings[name] for name in ("num_classes", "global_pool") if name in settings}
        return VisionTransformer(**fixed, **keep)

    folder = tmp_path_factory.mktemp("architectures")
    (folder / "tiny-clip.json").write_text(json.dumps(TINY))
    (folder / "tiny-map.json").write_text(json.dumps(SIGLIP))
    open_clip.add_model_config(folder)
    yield


@pytest.fixture(scope="module")
def tiny() -> dict[str, torch.Tensor]:
    return create_open_clip(ClipConfig(model="tiny-clip", weights="random")).state_dict()


def from_file(path: Path, name: str = "tiny-clip", **settings: object) -> FrozenClip:
    return FrozenClip(ClipConfig(model=name, weights=str(path), **settings))


def save_archive(path: Path, state: dict[str, torch.Tensor], extra: bool = True) -> None:
    """Write what OpenAI published: a traced half-precision model in a TorchScript archive, with three marks."""

    class Node(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    root = Node()
    for name, value in state.items():
        node = root
        *parents, last = name.split(".")
        for part in parents:
            if part not in node._modules:
                node.add_module(part, Node())
            node = node._modules[part]
        node.register_parameter(last, torch.nn.Parameter(value.half(), requires_grad=False))
    for name, number in (("input_resolution", 32), ("context_length", 20), ("vocab_size", 49408)) if extra else ():
        root.register_buffer(name, torch.tensor(number))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(root, torch.zeros(1)), path)


# ---- formats ----


@pytest.mark.parametrize("kind", ["safetensors", "state dict", "training checkpoint", "parallel", "archive", "legacy"])
def test_every_format_gives_the_same_weights(tmp_path: Path, tiny: dict[str, torch.Tensor], kind: str) -> None:
    halved = {name: value.half().float() for name, value in tiny.items()}
    path = tmp_path / ("w.safetensors" if kind == "safetensors" else "w.pt")
    if kind == "safetensors":
        save_file(halved, path)
    elif kind == "archive":
        save_archive(path, halved)
    elif kind == "training checkpoint":
        torch.save({"epoch": 3, "name": "x", "state_dict": halved}, path)
    elif kind == "parallel":
        torch.save({"state_dict": {f"module.{name}": value for name, value in halved.items()}}, path)
    else:
        torch.save(halved, path, _use_new_zipfile_serialization=kind != "legacy")
    loaded = from_file(path).model.state_dict()
    assert loaded.keys() == halved.keys()
    assert all(torch.equal(loaded[name], halved[name]) and loaded[name].dtype == torch.float32 for name in halved)


def test_archive_is_read_as_torch_reads_it(tmp_path: Path, tiny: dict[str, torch.Tensor]) -> None:
    save_archive(tmp_path / "w.pt", tiny)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = torch.jit.load(tmp_path / "w.pt").state_dict()
    found = read_weight_file(tmp_path / "w.pt")
    assert found.openai and set(expected) - set(found.tensors) == {"input_resolution", "context_length", "vocab_size"}
    for name, value in found.tensors.items():
        assert torch.equal(value, expected[name]) and value.dtype == expected[name].dtype


class Trap:
    """Unpickling this makes a file: what a hostile checkpoint would do."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("kind", ["torch", "bare pickle", "archive"])
def test_code_in_a_checkpoint_is_not_run(tmp_path: Path, kind: str) -> None:
    path, trace = tmp_path / "w.pt", tmp_path / "it ran"
    if kind == "torch":
        torch.save({"state_dict": Trap(trace)}, path)
    elif kind == "bare pickle":
        path.write_bytes(pickle.dumps(Trap(trace), protocol=2))
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("w/constants.pkl", b"")
            archive.writestr("w/data.pkl", pickle.dumps(Trap(trace), protocol=2))
    with pytest.raises(DataError) as caught:
        read_weight_file(path)
    assert not trace.exists() and str(path) in str(caught.value) and "\n" not in str(caught.value)
    pickle.loads(pickle.dumps(Trap(trace)))
    assert trace.exists()  # the trap works where it is let


@pytest.mark.parametrize("content", [b"", b"no weights", b"PK\x03\x04 half a zip"])
@pytest.mark.parametrize("name", ["w.pt", "w.safetensors", "w.bin"])
def test_damaged_files_end_in_one_line(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        from_file(tmp_path / name)
    assert name in str(caught.value) and "\n" not in str(caught.value)


def test_truncated_archives_are_refused(tmp_path: Path, tiny: dict[str, torch.Tensor]) -> None:
    save_archive(tmp_path / "w.pt", tiny)
    data = (tmp_path / "w.pt").read_bytes()
    (tmp_path / "w.pt").write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError):
        from_file(tmp_path / "w.pt")


# ---- do the towers fit? ----


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: {n: t for n, t in s.items() if n.startswith("visual.")}, "no text tower"),
        (lambda s: {n: t for n, t in s.items() if not n.startswith("visual.")}, "no image tower"),
        (lambda s: {n: t for n, t in s.items() if n != "visual.ln_post.bias"}, r"visual.ln_post.bias is missing"),
        (lambda s: s | {"visual.extra": torch.zeros(1)}, "visual.extra is not of this architecture"),
        (lambda s: s | {"text_projection": torch.zeros(16, 32)}, "text_projection is 16 x 32, not 16 x 24"),
        (lambda s: s | {"visual.positional_embedding": torch.zeros(26, 64)}, "26 x 64, not 17 x 64"),
        (lambda s: s | {"visual.proj": s["visual.proj"] * torch.nan}, "visual.proj has values that are not finite"),
        (lambda s: s | {"logit_scale": torch.tensor(-3.0)}, "logit scale of 0.04979"),
        (lambda s: s | {"logit_scale": torch.tensor(12.0)}, "logit scale"),
    ],
)
def test_weights_that_do_not_belong_are_refused(tmp_path: Path, tiny: dict, change, words: str) -> None:
    save_file(change(dict(tiny)), tmp_path / "w.safetensors")
    with pytest.raises(DataError, match=words) as caught:
        from_file(tmp_path / "w.safetensors")
    assert "w.safetensors" in str(caught.value) and "\n" not in str(caught.value)


def test_a_published_file_given_for_another_architecture_is_named(
    tmp_path: Path, tiny: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_archive(tmp_path / "w.pt", tiny)
    publish(monkeypatch, tmp_path / "w.pt", "ViT-L-14", "openai")
    with pytest.raises(DataError, match=r"those of ViT-L-14/openai, not of tiny-clip: --set clip.model=ViT-L-14"):
        from_file(tmp_path / "w.pt")


# ---- the activation ----


def publish(monkeypatch: pytest.MonkeyPatch, path: Path, name: str, tag: str, **more: object) -> None:
    """Let a file be one that was published under its digest."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    real = open_clip.get_pretrained_cfg
    cfg = {"url": f"https://openaipublic.example/clip/models/{digest}/x.pt", "quick_gelu": True, **more}
    monkeypatch.setattr(open_clip, "list_pretrained", lambda: [(name, tag)])
    monkeypatch.setattr(open_clip, "get_pretrained_cfg", lambda n, t: cfg if (n, t) == (name, tag) else real(n, t))


def activation(clip: FrozenClip) -> str:
    kinds = {type(block.mlp.gelu).__name__ for block in clip.visual.transformer.resblocks}
    assert kinds == {type(block.mlp.gelu).__name__ for block in clip.model.transformer.resblocks}  # both towers
    return kinds.pop()


def test_openai_format_gets_quick_gelu_whatever_the_architecture_says(tmp_path: Path, tiny: dict) -> None:
    save_archive(tmp_path / "w.pt", tiny)
    assert activation(from_file(tmp_path / "w.pt")) == "QuickGELU"


def test_openai_state_dicts_are_known_by_their_marks(tmp_path: Path, tiny: dict) -> None:
    marks = {"input_resolution": torch.tensor(32), "context_length": torch.tensor(20), "vocab_size": torch.tensor(9)}
    torch.save(tiny | marks, tmp_path / "w.pt")
    assert activation(from_file(tmp_path / "w.pt")) == "QuickGELU"


def test_published_files_are_known_by_their_digest(tmp_path: Path, tiny: dict, monkeypatch) -> None:
    torch.save(tiny, tmp_path / "w.pt")
    assert activation(from_file(tmp_path / "w.pt")) == "GELU"
    publish(monkeypatch, tmp_path / "w.pt", "tiny-clip", "openai", mean=(0.1, 0.2, 0.3), std=(1.0, 1.0, 1.0))
    loaded = from_file(tmp_path / "w.pt")
    assert activation(loaded) == "QuickGELU" and loaded.mean == (0.1, 0.2, 0.3)


def test_openai_digests_are_in_open_clips_table() -> None:
    """What the detection rests on: the digest stands in the URL."""
    url = open_clip.get_pretrained_cfg("ViT-B-16", "openai")["url"]
    assert "openaipublic" in url and len(url.split("/")[-2]) == 64


def test_unmarked_weights_of_a_twofold_architecture_must_say_it(tmp_path: Path, tiny: dict, monkeypatch) -> None:
    save_file(tiny, tmp_path / "w.safetensors")
    tags = {"a": {"quick_gelu": True}, "b": {}}
    monkeypatch.setattr(open_clip, "list_pretrained_tags_by_model", lambda name: list(tags))
    monkeypatch.setattr(open_clip, "get_pretrained_cfg", lambda name, tag: tags.get(tag))
    with pytest.raises(ConfigError, match=r"w.safetensors do not say .* --set clip.quick_gelu=true"):
        from_file(tmp_path / "w.safetensors")
    for asked, kind in ((True, "QuickGELU"), (False, "GELU")):
        assert activation(from_file(tmp_path / "w.safetensors", quick_gelu=asked)) == kind


def test_vit_b_16_is_such_an_architecture() -> None:
    assert "ViT-B-16" in open_clip.list_models()
    kinds = {
        bool(open_clip.get_pretrained_cfg("ViT-B-16", tag).get("quick_gelu"))
        for tag in open_clip.list_pretrained_tags_by_model("ViT-B-16")
    }
    assert kinds == {True, False}


def test_a_contradicted_activation_is_refused(tmp_path: Path, tiny: dict) -> None:
    save_archive(tmp_path / "w.pt", tiny)
    with pytest.raises(ConfigError, match=r"clip.quick_gelu=false contradicts the weights"):
        from_file(tmp_path / "w.pt", quick_gelu=False)
    with pytest.raises(ConfigError, match=r"clip.quick_gelu=false contradicts the weights"):
        clip_weights._resolve_quick_gelu(ClipConfig(model="ViT-B-16", weights="openai", quick_gelu=False))


@pytest.mark.parametrize(("text", "value"), [("true", True), ("false", False), ("auto", "auto")])
def test_quick_gelu_is_set_on_the_command_line(text: str, value: object) -> None:
    assert load_config("shapes", overrides=[f"clip.quick_gelu={text}"]).clip.quick_gelu is value or value == "auto"


def test_quick_gelu_changes_the_key_of_features() -> None:

    keys = {
        make_plan(load_config("shapes", overrides=["clip.weights=random", f"clip.quick_gelu={word}"]))["features"].key
        for word in ("auto", "true", "false")
    }
    assert len(keys) == 3


# ---- identity ----


def test_fingerprint_is_of_the_weights_not_of_the_file(tmp_path: Path, tiny: dict) -> None:
    halved = {name: value.half().float() for name, value in tiny.items()}
    save_file(halved, tmp_path / "a.safetensors")
    save_archive(tmp_path / "b.pt", halved)
    first, second = (from_file(tmp_path / name) for name in ("a.safetensors", "b.pt"))
    assert first.fingerprint() == second.fingerprint() and len(first.fingerprint()) == 64
    second.model.visual.proj[0, 0] += 1
    assert first.fingerprint() != second.fingerprint()


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
        assert tower.pool(y).shape == (2, dim) and tower.dense(x, y, "value").shape == (2, tokens, dim)
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


def test_siglip_has_no_variants_of_a_cls_tower(siglip: FrozenClip) -> None:
    with pytest.raises(ConfigError, match=r"features.variant qq needs .* use value"):
        siglip.dense(noise(1, 3, 32, 32), "qq")


def test_siglip_preprocessing_is_not_clips() -> None:
    """A local SigLIP file carries no mean: it comes with the architecture."""
    pixels = clip_weights._pixel_statistics("ViT-B-16-SigLIP", None)
    assert pixels == {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
    assert clip_weights._pixel_statistics("ViT-B-16", None)["mean"] == pytest.approx(
        (0.48145466, 0.4578275, 0.40821073)
    )


@pytest.mark.parametrize("name", ["convnext_base", "coca_ViT-B-32", "EVA02-B-16", "RN50"])
def test_other_towers_are_refused(name: str) -> None:
    with torch.device("meta"):
        visual = open_clip.create_model(name, pretrained=None, pretrained_text=False, device="meta").visual
    with pytest.raises(ConfigError, match="no plain ViT tower"):
        open_tower(visual, name)


def test_siglip_says_what_its_tokenizer_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clip_weights, "can_reach_hub", lambda: False)
    monkeypatch.setattr(clip_weights.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(hub_files, "try_to_load_from_cache", lambda repository, name: None)
    with pytest.raises(DataError, match=r"hf download timm/ViT-B-16-SigLIP`, and copy the folder models--timm"):
        check_weights(ClipConfig(model="ViT-B-16-SigLIP", weights="random"))
    monkeypatch.setattr(clip_weights.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match="pip install transformers"):
        check_weights(ClipConfig(model="ViT-B-16-SigLIP", weights="random"))


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


def test_the_bundled_weights_pass_every_check() -> None:
    path = Path("model/weights/shapes-vit.safetensors")
    loaded = FrozenClip(ClipConfig(model="shapes-vit", weights="bundled")).model.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in load_file(path).items())


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


def test_an_openai_archive_goes_through_the_stages(tmp_path: Path, tiny: dict[str, torch.Tensor]) -> None:
    """An OpenAI-format file with random weights, as `clip.weights`: known by its bytes, with QuickGELU."""
    from tests.handmade import Chain

    save_archive(tmp_path / "ViT-tiny.pt", tiny)
    settings = ("clip.model=tiny-clip", f"clip.weights={tmp_path}/ViT-tiny.pt", "features.decoder_blocks=[1, 2]")
    chain = Chain(tmp_path / "run", *settings, "features.shifts=1").to_regions()
    shards = chain.inputs["features"].shards("train")
    image = chain.root / "VOCdevkit" / "VOC2012" / "JPEGImages" / f"{shards.ids[0]}.jpg"
    from split_matching.stages.data.images import read_image

    clip = from_file(tmp_path / "ViT-tiny.pt", quick_gelu=True)
    expected = clip.dense(clip.preprocess(read_image(image), 64, 64)[None]).cls[0]
    got = torch.from_numpy(shards.read(shards.ids[0], "cls")).float()
    assert torch.allclose(got, expected, atol=2e-3)
    assert make_plan(chain.config)["features"].slice.clip.identity.startswith("sha256:")
