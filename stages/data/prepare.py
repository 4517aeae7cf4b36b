"""PrepareDataset: check every image and mask of both splits once, so that no later stage meets a bad file.

Writes four files, so that a later stage depends on no more than it may know:

    images.json  {"train": [{"id", "height", "width", "sha256"}], "val": [...]}          no word about labels
    train.json   {"images": [{"id", "labels_sha256", "classes": [raw ids]}]}              seen classes only
    val.json     {"images": [{"id", "labels_sha256", "classes": [raw ids]}]}              all classes
    raw.json     {"sha256"}                               of the bytes of all images and masks; no later stage reads it

Training masks are remapped before they are hashed, so no byte of train.json or images.json depends on an unseen label,
nor on void, which outlines unseen objects too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from split_matching.configs.slices import ClassIds
from split_matching.errors import DataError, format_count
from split_matching.stages.data.image_ids import check_ids_exist
from split_matching.stages.data.images import decode_image, decode_mask, read_bytes
from split_matching.stages.data.labels import Labels, all_labels, seen_labels
from split_matching.stages.data.listing import SPLITS
from split_matching.stages.data.source import Source, open_source
from split_matching.stages.ground.context import Progress, StageContext, no_progress
from split_matching.stages.ground.ordered_map import ordered_map

OWN_MASKS = "expected one of each image: put masks into folders as the images, or give images other names"
BAD_FILES = "bad_files.txt"
RAW = "raw.json"


@dataclass(frozen=True)
class CheckedImage:
    """One image that passed.

    Args:
        image: its entry in images.json.
        labels: its entry in train.json or val.json.
        labelled: pixels with a label: of seen classes in train, of any class in val.
        pixels: all pixels.
        files: SHA-256 (hex) of the bytes of image and mask.
    """

    image: dict[str, Any]
    labels: dict[str, Any]
    labelled: int
    pixels: int
    files: tuple[str, str]


def run(ctx: StageContext) -> dict[str, float | int | str]:
    """Check both splits and write images.json, train.json and val.json.

    Args:
        ctx: reads `data` and `classes.ids`.

    Returns:
        Summary: images of each split, training images without a seen class, share of training pixels annotated with a
        seen class.

    Raises:
        DataError: a list is missing or empty, the splits overlap, a file is absent, damaged or contradicts another, or
            no mask of a split has a label. Every file is checked first: the error names the first bad one and where all
            are listed.
    """
    source = open_source(ctx.config.data, ctx.data_root)
    # declared only where a trial asks for it, so that the key of the whole data set does not depend on this field
    chosen = select_images(read_splits(source), getattr(ctx.config.data, "images", ()))
    for one, other in source.shared_masks(chosen):
        raise DataError(f"{source.mask_path(one)}: would be the mask of {one} and of {other}; {OWN_MASKS}")
    jobs = [(split, image_id) for split, ids in chosen.items() for image_id in ids]
    checked: dict[str, list[CheckedImage]] = {split: [] for split in SPLITS}
    errors: list[str] = []
    for done, ((split, _), result) in enumerate(zip(jobs, _check_all(ctx, source, jobs), strict=True), start=1):
        if isinstance(result, DataError):
            errors.append(str(result))
        else:
            checked[split].append(result)
        ctx.progress(done, len(jobs))
    _raise_first(errors, ctx.out / BAD_FILES)
    _check_labelled(ctx, source, checked)
    _say_shared_images(ctx, checked)
    _write_json(ctx.out / "images.json", {split: [item.image for item in checked[split]] for split in SPLITS})
    for split in SPLITS:
        _write_json(ctx.out / f"{split}.json", {"images": [item.labels for item in checked[split]]})
    _write_json(ctx.out / RAW, {"sha256": _digest_files(item.files for split in SPLITS for item in checked[split])})
    train = checked["train"]
    return {
        "train_images": len(train),
        "val_images": len(checked["val"]),
        "train_images_without_seen": sum(not item.labels["classes"] for item in train),
        "train_seen_share": round(sum(item.labelled for item in train) / sum(item.pixels for item in train), 6),
    }


def _say_shared_images(ctx: StageContext, checked: Mapping[str, Sequence[CheckedImage]]) -> None:
    """Tell of images that are in both splits under two names: their results are better than those of new images."""
    trained = {item.files[0]: item.image["id"] for item in checked["train"]}
    both = [(trained[item.files[0]], item.image["id"]) for item in checked["val"] if item.files[0] in trained]
    if both:
        count = format_count(len(both), "image is", "images are")
        ctx.say(f"warning: {count} in training and in validation, e.g. {' = '.join(both[0])}: see `check-data`")


def digest_raw_files(source: Source, progress: Progress = no_progress, threads: int = 0) -> str:
    """Read every raw file and return the digest that `run` wrote into raw.json, if the files are still the same.

    Args:
        source: where the files are.
        progress: called with the images read and all images.
        threads: number of threads that read; 0 for one a core.

    Raises:
        DataError: a list or a file is missing.
    """
    ids = [image_id for members in read_splits(source).values() for image_id in members]

    def read(image_id: str) -> tuple[str, str]:
        return _sha256(read_bytes(source.image_path(image_id))), _sha256(read_bytes(source.mask_path(image_id)))

    files = []
    for done, pair in enumerate(ordered_map(read, ids, threads), start=1):
        files.append(pair)
        progress(done, len(ids))
    return _digest_files(files)


def _digest_files(files: Iterable[tuple[str, str]]) -> str:
    return _sha256("".join(f"{image} {mask}\n" for image, mask in files).encode())


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def read_splits(source: Source) -> dict[str, list[str]]:
    """Read the ids of both splits.

    Raises:
        DataError: a list is unusable, or an image is in both.
    """
    ids = {split: source.ids(split) for split in SPLITS}
    both = sorted(set(ids["train"]) & set(ids["val"]))
    if both:
        more = f" and {len(both) - 1} more" if len(both) > 1 else ""
        raise DataError(
            f"image {both[0]}{more} is in the training and in the validation list; "
            "expected no image in both: remove it from one"
        )
    return ids


def select_images(ids: dict[str, list[str]], images: Sequence[str]) -> dict[str, list[str]]:
    """Reduce both splits to the images of a trial.

    Args:
        ids: of each split.
        images: which to keep; none for all.

    Raises:
        DataError: an image is in no split, or none is left for training.
    """
    if not images:
        return ids
    check_ids_exist(images, {image_id for members in ids.values() for image_id in members}, "images")
    wanted = set(images)
    cut = {split: [image_id for image_id in members if image_id in wanted] for split, members in ids.items()}
    if not cut["train"]:
        raise DataError(f"a trial needs a training image: add one to --images, for example {ids['train'][0]}")
    return cut


def check_image(source: Source, split: str, image_id: str, ids: ClassIds) -> CheckedImage:
    """Decode one image and its mask.

    Args:
        source: where the files are.
        split: "train" or "val": decides which labels may be read.
        image_id: which image.
        ids: raw class ids.

    Returns:
        The entries of the image.

    Raises:
        DataError: a file is absent, damaged, of another size, or has an unknown id.
    """
    image_path, mask_path = source.image_path(image_id), source.mask_path(image_id)
    data, mask_data = read_bytes(image_path), read_bytes(mask_path)
    height, width = decode_image(data, image_path).shape[:2]
    allowed, table = {*ids.all, *ids.ignore}, source.mask_table(mask_path)
    mask = decode_mask(mask_data, mask_path, (height, width), allowed, table)
    known = ids.seen if split == "train" else ids.all
    labels = seen_labels(mask, known) if split == "train" else all_labels(mask, known)
    counts = np.bincount(labels.ravel(), minlength=len(known))[: len(known)]
    return CheckedImage(
        image={"id": image_id, "height": height, "width": width, "sha256": _sha256(data)},
        labels={
            "id": image_id,
            "labels_sha256": _digest_labels(labels),
            "classes": sorted(raw for raw, count in zip(known, counts, strict=True) if count),
        },
        labelled=int(counts.sum()),
        pixels=height * width,
        files=(_sha256(data), _sha256(mask_data)),
    )


def _digest_labels(labels: Labels) -> str:
    """SHA-256 (hex) over size, type and values of a label map."""
    header = f"{labels.shape[0]}x{labels.shape[1]} {labels.dtype.itemsize}\n".encode()
    return hashlib.sha256(header + labels.astype(labels.dtype.newbyteorder("<")).tobytes()).hexdigest()


def _check_all(
    ctx: StageContext, source: Source, jobs: Sequence[tuple[str, str]]
) -> Iterator[CheckedImage | DataError]:
    """Check every image; results come in the order of `jobs`."""
    ids: ClassIds = ctx.config.classes.ids

    def check(job: tuple[str, str]) -> CheckedImage | DataError:
        try:
            return check_image(source, *job, ids)
        except DataError as error:
            return error

    return ordered_map(check, jobs, ctx.runtime.threads)


def _check_labelled(ctx: StageContext, source: Source, checked: dict[str, list[CheckedImage]]) -> None:
    """Raise for a split without a labelled pixel: nothing could be learnt, or measured. A trial may have none."""
    if getattr(ctx.config.data, "images", ()):
        return
    wanted = {"train": "a seen class", "val": "any class"}
    for split, items in checked.items():
        if not any(item.labelled for item in items):
            folder = source.mask_path(source.ids(split)[0]).parent
            raise DataError(
                f"no mask of the {split} list has a pixel of {wanted[split]} (images: {len(items)}): correct the masks "
                f"in {folder}, or choose another list: --set data.{split}_split=NAME"
            )


def _raise_first(errors: Sequence[str], listing: Path) -> None:
    """Raise for the first bad file. Several are listed in a file, which the next run removes if it finds none."""
    listing.unlink(missing_ok=True)
    if not errors:
        return
    if len(errors) == 1:
        raise DataError(errors[0])
    listing.write_text("".join(f"{error}\n" for error in errors), encoding="utf-8")
    raise DataError(f"{errors[0]} (and {len(errors) - 1} more bad files, all listed in {listing})")


def _write_json(path: Path, value: object) -> None:
    """Write canonical JSON: equal values give equal bytes."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")
