"""Room and permissions: full, limited and read-only disks, and things in the way."""

from __future__ import annotations

import ctypes
import json
import os
import random
import resource
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.faults.kills import of_pretraining
from tests.faults.rig import STAGES, Case, LeftOutError, Rig, contents, obey_permissions, one_line

CLONE_NEWNS, MS_RDONLY, MS_REMOUNT, MS_REC, MS_PRIVATE = 0x20000, 1, 32, 16384, 1 << 18


def full_disk(rig: Rig, rng: random.Random, stage: str, command: str) -> str | None:
    """Let no file grow beyond a size: that of some output, or half of it, or nothing."""
    sizes = [len(data) for path, data in rig.files.items() if path.parts[1] == stage]
    limit = rng.choice([0, 64, *(size // 2 for size in sizes), *(size - 1 for size in sizes)])
    root = rig.cache(stage)
    ended = rig.run(command, root, before=partial(_limit_files, limit))
    problem = one_line(ended, ("file too large",)) if ended.code else ""
    if not problem and ended.code and contents(root).keys() & {p for p in rig.files if p.parts[1] == stage}:
        problem = "half an artifact is there"
    problem = problem or rig.finish(command, root)
    rig.drop(root)
    return problem if ended.code or problem else None


def _limit_files(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def full_file_system(rig: Rig, rng: random.Random, stage: str, command: str) -> str | None:
    """Give a stage a small file system of its own, with room for a part of what it writes."""
    size = sum(len(data) + 4096 for path, data in rig.files.items() if path.parts[1] == stage)

    def fill() -> str | None:
        root = rig.empty()
        root.mkdir()
        mount("tmpfs", root, "tmpfs", 0, "size=256m")
        shutil.copytree(rig.base, root, dirs_exist_ok=True)
        shutil.rmtree(root / "shapes" / stage)
        used = shutil.disk_usage(root).used
        mount("tmpfs", root, "tmpfs", MS_REMOUNT, f"size={used + rng.randrange(4096, size + 8192)}")
        ended = rig.run(command, root)
        problem = one_line(ended, ("no space left",)) if ended.code else ""
        mount("tmpfs", root, "tmpfs", MS_REMOUNT, "size=256m")
        problem = problem or rig.finish(command, root)
        return problem if ended.code or problem else None

    return in_own_mounts(fill)


def read_only_mount(rig: Rig, rng: random.Random) -> str | None:
    """Put the cache on a file system that is mounted read-only."""
    stage, command = rng.choice(rig.stages)
    whole, lacking = rig.cache(), rig.cache(stage)

    def look() -> str:
        for root in (whole, lacking):
            mount(str(root), root, "", 4096)
            mount("", root, "", MS_REMOUNT | MS_RDONLY | 4096)
        return read_only(rig, whole, lacking, command, "read-only file system")

    problem = in_own_mounts(look) or rig.finish(command, lacking)
    for root in (whole, lacking):
        rig.drop(root)
    return problem


def read_only_modes(rig: Rig, rng: random.Random) -> str | None:
    """Take the right to write from all folders of the cache, and from root the right to write all the same."""
    stage, command = rng.choice(rig.stages)
    whole, lacking = rig.cache(), rig.cache(stage)
    for root in (whole, lacking):
        for path in (root, *root.rglob("*")):
            path.chmod(0o555 if path.is_dir() else 0o444)
    problem = read_only(rig, whole, lacking, command, "permission denied", obey_permissions)
    for root in (whole, lacking):
        for path in (root, *root.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
    problem = problem or rig.finish(command, lacking)
    for root in (whole, lacking):
        rig.drop(root)
    return problem


def read_only(
    rig: Rig, whole: Path, lacking: Path, command: str, reason: str, before: Callable[[], None] | None = None
) -> str:
    """Return what is wrong with how runs end in caches that cannot be written: one is whole, one lacks a stage."""
    ended = rig.run("Report", whole, before=before)
    if ended.code == 71:
        raise LeftOutError("permissions cannot be enforced here")
    problem = f"the whole one ended with {ended.code}: {ended.last}" if ended.code else rig.compare(whole)
    return problem or one_line(rig.run(command, lacking, before=before), (reason,))


def mount(source: str, target: Path, kind: str, flags: int, options: str = "") -> None:
    """Call mount(2)."""
    if ctypes.CDLL(None, use_errno=True).mount(
        *(os.fsencode(t) for t in (source, target, kind)), flags, options.encode()
    ):
        raise LeftOutError(f"no file system can be mounted here: {os.strerror(ctypes.get_errno())}")


def in_own_mounts(work: Callable[[], str | None]) -> str | None:
    """Do something in a process whose mounts nobody else sees; they vanish with it."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            if ctypes.CDLL(None).unshare(CLONE_NEWNS):
                raise LeftOutError("no mounts of its own for a process here")
            mount("none", Path("/"), "", MS_REC | MS_PRIVATE)
            answer = ["said", work()]
        except LeftOutError as error:
            answer = ["left out", str(error)]
        except Exception as error:
            answer = ["said", f"{type(error).__name__}: {error}"]
        os.write(writer, json.dumps(answer).encode())
        os._exit(0)
    os.close(writer)
    with open(reader, "rb") as stream:  # noqa: PTH123
        word, said = json.loads(stream.read())
    os.waitpid(pid, 0)
    if word == "left out":
        raise LeftOutError(said)
    return str(said) if said is not None else None


def obstacle(rig: Rig, rng: random.Random) -> str:
    """Put a folder where a file should be, or a file where a folder should be."""
    stage = rng.choice(rig.stages)[0]
    folder = next(path.parent for path in rig.files if path.parts[1] == stage and path.name == "manifest.json")
    partial_folder = folder.with_name(folder.name + ".partial")
    outputs = [path.relative_to(folder) for path in rig.files if path.is_relative_to(folder)]
    output = rng.choice(outputs)
    files = [Path(), Path("shapes"), Path("shapes") / stage, folder, partial_folder]
    folders = [folder / output, folder / "manifest.json", *(partial_folder / each for each in (output, "build.json"))]
    folders += [partial_folder / each for each in ("build.lock", "checkpoint.pt", "metrics.jsonl")]
    place = rng.choice(files + folders)
    root = rig.cache() if place == folder / output or place == folder / "manifest.json" else rig.cache(stage)
    path, aside = root / place, rig.empty()
    if place in files:
        if path.is_dir():
            path.rename(aside)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("in the way")
    else:
        path.unlink(missing_ok=True)
        path.mkdir(parents=True)
        (path / "something").write_text("in the way")
    what = f"{'file' if place in files else 'folder'} {place}"
    ended = rig.run("Report", root)
    refused = ("in the way", 1) if place != Path() else ("is no folder", 2)  # of --artifacts itself
    problem = one_line(ended, (refused[0],), refused[1]) if ended.code else rig.compare(root)
    if ended.code and not problem:
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        if aside.exists():
            aside.rename(path)
        problem = rig.finish("Report", root)
    shutil.rmtree(aside, ignore_errors=True)
    rig.drop(root)
    return f"{what}: {problem}" if problem else ""


def cases(short: bool) -> dict[str, Case]:
    """Every stage without room; caches that cannot be written."""
    many, few = (1, 1) if short else (20, 5)
    some = ("shapes", "features", "train") if short else tuple(STAGES)
    found = {
        f"file size limit in {STAGES[stage]}": Case(partial(full_disk, stage=stage, command=STAGES[stage]), many)
        for stage in some
    }
    if not short:
        found["file size limit in PretrainClip"] = Case(partial(of_pretraining, case=full_disk), many)
        found["full file system in PretrainClip"] = Case(partial(of_pretraining, case=full_file_system), few)
    for stage in ("features",) if short else tuple(STAGES):
        run = partial(full_file_system, stage=stage, command=STAGES[stage])
        found[f"full file system in {STAGES[stage]}"] = Case(run, many)
    found["read-only mount"] = Case(read_only_mount, few)
    found["read-only folders"] = Case(read_only_modes, few)
    found["folder for a file, file for a folder"] = Case(obstacle, 2 if short else 60)
    return found
