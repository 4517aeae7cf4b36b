"""Which stages read each config field, and another value for each: written by hand, for test_rerun_matrix.py."""

from __future__ import annotations

import contextlib
import types
from collections.abc import Iterator, Sequence
from typing import Any, Literal, Union, get_args, get_origin

import pytest

from split_matching.configs.data_settings import FOLDER_ONLY
from split_matching.configs.load import load_config
from split_matching.configs.schema import Config
from split_matching.configs.section import Section
from split_matching.errors import ConfigError
from tests.handmade import TINY as HANDMADE

BASE = (*HANDMADE, "decoder.heads=2", "pseudo_masks.windows=[2]")

STAGES = (
    *("RenderShapes", "PretrainClip", "PrepareDataset", "EmbedText", "ExtractFeatures"),
    *("ClusterPseudoMasks", "EmbedRegions", "TrainDecoder", "Evaluate", "Report"),
)
BELOW = {
    "RenderShapes": {"PrepareDataset"},
    "PretrainClip": set(),  # its result is read only with clip.weights=pretrain
    "PrepareDataset": {"ExtractFeatures", "ClusterPseudoMasks", "EmbedRegions", "TrainDecoder", "Evaluate", "Report"},
    "EmbedText": {"TrainDecoder", "Report"},
    "ExtractFeatures": {"ClusterPseudoMasks", "EmbedRegions", "TrainDecoder", "Evaluate", "Report"},
    "ClusterPseudoMasks": {"EmbedRegions", "TrainDecoder", "Report"},
    "EmbedRegions": {"TrainDecoder", "Report"},
    "TrainDecoder": {"Evaluate", "Report"},
    "Evaluate": {"Report"},
    "Report": set(),
}

CLIP = {"PretrainClip", "EmbedText", "ExtractFeatures", "EmbedRegions", "Evaluate"}
CLASSES = {"PrepareDataset", "EmbedText", "ClusterPseudoMasks", "TrainDecoder", "Evaluate", "Report"}
FOLDS = CLASSES - {"PrepareDataset"}
PSEUDO = {"ClusterPseudoMasks", "Report"}
NOTHING: set[str] = set()

