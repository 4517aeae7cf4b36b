"""Errors of system calls, and kills at them: write, fsync and rename, in Python and in the libraries below it."""

from __future__ import annotations

import errno
import random
import signal
from functools import partial

from tests.faults.intercept import GROUPS, Fault, intercept
from tests.faults.rig import STAGES, Case, Ended, LeftOutError, Rig, contents

ERRORS = {"EIO": errno.EIO, "ENOSPC": errno.ENOSPC, "EINTR": errno.EINTR, "kill": 0}
_calls: dict[tuple[str, str], int] = {}


def count_calls(rig: Rig, stage: str, group: str) -> int:
    """Return how many calls of a group a stage makes on the cache."""
    if (stage, group) not in _calls:
        root, log = rig.cache(stage), rig.folder / "calls"
        ended = rig.run(STAGES[stage], root, before=partial(intercept, Fault(root, group, 0, 0, False, log)))
        if ended.code == 71:
            raise LeftOutError("system calls cannot be intercepted here")
        assert ended.code == 0, ended.err
        _calls[stage, group] = len(log.read_bytes())
        log.unlink()
        rig.drop(root)
    return _calls[stage, group]


def fail_call(rig: Rig, rng: random.Random, group: str, word: str, stages: tuple[str, ...]) -> str | None:
    """Let one call of a stage, or all from one on, end with an error or with the process."""
    stage = rng.choice(stages)
    number, lasting = rng.randint(1, max(1, count_calls(rig, stage, group))), word == "ENOSPC" and rng.random() < 0.5
    root, log = rig.cache(stage), rig.folder / "calls"
    fault = Fault(root, group, number, ERRORS[word], lasting, log)
    ended = rig.run(STAGES[stage], root, before=partial(intercept, fault))
    struck = log.exists() and b"!" in log.read_bytes()
    log.unlink(missing_ok=True)
    problem = judge(ended, word) if ended.code else rig.compare(root)
    if not problem and ended.code and half_there(rig, root, stage):
        problem = "half an artifact is there"
    problem = problem or rig.finish(STAGES[stage], root)
    rig.drop(root)
    return f"{stage}, call {number}: {problem}" if problem else "" if struck else None


def judge(ended: Ended, word: str) -> str:
    """Return what is wrong with the end of a run that failed: it is one line, or a kill."""
    if word == "kill" and ended.code == -signal.SIGKILL:
        return ""
    bug = any(words in ended.err for words in ("Traceback", "rerun with --debug", "Error: "))
    if ended.code == 1 and ended.last.startswith("error: ") and not bug:
        return ""
    return f"ended with {ended.code}: {ended.last}"


def half_there(rig: Rig, root: object, stage: str) -> bool:
    """Whether some and not all files of the stage's artifact are there."""
    own = {path for path in rig.files if path.parts[1] == stage}
    found = contents(root).keys() & own  # type: ignore[arg-type]
    return bool(found) and found != own


def cases(short: bool) -> dict[str, Case]:
    """Each error at each group of calls."""
    stages = ("shapes", "text") if short else ("shapes", "dataset", "text", "features", "pseudo_masks", "train")
    pairs = [(group, word) for group in GROUPS for word in ERRORS]
    if short:
        pairs = [("write", "ENOSPC"), ("fsync", "EIO"), ("rename", "kill")]
    return {
        f"{word} at {group}": Case(partial(fail_call, group=group, word=word, stages=stages), 1 if short else 30)
        for group, word in pairs
    }
