"""The stages as luigi tasks: a class for each, made from its declaration in `pipeline.stages`.

    luigi --module split_matching.pipeline.run.tasks Evaluate --dataset shapes --local-scheduler

The output of a task is a target that exists if the stage's artifact is fresh, so luigi decides the order and forks the
workers, and the cache alone decides whether something is to be done. The shards of a stage are dynamic dependencies:
they are known when all that the stage reads is fresh.

A task's id holds `job`, a digest of the cache, keys, code and shards: at a scheduler that several processes share, two
tasks with one id may be done by either process. Config is no part of the id, for its runtime settings may differ.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import luigi

from split_matching.cache.keys import digest
from split_matching.configs.load import load_config
from split_matching.pipeline.plan import Stage
from split_matching.pipeline.run import session
from split_matching.pipeline.run.work import is_made, make_artifact, make_shard
from split_matching.pipeline.stages import STAGES
from split_matching.stages.ground.context import Shard


class FreshArtifact(luigi.Target):
    """The artifact of a stage; exists if it and everything upstream is fresh."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage

    @property
    def path(self) -> Path:
        """The file or folder to name at the end."""
        return self.stage.result

    def exists(self) -> bool:
        """Ask the cache; changes nothing."""
        with session.record_failures(self.stage.command):
            return self.stage.state.fresh


class FinishedShard(luigi.Target):
    """A shard of a stage; exists if it is finished, in the build in progress or in a fresh artifact."""

    def __init__(self, stage: Stage, shard: Shard) -> None:
        self.stage, self.shard = stage, shard

    def exists(self) -> bool:
        """Ask the cache; changes nothing."""
        return is_made(self.stage, self.shard)


class StageTask(luigi.Task):
    """A stage of one config. Subclasses have the stage's name and no code."""

    dataset = luigi.Parameter(default="shapes", description="as --dataset of run_pipeline.py")
    settings = luigi.ListParameter(default=(), description='as --set, e.g. ["train.steps=300"]')
    config = luigi.Parameter(default="", significant=False, description="the resolved config as JSON, instead")
    job = luigi.Parameter(default="", description="what is to be made; filled in for tasks that others require")

    @property
    def stage(self) -> Stage:
        """The stage."""
        config = self.config or load_config(self.dataset, (), self.settings).model_dump_json()
        return session.plan_of(config).stage(type(self).__name__)

    def requires(self) -> list[luigi.Task]:
        """The stages that it builds on."""
        with session.record_failures(type(self).__name__):
            return [task_of(self.stage.plan[name]) for name in self.stage.upstream]

    def output(self) -> FreshArtifact:
        """The artifact, as a target."""
        return FreshArtifact(self.stage)

    def run(self) -> Iterator[list[luigi.Task]]:
        """Make the artifact, after its shards if the stage has some."""
        with session.record_failures(self.stage.command):
            session.settle_into_process()
            if self.stage.splits and not self.stage.own_state.fresh:
                yield shard_tasks(self.stage)
            make_artifact(self.stage)


class ShardTask(luigi.Task):
    """One shard of one stage."""

    dataset = luigi.Parameter()
    command = luigi.Parameter()
    job = luigi.Parameter()
    split = luigi.Parameter()
    index = luigi.IntParameter()
    size = luigi.IntParameter()
    priority = luigi.IntParameter(significant=False)  # luigi takes the largest first
    config = luigi.Parameter(significant=False)

    @property
    def stage(self) -> Stage:
        """The stage that the shard is of."""
        return session.plan_of(self.config).stage(self.command)

    @property
    def shard(self) -> Shard:
        """Which images."""
        return next(s for s in self.stage.shards(self.size) if (s.split, s.index) == (self.split, self.index))

    def output(self) -> FinishedShard:
        """The shard, as a target."""
        return FinishedShard(self.stage, self.shard)

    def run(self) -> None:
        """Make the shard unless it is finished."""
        with session.record_failures(self.command):
            session.settle_into_process()
            make_shard(self.stage, self.shard)


@cache
def task_class(command: str) -> type[StageTask]:
    """Return the luigi task of a stage."""
    return type(command, (StageTask,), {"__module__": __name__, "__doc__": f"The stage {command}."})


def task_of(stage: Stage) -> StageTask:
    """Return the task of a stage of one config."""
    config = stage.config.model_dump_json()
    return task_class(stage.command)(dataset=stage.config.dataset, config=config, job=job_of(stage))


def job_of(stage: Stage) -> str:
    """Return a digest that is the same in two processes if either may do this stage for the other.

    It is over the cache's folder, and the keys, code and shards of the stage and of everything upstream.
    """
    closure = stage.plan.closure(stage.name)
    parts = {
        "cache": str(stage.plan.root.resolve()),
        "shard_size": stage.config.runtime.shard_size,
        "force": stage.plan.supersedes if stage.plan.force in [member.name for member in closure] else "",
        "stages": {member.name: [member.key, member.code] for member in closure},
    }
    return digest(parts)


def shard_tasks(stage: Stage) -> list[luigi.Task]:
    """Return the tasks of a stage's shards. Needs all that the stage reads to be fresh."""
    config, size = stage.config.model_dump_json(), stage.shard_size
    shards, job = stage.shards(size), job_of(stage)
    return [
        ShardTask(
            dataset=stage.config.dataset,
            command=stage.command,
            job=job,
            split=shard.split,
            index=shard.index,
            size=size,
            priority=len(shards) - slot,
            config=config,
        )
        for slot, shard in enumerate(shards)
    ]


globals().update({stage.__name__: task_class(stage.__name__) for stage in STAGES})  # found by `luigi --module`
