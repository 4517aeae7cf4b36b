"""Weights of CLIP from local files: every format, what is rejected, and the activation."""

import hashlib
import pickle
import re
import warnings
import zipfile
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
from split_matching.model.weight_files import read_weight_file
from split_matching.model.weight_names import plain_names
from split_matching.pipeline.stages import make_plan


@pytest.fixture(scope="module")
def tiny() -> dict[str, torch.Tensor]:
    return create_open_clip(ClipConfig(model="tiny-clip", weights="random")).state_dict()


@pytest.mark.parametrize("wrapper", ["", "module.", "_orig_mod.module."])
def test_wrappers_in_front_of_all_names_are_taken_off(wrapper: str) -> None:
    names = ("visual.proj", "logit_scale", "text_projection")
    found = plain_names({f"{wrapper}{name}": torch.full((1,), place) for place, name in enumerate(names)})
    assert {name: int(tensor) for name, tensor in found.items()} == {name: place for place, name in enumerate(names)}
    strange = {"other.visual.proj": torch.zeros(1), "other.logit_scale": torch.zeros(1)}
    assert plain_names(strange).keys() == strange.keys()


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


PREFIXES = ("module.", "_orig_mod.", "module._orig_mod.", "model.", "model.clip.", "clip_model.")


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("key", ["", "state_dict", "model", "model_state_dict"])
def test_wrappers_of_other_programs_are_taken_off(
    tmp_path: Path, tiny: dict[str, torch.Tensor], prefix: str, key: str
) -> None:
    state = {f"{prefix}{name}": value for name, value in tiny.items()}
    torch.save({key: state, "epoch": 1} if key else state, tmp_path / "w.pt")
    read = read_weight_file(tmp_path / "w.pt").tensors
    assert read.keys() == tiny.keys() and all(torch.equal(read[name], tiny[name]) for name in tiny)


def test_what_else_a_checkpoint_holds_is_an_error(tmp_path: Path, tiny: dict[str, torch.Tensor]) -> None:
    state = {f"model.{name}": value for name, value in tiny.items()} | {"head.weight": torch.zeros(2)}
    torch.save({"state_dict": state}, tmp_path / "w.pt")
    with pytest.raises(DataError, match=r"head.weight is not of this architecture"):
        from_file(tmp_path / "w.pt")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"model": "ViT-B/16"}, "did you mean ViT-B-16?"),
        ({"model": "hf-hub:laion/CLIP-ViT-B-16"}, "names a place, which may change"),
        ({"model": "local-dir:/data/my-clip"}, "give the architecture in /data/my-clip/open_clip_config.json"),
        ({"model": "tiny-clip", "weights": "hf-hub:laion/CLIP"}, "is no file on this machine"),
        ({"model": "tiny-clip", "weights": "https://host/w.pt"}, "is no file on this machine"),
    ],
)
def test_other_spellings_are_explained(settings: dict[str, str], words: str) -> None:
    with pytest.raises((ConfigError, DataError), match=re.escape(words)):
        create_open_clip(ClipConfig(**{"weights": "random", **settings}))


