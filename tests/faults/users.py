"""One cache and two users: modes are what the umask says, and who may not read or write is told so in one line.

The first user is root; then the cache is given to somebody else, and the second user is root without his privileges, as
another one may not be allowed to read Python's own files.
"""

from __future__ import annotations

import os
import random
import stat
from functools import partial
from pathlib import Path

from tests.faults.rig import STAGES, Case, Ended, LeftOutError, Rig, crash_at_change, obey_permissions

SOMEBODY = 1234
UMASKS = (0o000, 0o002, 0o022, 0o027, 0o077)


def be_second(umask: int) -> None:
    """Be the second user, with a umask; leaves the process with 71 if that cannot be done."""
    os.umask(umask)
    if os.geteuid():
        os._exit(71)
    obey_permissions()


def give_away(root: Path) -> None:
    """Give a cache to somebody else."""
    for path in (root, *root.rglob("*")):
        os.chown(path, SOMEBODY, SOMEBODY, follow_symlinks=False)


def open_to_all(root: Path) -> None:
    """Let everybody read and write a cache."""
    for path in (root, *root.rglob("*")):
        path.chmod(0o777 if path.is_dir() else 0o666)


def second_reader(rig: Rig, rng: random.Random) -> str | None:
    """Make a stage under a umask; another user reads it, or is told in one line why not."""
    stage, umask = rng.choice(list(STAGES)[1:]), rng.choice(UMASKS)
    root = rig.cache(stage)
    open_to_all(root)
    first = rig.run(STAGES[stage], root, before=partial(os.umask, umask))
    problem = f"ended with {first.code}: {first.last}" if first.code else wrong_modes(root, stage, umask)
    give_away(root)
    for verb in ("verify", STAGES[stage]):
        ended = rig.run(verb, root, before=partial(be_second, umask))
        if ended.code == 71:
            raise LeftOutError("this process cannot become another user")
        if umask & 0o004:
            problem = problem or (not_told(ended) if verb == "verify" else refused(ended))
        elif ended.code:
            problem = problem or f"{verb} ended with {ended.code}: {ended.last}"
    problem = problem or rig.finish("Report", root)
    rig.drop(root)
    return f"umask {umask:03o}, {stage}: {problem}" if problem else ""


def second_writer(rig: Rig, rng: random.Random) -> str | None:
    """Another user goes on where the first was killed, if the umask lets him; else one line says why not."""
    stage, umask = rng.choice(("features", "pseudo_masks", "regions", "train")), rng.choice(UMASKS)
    rig.measure(stage, STAGES[stage])
    root = rig.cache(stage)
    open_to_all(root)

    def begin() -> None:
        os.umask(umask)
        crash_at_change(root, rng.randint(2, rig.changes[stage]))

    rig.run(STAGES[stage], root, before=begin)
    give_away(root)
    ended = rig.run(STAGES[stage], root, before=partial(be_second, umask))
    if ended.code == 71:
        raise LeftOutError("this process cannot become another user")
    problem = ""
    if ended.code:
        problem = f"ended with {ended.code}: {ended.last}" if umask == 0 else refused(ended)
    problem = problem or rig.finish(STAGES[stage], root)
    rig.drop(root)
    return f"umask {umask:03o}, {stage}: {problem}" if problem else ""


def wrong_modes(root: Path, stage: str, umask: int) -> str:
    """Return the first path of a stage that has not the mode of a new file or folder under the umask."""
    for path in (root / "shapes" / stage).rglob("*"):
        wanted = (0o777 if path.is_dir() else 0o666) & ~umask
        if (mode := stat.S_IMODE(path.stat().st_mode)) != wanted:
            return f"{path.name} has mode {mode:o}, expected {wanted:o}"
    return ""


def refused(ended: Ended) -> str:
    """Return what is wrong with how a run ended that may not read or write."""
    fine = ended.code in (1, 4) and ended.last.startswith("error: ") and "Traceback" not in ended.err
    return "" if fine and "permission" in ended.last else f"ended with {ended.code}: {ended.last}"


def not_told(ended: Ended) -> str:
    """Return what is wrong with how `verify` ended, which says what it may not read among its lines."""
    told = ended.code == 1 and "permission denied" in ended.out and not ended.err
    return "" if told else f"verify ended with {ended.code}: {ended.out}{ended.err}"


def cases(short: bool) -> dict[str, Case]:
    """A reader and a writer."""
    found = {"another user reads, five umasks": Case(second_reader, 1 if short else 40)}
    if not short:
        found["another user goes on after a kill, five umasks"] = Case(second_writer, 40)
    return found