# Which stages read a field themselves. A runtime field may be read anywhere, and reruns nothing.
READS: dict[str, set[str]] = {
    "data.layout": {"PrepareDataset"},
    "data.root": NOTHING,
    "data.classes": CLASSES,
    "data.unseen": CLASSES,
    "data.seen_share": CLASSES,
    "data.download": NOTHING,
    "data.ignore": {"PrepareDataset", "Evaluate", "Report"},
    # these mean something in other layouts, or for the report alone
    **{
        f"data.{name}": {"Report"}
        for name in (
            "first_id",
            "image_folder",
            "image_prefix",
            "image_suffix",
            "mask_prefix",
            "mask_suffix",
            "expected_train",
            "expected_val",
            "colours",
            "seen_seed",
        )
    },
    "data.train_split": {"PrepareDataset"},
    "data.val_split": {"PrepareDataset"},
    "data.mask_folder": {"PrepareDataset"},
    "data.images": {"PrepareDataset"},  # if there are any: a trial
    "data.fold": FOLDS,
    "data.folds": {"Evaluate", "Report"},  # without a fold only those that print it
    **{f"shapes.{name}": {"RenderShapes"} for name in ("train_scenes", "val_scenes", "image_size", "seed")},
    "clip.model": CLIP,
    "clip.weights": CLIP - {"PretrainClip"},  # by what the weights are, not by their name
    "clip.quick_gelu": CLIP - {"PretrainClip"},
    "clip.precision": CLIP - {"PretrainClip"},
    "clip.seed": CLIP - {"PretrainClip"},
    **{
        f"pretrain.{name}": {"PretrainClip"}
        for name in ("steps", "batch", "lr", "warmup", "weight_decay", "single_fraction", "seed")
    },
    **{f"text.{name}": {"EmbedText", "Evaluate"} for name in ("templates", "prompts")},
    **{
        f"features.{name}": {"ExtractFeatures"}
        for name in ("size", "resize", "variant", "decoder_blocks", "shifts", "persist")
    },
    **{
        f"pseudo_masks.{name}": PSEUDO
        for name in (
            *("method", "engine", "smooth", "windows", "iterations", "merge", "tokens", "max_annotated"),
            *("min_area", "scale"),
        )
    },
    **{f"pseudo_masks.{name}": NOTHING for name in ("k", "seed")},  # of method kmeans
    "pseudo_masks.block": PSEUDO | {"ExtractFeatures"},  # features at sub-token offsets hold only what is clustered
    **{f"regions.{name}": {"EmbedRegions"} for name in ("method", "expand", "blocks")},
    **{
        f"decoder.{name}": {"TrainDecoder"}
        for name in (
            *("dim", "layers", "heads", "ffn", "seen_queries", "candidate_queries", "mfe", "upsample"),
            *("mfe_scales", "masked_attention", "temperature", "prompts"),
        )
    },
    **{
        f"train.{name}": {"TrainDecoder"}
        for name in (
            *(
                "matching",
                "steps",
                "batch",
                "lr",
                "min_lr",
                "weight_decay",
                "warmup",
                "poly",
                "clip_grad",
                "flip",
                "features",
            ),
            *(
                "cost_class",
                "cost_cosine",
                "cost_mask",
                "cost_dice",
                "cost_candidate_mask",
                "cost_candidate_dice",
                "loss_class",
                "loss_mask",
                "loss_dice",
                "loss_cosine",
                "loss_nce",
                "loss_quality",
                "nce_temperature",
                "nce_alike",
                "no_object",
            ),
            *("candidate_weight", "deep_supervision", "seed", "validate_every"),
        )
    },
    **{f"train.{name}": NOTHING for name in ("scale_range", "cat_max_ratio", "photometric")},  # of images in the loop
    "train.precision": {"TrainDecoder", "Evaluate"},
    **{f"train.{name}": NOTHING for name in ("checkpoint_every", "log_every")},
    "train.validate_images": NOTHING,  # of validation
    "evaluate.checkpoint": {"TrainDecoder", "Evaluate"},  # with validation, see VALUES
    **{f"evaluate.{name}": NOTHING for name in ("window", "stride", "short_side")},  # of sliding windows
    **{
        f"evaluate.{name}": {"Evaluate"}
        for name in (
            *("mode", "gamma", "gamma_sweep", "predictor", "fusion"),
            *("fusion_method", "fusion_floor", "candidate_weight"),
            *("candidate_temperature", "confidence", "trained_on"),
        )
    },
    **{f"report.{name}": {"Report"} for name in ("examples", "worst", "quality_images")},
    **{
        f"runtime.{name}": NOTHING
        for name in (
            *("artifacts", "device", "workers", "threads", "shard_size", "batch", "cache_mb", "scheduler"),
            *("engine", "slurm", "remote"),
        )
    },
}

