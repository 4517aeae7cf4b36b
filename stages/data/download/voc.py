"""PASCAL VOC 2012 and SBD from their original archives: unpack, convert SBD's masks, derive the list `trainaug`.

    ROOT/archives/                                      what was downloaded; may be removed afterwards
    ROOT/VOCdevkit/VOC2012/{JPEGImages,SegmentationClass,ImageSets/Segmentation}     from VOC's archive
    ROOT/VOCdevkit/VOC2012/SegmentationClassAug         VOC's own masks, and SBD's where VOC has none
    ROOT/VOCdevkit/VOC2012/ImageSets/Segmentation/trainaug.txt

Folders are made under another name and renamed when they are complete, and the list is written last. So what is there
is complete, and an interrupted run resumes with the files that it has.
"""

from __future__ import annotations

import io
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from split_matching.cache.files import atomic_write, move_folder
from split_matching.configs.data_settings import DataConfig
from split_matching.errors import DataError
from split_matching.stages.data.download.archives import explain_damage, read_members, unpack
from split_matching.stages.data.download.fetch import Archive, Phase, fetch
from split_matching.stages.data.download.matlab import read_matlab
from split_matching.stages.data.layouts.voc import AUG_LIST, AUG_MASKS, voc_palette
from split_matching.stages.data.listing import parse_list, read_text
from split_matching.stages.ground.context import Progress

ARCHIVES = "archives"
WANTED = ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation")
CLASSES = 20


def voc_archive() -> Archive:
    """VOC's archive, as torchvision knows it."""
    from torchvision.datasets.voc import DATASET_YEAR_DICT

    known = DATASET_YEAR_DICT["2012"]
    return Archive(known["url"], known["filename"], known["md5"])


def sbd_archive() -> Archive:
    """SBD's archive, as torchvision knows it."""
    from torchvision.datasets import SBDataset

    return Archive(SBDataset.url, SBDataset.filename, SBDataset.md5)


def download_voc(data: DataConfig, root: Path, phase: Phase) -> None:
    """Download and derive what is missing.

    Args:
        data: the `data` section; lists are checked against its `expected_train` and `expected_val`.
        root: `data.root`.
        phase: shows progress.

    Raises:
        DataError: a download failed, an archive is not the original one, or a list has another length.
    """
    base = _find_base(root)
    if base is None:
        archive = fetch(voc_archive(), root / ARCHIVES, phase)
        base = _unpack_voc(archive, root, phase)
    if data.mask_folder != AUG_MASKS and data.train_split != AUG_LIST:
        return  # VOC alone
    if (base / AUG_MASKS).is_dir() and _list_file(base, AUG_LIST).is_file():
        return
    archive = fetch(sbd_archive(), root / ARCHIVES, phase)
    _derive(base, archive, data, phase)


def _find_base(root: Path) -> Path | None:
    """VOC2012 where it is there already, in any of the places where `VocSource` looks."""
    for candidate in (root / "VOCdevkit" / "VOC2012", root / "VOC2012", root):
        if (candidate / "JPEGImages").is_dir():
            for part in WANTED:
                if not (candidate / part).is_dir():
                    raise DataError(
                        f"{candidate / part}: no such folder beside JPEGImages; add it, or move {candidate} away to "
                        "have all of it unpacked again"
                    )
            return candidate
    if (root / "VOCdevkit").exists():
        raise DataError(f"{root / 'VOCdevkit'} holds no VOC2012/JPEGImages; move it away to have it unpacked again")
    return None


def _unpack_voc(archive: Path, root: Path, phase: Phase) -> Path:
    partial = root / "VOCdevkit.partial"

    def place(name: str) -> str | None:
        path = name.removeprefix("./").removeprefix("VOCdevkit/")
        return path if path.startswith(tuple(f"VOC2012/{part}/" for part in WANTED)) else None

    with phase(f"unpacking {archive.name}", "MB") as progress:
        unpack(archive, partial, place, progress)
    for part in WANTED:
        if not (partial / "VOC2012" / part).is_dir():
            raise DataError(f"{archive}: holds no VOCdevkit/VOC2012/{part}; expected the archive of VOC 2012")
    move_folder(partial, root / "VOCdevkit")
    return root / "VOCdevkit" / "VOC2012"


