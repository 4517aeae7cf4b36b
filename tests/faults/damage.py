"""Damage: files of a cache that are cut or have another bit."""

from __future__ import annotations

import random
from functools import partial
from pathlib import Path

from tests.faults.rig import STAGES, Case, Rig, crash_at_change, made


def spoil(path: Path, rng: random.Random) -> str:
    """Flip one bit of a file, or cut it off somewhere; returns what was done."""
    data = path.read_bytes()
    if rng.random() < 0.5:
        size = rng.randrange(len(data))
        path.write_bytes(data[:size])
        return f"cut to {size} of {len(data)} bytes"
    place = rng.randrange(len(data))
    path.write_bytes(data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1 :])
    return f"flipped byte {place} of {len(data)}"


def by_kind(paths: list[Path], rng: random.Random) -> Path:
    """Choose a file, all kinds alike: stage and ending."""
    kinds = sorted({(path.parts[1], path.suffix) for path in paths})
    kind = rng.choice(kinds)
    return rng.choice(sorted(path for path in paths if (path.parts[1], path.suffix) == kind))


def damage_verified(rig: Rig, rng: random.Random) -> str:
    """Damage a file; `verify` names it and sets it aside, and the next run makes that shard again, or that stage."""
    root, path = rig.cache(), by_kind(list(rig.files), rng)
    what = f"{path} {spoil(root / path, rng)}"
    found = rig.run("verify", root)
    problem = (
        "" if found.code == 4 and str(path) in found.out else f"verify ended with {found.code}: {found.out[-200:]}"
    )
    problem = problem or rig.finish("Report", root)
    again = [line.split()[1] for line in made(root) if line.startswith("shard")]
    if path.suffix == ".h5" and path.parts[1] != "evaluate" and again != [f"{path.parts[1]}/{path.name}"]:
        problem = problem or f"shards made again: {again}"
    again_stages = {line.split("/")[0] for line in again}
    if again_stages - {path.parts[1]}:
        problem = problem or f"shards made again: {again}"
    rig.drop(root)
    return f"{what}: {problem}" if problem else ""


def damage_read(rig: Rig, rng: random.Random) -> str:
    """Damage a file that the next stages read, and just run: it is found on reading, or did not matter."""
    order = [stage for stage, _ in sorted(rig.stages, key=lambda stage: list(STAGES).index(stage[0]))]
    paths = [path for path in rig.files if path.parts[1] != "report"]
    path = by_kind(paths, rng)
    root = rig.cache(*order[order.index(path.parts[1]) + 1 :])
    what = f"{path} {spoil(root / path, rng)}"
    problem = rig.finish("Report", root, but=path)
    if not problem and (root / path).read_bytes() != rig.files[path]:
        # nobody read those bytes, and nothing made from them differs; whoever asks is told all the same
        found = rig.run("verify", root)
        if found.code != 4 or str(path) not in found.out:
            problem = f"verify ended with {found.code}: {found.out[-200:]}"
        problem = problem or rig.finish("Report", root)
    rig.drop(root)
    return f"{what}: {problem}" if problem else ""


def damage_build(rig: Rig, rng: random.Random) -> str | None:
    """Kill a stage, and damage a file of what it left: the next run goes on without it."""
    stage, command = rng.choice(
        [stage for stage in rig.stages if stage[0] in ("features", "pseudo_masks", "regions", "train")]
    )
    rig.measure(stage, command)
    root = rig.cache(stage)
    number = rng.randint(rig.changes[stage] // 3, rig.changes[stage])
    rig.start(command, root, before=partial(crash_at_change, root, number)).wait()
    left = [path for path in root.glob(f"shapes/{stage}/*.partial/*") if path.stat().st_size]
    if not left:
        rig.drop(root)
        return None
    path = rng.choice(sorted(left))
    what = f"{path.name} of {stage} {spoil(path, rng)}"
    # what nobody has read yet is read now
    problem = rig.finish("Report" if rng.random() < 0.5 else command, root)
    if problem:
        rig.run("verify", root)
        problem = rig.finish("Report", root)
    rig.drop(root)
    return f"{what}: {problem}" if problem else ""


def cases(short: bool) -> dict[str, Case]:
    """Damage that `verify` finds, that a reader finds, and that a resumed run finds."""
    return {
        "damage, then verify": Case(damage_verified, 1 if short else 200),
        "damage, then a run that reads it": Case(damage_read, 1 if short else 100),
        "damage to an unfinished stage": Case(damage_build, 1 if short else 60),
    }
