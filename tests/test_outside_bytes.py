"""Whatever bytes come from outside, a reader returns what they mean, or ends in one line that says what is wrong."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import re
import secrets
import socket
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save

from split_matching.cache.artifact import load_artifact
from split_matching.cache.build import open_build
from split_matching.cache.entry import Entry
from split_matching.cache.files import parse_json
from split_matching.cache.folders import read_inputs
from split_matching.configs.class_list import load_classes
from split_matching.configs.colour_table import read_colours
from split_matching.configs.data_settings import DataConfig
from split_matching.configs.load import load_config
from split_matching.configs.strict_yaml import parse_value
from split_matching.errors import ConfigError, UserError
from split_matching.model.weight_files import read_weight_file
from split_matching.stages.data.download import fetch as download
from split_matching.stages.data.download.archives import unpack
from split_matching.stages.data.download.fetch import Archive, fetch
from split_matching.stages.data.images import decode_image, decode_mask
from split_matching.stages.data.listing import parse_list, read_text
from split_matching.stages.data.photos import decode_photo
from split_matching.stages.ground.context import no_progress
from split_matching.stages.inference.exported_decoder import read_export
from split_matching.stages.pages.curves import read_log
from tests.cache.example_builds import KEY, RECIPE, make_shard, make_sharded, plan_of, shards_of

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
        assert str(error).isprintable() and str(error)


@cache
def valid(kind: str) -> bytes:
    """Sound bytes of each kind of file."""
    buffer = io.BytesIO()
    if kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "JPEG2000"):
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
@given(damaged("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "JPEG2000"))
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


TEXT = st.text(st.sampled_from("{}[]:,-# \n\ttrainstepcolur_id0123456789'\"&*!\\"), max_size=30)


@few
@given(st.one_of(st.binary(max_size=30), TEXT.map(str.encode)))
@example(b"colours: [{id: 1, colours: [[1, 2, 3]]}, {id: 2, colours: [[1, 2, 3]]}]")
@example(b"a:1,2,3::\nb:999,2,3::")
@example(b"train: {steps: 1, steps: 2}")
def test_files_of_settings_and_colours(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "own.yaml"
    path.write_bytes(data)
    check(lambda: load_config(str(path)))
    check(lambda: load_config("shapes", [path]))
    check(lambda: read_colours(path))
    (tmp_path / "labelmap.txt").write_bytes(data)
    check(lambda: read_colours(tmp_path / "labelmap.txt"))


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


@pytest.mark.parametrize("value", ["2024-13-45", "9" * 5000, "0x" + "f" * 100])
def test_a_value_that_the_parser_chokes_on_is_named(value: str) -> None:
    with pytest.raises(ConfigError, match="is not YAML: "):
        parse_value(value)


# ---- what a server answers ----

BODY = b"the archive, as it is on the server"
NUMBERS = st.sampled_from(["0", "7", str(len(BODY)), "-1", "1e3", "abc", "9" * 30, "٣", ""])
HEADERS = st.lists(
    st.one_of(
        st.tuples(st.just("Content-Length"), NUMBERS),
        st.tuples(st.just("Content-Range"), NUMBERS.map(lambda number: f"bytes {number}-{number}/{number}")),
        st.tuples(st.just("Content-Range"), NUMBERS.map(lambda number: f"bytes */{number}")),
        st.tuples(st.just("ETag"), st.sampled_from(['"1"', 'W/"1"', '"\x9b"', ""])),
        st.tuples(st.just("Location"), st.sampled_from(["/a", "http://[", "file:///etc/passwd", "http://a b/\x7f"])),
        st.tuples(st.just("Transfer-Encoding"), st.sampled_from(["chunked", "gzip"])),
        st.tuples(st.text(st.characters(max_codepoint=255), max_size=5), st.text(max_size=5)),
    ),
    max_size=4,
)
STATUS = st.sampled_from(["200 OK", "206 Partial Content", "302 Found", "404 \x9b", "416 Range", "503 Busy", "2e2", ""])


@st.composite
def answers(draw: st.DrawFn) -> bytes:
    """What a server sends: an answer that is nearly one of HTTP, the body or a part of it."""
    lines = [f"HTTP/1.1 {draw(STATUS)}", *(f"{name}: {value}" for name, value in draw(HEADERS))]
    start = draw(st.sampled_from([0, 0, 10]))
    head = "\r\n".join(lines).encode("latin-1", "replace") + b"\r\n\r\n"
    return (head + BODY[start:])[: draw(st.one_of(st.none(), st.integers(0, 200)))]


class Connection:
    """Stands in for a connection to a server that sends some bytes and ends."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer

    def makefile(self, mode: str) -> io.BytesIO:
        return io.BytesIO(self.answer)

    def sendall(self, data: bytes) -> None: ...
    def setsockopt(self, *options: int) -> None: ...
    def close(self) -> None: ...


