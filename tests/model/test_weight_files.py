"""Files of weights: every format, and what is damaged or hostile."""

import pickle
import warnings
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from split_matching.errors import DataError
from split_matching.model.weight_files import read_weight_file
from split_matching.model.weight_names import plain_names
from tests.model.weight_archives import from_file, save_archive

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


def test_parameters_are_read_as_tensors(tmp_path: Path) -> None:
    values = {"scale": torch.tensor([2.5, -1.0]), "bias": torch.arange(6.0).reshape(2, 3)}
    torch.save({name: torch.nn.Parameter(value) for name, value in values.items()}, tmp_path / "w.pt")
    found = read_weight_file(tmp_path / "w.pt").tensors
    assert {name: value.tolist() for name, value in found.items()} == {
        "scale": [2.5, -1.0],
        "bias": [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]],
    }


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


@pytest.mark.parametrize("wrapper", ["", "module.", "_orig_mod.module."])
def test_wrappers_in_front_of_all_names_are_taken_off(wrapper: str) -> None:
    names = ("visual.proj", "logit_scale", "text_projection")
    found = plain_names({f"{wrapper}{name}": torch.full((1,), place) for place, name in enumerate(names)})
    assert {name: int(tensor) for name, tensor in found.items()} == {name: place for place, name in enumerate(names)}
    strange = {"other.visual.proj": torch.zeros(1), "other.logit_scale": torch.zeros(1)}
    assert plain_names(strange).keys() == strange.keys()


def test_what_else_a_checkpoint_holds_is_an_error(tmp_path: Path, tiny: dict[str, torch.Tensor]) -> None:
    state = {f"model.{name}": value for name, value in tiny.items()} | {"head.weight": torch.zeros(2)}
    torch.save({"state_dict": state}, tmp_path / "w.pt")
    with pytest.raises(DataError, match=r"head.weight is not of this architecture"):
        from_file(tmp_path / "w.pt")


def test_archive_is_read_as_torch_reads_it(tmp_path: Path, tiny: dict[str, torch.Tensor]) -> None:
    save_archive(tmp_path / "w.pt", tiny)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = torch.jit.load(tmp_path / "w.pt").state_dict()
    found = read_weight_file(tmp_path / "w.pt")
    assert found.openai and set(expected) - set(found.tensors) == {"input_resolution", "context_length", "vocab_size"}
    for name, value in found.tensors.items():
        assert torch.equal(value, expected[name]) and value.dtype == expected[name].dtype


# ---- damaged and hostile files ----


def test_a_web_page_and_code_are_named(tmp_path: Path) -> None:
    (tmp_path / "w.pt").write_text("<html>403 Forbidden</html>")
    with pytest.raises(DataError, match="are a web page"):
        read_weight_file(tmp_path / "w.pt")
    torch.save({"model": Path("x")}, tmp_path / "w.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(DataError) as caught:
        read_weight_file(tmp_path / "w.pt")
    assert "weights_only" not in str(caught.value) and "never loaded" in str(caught.value)


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


def test_a_tensor_of_very_many_axes_is_no_weight(tmp_path: Path) -> None:
    torch.save({"x": torch.zeros([1] * 100)}, tmp_path / "w.pt")
    with pytest.raises(DataError, match="hold more than weights"):
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


def test_a_file_that_cannot_be_opened_is_an_error_of_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_weight_file(tmp_path)  # a folder, as permissions do not stop root
