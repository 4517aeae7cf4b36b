"""Whatever bytes come from outside, a reader returns what they mean, or ends in one line that says what is wrong."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save

from split_matching.cache.artifact import load_artifact
from split_matching.cache.files import parse_json
from split_matching.configs.class_list import load_classes
from split_matching.configs.data_settings import DataConfig
from split_matching.configs.load import load_config
from split_matching.configs.strict_yaml import parse_value
from split_matching.errors import ConfigError, UserError
from split_matching.model.weight_files import read_weight_file
from split_matching.stages.data.download.archives import unpack
from split_matching.stages.data.images import decode_image, decode_mask
from split_matching.stages.data.listing import parse_list, read_text
from split_matching.stages.data.photos import decode_photo
from split_matching.stages.ground.context import no_progress
from split_matching.stages.inference.exported_decoder import read_export
from split_matching.stages.pages.curves import read_log

few = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
DEEP = b"[" * 100_000


def check(read: Callable[[], object]) -> None:
    """Call a reader: any error is of one line, and for the user."""
    try:
        read()
    except UserError as error:
        assert len(str(error).splitlines()) == 1


@cache
def valid(kind: str) -> bytes:
    """Sound bytes of each kind of file."""
    buffer = io.BytesIO()
    if kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"):
        exif = Image.Exif()
        exif[274] = 6
        Image.radial_gradient("L").resize((20, 10)).save(buffer, kind, exif=exif)
    elif kind in ("zip", "gz", "bz2", "xz"):
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as bundle:
            bundle.writestr("a/b.txt", b"text " * 20)
        if kind != "zip":
            buffer = io.BytesIO()
            with tarfile.open(fileobj=buffer, mode=f"w:{kind}") as tar:
                tar.addfile(info := tarfile.TarInfo("a/b.txt"), io.BytesIO(b"text"))
                assert info.name
    elif kind == "safetensors":
        buffer.write(save({"x": torch.arange(6.0)}, {"split_matching": "{}"}))
    else:
        torch.save({"x": torch.arange(6.0)}, buffer, _use_new_zipfile_serialization=kind == "pt")
    return buffer.getvalue()


@st.composite
def damaged(draw: st.DrawFn, *kinds: str) -> tuple[str, bytes]:
    """A kind of file, and sound bytes of it of which some are changed, or that end early."""
    kind = draw(st.sampled_from(kinds))
    data = bytearray(valid(kind))
    for place, value in draw(st.lists(st.tuples(st.integers(0, len(data) - 1), st.integers(0, 255)), max_size=6)):
        data[place] = value
    return kind, bytes(data[: draw(st.one_of(st.none(), st.integers(0, len(data))))])


@few
@given(damaged("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"))
@example(("", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"))
def test_images_and_masks(given_file: tuple[str, bytes]) -> None:
    for decode in (decode_image, decode_photo, decode_mask):
        check(lambda decode=decode: decode(given_file[1], Path("a.png")))  # type: ignore[misc]


@few
@given(damaged("pt", "legacy", "safetensors"))
def test_weights_and_exports(tmp_path: Path, given_file: tuple[str, bytes]) -> None:
    path = tmp_path / ("a.safetensors" if given_file[0] == "safetensors" else "a.pt")
    path.write_bytes(given_file[1])
    check(lambda: read_weight_file(path))
    check(lambda: read_export(path))


@few
@given(damaged("zip", "gz", "bz2", "xz"))
def test_archives(tmp_path: Path, given_file: tuple[str, bytes]) -> None:
    path = tmp_path / f"a.{given_file[0]}"
    path.write_bytes(given_file[1])
    check(lambda: unpack(path, tmp_path / "out", lambda name: "b.txt" if name else None, no_progress))


YAML_SIGNS = st.text(st.sampled_from("0123456789_-+.:eExXob[]{},&*!?|>'\"%@`#~= \n\tnaNif\\\0\ud800"), max_size=12)


@few
@given(YAML_SIGNS)
@example("0b_")
@example("2024-13-45")
@example("9" * 5000)
@example("0x" + "f" * 5000)
@example("!!int x")
@example("[" * 500)
@example('"\\0"')
@example('"\\ud800"')
def test_values_of_settings(text: str) -> None:
    check(lambda: parse_value(text))
    for name in ("train.steps", "data.root"):
        check(lambda name=name: load_config("shapes", overrides=[f"{name}={text}"]))  # type: ignore[misc]


@few
@given(st.one_of(st.binary(max_size=30), YAML_SIGNS.map(lambda text: f"classes: {text}".encode(errors="replace"))))
@example(b"classes: [0b_]")
@example(b"\xff\xfe")
def test_class_lists_and_lists_of_images(tmp_path: Path, data: bytes) -> None:
    for name in ("list.txt", "list.yaml"):
        (tmp_path / name).write_bytes(data)
        check(lambda name=name: load_classes(DataConfig(classes=str(tmp_path / name))))  # type: ignore[misc]
    check(lambda: parse_list(read_text(tmp_path / "list.txt"), tmp_path / "list.txt"))


@few
@given(st.one_of(st.binary(max_size=30), st.recursive(st.none() | st.floats() | st.text(), st.lists).map(json.dumps)))
@example(DEEP)
@example(b'{"a":' * 100_000)
@example(b"9" * 5000)
def test_manifests_and_logs(tmp_path: Path, data: bytes | str) -> None:
    content = data if isinstance(data, bytes) else data.encode()
    for name in ("manifest.json", "metrics.jsonl"):
        (tmp_path / name).write_bytes(content)
    check(lambda: load_artifact(tmp_path))
    check(lambda: read_log(tmp_path / "metrics.jsonl"))


@pytest.mark.parametrize("text", [DEEP, b"9" * 5000, b"\xff", b""])
def test_json_that_cannot_be_read_is_a_value_error(text: bytes) -> None:
    with pytest.raises(ValueError):
        parse_json(text)


@pytest.mark.parametrize("value", ["0b_", "2024-13-45", "9" * 5000, "0x" + "f" * 100])
def test_a_value_that_the_parser_chokes_on_is_named(value: str) -> None:
    with pytest.raises(ConfigError, match="is not YAML: "):
        parse_value(value)
    assert yaml.safe_load("0b11") == parse_value("0b11") == 3
