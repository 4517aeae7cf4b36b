"""The stages of one config: what each declares, and what follows from that without running anything.

A subclass of `Stage` in `pipeline.stages` declares a stage: its module, what it may read of the config, what it builds
on. From these follow its key, its code, and its place and state in the cache. A `Plan` holds the stages of one config.
No luigi and no torch here, so that `status` and `plan` answer at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

from split_matching.cache.artifact import Artifact
from split_matching.cache.code import CODE_FOLDER, code_of, import_code
from split_matching.cache.entry import Entry, Recipe, State
from split_matching.cache.keys import digest, file_sha256
from split_matching.configs.schema import Config
from split_matching.configs.slices import Slice, build_slice
from split_matching.errors import ConfigError, CorruptError, DataError, UserError
from split_matching.pipeline.outside import Outside
from split_matching.pipeline.shards import ShardCutter
from split_matching.pipeline.text import NO_VALIDATION, WAIT
from split_matching.stages.data.source import layout_module
from split_matching.stages.ground.context import Shard

Files = tuple[str, ...]
RAW_SIZES, RAW_TIMES = "raw files", "times of raw files"
"""Inputs of PrepareDataset. If the times alone differ, `run.launch` compares contents before anything reruns."""


class Stage:
    """One stage of one config; a subclass declares it, and `Plan` makes it.

    A subclass gives values to the attributes, or defines properties of the same names where the config decides.

    Args:
        plan: the other stages of the config.
    """

    name: ClassVar[str]
    """Name of its folder in the cache, and of its artifact among the inputs of other stages."""

    makes: ClassVar[str]
    """What it makes, in one line for the help."""

    version: ClassVar[int] = 1
    """Raised by hand when the meaning of the result changes although the text of the code does not say so."""

    unit: ClassVar[str] = "images"
    """What its progress counts."""

    output: ClassVar[str] = ""
    """The file to name at the end; "" for the folder."""

    on_device: ClassVar[bool] = True
    """Whether it, or a stage that it needs, computes on `runtime.device`."""

    resumes: ClassVar[bool] = False
    """Whether it resumes from its own files of an interrupted run."""

    absent: ClassVar[str] = "it renders nothing"
    """Why a config may not have it."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.config = plan.config

    # --- what a stage declares

    @classmethod
    def exists(cls, config: Config) -> bool:
        """Whether a config has this stage."""
        return True

    @property
    def module(self) -> str:
        """The module that does the work, by its dotted name; what it must have says `stages.ground.protocol`."""
        raise NotImplementedError(f"{self.command} declares no module")

    @property
    def chosen(self) -> tuple[str, ...]:
        """Modules that the config chooses by name: their code makes the result as well. Here the data layout."""
        return (layout_module(self.config.data.layout),) if {"data", "data.layout"} & set(self.reads) else ()

    @property
    def files(self) -> tuple[Path, ...]:
        """Files of the project other than Python that make the result as well: here an architecture of CLIP."""
        architecture = CODE_FOLDER / "configs" / "clip" / f"{self.config.clip.model}.json"
        return (architecture,) if "clip.model" in self.reads and architecture.is_file() else ()

    @property
    def reads(self) -> tuple[str, ...]:
        """What it reads of the config: sections, fields and virtual values, see `configs.slices`."""
        return ()

    @property
    def builds_on(self) -> Mapping[str, Files]:
        """For each stage that it builds on, the files and splits that it reads; () for everything."""
        return {}

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that it makes shards of; () if it is not sharded."""
        return ()

    def remarks(self, summary: Mapping[str, Any]) -> list[str]:
        """Return lines to print about a result that was made: its numbers are those of the manifest."""
        return []

    # --- what follows from it

    @property
    def command(self) -> str:
        """Its name on the command line: that of the class."""
        return type(self).__name__

    @cached_property
    def upstream(self) -> dict[str, Files]:
        """What it builds on of the stages that the config has."""
        found = {name: files for name, files in self.builds_on.items() if name in self.plan.stages}
        if "clip.identity" in self.reads and self.config.clip.weights == "pretrain":
            found["pretrain"] = ("clip.safetensors",)
        return found

    @cached_property
    def slice(self) -> Slice:
        """The part of the config that it declared."""
        identities = {}
        if "clip.identity" in self.reads:
            identities["clip.identity"] = self.plan.clip_identity
        if "evaluate.identity" in self.reads:
            identities["evaluate.identity"] = self.plan.outside.decoder_identity
        return build_slice(self.config, tuple(dict.fromkeys(self.reads)), identities)

    @cached_property
    def key(self) -> str:
        """The key of its result: 64 hex digits.

        Raises:
            DataError: the raw files or the weights that it depends on are not there.
        """
        return digest(
            {
                "stage": self.command,
                "version": self.version,
                "config": self.slice.key_values(),
                "data": self.plan.outside.raw_ids if self.reads_raw_files else "",
                "upstream": {name: self.plan[name].key for name in self.upstream},
            }
        )

    @cached_property
    def code(self) -> dict[str, str]:
        """Fingerprints of all files of the project that make its result, by path."""
        found = {name: of for module in (self.module, *self.chosen) for name, of in code_of(module).items()}
        found.update({path.relative_to(CODE_FOLDER).as_posix(): file_sha256(path) for path in self.files})
        return dict(sorted(found.items()))

    @property
    def recipe(self) -> Recipe:
        """What its artifact is to be made of now; inputs that are not there have the digest ""."""
        inputs: dict[str, str] = {}
        if self.reads_raw_files:
            fingerprint = self.plan.outside.raw_fingerprint
            inputs[RAW_SIZES], inputs[RAW_TIMES] = fingerprint.sizes, fingerprint.times
        for name, files in self.upstream.items():
            for file in files or ("",):
                inputs[f"{name}/{file}".rstrip("/")] = self.plan[name].content_of(file)
        upstream = {name: self.plan[name].key for name in self.upstream}
        return Recipe(self.command, self.version, self.slice.recorded_values(), self.code, inputs, upstream)

    @property
    def reads_raw_files(self) -> bool:
        """Whether its input is a data set on disk that the pipeline did not render."""
        return self.name == "dataset" and "shapes" not in self.plan.stages

    def import_module(self) -> ModuleType:
        """Import what does the work.

        Raises:
            UserError: its code was edited after the fingerprint was taken.
        """
        _ = self.code
        for module in self.chosen:
            import_code(module)
        return import_code(self.module)

    def check_files(self) -> None:
        """See that its files other than Python, which are read while it runs, are still those of its code.

        Raises:
            UserError: one was edited meanwhile.
        """
        for path in self.files:
            name = path.relative_to(CODE_FOLDER).as_posix()
            if file_sha256(path) != self.code[name]:
                raise UserError(f"{name} was edited while {self.command} ran: run it again")

    # --- its place in the cache

    @property
    def entry(self) -> Entry:
        """Its place in the cache."""
        return Entry(self.plan.root, self.config.dataset, self.name, self.key)

    @property
    def result(self) -> Path:
        """The file or folder to name at the end, there or not."""
        return self.entry.folder / self.output

    def artifact(self) -> Artifact:
        """Return its artifact as it is, fresh or not.

        Raises:
            CorruptError: there is none, or its manifest is damaged.
        """
        return self.entry.artifact()

    def content_of(self, file: str) -> str:
        """Return the digest of a file or split of its artifact, of everything for ""; "" if there is none."""
        try:
            return self.artifact().content_of((file,) if file else ())
        except CorruptError:
            return ""

    @property
    def own_state(self) -> State:
        """Its state against its present inputs, whether these are fresh or not."""
        state = self.entry.state(self.recipe)
        superseded = state.artifact is not None and state.artifact.manifest["digest"] == self.plan.supersedes
        if self.name == self.plan.force and state.fresh and superseded:
            return replace(state, name="stale", reasons=("--force",))
        return state

    @property
    def state(self) -> State:
        """Its state, with everything upstream: fresh only if all of that is."""
        return self.plan.states([self.name])[self.name]

    @property
    def force(self) -> str:
        """The digest of the manifest that is to be superseded, if it is made again by force; else ""."""
        return self.plan.supersedes if self.plan.force == self.name else ""

    # --- what its function is given

    def inputs(self) -> dict[str, Artifact]:
        """Return the upstream artifacts, each limited to what the stage declared.

        Raises:
            CorruptError: one is missing or damaged.
            DataError: a trial on some images has none of the split that the stage reads.
        """
        found = {}
        for name, files in self.upstream.items():
            artifact = self.plan[name].artifact()
            if self.config.data.images and "val" in files and "val" not in artifact.manifest["content"]:
                raise DataError(NO_VALIDATION)
            found[name] = artifact.restrict(files)
        return found

    @property
    def data_root(self) -> Path:
        """Folder of the raw files for a stage that may read them, else an empty path.

        Raises:
            CorruptError: the pipeline rendered them, and they are not as they were written.
        """
        if self.name != "dataset" and "dataset" not in self.upstream:
            return Path()
        return self.plan.rendered if "shapes" in self.plan.stages else self.config.data.root or Path()

    @property
    def shard_size(self) -> int:
        """Images of a shard: as in what the next run continues from, else `runtime.shard_size`."""
        cuts = self.entry.cuts(self.recipe, self.force)
        return self.plan.cutter.size_of(self.plan["dataset"].artifact(), self.splits, cuts)

    def shards(self, size: int = 0) -> tuple[Shard, ...]:
        """Return its shards (of `size`, or the present one); () if unsharded. Needs the artifact of PrepareDataset."""
        if not self.splits:
            return ()
        return self.plan.cutter.cut(self.plan["dataset"].artifact(), self.splits, size or self.shard_size)

    def shard_digests(self) -> dict[str, list[str]]:
        """Return the shards as the cache records them: for every split one digest of the ids of each shard."""
        if not self.splits:
            return {}
        return self.plan.cutter.digests(self.plan["dataset"].artifact(), self.splits, self.shard_size)


class Plan:
    """The stages of one config. Reads the cache, never writes.

    `plan["features"]` is a stage by its name, `plan.stage("ExtractFeatures")` by its command. Config,
    code and raw files are taken to stay the same for the life of a plan; artifacts are not.

    Args:
        config: the resolved config.
        table: all stages, those that others build on first.
        force: name of the stage to make again though fresh; "" for none.
        supersedes: digest of the manifest that is then to be superseded, so that all processes that were started to do
            so agree, and stop when one has done it.
    """

    def __init__(self, config: Config, table: Sequence[type[Stage]], force: str = "", supersedes: str = "") -> None:
        self.config = config
        self.table = table
        self.force = force
        self.supersedes = supersedes
        self.root = config.runtime.artifacts
        self.stages: Mapping[str, Stage] = {s.name: s(self) for s in table if s.exists(config)}
        self.cutter = ShardCutter(config.runtime.shard_size)
        self.outside = Outside(config)

    def __getitem__(self, name: str) -> Stage:
        return self.stages[name]

    def stage(self, command: str) -> Stage:
        """Return the stage of a command.

        Raises:
            ConfigError: this config has no such stage.
        """
        for stage in self.stages.values():
            if stage.command == command:
                return stage
        absent = next(kind.absent for kind in self.table if kind.__name__ == command)
        raise ConfigError(f"{command} does not exist for dataset {self.config.dataset}: {absent}")

    def closure(self, name: str) -> list[Stage]:
        """Return a stage and all that it builds on, upstream first."""
        wanted = {name}
        for stage in reversed(list(self.stages.values())):
            if stage.name in wanted:
                wanted.update(stage.upstream)
        return [stage for stage in self.stages.values() if stage.name in wanted]

    def states(self, names: Sequence[str] | None = None) -> dict[str, State]:
        """Return the states of stages and of all upstream of them; a stage is fresh only if everything upstream is.

        Args:
            names: the stages; None for all, and then a stage whose key cannot be told (its raw files or weights are
                not there) is "missing" with that as its reason, and one whose folder cannot be read "unreadable".
        """
        found: dict[str, State] = {}
        wanted = {stage.name for name in (self.stages if names is None else names) for stage in self.closure(name)}
        for name, stage in self.stages.items():
            if name not in wanted:
                continue
            try:
                state = stage.own_state
            except UserError as error:
                if names is not None:
                    raise
                later = tuple(f"{WAIT}{self[up].command}" for up in stage.upstream if found[up].name == "unreadable")
                known = isinstance(error, ConfigError | DataError)  # else an error of the disk
                found[name] = State("missing" if known else "unreadable", later or (str(error),))
                continue
            if waits := [f"{WAIT}{self[up].command}" for up in stage.upstream if not found[up].fresh]:
                late = state.name in ("fresh", "stale")
                # that an input does not exist yet is said by the wait already
                own = [reason for reason in state.reasons if not (late and reason.startswith("input "))]
                state = replace(state, name="stale" if late else state.name, reasons=(*own, *waits))
            found[name] = state
        return found

    def superseding(self, name: str) -> Plan:
        """Return this plan with a stage to be made again in place of the artifact that is there now."""
        try:
            supersedes = str(self[name].artifact().manifest["digest"])
        except CorruptError:
            supersedes = "none"
        return Plan(self.config, self.table, name, supersedes)

    # --- what enters keys from outside of the cache

    @cached_property
    def clip_identity(self) -> str:
        """Which weights CLIP has, whatever they are called."""
        if self.config.clip.weights == "pretrain":
            return f"pretrain:{self['pretrain'].key}"
        return self.outside.clip_identity

    @cached_property
    def rendered(self) -> Path:
        """The folder of the rendered data set.

        Raises:
            CorruptError: a file of it is not as it was written.
        """
        artifact = self["shapes"].artifact()
        if damaged := artifact.damaged_files():
            paths = [artifact.path / name for name in damaged]
            raise CorruptError(f"{paths[0]} is missing or altered: run RenderShapes again", *paths)
        return artifact.path
