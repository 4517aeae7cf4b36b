"""The ten stages, one class each, in the order in which they build on each other.

    RenderShapes -> PrepareDataset -> ExtractFeatures -> ClusterPseudoMasks -> EmbedRegions
                                                                                    |
    PretrainClip                      EmbedText ------------------------------> TrainDecoder -> Evaluate -> Report

A class is the one declaration of its stage: the command, the luigi task, the part of the config that its module may
read, its cache key and its line of the help all follow from it. `pipeline.plan` says what each attribute means.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from split_matching.cache.code import CODE_FOLDER
from split_matching.configs.clusterings import Clustering, find_clustering
from split_matching.configs.schema import Config, decoder_weights_file, evaluates_images, kept_splits
from split_matching.pipeline.plan import Files, Plan, Stage
from split_matching.stages.candidates.region_counts import describe_regions
from split_matching.stages.data.source import load_layout
from split_matching.stages.inference.predictors import predictor_module

CLIP = ("clip.model", "clip.weights", "clip.quick_gelu", "clip.seed", "clip.precision", "clip.identity")
"""The frozen CLIP; where its weights lie enters no key, what they are does."""


class RenderShapes(Stage):
    """Renders the embedded data set as image and mask files in the VOC layout."""

    name = "shapes"
    makes = "the embedded data set: rendered scenes in the VOC layout"
    on_device = False
    module = "split_matching.stages.data.shapes"
    reads = ("shapes",)

    @classmethod
    def exists(cls, config: Config) -> bool:
        """Only where the data are rendered."""
        return config.data.layout == "shapes"


class PretrainClip(Stage):
    """Trains the small CLIP of the embedded data set on captions."""

    name = "pretrain"
    makes = "a small CLIP for the embedded data set"
    on_device = False
    absent = "its CLIP is not trained here; for that, --set clip.model=shapes-vit clip.weights=pretrain"
    module = "split_matching.stages.training.pretrain"
    reads = ("pretrain", "clip.model")
    resumes = True
    output = "clip.safetensors"
    unit = "steps"

    @classmethod
    def exists(cls, config: Config) -> bool:
        """Where the data are rendered, or its weights are asked for."""
        return config.data.layout == "shapes" or config.clip.weights == "pretrain"


class PrepareDataset(Stage):
    """Checks every image and mask, and writes the lists that all other stages go by."""

    name = "dataset"
    makes = "checked lists of images and labels"
    on_device = False
    module = "split_matching.stages.data.prepare"
    builds_on: Mapping[str, Files] = MappingProxyType({"shapes": ()})

    @property
    def reads(self) -> tuple[str, ...]:
        """A trial on some images is a data set of its own."""
        trial = ("data.images",) if self.config.data.images else ()
        return (*lists(self.config), *masks(self.config), "classes.ids", *trial)


class EmbedText(Stage):
    """Embeds the names of the seen classes with CLIP."""

    name = "text"
    makes = "CLIP embeddings of the seen class names"
    version = 2
    module = "split_matching.stages.training.text"
    reads = (*CLIP, "text", "classes.seen")
    unit = "classes"


class ExtractFeatures(Stage):
    """Extracts dense CLIP features, shard by shard."""

    name = "features"
    makes = "dense CLIP features of every image"
    module = "split_matching.stages.candidates.features"
    builds_on: Mapping[str, Files] = MappingProxyType({"dataset": ("images.json",)})

    @property
    def reads(self) -> tuple[str, ...]:
        """Only what will be clustered is kept at sub-token offsets."""
        clustered = ("pseudo_masks.block",) if self.config.features.shifts > 1 else ()
        return (*CLIP, "features", *images(self.config), *clustered)

    absent = "features.persist is false, and evaluation reads images: no features are cached"

    @classmethod
    def exists(cls, config: Config) -> bool:
        """Where features of some split are kept."""
        return bool(kept_splits(config))

    @property
    def splits(self) -> tuple[str, ...]:
        """Without `features.persist` none of training images, and others only where evaluation reads them."""
        return kept_splits(self.config)


class ClusterPseudoMasks(Stage):
    """Clusters dense features into pseudo masks, shard by shard."""

    name = "pseudo_masks"
    makes = "pseudo masks of the training images"
    splits = ("train",)

    @property
    def module(self) -> str:
        """Without kept features, one that extracts, clusters and embeds an image in one go."""
        return f"split_matching.stages.candidates.{'pseudo_masks' if self.config.features.persist else 'one_pass'}"

    @property
    def chosen(self) -> tuple[str, ...]:
        """The method that clusters, on its engine."""
        return (*super().chosen, clustering(self.config).module)

    @property
    def reads(self) -> tuple[str, ...]:
        """The settings of the chosen method only: those of another one change nothing."""
        found = (*clustering_fields(self.config), *masks(self.config), "classes.seen_ids")
        if self.config.features.persist:
            return found
        return (*CLIP, "features", "regions", *found, *images(self.config))

    @property
    def builds_on(self) -> Mapping[str, Files]:
        """Cached features, or the images themselves."""
        if self.config.features.persist:
            return {"dataset": ("train.json",), "features": ("train",)}
        return {"dataset": ("images.json", "train.json")}

    def remarks(self, summary: Mapping[str, Any]) -> list[str]:
        """How many regions there are, and whether that fits the decoder."""
        return describe_regions(summary, self.config.decoder.candidate_queries)


class EmbedRegions(Stage):
    """Embeds each pseudo mask with CLIP, shard by shard."""

    name = "regions"
    makes = "a CLIP embedding of every pseudo mask"
    module = "split_matching.stages.candidates.regions"
    splits = ("train",)

    @property
    def reads(self) -> tuple[str, ...]:
        """Nothing where the embeddings come with the pseudo masks."""
        return (*CLIP, "regions", *images(self.config)) if self.config.features.persist else ()

    @property
    def builds_on(self) -> Mapping[str, Files]:
        """Images, features and pseudo masks; or pseudo masks that come with embeddings."""
        if not self.config.features.persist:
            return {"pseudo_masks": ("train",)}
        return {"dataset": ("images.json",), "features": ("train",), "pseudo_masks": ("train",)}


class TrainDecoder(Stage):
    """Trains the query decoder by split matching; resumes where it was interrupted."""

    name = "train"
    makes = "the trained query decoder"
    resumes = True
    output = "weights.safetensors"
    unit = "steps"

    @property
    def online(self) -> bool:
        """Whether token maps are computed in the loop from augmented images."""
        return self.config.train.features == "online"

    @property
    def module(self) -> str:
        """Training on cached features does without the code that reads images."""
        return f"split_matching.stages.training.{'train_online' if self.online else 'train'}"

    @property
    def reads(self) -> tuple[str, ...]:
        """Augmentation counts only where images are in the loop, and held-out images where they are measured."""
        augmentation = () if self.online else ("scale_range", "cat_max_ratio", "photometric")
        validation = () if self.config.train.validate_every else ("validate_images",)
        train = fields(self.config, "train", without=(*augmentation, *validation))
        seen = (*masks(self.config), "classes.seen_ids")
        shared = ("decoder", *train, "features.decoder_blocks", *seen)
        return (*shared, *online_features(self.config)) if self.online else shared

    @property
    def builds_on(self) -> Mapping[str, Files]:
        """Cached token maps, or the images themselves; in both cases cached candidates."""
        found: dict[str, Files] = {"dataset": ("train.json",), "text": ("text.safetensors",)}
        if self.online:
            found["dataset"] = ("train.json", "images.json")
        else:
            found["features"] = ("train",)
        return {**found, "pseudo_masks": ("train",), "regions": ("train",)}


class Evaluate(Stage):
    """Predicts the validation images and measures the predictions."""

    name = "evaluate"
    makes = "metrics and predictions on the validation images"
    module = "split_matching.stages.inference.evaluate"
    output = "metrics.json"

    @property
    def decodes(self) -> bool:
        """Whether a trained decoder predicts; otherwise a baseline without training."""
        return self.config.evaluate.predictor == "decoder"

    @property
    def trained(self) -> bool:
        """Whether the decoder is trained on this data set, and not on another."""
        return self.decodes and not self.config.evaluate.trained_on

    @property
    def chosen(self) -> tuple[str, ...]:
        """What predicts, and the clustering where it names clusters."""
        method = (clustering(self.config).module,) if self.clusters else ()
        return (*super().chosen, predictor_module(self.config.evaluate.predictor), *method)

    @property
    def clusters(self) -> bool:
        """Whether clusters are named, a baseline."""
        return self.config.evaluate.predictor == "regions"

    @property
    def embeds_regions(self) -> bool:
        """Whether CLIP is shown predicted or clustered regions of the image."""
        return self.clusters or (self.decodes and self.config.evaluate.fusion > 0)

    @property
    def reads_images(self) -> bool:
        """Whether the decoder looks at images instead of cached token maps."""
        return self.decodes and evaluates_images(self.config)

    @property
    def reads(self) -> tuple[str, ...]:
        """What the chosen way to predict reads; the windows count only where they slide."""
        config = self.config
        found = [*CLIP, "text", *masks(config), "data.fold", "data.folds", "classes.all"]
        found += [f"evaluate.{name}" for name in ("predictor", "gamma", "gamma_sweep", "trained_on")]
        if self.decodes:
            inert = () if config.evaluate.mode == "slide" else ("window", "stride", "short_side")
            found += ["decoder", *fields(config, "evaluate", without=inert), "train.matching", "train.precision"]
            found += ["features.size", "features.decoder_blocks"]
        if self.embeds_regions:
            found += [*images(config), "regions", "features.variant"]
        if self.clusters:
            found += clustering_fields(config)
        if self.reads_images:
            found += online_features(config)
        if config.evaluate.trained_on:
            found.append("evaluate.identity")
        if config.data.fold is not None:  # which classes it hides is a rule of the code
            found.append("classes.seen_ids")
        return tuple(found)

    @property
    def builds_on(self) -> Mapping[str, Files]:
        """Cached token maps, the decoder where one is trained, and the images where they are looked at."""
        looks = self.embeds_regions or self.reads_images
        found: dict[str, Files] = {"dataset": ("val.json", "images.json") if looks else ("val.json",)}
        if not self.reads_images:
            found["features"] = ("val",)
        return {**found, "train": (decoder_weights_file(self.config),)} if self.trained else found


class Report(Stage):
    """Writes the HTML page."""

    name = "report"
    makes = "one HTML page with numbers and pictures"
    module = "split_matching.stages.pages.report"
    output = "report.html"
    unit = "images"

    @property
    def reads(self) -> tuple[str, ...]:
        """What it shows, and how it clusters the images that it shows."""
        shown = ("report", "data", "clip.weights", "classes.all", "classes.published")
        computed = () if self.finds_features else (*CLIP, "features")
        return (*shown, *clustering_fields(self.config), *computed)

    @property
    def finds_features(self) -> bool:
        """Whether the features of the images that it shows are cached; otherwise it computes them."""
        return "val" in kept_splits(self.config)

    @property
    def chosen(self) -> tuple[str, ...]:
        """It clusters the images that it shows."""
        computed = () if self.finds_features else ("split_matching.stages.candidates.computed_features",)
        return (*super().chosen, clustering(self.config).module, *computed)

    @property
    def files(self) -> tuple[Path, ...]:
        """The template of the page, what it includes, and its scripts."""
        names = ("page.css", "report.html.j2", "pictures.html.j2", "report.js", "sortable.js")
        return tuple(CODE_FOLDER / "stages/pages/templates" / name for name in names)

    @property
    def builds_on(self) -> Mapping[str, Files]:
        """Everything whose numbers, pictures or origin it shows."""
        images = () if self.finds_features else ("images.json",)
        found: dict[str, Files] = {"dataset": ("train.json", "val.json", *images), "features": ("val",)}
        if not self.config.evaluate.trained_on:  # otherwise nothing was trained, or made for it, on this data set
            found |= {"text": ("text.safetensors",), "pseudo_masks": (), "regions": ()}
        trained = {"train": ()} if self.plan["evaluate"].trained else {}  # type: ignore[attr-defined]
        return {**found, **trained, "evaluate": ()}


STAGES: tuple[type[Stage], ...] = (
    RenderShapes,
    PretrainClip,
    PrepareDataset,
    EmbedText,
    ExtractFeatures,
    ClusterPseudoMasks,
    EmbedRegions,
    TrainDecoder,
    Evaluate,
    Report,
)
"""All stages, those that others build on first."""


def make_plan(config: Config, force: str = "", supersedes: str = "") -> Plan:
    """Return the stages of a config, see `Plan`."""
    return Plan(config, STAGES, force, supersedes)


# --- groups of fields that several stages read ------------------------------------------------------------------------


def fields(config: Config, section: str, without: tuple[str, ...]) -> tuple[str, ...]:
    """Return a section, or all of its fields but some that mean nothing to the rest of the config."""
    if not without:
        return (section,)
    return tuple(f"{section}.{name}" for name in type(getattr(config, section)).model_fields if name not in without)


def clustering(config: Config) -> Clustering:
    """Return the row of the chosen clustering method and engine."""
    return find_clustering(config.pseudo_masks.method, config.pseudo_masks.engine)


def clustering_fields(config: Config) -> tuple[str, ...]:
    """Return what the chosen clustering method reads."""
    return fields(config, "pseudo_masks", without=clustering(config).unused)


def images(config: Config) -> tuple[str, ...]:
    """Return the fields that the way from an id to its image depends on."""
    return ("data.layout", *(f"data.{name}" for name in load_layout(config.data.layout).images))


def masks(config: Config) -> tuple[str, ...]:
    """Return the fields that the way from an id to its mask depends on."""
    return ("data.layout", *(f"data.{name}" for name in load_layout(config.data.layout).masks))


def lists(config: Config) -> tuple[str, ...]:
    """Return the fields that the lists of ids depend on."""
    return ("data.layout", *(f"data.{name}" for name in load_layout(config.data.layout).lists))


def online_features(config: Config) -> tuple[str, ...]:
    """Return what a stage reads that runs CLIP on images itself instead of reading cached features."""
    return (*CLIP, "features.size", "features.resize", *images(config))
