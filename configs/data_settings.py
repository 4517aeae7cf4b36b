"""The settings of a data set: which images, which classes, which are seen; how `shapes` is made. See `settings`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from split_matching.configs.section import RUNTIME, Section, added
from split_matching.configs.settings import Fraction, NonNegative, Positive

FOLDER_ONLY = (
    *("image_folder", "image_suffix", "image_prefix", "mask_suffix", "mask_prefix"),
    *("colours", "download"),
)
"""Fields that the layout `folder` alone reads."""


class DataConfig(Section):
    """Which images, which classes, and which of those are seen."""

    layout: Literal["shapes", "voc", "coco_stuff", "folder"] = Field(
        "voc",
        description="How files lie under the root, see stages/data/layouts; `shapes` is rendered.",
    )
    root: Path | None = Field(
        None,
        description="Folder of the raw files; in a YAML file relative to that file, elsewhere to the working folder.",
        json_schema_extra=RUNTIME,
    )
    classes: str = Field(
        "voc",
        description="Class list: NAME of configs/classes/NAME.yaml, or a .yaml or .txt file below the root.",
    )
    unseen: tuple[str, ...] = Field((), description="Names of the unseen classes; none: those that the list names.")
    seen_share: Annotated[float, Field(gt=0.0, lt=1.0)] | None = Field(
        None,
        description="Share of the classes that are seen, drawn by `seen_seed`, in place of the list's own split; null: "
        "the list's own.",
        json_schema_extra=added(neutral=None),
    )
    seen_seed: Annotated[int, Field(ge=0)] = Field(
        0, description="Seed of that draw.", json_schema_extra=added(neutral=0)
    )
    ignore: tuple[Annotated[int, Field(ge=0, le=65535)], ...] | None = Field(
        None, description="Mask ids that are no class; null: those that the list names, 255 for a .txt list."
    )
    first_id: Annotated[int, Field(ge=0)] = Field(
        0, description="Mask id of the first name of a class list without ids."
    )
    train_split: str = Field(
        "trainaug", description="voc: name of the list; folder: list of ids (.txt below the root), or a folder's name."
    )
    val_split: str = Field("val", description="The same for validation.")
    image_folder: str = Field(
        "images", description="folder: where the images are, below the root; {split} stands for any one folder."
    )
    image_suffix: str = Field("", description="folder: end of every image's name, e.g. _rgb.png; none: any picture.")
    image_prefix: str = Field(
        "", description="folder: start of every image's name, e.g. image_.", json_schema_extra=added(neutral="")
    )
    mask_folder: str = Field(
        "SegmentationClassAug",
        description="Folder of the masks, unused by coco_stuff; folder: masks by default, {split} as in image_folder.",
    )
    mask_suffix: str = Field(".png", description="folder: end of every mask's name, in place of the image's ending.")
    mask_prefix: str = Field(
        "",
        description="folder: start of every mask's name, in place of `image_prefix`, e.g. mask_.",
        json_schema_extra=added(neutral=""),
    )
    colours: str = Field(
        "",
        description="folder: what colours of masks mean: NAME of configs/colours/NAME.yaml, or a .yaml or CVAT's "
        "labelmap.txt below the root; none: masks hold ids.",
        json_schema_extra=added(neutral=""),
    )
    download: Literal["", "pascal_context"] = Field(
        "", description="folder: what --download fetches.", json_schema_extra=RUNTIME
    )
    expected_train: Annotated[int, Field(ge=1)] | None = Field(
        None, description="Images of the whole training split; fewer is a subset, and the report says so."
    )
    expected_val: Annotated[int, Field(ge=1)] | None = Field(None, description="The same for validation.")
    images: tuple[str, ...] = Field(
        (), description="Only these images, of both lists, for a quick trial; none: all. Short form: --images."
    )
    fold: Annotated[int, Field(ge=0)] | None = Field(
        None, description="Hide the seen classes of this fold as if unseen, and evaluate on them."
    )
    folds: Annotated[int, Field(ge=2)] = Field(3, description="Number of folds of the seen classes.")

    @field_validator("unseen", mode="before")
    @classmethod
    def _numbers_are_names(cls, names: Any) -> Any:
        return [str(name) if type(name) is int else name for name in names] if isinstance(names, list) else names

    @field_validator("images")
    @classmethod
    def _each_once(cls, images: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(sorted(set(images)))

    @field_validator("train_split", "val_split", "mask_folder", "image_folder")
    @classmethod
    def _inside_the_root(cls, name: str) -> str:
        if not name or Path(name).is_absolute() or ".." in Path(name).parts:
            raise ValueError("expected a name inside the data set, without leading / and without ..")
        return name

    @field_validator("train_split", "val_split")
    @classmethod
    def _no_root(cls, name: str) -> str:
        if os.path.normpath(name) == ".":
            raise ValueError("expected a list or a folder below the root, not the root itself")
        return name

    @field_validator("mask_suffix", "image_suffix")
    @classmethod
    def _with_an_ending(cls, suffix: str, info: ValidationInfo) -> str:
        if "." not in suffix and (suffix or info.field_name == "mask_suffix"):
            raise ValueError("expected the end of every name with its ending, such as .png or _mask.png")
        return suffix

    @model_validator(mode="after")
    def _settings_of_folders(self) -> DataConfig:
        for name in FOLDER_ONLY if self.layout != "folder" else ():
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(
                    f"data.{name} is for data.layout folder, not {self.layout}: leave it out, or describe the folders "
                    "with that layout"
                )
        return self

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_folders(cls, values: Any) -> Any:
        """A layout `folder` has none of VOC's names."""
        if isinstance(values, dict) and values.get("layout") == "folder":
            return {"train_split": "train", "mask_folder": "masks", **values}
        return values

    @model_validator(mode="after")
    def _one_way_to_split(self) -> DataConfig:
        if self.seen_share is not None and self.unseen:
            raise ValueError("both data.unseen and data.seen_share are set; expected one: leave the other out")
        return self

    @model_validator(mode="after")
    def _split_in_both(self) -> DataConfig:
        if "{split}" in self.mask_folder and "{split}" not in self.image_folder:
            raise ValueError("mask_folder has {split} and image_folder has not; expected it in both")
        return self

    @model_validator(mode="after")
    def _fold_in_range(self) -> DataConfig:
        if self.fold is not None and self.fold >= self.folds:
            raise ValueError(f"fold {self.fold} does not exist: data.folds is {self.folds}, so 0..{self.folds - 1}")
        return self


class ShapesConfig(Section):
    """The embedded data set: how many scenes, how large."""

    train_scenes: Annotated[int, Field(ge=1)] = Field(1000, description="Rendered training scenes.")
    val_scenes: Annotated[int, Field(ge=1)] = Field(300, description="Rendered validation scenes.")
    image_size: Annotated[int, Field(ge=32)] = Field(128, description="Side of a scene, in pixels.")
    seed: Annotated[int, Field(ge=0)] = Field(0, description="Seed of the renderer.")


class PretrainConfig(Section):
    """Contrastive training of the small CLIP for `shapes` (choice)."""

    steps: Positive = Field(3000, description="Optimiser steps.")
    batch: Positive = Field(128, description="Scenes a step.")
    lr: Annotated[float, Field(gt=0)] = Field(1e-3, description="Peak learning rate (AdamW, cosine).")
    warmup: NonNegative = Field(200, description="Linear warm-up steps.")
    weight_decay: Annotated[float, Field(ge=0)] = Field(0.05, description="AdamW weight decay.")
    single_fraction: Fraction = Field(0.3, description="Share of scenes with one object on a plain ground.")
    seed: NonNegative = Field(0, description="Seed of scenes, captions and initial weights.")
