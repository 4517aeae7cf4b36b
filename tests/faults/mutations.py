"""Mutated files: whatever bytes a file has, its reader returns what they mean, or ends in one line.

A batch of files is read in a process of its own, so that a crash, a hang and a reader that takes all memory are seen.
"""

from __future__ import annotations

import io
import json
import os
import random
import resource
import shutil
import signal
import zipfile
import zlib
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from tests.faults.rig import SETTINGS, Case, Rig
from tests.faults.sound_files import (
    sound_archives,
    sound_images,
    sound_matlab_masks,
    sound_settings,
    sound_weights,
)

if TYPE_CHECKING:
    from split_matching.cache.shard_reader import ShardReader
    from split_matching.configs.schema import Config

BATCH = 50
SECONDS = 30  # after which a reader counts as hung
MEMORY = 4 << 30  # bytes that a reader may take besides what the process has

Reader = Callable[[Path, bytes], str]
"""Reads a mutated file, given the sound bytes too; returns what is wrong, "" if nothing. May raise a UserError."""


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Return bytes with one to four changes: bits, blocks, numbers, the end."""
    found = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        place, length = rng.randrange(len(found) + 1), rng.choice((1, 2, 4, 16, 64, 512))
        match rng.randrange(7):
            case 0 if found:
                found[place % len(found)] ^= 1 << rng.randrange(8)
            case 1:
                found[place : place + length] = rng.randbytes(length)
            case 2:
                found[place:place] = rng.randbytes(length)
            case 3:
                del found[place : place + length]
            case 4:
                found[place : place + length] = rng.choice((b"\0", b"\xff")) * length
            case 5:
                found[place:place] = found[place : place + length]
            case 6:
                del found[place:]
    return bytes(found)


def mutate_inside(data: bytes, rng: random.Random) -> bytes:
    """Mutate what a container holds, with a sound one around it: members of archives, chunks of PNGs, variables."""
    buffer = io.BytesIO()
    if data[:4] == b"PK\3\4":
        with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as new:
            chosen = rng.choice(old.namelist())
            for name in old.namelist():
                new.writestr(name, mutate(old.read(name), rng) if name == chosen else old.read(name))
        return buffer.getvalue()
    if data[:4] == b"\x89PNG":
        chunks, place = [], 8
        while place < len(data):
            size = int.from_bytes(data[place : place + 4], "big")
            chunks.append((data[place + 4 : place + 8], data[place + 8 : place + 8 + size]))
            place += size + 12
        index = rng.randrange(len(chunks))
        chunks[index] = (chunks[index][0], mutate(chunks[index][1], rng))
        parts = [len(c).to_bytes(4, "big") + n + c + zlib.crc32(n + c).to_bytes(4, "big") for n, c in chunks]
        return data[:8] + b"".join(parts)
    if data[:6] == b"MATLAB":  # after its header: type and size of the one variable
        variable = zlib.compress(mutate(zlib.decompress(data[136:]), rng), 1)
        return data[:132] + len(variable).to_bytes(4, "little") + variable
    if data[:2] == b"\x1f\x8b":
        return zlib.compress(mutate(zlib.decompress(data, 31), rng), 1, 31)
    return mutate(data, rng)


# --- readers ----------------------------------------------------------------------------------------------------------


def read_weights(path: Path, sound: bytes) -> str:
    """Weights of CLIP, and exported decoders."""
    from split_matching.errors import UserError
    from split_matching.model.weight_files import read_weight_file
    from split_matching.stages.inference.exported_decoder import read_export

    try:
        read_export(path)
    except UserError as error:
        check_line(error)
    read_weight_file(path)
    return ""


def read_image(path: Path, sound: bytes) -> str:
    """Images, masks and photographs."""
    from split_matching.errors import UserError
    from split_matching.stages.data.images import decode_image, decode_mask
    from split_matching.stages.data.photos import decode_photo

    for decode in (decode_image, decode_mask, decode_photo):
        try:
            decode(path.read_bytes(), path)
        except UserError as error:
            check_line(error)
    return ""


def read_archive(path: Path, sound: bytes) -> str:
    """Archives of data sets: nothing is written outside of the folder."""
    from split_matching.errors import UserError
    from split_matching.stages.data.download.archives import unpack
    from split_matching.stages.ground.context import no_progress

    out = path.parent / "out"
    before = set(path.parent.iterdir())
    try:
        unpack(path, out, lambda name: name, no_progress)
    except UserError as error:
        check_line(error)
    outside = set(path.parent.iterdir()) - before - {out}
    shutil.rmtree(out, ignore_errors=True)
    return f"wrote {outside}" if outside else ""


def read_matlab_masks(path: Path, sound: bytes) -> str:
    """Masks of SBD and of PASCAL Context."""
    from split_matching.errors import UserError
    from split_matching.stages.data.download.pascal_context import read_context_mask
    from split_matching.stages.data.download.voc import read_sbd_mask

    for read in (read_sbd_mask, read_context_mask):
        try:
            read(path.read_bytes(), path.name)
        except UserError as error:
            check_line(error)
    return ""


def read_settings(path: Path, sound: bytes) -> str:
    """A config, and lists of classes and images."""
    from split_matching.configs.class_list import load_classes
    from split_matching.configs.data_settings import DataConfig
    from split_matching.configs.load import load_config
    from split_matching.errors import UserError
    from split_matching.stages.data.listing import parse_list, read_text

    readers: list[Callable[[], object]] = [
        lambda: load_config(str(path)),
        lambda: load_config("shapes", [path]),
        lambda: load_classes(DataConfig(classes=str(path))),
        lambda: parse_list(read_text(path), path),
    ]
    for read in readers:
        try:
            read()
        except UserError as error:
            check_line(error)
    return ""


def read_shard(path: Path, sound: bytes, whole: Path) -> str:
    """A shard of a finished artifact: every value is as it was written, or the shard is called damaged."""
    from split_matching.cache.shard_reader import ShardReader

    entry = json.loads((path.parent / "manifest.json").read_text())["files"][path.name]
    read, written = shard_values(ShardReader(path, entry)), shard_values(ShardReader(whole))
    return "" if read == written else "other values are read than were written"


def shard_values(reader: ShardReader) -> list[tuple[str, str, bytes]]:
    """Return all values of a shard, read twice, as the second time another way is taken."""
    names = [(image_id, field) for image_id in reader.ids for field in reader.fields]
    try:
        return [(*name, reader.read(*name).tobytes()) for name in (*names, *names)]
    finally:
        reader.close()


def read_manifest(path: Path, sound: bytes, root: Path) -> str:
    """A manifest: the artifact is fresh only if the manifest says the same as before."""
    from split_matching.pipeline.stages import make_plan

    plan = make_plan(config_of(root))
    state = plan[path.parent.parent.name].own_state
    str(state)
    if state.fresh and json.loads(path.read_bytes()) != json.loads(sound):
        return "another manifest is called fresh"
    return ""


@cache
def config_of(root: Path) -> Config:
    """Return the config of a cache."""
    from split_matching.configs.load import load_config

    return load_config("shapes", [], [*SETTINGS, f"runtime.artifacts={json.dumps(str(root))}"])


def check_line(error: Exception) -> None:
    """Check that a message is one line.

    Raises:
        ValueError: it is not.
    """
    if len(str(error).splitlines()) != 1 or not str(error).isprintable():
        raise ValueError(f"the message is no line: {str(error)!r}")


# --- batches ----------------------------------------------------------------------------------------------------------


def read_batch(rig: Rig, rng: random.Random, name: str, make: Callable[[Path], list[Path]], read: Reader) -> str:
    """Mutate and read a batch of files; returns what was wrong, each with its number."""
    folder = rig.folder / f"mutated-{name}"
    if not folder.exists():
        folder.mkdir()
        make(folder)
    sound = {path: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}
    return run_batch(rng, sound, lambda path: path.with_name(f"mutated-{path.name}"), read)


def read_artifacts(rig: Rig, rng: random.Random, pattern: str) -> str:
    """Mutate and read manifests or shards of a cache in their place."""
    root = rig.folder / "mutated-cache"
    if not root.exists():
        shutil.copytree(rig.base, root)
    sound = {path: path.read_bytes() for path in sorted(root.glob(f"shapes/*/*/{pattern}"))}

    def read(path: Path, data: bytes) -> str:
        try:
            if path.suffix == ".json":
                return read_manifest(path, data, root)
            return read_shard(path, data, rig.base / path.relative_to(root))
        finally:
            path.write_bytes(data)

    return run_batch(rng, sound, lambda path: path, read)


def run_batch(rng: random.Random, sound: dict[Path, bytes], place: Callable[[Path], Path], read: Reader) -> str:
    """Read a batch in processes of its own: after a crash the next one goes on behind it."""
    seeds = [rng.random() for _ in range(BATCH)]
    problems: list[str] = []
    first = 0
    while first < BATCH:
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reader)
            read_some(seeds, first, sound, place, read, writer)
        os.close(writer)
        with open(reader, encoding="utf-8") as stream:  # noqa: PTH123
            lines = [json.loads(line) for line in stream]
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        problems += [f"file {line['number']}, {line['name']}: {line['problem']}" for line in lines if line["problem"]]
        first += len(lines)
        if code:
            problems.append(f"file {first}: the reader ended with {code}")
            first += 1
    for path in sound:
        place(path).unlink(missing_ok=True) if place(path) != path else path.write_bytes(sound[path])
    return "; ".join(problems)


def read_some(
    seeds: list[float],
    first: int,
    sound: dict[Path, bytes],
    place: Callable[[Path], Path],
    read: Reader,
    writer: int,
) -> None:
    """Mutate and read files from a number on, write a line for each, and end the process."""
    from split_matching.errors import UserError

    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    code = 70
    try:
        for number in range(first, BATCH):
            rng = random.Random(seeds[number])
            path = rng.choice(list(sound))
            change = mutate_inside if rng.random() < 0.3 else mutate
            place(path).write_bytes(change(sound[path], rng))
            signal.alarm(SECONDS)
            try:
                problem = read(place(path), sound[path])
            except UserError as error:
                problem = "" if str(error).isprintable() else f"the message is no line: {str(error)!r}"
            except Exception as error:
                problem = f"{type(error).__name__}: {error}"
            signal.alarm(0)
            line = {"number": number, "name": path.name, "problem": problem}
            os.write(writer, json.dumps(line).encode() + b"\n")
        code = 0
    finally:
        os._exit(code)


def cases(short: bool) -> dict[str, Case]:
    """Each kind of file."""
    outside: dict[str, tuple[Callable[[Path], list[Path]], Reader]] = {
        "images": (sound_images, read_image),
        "weights": (sound_weights, read_weights),
        "archives": (sound_archives, read_archive),
        "MATLAB masks": (sound_matlab_masks, read_matlab_masks),
        "settings and lists": (sound_settings, read_settings),
    }
    files = BATCH if short else 4000
    found = {
        f"mutated {name}": Case(partial(read_batch, name=name, make=make, read=read), files // BATCH, BATCH)
        for name, (make, read) in outside.items()
    }
    for name, pattern in (("shards", "*.h5"), ("manifests", "manifest.json")):
        found[f"mutated {name}"] = Case(partial(read_artifacts, pattern=pattern), files // BATCH, BATCH)
    return found
