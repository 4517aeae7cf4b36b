"""What a run tells others that work on the same cache, and what it hears of them."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from split_matching.cache.keys import digest
from split_matching.cache.running import claim, other_code
from split_matching.pipeline.plan import Stage
from split_matching.pipeline.text import join_words


def claim_stages(stage: Stage) -> AbstractContextManager[None]:
    """Say during the block that this process makes or reads a stage and all that it needs; see `cache.running`."""
    members = stage.plan.closure(stage.name)
    folders = [path for member in members for path in (member.entry.folder, member.entry.partial)]
    return claim(stage.plan.root, folders, _code(stage))


def describe_other_code(stage: Stage) -> list[str]:
    """Return a warning for each other process that makes or reads one of these stages with other code."""
    commands = {member.entry.folder: member.command for member in stage.plan.closure(stage.name)}
    found: dict[str, list[str]] = {}
    for folder, who in other_code(stage.plan.root, _code(stage)).items():
        found.setdefault(who, []).append(commands[folder])
    return [
        f"warning: {who} works on {join_words(names)} with other code: each of the two runs makes stale what the other "
        "makes; end one of them, or give it a cache of its own: --artifacts DIR"
        for who, names in found.items()
    ]


def _code(stage: Stage) -> dict[Path, str]:
    return {member.entry.folder: digest(member.code) for member in stage.plan.closure(stage.name)}