# Values that a type does not tell. None: not set with --set.
VALUES: dict[str, Sequence[str] | None] = {
    "dataset": None,  # chosen with --dataset; it names the folder
    "runtime.artifacts": None,  # another cache is another cache: see test_a_moved_cache_is_fresh
    "runtime.scheduler": ("runtime.scheduler=localhost:8082",),
    "runtime.engine": ("runtime.engine=slurm", "runtime.slurm=--time=10"),
    "runtime.slurm": ("runtime.slurm=--time=10",),
    "runtime.remote": ("runtime.remote=s3://bucket/cache",),
    "data.layout": ("data.layout=voc", "data.root={tree}"),
    "data.root": ("data.root=/elsewhere",),
    "data.classes": ("data.classes=voc",),
    "data.first_id": None,  # refused with a list that has ids, as that of shapes; changes the ids of one without
    "data.unseen": ("data.unseen=[red plain]",),
    "data.ignore": ("data.ignore=[0, 254]",),
    "data.seen_share": ("data.seen_share=0.5",),
    "data.train_split": ("data.train_split=others",),
    "data.val_split": ("data.val_split=others",),
    "data.mask_folder": ("data.mask_folder=Others",),
    "data.images": ("data.images=[train_000001]",),
    "clip.model": ("clip.model=ViT-B-32",),
    "clip.weights": ("clip.weights=bundled",),
    "clip.quick_gelu": ("clip.quick_gelu=true",),
    "text.templates": ("text.templates=['{}']",),
    "features.decoder_blocks": ("features.decoder_blocks=[2, 3]",),
    "features.persist": ("features.persist=false", "train.features=online"),
    "pseudo_masks.block": ("pseudo_masks.block=4",),
    "pseudo_masks.method": ("pseudo_masks.method=kmeans",),
    "pseudo_masks.engine": ("pseudo_masks.engine=torch",),
    "pseudo_masks.windows": ("pseudo_masks.windows=[3]",),
    "decoder.dim": ("decoder.dim=64",),
    "decoder.heads": ("decoder.heads=4",),
    "decoder.upsample": ("decoder.upsample=4",),
    "decoder.prompts": ("decoder.prompts=2", "train.features=online"),
    "decoder.mfe_scales": ("decoder.mfe_scales=[1, 2]",),
    "train.nce_temperature": ("train.nce_temperature=0.2",),
    "train.cost_candidate_mask": ("train.cost_candidate_mask=1.0",),
    "train.cost_candidate_dice": ("train.cost_candidate_dice=1.0",),
    "evaluate.candidate_temperature": ("evaluate.candidate_temperature=30",),
    "train.min_lr": ("train.min_lr=1e-5",),
    "train.validate_every": ("train.validate_every=5",),
    "evaluate.checkpoint": ("evaluate.checkpoint=best", "train.validate_every=5"),
    "train.scale_range": ("train.scale_range=[0.7, 1.5]",),
    **dict.fromkeys((f"data.{name}" for name in FOLDER_ONLY), None),  # refused elsewhere
    "evaluate.trained_on": None,  # a decoder that must be there: see test_trained_on.py
    "evaluate.gamma_sweep": ("evaluate.gamma_sweep=[0.3]",),
}


def fields(model: type[Section] = Config, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every field of the schema by dotted path, with its type."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from fields(field.annotation, f"{name}.")
        else:
            yield f"{path}{name}", field.annotation


FIELDS = dict(fields())


def other_values(annotation: Any, value: Any) -> list[str]:
    """Return values of the type that are not the given one, as YAML; none if the type does not tell."""
    if get_origin(annotation) is Literal:
        return [str(member) for member in get_args(annotation) if member != value]
    if get_origin(annotation) in (Union, types.UnionType):
        members = [member for member in get_args(annotation) if member is not type(None)]
        return other_values(members[0], value) if len(members) == 1 else []
    while not isinstance(annotation, type) and get_args(annotation):
        annotation = get_args(annotation)[0]  # Annotated
    if annotation is bool:
        return [str(not value).lower()]
    if annotation is int:
        return [str(value + 1)] if value is not None else ["0", "1", "16", "64"]
    if annotation is float:
        return [str(value / 2 or 0.5), str(value * 2)]
    return []


def overrides_of(field: str) -> Sequence[str] | None:
    """Return the `--set` that changes a field."""
    if field in VALUES:
        return VALUES[field]
    section, _, name = field.partition(".")
    value = getattr(getattr(load_config("shapes", overrides=BASE), section), name)
    for other in other_values(FIELDS[field], value):
        with contextlib.suppress(ConfigError):
            load_config("shapes", overrides=[*BASE, f"{field}={other}"])
            return (f"{field}={other}",)
    pytest.fail(f"add to VALUES in rerun_table.py a value of {field} that differs from {value!r}")


def and_below(stages: set[str]) -> set[str]:
    """Return stages with all that builds on them."""
    while more := {below for stage in stages for below in BELOW[stage]} - stages:
        stages = stages | more
    return set(stages)