def test_a_web_page_and_code_are_named(tmp_path: Path) -> None:
    (tmp_path / "w.pt").write_text("<html>403 Forbidden</html>")
    with pytest.raises(DataError, match="are a web page"):
        read_weight_file(tmp_path / "w.pt")
    torch.save({"model": Path("x")}, tmp_path / "w.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(DataError) as caught:
        read_weight_file(tmp_path / "w.pt")
    assert "weights_only" not in str(caught.value) and "never loaded" in str(caught.value)


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


def shared(opening: bytes, closing: bytes, levels: int = 40) -> bytes:
    """A pickle of values that hold the same smaller value twice: 2 ** levels of them."""
    parts = [b"\x80\x02}q\x00"]
    for level in range(1, levels + 1):
        before = b"h" + bytes([level - 1])
        parts.append(opening.replace(b"?", before) + closing + b"q" + bytes([level]))
    return b"".join(parts)


TWICE = shared(b"}(X\1\0\0\0a?X\1\0\0\0b?", b"u")
"""Dicts in dicts, as modules are."""

AS_KEY = b"\x80\x02)q\x00" + shared(b"??", b"\x86")[5:] + b"0}h\x28K\x01s"
"""Tuples in tuples as a key of a dict: hashing it would not end."""

AS_NAME = TWICE + b"0h\x28h\x28R"
"""What is called is a nested dict: showing it would not end."""

ITSELF = b"\x80\x02}q\x00X\1\0\0\0ah\x00s"


@pytest.mark.parametrize("pickled", [TWICE, AS_KEY, AS_NAME, ITSELF])
@pytest.mark.parametrize("kind", ["TorchScript", "torch.save", "legacy"])
def test_values_that_nest_to_billions_end_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pickled: bytes, kind: str
) -> None:
    monkeypatch.setattr("split_matching.model.weight_files.MAX_STEPS", 20_000)
    path = tmp_path / "w.pt"
    if kind == "legacy":
        start = b"".join(pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, {}))
        path.write_bytes(start + pickled + b"." + pickle.dumps([], 2))
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("w/data.pkl", pickled + b".")
            archive.writestr("w/constants.pkl" if kind == "TorchScript" else "w/version", b"3")
    with pytest.raises(DataError) as caught:
        read_weight_file(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 1000


def save_storage(path: Path, content: bytes, size: int, packing: int = zipfile.ZIP_STORED) -> None:
    """A torch.save archive with two tensors of `size` bytes in one storage."""

    def text(word: str) -> bytes:
        return b"X" + len(word).to_bytes(4, "little") + word.encode()

    def number(value: int) -> bytes:
        return b"J" + value.to_bytes(4, "little")

    storage = b"(" + text("storage") + b"ctorch\nByteStorage\n" + text("0") + text("cpu") + number(size) + b"tQ"
    tail = b"K\x00" + number(size) + b"\x85K\x01\x85\x89ccollections\nOrderedDict\n)RtR"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + tail
    with zipfile.ZipFile(path, "w", packing) as archive:
        archive.writestr("w/data.pkl", b"\x80\x02}(" + text("x") + tensor + text("y") + tensor + b"u.")
        archive.writestr("w/data/0", content)


def test_a_small_archive_that_unpacks_to_much_is_not_unpacked(tmp_path: Path) -> None:
    save_storage(tmp_path / "w.pt", bytes(2**26), 2**26, zipfile.ZIP_DEFLATED)
    with pytest.raises(DataError, match=r"w\.pt would unpack to 67,10\d,\d{3} bytes"):
        read_weight_file(tmp_path / "w.pt")


def test_sizes_in_a_pickle_are_not_believed(tmp_path: Path) -> None:
    save_storage(tmp_path / "w.pt", b"12345678", 8)
    found = read_weight_file(tmp_path / "w.pt").tensors
    assert found["x"].tolist() == list(b"12345678")
    assert found["x"].data_ptr() == found["y"].data_ptr(), "the storage is read once"
    save_storage(tmp_path / "w.pt", b"12345678", 1_000_000)
    with pytest.raises(DataError, match="cannot be read"):
        read_weight_file(tmp_path / "w.pt")


@pytest.mark.parametrize("content", [b"", b"no weights", b"PK\x03\x04 half a zip"])
@pytest.mark.parametrize("name", ["w.pt", "w.safetensors", "w.bin"])
def test_damaged_files_end_in_one_line(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        from_file(tmp_path / name)
    assert name in str(caught.value) and "\n" not in str(caught.value)


def test_truncated_archives_are_rejected(tmp_path: Path, tiny: dict[str, torch.Tensor]) -> None:
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


def test_a_file_that_cannot_be_opened_is_an_error_of_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_weight_file(tmp_path)  # a folder, as permissions do not stop root
