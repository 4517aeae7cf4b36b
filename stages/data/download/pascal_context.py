"""PASCAL Context: the images of VOC 2010, and the published annotations with 459 labels converted to the 59 classes.

    ROOT/archives/                                                        what was downloaded
    ROOT/VOCdevkit/VOC2010/{JPEGImages,ImageSets/Main}                    from VOC's archive
    ROOT/VOCdevkit/VOC2010/SegmentationClassContext                       ids 0 (background) to 59
    ROOT/VOCdevkit/VOC2010/ImageSets/SegmentationContext/{train,val}.txt

The lists are VOC 2010's own, of the images that are annotated. As in `voc`, what is there is complete, and an
interrupted run resumes.
"""

from __future__ import annotations

import io
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from split_matching.cache.files import move_folder
from split_matching.configs.data_settings import DataConfig
from split_matching.errors import DataError
from split_matching.stages.data.download.archives import explain_damage, read_members, unpack
from split_matching.stages.data.download.fetch import Archive, Phase, fetch
from split_matching.stages.data.download.matlab import read_matlab
from split_matching.stages.data.download.voc import ARCHIVES, write_file
from split_matching.stages.data.listing import SPLITS, parse_list, read_text
from split_matching.stages.ground.context import Progress

WANTED = ("JPEGImages", "ImageSets/Main")
MASKS, LISTS = "SegmentationClassContext", "ImageSets/SegmentationContext"

LABELS = (
    2, 9, 18, 19, 22, 23, 25, 31, 33, 34, 44, 45, 46, 59, 65, 68, 72, 80, 85, 98, 104, 105, 113, 115, 144, 158, 159,
    162, 187, 189, 207, 220, 232, 258, 259, 260, 284, 295, 296, 308, 324, 326, 347, 349, 354, 355, 360, 366, 368, 397,
    415, 416, 420, 424, 427, 440, 445, 454, 458,
)  # fmt: skip
"""Which of the 459 labels are the classes 1 to 59, in order. Source: the converter of mmsegmentation."""

MOST = 459


def image_archive() -> Archive:
    """VOC 2010's archive, as torchvision knows it."""
    from torchvision.datasets.voc import DATASET_YEAR_DICT

    known = DATASET_YEAR_DICT["2010"]
    return Archive(known["url"], known["filename"], known["md5"])


def label_archive() -> Archive:
    """The annotations; nobody publishes a checksum."""
    return Archive("https://cs.stanford.edu/~roozbeh/pascal-context/trainval.tar.gz", "context_trainval.tar.gz", None)


def download_pascal_context(data: DataConfig, root: Path, phase: Phase) -> None:
    """Download and derive what is missing.

    Args:
        data: the `data` section; no field of it is needed.
        root: `data.root`.
        phase: shows progress.

    Raises:
        DataError: a download failed, or an archive is not the original one.
    """
    base = root / "VOCdevkit" / "VOC2010"
    if not (base / "JPEGImages").is_dir():
        _unpack_images(fetch(image_archive(), root / ARCHIVES, phase), root, base, phase)
    if (base / MASKS).is_dir() and all(_list_file(base, split).is_file() for split in SPLITS):
        return
    archive = fetch(label_archive(), root / ARCHIVES, phase)
    if not (base / MASKS).is_dir():
        partial = base / f"{MASKS}.partial"
        with phase(f"converting the masks of {archive.name}", "MB") as progress, explain_damage(archive):
            _convert(archive, partial, progress)
        move_folder(partial, base / MASKS)
    annotated = {path.stem for path in (base / MASKS).glob("*.png")}
    for split in SPLITS:
        path = base / "ImageSets" / "Main" / f"{split}.txt"
        ids = [image_id for image_id in _read_list(path) if image_id in annotated]
        if not ids:
            raise DataError(f"{archive}: no annotation of any image of {path}; expected those of PASCAL Context")
        write_file(_list_file(base, split), "".join(f"{image_id}\n" for image_id in ids).encode())


def _read_list(path: Path) -> list[str]:
    try:
        return parse_list(read_text(path), path)
    except FileNotFoundError:
        raise DataError(f"{path}: no such list; expected that of VOC 2010: restore it") from None


def _unpack_images(archive: Path, root: Path, base: Path, phase: Phase) -> None:
    partial = root / "VOC2010.partial"

    def place(name: str) -> str | None:
        path = name.removeprefix("./").removeprefix("VOCdevkit/")
        wanted = path.startswith(tuple(f"VOC2010/{part}/" for part in WANTED))
        return path.removeprefix("VOC2010/") if wanted else None

    with phase(f"unpacking {archive.name}", "MB") as progress:
        unpack(archive, partial, place, progress)
    for part in WANTED:
        if not (partial / part).is_dir():
            raise DataError(f"{archive}: holds no VOCdevkit/VOC2010/{part}; expected the archive of VOC 2010")
    if base.exists():
        raise DataError(f"{base}: holds no JPEGImages; move it away to have it unpacked again")
    base.parent.mkdir(parents=True, exist_ok=True)
    move_folder(partial, base)


def _convert(archive: Path, partial: Path, progress: Progress) -> None:
    """Write the masks as PNGs into `partial`, unless they are there."""
    for member in read_members(archive, progress):
        path = PurePosixPath(member.name)
        target = partial / f"{path.stem}.png"
        if path.suffix != ".mat" or path.name[0] == "." or target.is_file():
            continue
        if not member.plain:
            raise DataError(f"{archive}: {member.name} is a link or a device; expected plain files")
        mask = read_context_mask(member.open().read(), f"{archive}: {member.name}")
        buffer = io.BytesIO()
        Image.fromarray(mask).save(buffer, "PNG")
        write_file(target, buffer.getvalue())
    if not partial.is_dir():
        raise DataError(f"{archive}: holds no .mat file; expected the annotations of PASCAL Context")


def read_context_mask(data: bytes, where: str) -> NDArray[np.uint8]:
    """Read a mask of PASCAL Context.

    Args:
        data: a MATLAB file with `LabelMap`, 0 or one of 459 labels for each pixel.
        where: how errors name it.

    Returns:
        (H, W) uint8: 1 to 59, and 0 for all other labels.

    Raises:
        DataError: not such a file.
    """
    labels = read_matlab(data, where, "LabelMap")
    whole = labels.dtype.kind in "ui" or (labels.dtype.kind == "f" and bool((labels == np.floor(labels)).all()))
    if labels.ndim != 2 or labels.size == 0 or not whole or labels.min() < 0 or labels.max() > MOST:
        raise DataError(f"{where}: LabelMap is no mask of labels 0 to {MOST}")
    table = np.zeros(MOST + 1, np.uint8)
    table[list(LABELS)] = np.arange(1, len(LABELS) + 1)
    return np.asarray(table[labels.astype(np.int64)])


def _list_file(base: Path, split: str) -> Path:
    return base / LISTS / f"{split}.txt"
