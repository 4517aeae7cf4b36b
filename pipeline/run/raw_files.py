"""Raw files that were copied or touched are read before a run: they may still be those that PrepareDataset read."""

from __future__ import annotations

import contextlib

from split_matching.cache.accept import accept_input
from split_matching.errors import UserError
from split_matching.pipeline.plan import RAW_TIMES, Plan, Stage
from split_matching.pipeline.run.progress import ProgressDisplay


def compare_raw_files(stage: Stage, quiet: bool = False) -> None:
    """Read raw files that were copied or touched, and remember if they are the ones that PrepareDataset read.

    A trial on some images does without: it is made again as quickly.

    Args:
        stage: the wanted stage.
        quiet: show no progress.
    """
    plan = stage.plan
    member = next((s for s in plan.closure(stage.name) if s.name == "dataset"), None)
    if member is None or plan.config.data.images or not (times := _touched_times(plan)):
        return
    from split_matching.stages.data.prepare import RAW, digest_raw_files

    artifact = member.artifact()
    display = ProgressDisplay([member.command], [member.unit], quiet=quiet)
    display.say(f"{member.command}: raw files have other times than before; comparing their contents")
    display.start(member.command)
    with contextlib.suppress(UserError):  # a missing or damaged file is for PrepareDataset to name
        before = artifact.json(RAW)["sha256"]
        content = digest_raw_files(plan.outside.source, display.counter(member.command), plan.config.runtime.threads)
        if content == before:
            accept_input(artifact, RAW_TIMES, times)
    display.clear()


def _touched_times(plan: Plan) -> str:
    """Return the present times of the raw files if PrepareDataset is stale for these alone, else "".

    A copy of a data set has other times, and so has a file that was replaced by one of the same size.
    """
    state = plan["dataset"].own_state
    alone = state.name == "stale" and state.reasons == (f"input {RAW_TIMES} changed",)
    return plan.outside.raw_fingerprint.times if alone else ""
