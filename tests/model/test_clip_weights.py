"""Weights of CLIP from local files: which are rejected, the activation, and what identifies them."""

import hashlib
import re
from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file

from split_matching.configs.load import load_config
from split_matching.configs.settings import ClipConfig
from split_matching.errors import ConfigError, DataError
from split_matching.model import clip_weights
from split_matching.model.clip import FrozenClip
from split_matching.model.clip_weights import create_open_clip
from split_matching.pipeline.stages import make_plan
from split_matching.stages.data.images import read_image
from tests.handmade import Chain
from tests.model.weight_archives import from_file, save_archive


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"model": "ViT-B/16"}, "did you mean ViT-B-16?"),
        ({"model": "hf-hub:laion/CLIP-ViT-B-16"}, "expected an architecture, not an address"),
        ({"model": "local-dir:/data/my-clip"}, "that /data/my-clip/open_clip_config.json describes"),
        ({"model": "tiny-clip", "weights": "hf-hub:laion/CLIP"}, "is no file on this machine"),
        ({"model": "tiny-clip", "weights": "https://host/w.pt"}, "is no file on this machine"),
    ],
)
def test_other_spellings_are_explained(settings: dict[str, str], words: str) -> None:
    with pytest.raises((ConfigError, DataError), match=re.escape(words)):
        create_open_clip(ClipConfig(**{"weights": "random", **settings}))


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
def test_weights_that_do_not_belong_are_rejected(tmp_path: Path, tiny: dict, change, words: str) -> None:
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


def test_a_contradicted_activation_is_rejected(tmp_path: Path, tiny: dict) -> None:
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


# ---- all of it ----


def test_the_bundled_weights_pass_every_check() -> None:
    path = Path("model/weights/shapes-vit.safetensors")
    loaded = FrozenClip(ClipConfig(model="shapes-vit", weights="bundled")).model.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in load_file(path).items())


def test_an_openai_archive_goes_through_the_stages(tmp_path: Path, tiny: dict[str, torch.Tensor]) -> None:
    """An OpenAI-format file with random weights, as `clip.weights`: known by its bytes, with QuickGELU."""
    save_archive(tmp_path / "ViT-tiny.pt", tiny)
    settings = ("clip.model=tiny-clip", f"clip.weights={tmp_path}/ViT-tiny.pt", "features.decoder_blocks=[1, 2]")
    chain = Chain(tmp_path / "run", *settings, "features.shifts=1").to_regions()
    shards = chain.inputs["features"].shards("train")
    image = chain.root / "VOCdevkit" / "VOC2012" / "JPEGImages" / f"{shards.ids[0]}.jpg"
    clip = from_file(tmp_path / "ViT-tiny.pt", quick_gelu=True)
    expected = clip.dense(clip.preprocess(read_image(image), 64, 64)[None]).cls[0]
    got = torch.from_numpy(shards.read(shards.ids[0], "cls")).float()
    assert torch.allclose(got, expected, atol=2e-3)
    assert make_plan(chain.config)["features"].slice.clip.identity.startswith("sha256:")