def _derive(base: Path, archive: Path, data: DataConfig, phase: Phase) -> None:
    """Make the mask folder and the list, whichever is missing."""
    train, val = (parse_list(read_text(path), path) for path in (_list_file(base, "train"), _list_file(base, "val")))
    partial = None if (base / AUG_MASKS).is_dir() else base / f"{AUG_MASKS}.partial"
    with phase(f"converting the masks of {archive.name}", "MB") as progress, explain_damage(archive):
        texts = _convert(archive, base / "SegmentationClass", partial, progress)
    for name in ("train.txt", "val.txt"):
        if name not in texts:
            raise DataError(f"{archive}: holds no dataset/{name}; expected the archive of SBD, benchmark.tgz")
    sbd = {image_id for name, text in texts.items() for image_id in parse_list(text, archive / name)}
    ids = trainaug_ids(train, sbd, val)
    _check_length(archive, "training", ids, data.expected_train, "expected_train")
    _check_length(_list_file(base, "val"), "validation", val, data.expected_val, "expected_val")
    if partial is not None:
        for mask in sorted((base / "SegmentationClass").glob("*.png")):
            write_file(partial / mask.name, mask.read_bytes())
        absent = [image_id for image_id in (*ids, *val) if not (partial / f"{image_id}.png").is_file()]
        if absent:
            raise DataError(f"{archive}: no mask of {absent[0]} and {len(absent) - 1} others; expected the whole SBD")
        move_folder(partial, base / AUG_MASKS)
    if not _list_file(base, AUG_LIST).is_file():
        write_file(_list_file(base, AUG_LIST), "".join(f"{image_id}\n" for image_id in ids).encode())


def trainaug_ids(train: list[str], sbd: set[str], val: list[str]) -> list[str]:
    """The training list of the field: VOC's training images and all of SBD, without VOC's validation images.

    SBD has splits of its own, and its training images include images of VOC's validation list.

    Returns:
        10,582 sorted ids for the original lists.
    """
    return sorted((set(train) | sbd) - set(val))


def _convert(archive: Path, own_masks: Path, partial: Path | None, progress: Progress) -> dict[str, str]:
    """Write SBD's masks as PNGs into `partial`, unless there, and return its lists by name.

    Where VOC has a mask of its own, that one counts and SBD's is left out: the convention of mmsegmentation's configs
    (train.txt with SegmentationClass, aug.txt with SegmentationClassAug) and so of ZegCLIP and those after it. VOC's
    masks are drawn more carefully, and have a void border that SBD's have not.
    """
    texts: dict[str, str] = {}
    colours = voc_palette()
    for member in read_members(archive, progress):
        path = PurePosixPath(member.name)
        if path.parts[-2:-1] == ("dataset",) and path.name in ("train.txt", "val.txt") and member.plain:
            texts[path.name] = member.open().read().decode("utf-8", errors="replace")
        if partial is None or path.parts[-3:-1] != ("dataset", "cls") or path.suffix != ".mat" or path.name[0] == ".":
            continue
        target = partial / f"{path.stem}.png"
        if target.is_file() or (own_masks / target.name).is_file():
            continue
        if not member.plain:
            raise DataError(f"{archive}: {member.name} is a link or a device; expected plain files")
        mask = read_sbd_mask(member.open().read(), f"{archive}: {member.name}")
        image = Image.fromarray(mask)
        image.putpalette(colours)
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        write_file(target, buffer.getvalue())
    return texts


def read_sbd_mask(data: bytes, where: str) -> NDArray[np.uint8]:
    """Read a mask of SBD.

    Args:
        data: a MATLAB file with the struct GTcls, as in SBD's folder `cls`.
        where: how errors name it.

    Returns:
        (H, W) uint8, 0 background, 1..20 VOC's classes.

    Raises:
        DataError: not such a file.
    """
    mask = read_matlab(data, where, "GTcls", "Segmentation")
    if mask.ndim != 2 or mask.dtype.kind not in "ui" or mask.size == 0 or mask.min() < 0 or mask.max() > CLASSES:
        raise DataError(f"{where}: GTcls.Segmentation is no mask of ids 0 to {CLASSES}")
    return mask.astype(np.uint8)


def _check_length(where: Path, split: str, ids: list[str], expected: int | None, field: str) -> None:
    if expected is not None and len(ids) != expected:
        raise DataError(
            f"{where}: the {split} list has {len(ids):,} images; expected {expected:,}: these are not the original "
            f"files. To use them all the same: --set data.{field}={len(ids)}"
        )


def _list_file(base: Path, name: str) -> Path:
    return base / "ImageSets" / "Segmentation" / f"{name}.txt"


def write_file(path: Path, content: bytes) -> None:
    """Write a file atomically; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path, sync=False) as temporary:
        temporary.write_bytes(content)
