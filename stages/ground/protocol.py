"""What a stage's module has: all that the pipeline asks of it, as types.

A stage is a plain module. One that works on the data set as a whole has a function `run`; one that is split into shards
has `KIND`, `fields` and `run_shard`. Nothing is inherited or registered here: the table of stages names the module.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from split_matching.stages.ground.context import Shard, StageContext

if TYPE_CHECKING:  # `status` and `plan` do without HDF5
    from split_matching.cache.shard_format import Field
    from split_matching.cache.shard_writer import ShardWriter

Summary = Mapping[str, Any]
"""A few numbers about a result, kept in its manifest as JSON; `images` counts what was worked on."""


@runtime_checkable
class StageModule(Protocol):
    """A module that makes its whole artifact in one go, such as `stages.training.train`."""

    def run(self, ctx: StageContext) -> Summary | None:
        """Write files into `ctx.out`; report with `ctx.progress(done, total)`.

        Args:
            ctx: see StageContext. `ctx.out` is empty, or holds what an interrupted run left if the stage resumes.

        Returns:
            Numbers for the manifest.

        Raises:
            UserError: what went wrong, with a remedy.
        """


@runtime_checkable
class ShardedStageModule(Protocol):
    """A module that makes one shard at a time, in several processes at once, such as `stages.candidates.features`.

    It may have a function `summarise(shards: ShardSet) -> Summary` besides: numbers for the manifest, from all shards
    of its first split.

    Attributes:
        KIND: what the shards hold; written into each file.
    """

    KIND: str

    def fields(self, config: Any) -> Mapping[str, Field]:
        """Return the arrays of an image by name: type, dimensions and compression of each.

        Args:
            config: the part of the config that the stage declared, as `ctx.config`.
        """

    def run_shard(self, ctx: StageContext, shard: Shard, writer: ShardWriter) -> None:
        """Call `writer.add(image_id, **arrays)` for each image of a shard, in the order of `shard.ids`.

        Args:
            ctx: see StageContext; `ctx.progress(done, total)` counts the images of this shard.
            shard: which images.
            writer: takes the arrays; opened, checked and closed by the caller.

        Raises:
            UserError: what went wrong, with a remedy.
        """
