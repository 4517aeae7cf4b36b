"""Which stages there are, what each reads, and how each stands: all that is known without running anything.

The table below is the one declaration of a stage. From `reads` come the config slice that its function may look at and
its cache key; from `upstream` come the artifacts it is given and the content digests that decide whether it is fresh.
No luigi and no torch here, so that `status` and `plan` answer at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from split_matching.cache.keys import changed, digest, module_closure
from split_matching.cache.store import Artifact, Recipe, State, Store
from split_matching.configs.schema import Config, evaluates_images
from split_matching.configs.slices import Slice, build_slice
from split_matching.errors import ConfigError, CorruptError, DataError, UserError
from split_matching.pipeline.text import WAIT, describe_change, flatten
from split_matching.stages.data.source import layout_module, load_layout
from split_matching.stages.ground.context import Shard

Files = tuple[str, ...]

RAW_SIZES = "raw files"
RAW_TIMES = "times of raw files"
"""Inputs of PrepareDataset. If the times alone differ, `launch` compares contents before anything reruns."""


@dataclass(frozen=True)
class Stage:
    """One stage of the pipeline.

    Args:
        name: on the command line.
        slug: folder in the cache, and name among the inputs of other stages.
        version: raised by hand when the meaning of the output changes although the code's text does not say so.
        module: where its function `run` or `run_shard` is.
        makes: one line for the help.
        reads: config sections, fields and virtual values, see `configs.slices`.
        upstream: for each slug the files and splits that it reads; () for everything.
        sharded: the splits that it makes shards of; () if the stage is not sharded.
        resumes: whether it goes on from its own files of an interrupted run.
        output: the file to name at the end; "" for the folder.
        unit: what its progress counts.
        chosen: modules that the config chooses by name, such as a data layout: their code makes the result as well.
    """

    name: str
    slug: str
    version: int
    module: str
    makes: str
    reads: tuple[str, ...] = ()
    upstream: Mapping[str, Files] = field(default_factory=dict)
    sharded: tuple[str, ...] = ()
    resumes: bool = False
    output: str = ""
    unit: str = "images"
    chosen: tuple[str, ...] = ()


CLIP = ("clip.model", "clip.weights", "clip.quick_gelu", "clip.seed", "clip.precision", "clip.identity")
# what finding the raw files depends on; each layout adds fields of its own, see `stages.data.source.Layout`
IMAGES = "data.layout"
MASKS = "data.masks"
LISTS = "data.lists"
# read beside a stage's row of the table when it runs CLIP on images itself instead of reading cached features
ONLINE = (*CLIP, "features.size", "features.resize", IMAGES)

# what is otherwise where `features.persist` is false, see `stages.candidates.fused`
FUSED: Mapping[str, Mapping[str, Any]] = {
    "features": {"sharded": ("val",), "makes": "dense CLIP features of the validation images"},
    "pseudo_masks": {
        "module": "split_matching.stages.candidates.fused",
        "makes": "pseudo masks of the training images, with a CLIP embedding of each",
        "reads": (*CLIP, "features", "regions", "pseudo_masks", IMAGES, MASKS, "classes.seen_ids"),
        "upstream": {"dataset": ("images.json", "train.json")},
    },
    "regions": {"reads": (), "upstream": {"pseudo_masks": ("train",)}},
}

STAGES: tuple[Stage, ...] = (
    Stage(
        "RenderShapes",
        "shapes",
        1,
        "split_matching.stages.data.shapes",
        "the embedded data set: rendered scenes in the VOC layout",
        ("shapes",),
    ),
    Stage(
        "PretrainClip",
        "pretrain",
        1,
        "split_matching.stages.training.pretrain",
        "a small CLIP for the embedded data set",
        ("pretrain", "clip.model"),
        resumes=True,
        output="clip.safetensors",
        unit="steps",
    ),
    Stage(
        "PrepareDataset",
        "dataset",
        1,
        "split_matching.stages.data.prepare",
        "checked lists of images and labels",
        (LISTS, MASKS, "classes.ids"),
        {"shapes": ()},
    ),
    Stage(
        "EmbedText",
        "text",
        1,
        "split_matching.stages.training.text",
        "CLIP embeddings of the seen class names",
        (*CLIP, "text", "classes.seen"),
        unit="classes",
    ),
    Stage(
        "ExtractFeatures",
        "features",
        1,
        "split_matching.stages.candidates.features",
        "dense CLIP features of every image",
        (*CLIP, "features", IMAGES),
        {"dataset": ("images.json",)},
        sharded=("train", "val"),
    ),
    Stage(
        "ClusterPseudoMasks",
        "pseudo_masks",
        1,
        "split_matching.stages.candidates.pseudo_masks",
        "pseudo masks of the training images",
        ("pseudo_masks", MASKS, "classes.seen_ids"),
        {"dataset": ("train.json",), "features": ("train",)},
        sharded=("train",),
    ),
    Stage(
        "EmbedRegions",
        "regions",
        1,
        "split_matching.stages.candidates.regions",
        "a CLIP embedding of every pseudo mask",
        (*CLIP, "regions", IMAGES),
        {"dataset": ("images.json",), "features": ("train",), "pseudo_masks": ("train",)},
        sharded=("train",),
    ),
    Stage(
        "TrainDecoder",
        "train",
        1,
        "split_matching.stages.training.train",
        "the trained query decoder",
        ("decoder", "train", "pseudo_masks.merge", "features.decoder_blocks", MASKS, "classes.seen_ids"),
        {
            "dataset": ("train.json",),
            "text": ("text.safetensors",),
            "features": ("train",),
            "pseudo_masks": ("train",),
            "regions": ("train",),
        },
        resumes=True,
        output="weights.safetensors",
        unit="steps",
    ),
    Stage(
        "Evaluate",
        "evaluate",
        1,
        "split_matching.stages.inference.evaluate",
        "metrics and predictions on the validation images",
        (
            *CLIP,
            "text",
            "decoder",
            "evaluate",
            "train.matching",
            "features.size",
            "features.decoder_blocks",
            MASKS,
            "data.fold",
            "data.folds",
            "classes.all",
        ),
        {"dataset": ("val.json",), "features": ("val",), "train": ("weights.safetensors",)},
        output="metrics.json",
    ),
    Stage(
        "Report",
        "report",
        1,
        "split_matching.stages.pages.report",
        "one HTML page with numbers and pictures",
        ("report", "pseudo_masks", "data", "clip.weights", "classes.all", "classes.published"),
        {
            "dataset": ("train.json", "val.json"),
            "text": ("text.safetensors",),
            "features": ("val",),
            "pseudo_masks": (),
            "regions": (),
            "train": (),
            "evaluate": (),
        },
        output="report.html",
        unit="examples",
    ),
)


def stages_of(config: Config, table: Sequence[Stage] | None = None) -> dict[str, Stage]:
    """Return the stages that exist for a config by slug, upstream first.

    RenderShapes exists only where the data are rendered. PretrainClip exists there too, and comes before the stages
    that use CLIP only if its weights are asked for. Training and evaluation read images only if asked to. Where
    features of training images are not kept, ClusterPseudoMasks extracts them, and embeds the regions too.
    """
    online = {"train": config.train.features == "online", "evaluate": evaluates_images(config)}
    trains = config.evaluate.predictor == "decoder"
    stages: dict[str, Stage] = {}
    fused = {} if config.features.persist else FUSED
    pretrained = config.clip.weights == "pretrain"
    for row in STAGES if table is None else table:
        stage = replace(row, **fused.get(row.slug, {}))
        if stage.slug == "shapes" and config.data.layout != "shapes":
            continue
        if stage.slug == "pretrain" and config.data.layout != "shapes" and not pretrained:
            continue
        upstream = {slug: files for slug, files in stage.upstream.items() if slug in stages}
        reads = stage.reads
        if stage.slug == "evaluate" and (config.evaluate.fusion > 0 or not trains):
            # predicted or clustered regions are embedded from pixels
            reads = (*reads, IMAGES, "regions", "features.variant", *(() if trains else ("pseudo_masks",)))
            upstream["dataset"] = (*upstream["dataset"], "images.json")
        if not trains:
            upstream.pop("train", None)
        if stage.slug == "features" and config.features.shifts > 1:
            reads = (*reads, "pseudo_masks.block")  # only what will be clustered is kept at sub-token offsets
        if stage.slug == "dataset" and config.data.images:
            reads = (*reads, "data.images")
        if online.get(stage.slug):
            reads = (*reads, *ONLINE)
            upstream["dataset"] = tuple(dict.fromkeys((*upstream["dataset"], "images.json")))
            if stage.slug == "train":
                stage = replace(stage, module="split_matching.stages.training.train_online")
                upstream.pop("features", None)
        if pretrained and "clip.identity" in reads:
            upstream["pretrain"] = ("clip.safetensors",)
        reads = _of_layout(reads, config.data.layout)
        chosen = (layout_module(config.data.layout),) if {"data", IMAGES} & set(reads) else ()
        stages[stage.slug] = replace(stage, reads=reads, upstream=upstream, chosen=chosen)
    return stages


def _of_layout(reads: Sequence[str], name: str) -> tuple[str, ...]:
    """Replace IMAGES, MASKS and LISTS by the fields that a layout reads for them."""
    layout = load_layout(name)
    fields = {IMAGES: layout.images, MASKS: layout.masks, LISTS: layout.lists}
    groups = [(IMAGES, *(f"data.{field}" for field in fields[path])) if path in fields else (path,) for path in reads]
    return tuple(dict.fromkeys(path for group in groups for path in group))


_held_code: dict[str, dict[str, str]] = {}


def hold_code(stages: Sequence[Stage]) -> None:
    """Take the code of stages to be what it is now for the life of this process.

    A process that runs for hours goes on with the modules that it has imported. If a file is edited meanwhile, plans
    made later would record the new code for what the old code makes. To be called right after importing the modules.
    """
    for stage in stages:
        for module in (stage.module, *stage.chosen):
            if module not in _held_code:
                _held_code[module] = module_closure(module)


class Plan:
    """What one config asks for, and how it stands in the cache. Reads, never writes.

    Config, code and raw files are taken to stay the same for the life of a plan; artifacts are not.

    Args:
        config: the resolved config.
        force: slug of the stage to make again though fresh; "" for none.
        token: digest of the manifest that is to be superseded, so that all processes that were started to do so agree,
            and stop when one has done it.
        table: the stages, if not the usual ones.
    """

    def __init__(self, config: Config, force: str = "", token: str = "", table: Sequence[Stage] | None = None) -> None:
        self.config = config
        self.force = force
        self.token = token
        self.store = Store(config.runtime.artifacts)
        self.stages = stages_of(config, table)
        self._keys: dict[str, str] = {}
        self._slices: dict[str, Slice] = {}
        self._code: dict[str, dict[str, str]] = {}
        self._shards: dict[tuple[str, str], tuple[Shard, ...]] = {}
        self._shard_plans: dict[int, dict[str, list[str]]] = {}

    def named(self, name: str) -> Stage:
        """Return the stage of a command-line name.

        Raises:
            ConfigError: this config has no such stage.
        """
        for stage in self.stages.values():
            if stage.name == name:
                return stage
        raise ConfigError(f"{name} does not exist for dataset {self.config.dataset}: it renders nothing")

    def closure(self, slug: str) -> list[Stage]:
        """Return a stage and all that it builds on, upstream first."""
        wanted = {slug}
        for stage in reversed(self.stages.values()):
            if stage.slug in wanted:
                wanted.update(stage.upstream)
        return [stage for stage in self.stages.values() if stage.slug in wanted]

    def slice(self, slug: str) -> Slice:
        """Return the part of the config that a stage declared."""
        if slug not in self._slices:
            reads = self.stages[slug].reads
            identities = {"clip.identity": self._clip_identity} if "clip.identity" in reads else {}
            self._slices[slug] = build_slice(self.config, reads, identities)
        return self._slices[slug]

    def key(self, slug: str) -> str:
        """Return the key of a stage's result: 64 hex digits.

        Raises:
            DataError: the raw files or the weights that it depends on are not there.
        """
        if slug not in self._keys:
            stage = self.stages[slug]
            parts = {
                "stage": stage.name,
                "version": stage.version,
                "config": self.slice(slug).key_values(),
                "data": self._raw_ids if self._scans_raw_files(slug) else "",
                "upstream": {upstream: self.key(upstream) for upstream in stage.upstream},
            }
            self._keys[slug] = digest(parts)
        return self._keys[slug]

    def recipe(self, slug: str) -> Recipe:
        """Return what a stage's artifact is to be made of; inputs that are not there have the digest ""."""
        stage = self.stages[slug]
        inputs: dict[str, str] = {}
        if self._scans_raw_files(slug):
            inputs[RAW_SIZES], inputs[RAW_TIMES] = self._raw_fingerprint.sizes, self._raw_fingerprint.times
        for upstream, files in stage.upstream.items():
            for name in files or ("",):
                inputs[f"{upstream}/{name}".rstrip("/")] = self._content(upstream, name)
        return replace(self._address(slug), config=self.slice(slug).key_values(), code=self.code(slug), inputs=inputs)

    def code(self, slug: str) -> dict[str, str]:
        """Return the fingerprints of a stage's code, by file."""
        if slug not in self._code:
            found: dict[str, str] = {}
            for module in (self.stages[slug].module, *self.stages[slug].chosen):
                found.update(_held_code.get(module) or module_closure(module))
            self._code[slug] = dict(sorted(found.items()))
        return self._code[slug]

    def work(self, slug: str) -> str:
        """Return a digest that is the same in two processes if either may do this stage for the other.

        It is over the cache's folder, and the keys, code and shards of the stage and of everything upstream.
        """
        closure = self.closure(slug)
        parts = {
            "cache": str(self.store.root.resolve()),
            "shard_size": self.config.runtime.shard_size,
            "force": self.token if self.force in [stage.slug for stage in closure] else "",
            "stages": {stage.slug: [self.key(stage.slug), self.code(stage.slug)] for stage in closure},
        }
        return digest(parts)

    def folder(self, slug: str) -> Path:
        """Return the folder of a stage's artifact, there or not."""
        return self.store.folder(self._address(slug))

    def artifact(self, slug: str) -> Artifact:
        """Return a stage's artifact as it is, fresh or not.

        Raises:
            CorruptError: there is none, or its manifest is damaged.
        """
        return self.store.find(self._address(slug))

    def superseding(self, slug: str) -> Plan:
        """Return this plan with a stage to be made again in place of the artifact that is there now."""
        try:
            token = str(self.artifact(slug).manifest["digest"])
        except CorruptError:
            token = "none"
        return Plan(self.config, slug, token, list(self.stages.values()))

    def own_state(self, slug: str) -> State:
        """Say how a stage's artifact stands against its present inputs, whether these are fresh or not."""
        state = self.store.state(self.recipe(slug))
        superseded = state.artifact is not None and state.artifact.manifest["digest"] == self.token
        if slug == self.force and state.fresh and superseded:
            return replace(state, name="stale", reasons=("--force",))
        return state

    def states(self, slugs: Sequence[str] | None = None) -> dict[str, State]:
        """Say how stages and all upstream of them stand; a stage is fresh only if everything upstream is.

        Args:
            slugs: the stages; None for all, and then a stage whose key cannot be told (its raw files or weights are
                not there) is "missing" with that as its reason, and no error.
        """
        found: dict[str, State] = {}
        wanted = {stage.slug for slug in (self.stages if slugs is None else slugs) for stage in self.closure(slug)}
        for slug, stage in self.stages.items():
            if slug not in wanted:
                continue
            try:
                state = self.own_state(slug)
            except UserError as error:
                if slugs is not None:
                    raise
                found[slug] = State("missing", (str(error),))
                continue
            waits = [f"{WAIT}{self.stages[up].name}" for up in stage.upstream if not found[up].fresh]
            if waits and state.name in ("fresh", "stale"):
                # an input that does not exist yet is no reason of its own: the wait says it
                own = [reason for reason in state.reasons if not reason.startswith("input ")]
                state = replace(state, name="stale", reasons=(*own, *waits))
            elif waits:
                state = replace(state, reasons=(*state.reasons, *waits))
            found[slug] = state
        return found

    def state(self, slug: str) -> State:
        """Say how one stage stands, with everything upstream."""
        return self.states([slug])[slug]

    def nearest(self, slug: str) -> tuple[Artifact | None, list[str]]:
        """Return the artifact of another config that a stage's result differs from least, and in what it differs.

        Equal inputs count most, and the newest of equally near ones is taken. Not the newest of all: that may be a
        trial on two images.

        Returns:
            The artifact, None where there is no other; and e.g. ["config pseudo_masks.k 8 -> 12"].
        """
        recipe = self.recipe(slug)
        others = [(artifact, self._differences(artifact, recipe)) for artifact in self.store.others(recipe)]

        def distance(other: tuple[Artifact, list[str]]) -> tuple[int, int]:
            return sum(line.startswith("input ") for line in other[1]), len(other[1])

        return min(others, key=distance, default=(None, []))

    def _differences(self, artifact: Artifact, recipe: Recipe) -> list[str]:
        """Say how a recipe differs from what an artifact of another key was made of."""
        manifest = artifact.manifest
        before, after = flatten(manifest["config"]), flatten(recipe.config)
        lines = [
            f"config {name} {describe_change(before.get(name), after.get(name))}" for name in changed(before, after)
        ]
        if manifest["version"] != recipe.version:
            lines.append(f"version {manifest['version']} -> {recipe.version}")
        # inputs that are not there yet are waited for, which is said by other means
        known = {name: content for name, content in recipe.inputs.items() if content}
        lines += [f"input {name} changed" for name in changed(manifest["inputs"], known) if name in known]
        return lines or ["config upstream changed"] if all(recipe.inputs.values()) else lines

    def inputs(self, slug: str) -> dict[str, Artifact]:
        """Return the upstream artifacts, each limited to what the stage declared.

        Raises:
            CorruptError: one is missing or damaged.
            DataError: a trial on some images has none of the split that the stage reads.
        """
        found = {}
        for up, files in self.stages[slug].upstream.items():
            artifact = self.artifact(up)
            if self.config.data.images and "val" in files and "val" not in artifact.manifest["content"]:
                raise DataError("this trial has no validation image: add one to --images")
            found[up] = artifact.restricted(files)
        return found

    def shards(self, slug: str) -> tuple[Shard, ...]:
        """Return the shards of a stage; () for an unsharded one. Needs the artifact of PrepareDataset."""
        splits = self.stages[slug].sharded
        if not splits:
            return ()
        dataset = self.artifact("dataset")
        memo = (slug, dataset.content_of(("images.json",)))
        if memo not in self._shards:
            images = dataset.json("images.json")
            size = self.config.runtime.shard_size
            self._shards[memo] = tuple(
                Shard(split, start // size, tuple(ids[start : start + size]))
                for split in splits
                for ids in [sorted(str(image["id"]) for image in images[split])]
                for start in range(0, len(ids), size)
            )
        return self._shards[memo]

    def shard_plan(self, slug: str) -> dict[str, list[str]]:
        """Return the shards as the cache records them: for every split one digest of the ids of each shard."""
        shards = self.shards(slug)
        if id(shards) not in self._shard_plans:  # `shards` keeps the tuples, so an id is never used again
            plan: dict[str, list[str]] = {}
            for shard in shards:
                plan.setdefault(shard.split, []).append(digest(list(shard.ids)))
            self._shard_plans[id(shards)] = plan
        return self._shard_plans[id(shards)]

    def touched(self, slug: str) -> str:
        """Return the present times of the raw files if an artifact is stale for these alone, else "".

        A copy of a data set has other times, and so has a file that was replaced by one of the same size.
        """
        state = self.own_state(slug)
        alone = state.name == "stale" and state.reasons == (f"input {RAW_TIMES} changed",)
        return str(self._raw_fingerprint.times) if alone else ""

    def source(self) -> Any:
        """Return the raw files, as `stages.data.source.Source`."""
        return self._source

    def data_root(self, slug: str) -> Path:
        """Return the folder of the raw files for a stage that may read them, else an empty path.

        Raises:
            CorruptError: the pipeline rendered them, and they are not as they were written.
        """
        if slug != "dataset" and "dataset" not in self.stages[slug].upstream:
            return Path()
        return self._rendered if "shapes" in self.stages else self.config.data.root or Path()

    def _address(self, slug: str) -> Recipe:
        stage = self.stages[slug]
        return Recipe(self.config.dataset, stage.name, slug, stage.version, self.key(slug))

    def _content(self, slug: str, name: str) -> str:
        try:
            return self.artifact(slug).content_of((name,) if name else ())
        except CorruptError:
            return ""

    def _scans_raw_files(self, slug: str) -> bool:
        return slug == "dataset" and "shapes" not in self.stages

    @cached_property
    def _rendered(self) -> Path:
        artifact = self.artifact("shapes")
        if damaged := self.store.verify(artifact):
            raise CorruptError(f"{artifact.path / damaged[0]} is missing or altered: run RenderShapes again")
        return artifact.path

    @cached_property
    def _clip_identity(self) -> str:
        if self.config.clip.weights == "pretrain":
            return f"pretrain:{self.key('pretrain')}"
        from split_matching.model.weights_identity import weights_identity

        return weights_identity(self.config.clip)

    @cached_property
    def _source(self) -> Any:
        from split_matching.stages.data.source import open_source

        return open_source(self.config.data, self.config.data.root)

    @cached_property
    def _raw_ids(self) -> str:
        return digest([self._source.ids("train"), self._source.ids("val")])

    @cached_property
    def _raw_fingerprint(self) -> Any:
        return self._source.fingerprint()
