"""COCO-Stuff 164k from its original archives: images of COCO 2017, and COCO-Stuff's maps of things and stuff.

    ROOT/archives/                              what was downloaded; may be removed afterwards
    ROOT/images/{train2017,val2017}             118,287 and 5,000 JPEGs
    ROOT/annotations/{train2017,val2017}        as many PNGs of raw ids, used as they are

Each folder is unpacked under another name, and renamed when it is complete and has the expected number of files.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from split_matching.cache.files import move_folder
from split_matching.configs.data_settings import DataConfig
from split_matching.errors import DataError
from split_matching.stages.data.download.archives import unpack
from split_matching.stages.data.download.fetch import Archive, Phase, fetch
from split_matching.stages.data.layouts.coco_stuff import IMAGE_PLACES, MASK_PLACES, find_place

ARCHIVES = "archives"
COCO = "http://images.cocodataset.org/zips"
STUFF = "http://calvin.inf.ed.ac.uk/wp-content/uploads/data/cocostuffdataset"

# Source of the MD5s: many projects quote them for COCO's zips (e.g. detectron's and Paddle's download scripts); nobody
# seems to publish one for the maps, whose zip has a CRC for every file, which unpacking verifies.
IMAGES = {
    "train2017": Archive(f"{COCO}/train2017.zip", "train2017.zip", "cced6f7f71b7629ddf16f17bbcfab6b2"),
    "val2017": Archive(f"{COCO}/val2017.zip", "val2017.zip", "442b8da7639aecaf257c1dceb8ba8c80"),
}
MAPS = Archive(f"{STUFF}/stuffthingmaps_trainval2017.zip", "stuffthingmaps_trainval2017.zip", None)


def download_coco_stuff(data: DataConfig, root: Path, phase: Phase) -> None:
    """Download and unpack what is missing.

    Args:
        data: the `data` section; folders are counted against its `expected_train` and `expected_val`.
        root: `data.root`.
        phase: shows progress.

    Raises:
        DataError: a download failed, or an archive is damaged or has another number of files.
    """
    expected = {"train2017": data.expected_train, "val2017": data.expected_val}
    archives = root / ARCHIVES
    images = find_place(root, IMAGE_PLACES) or root / IMAGE_PLACES[0]
    for split, archive in IMAGES.items():
        if not (images / split).is_dir():
            _unpack(fetch(archive, archives, phase), images, split, ".jpg", expected[split], phase)
    maps = find_place(root, MASK_PLACES) or root / MASK_PLACES[0]
    for split in IMAGES:
        if not (maps / split).is_dir():
            _unpack(fetch(MAPS, archives, phase), maps, split, ".png", expected[split], phase)


def _unpack(archive: Path, folder: Path, split: str, ending: str, expected: int | None, phase: Phase) -> None:
    """Unpack the files of one split."""
    partial = folder / f"{split}.partial"

    def place(name: str) -> str | None:
        path = PurePosixPath(name)
        return path.name if path.parent.name == split and path.suffix == ending and path.name[0] != "." else None

    with phase(f"unpacking {split} of {archive.name}", "MB") as progress:
        count = unpack(archive, partial, place, progress)
    if count != expected if expected is not None else not count:
        wanted = "some" if expected is None else f"{expected:,}"
        field = "expected_train" if split == "train2017" else "expected_val"
        raise DataError(
            f"{archive}: {count:,} files {split}/*{ending}; expected {wanted}: this is not the original "
            f"archive. To use it all the same: --set data.{field}={count}"
        )
    move_folder(partial, folder / split)