@few
@given(st.lists(answers(), max_size=4), st.booleans())
def test_answers_of_servers(tmp_path: Path, sent: list[bytes], resumed: bool) -> None:
    """The archive comes as it is on the server, or one line says why not."""
    folder = tmp_path / secrets.token_hex(4)
    folder.mkdir()
    if resumed:
        (folder / "a.part").write_bytes(BODY[:10])
        (folder / "a.part.json").write_text('"\\"1\\""')
    left = iter(sent)

    def connect(*arguments: object, **rest: object) -> Connection:
        return Connection(next(left, b""))

    archive = Archive("http://127.0.0.1/a", "a", hashlib.md5(BODY).hexdigest())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "create_connection", connect)
        patch.setattr(download, "PAUSE", 0.0)
        check(lambda: fetch(archive, folder, lambda *what: contextlib.nullcontext(no_progress)))
    assert not (folder / "a").exists() or (folder / "a").read_bytes() == BODY


# ---- the cache ----


@cache
def built(kind: str) -> dict[str, bytes]:
    """The files of a finished artifact, and of a build with two of three shards."""
    with tempfile.TemporaryDirectory() as folder:
        entry = Entry(Path(folder), "toy", "squares", KEY)
        if kind == "artifact":
            path = make_sharded(entry).path
        else:
            build = open_build(entry, RECIPE, plan_of(4))
            for index in range(2):
                make_shard(build, index, shards_of(4)[index])
            path = build.path
        return {file.name: file.read_bytes() for file in path.iterdir()}


def fill(folder: Path, files: dict[str, bytes]) -> None:
    folder.mkdir(parents=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)


@st.composite
def altered(draw: st.DrawFn, kind: str, *endings: str) -> dict[str, bytes]:
    """The files of an artifact or a build, one of which was altered."""
    files = dict(built(kind))
    name = draw(st.sampled_from(sorted(name for name in files if name.endswith(endings))))
    data = bytearray(files[name])
    place = draw(st.integers(0, len(data) - 1))
    match draw(st.sampled_from(["byte", "cut", "digit"])):
        case "byte":
            data[place] = draw(st.integers(0, 255))
        case "cut":
            del data[place:]
        case _:
            data = bytearray(re.sub(rb"[0-9]", b"7", bytes(data[: place + 1])) + data[place + 1 :])
    return {**files, name: bytes(data)}


@few
@given(altered("artifact", ".h5", "manifest.json"))
def test_shards_and_manifests(tmp_path: Path, files: dict[str, bytes]) -> None:
    """Every value is read as it was written, or the shard is called damaged."""
    folder = tmp_path / secrets.token_hex(4) / "squares" / KEY[:16]
    fill(folder, files)

    def read() -> None:
        shards = load_artifact(folder).shards("train")
        for _ in range(2):  # the second time another way is taken
            for number in range(10):
                assert shards.read(f"{number:03d}", "x").tolist() == [i**2 for i in range(number)]

    check(read)


@few
@given(altered("build", ".json", ".h5"))
def test_a_build_in_progress(tmp_path: Path, files: dict[str, bytes]) -> None:
    """Whatever is altered in it, what then is made is the same; a damaged shard is named."""
    entry = Entry(tmp_path / secrets.token_hex(4), "toy", "squares", KEY)
    fill(entry.partial, files)
    str(entry.state(RECIPE))
    entry.cuts(RECIPE)
    read_inputs(entry.partial)
    for path in entry.damaged_shards():
        path.unlink()

    made = make_sharded(entry)
    assert made.damaged_files() == [] and entry.state(RECIPE).fresh
    assert made.manifest["content"] == json.loads(built("artifact")["manifest.json"])["content"]
