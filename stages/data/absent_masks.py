"""What to do about a mask that is absent from a `folder` data set, by what is there instead of it."""

from __future__ import annotations

import bisect
import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from split_matching.stages.data.folder_files import FOREIGN, add_affixes, strip_affixes

SPLIT = "{split}"

COCO = re.compile("coco|instances|annotations", re.IGNORECASE)
"""In the names of COCO's files of polygons."""

NEIGHBOURS = 50
"""Names beside that of an absent mask that are looked at for another ending (choice)."""


@dataclass(frozen=True)
class FolderImage:
    """One image file.

    Args:
        path: the file.
        split: the folder that {split} stands for; "" if the folder of images has none.
        stem: path below the folder of images, without what its name begins and ends with.
    """

    path: Path
    split: str
    stem: str

    @property
    def parts(self) -> tuple[str, ...]:
        """Folders below the folder of images, and the name."""
        return Path(self.split, self.stem).parts


class AbsentMasks:
    """Looks for what was meant; what is the same for many images is looked for once.

    Args:
        data: names of the folders, and what files' names begin and end with.
        root: the folder of the data set.
        images: the folder of images.
        paths_below: all files below a folder, sorted.
        is_image: whether there is an image of a split (the folder that {split} stands for) and stem.
    """

    def __init__(
        self,
        data: Any,
        root: Path,
        images: Path,
        paths_below: Callable[[Path], list[str]],
        is_image: Callable[[str, str], bool],
    ) -> None:
        self._data, self._root, self._images = data, root, images
        self._paths_below, self._is_image = paths_below, is_image
        self._polygons: dict[Path, Path | None] = {}
        self._ends: dict[Path, dict[str, tuple[str, str]]] = {}

    def find_polygons(self, image: FolderImage) -> Path | None:
        """LabelMe's polygons of an image, or a file that is named as COCO's, where such files usually are."""
        beside, parent = image.path.with_suffix(".json"), image.path.parent
        if beside.is_file():
            return beside
        if parent not in self._polygons:
            folders = (parent, self._root, self._root / "annotations")
            whole = (path for folder in folders for path in sorted(folder.glob("*.json")) if COCO.search(path.name))
            self._polygons[parent] = next((path for path in whole if path.is_file()), None)
        return self._polygons[parent]

    def remedy(self, image: FolderImage, folder: Path) -> str:
        """What to do, in words.

        Args:
            image: has no mask.
            folder: where its mask should be.
        """
        for ending, meaning in FOREIGN.items():
            names = (f"{image.stem}{ending}", f"{image.stem}{image.path.suffix}{ending}")
            for place in (*(folder / name for name in names), image.path.with_suffix(ending)):
                if place.is_file():
                    return f"{place} holds {meaning}"
        prefix, suffix = self._data.mask_prefix, self._data.mask_suffix
        wanted = add_affixes(Path(image.stem).name, prefix, suffix)
        flat = folder / wanted
        if SPLIT not in self._data.image_folder and flat.is_file():
            setting = f"data.image_folder={self._data.image_folder}/{SPLIT}"
            return f"there is {flat}; if only images have folders by split: --set '{setting}'"
        for name, settings in (*self._other_ends(image, folder), *self._other_starts(image, folder)):
            return f"there is {folder / name}; if that is the mask: --set {shlex.join(settings)}"
        for other in self._paths_below(folder):
            if Path(other).name == wanted and not self._is_image(image.split, strip_affixes(other, prefix, suffix)):
                return f"there is {folder / other}; expected the image's own folders above it: move it"
        return "add it, or set what mask names end with: --set data.mask_suffix=_mask.png"

    def _other_ends(self, image: FolderImage, folder: Path) -> Iterator[tuple[str, list[str]]]:
        """Masks that begin with the image's name and end otherwise (a.jpg, a_mask.png), and the settings they need."""
        if self._images in (folder, *folder.parents):
            return  # these may be images
        paths = self._paths_below(folder)
        start = bisect.bisect_left(paths, image.stem)
        for name in paths[start : start + NEIGHBOURS]:
            rest = name.removeprefix(image.stem)
            if rest != name and re.fullmatch(r"[\W_][^/]*", rest) and not self._is_of_another(image, name):
                yield (
                    name,
                    [f"data.mask_suffix={rest}" if re.fullmatch(r"[\w.\-]+", rest) else f'data.mask_suffix="{rest}"'],
                )

    def _is_of_another(self, image: FolderImage, name: str) -> bool:
        """Whether a mask's name begins with that of an image whose name is longer: img_1_2.png is none of img_1."""
        return any(self._is_image(image.split, name[:end]) for end in range(len(image.stem) + 1, len(name)))

    def _other_starts(self, image: FolderImage, folder: Path) -> Iterator[tuple[str, list[str]]]:
        """Masks that begin otherwise (1.jpg or image_1.jpg, and mask_1.png), and the settings they need."""
        if folder not in self._ends:
            ends = self._ends[folder] = {}
            for path in self._paths_below(folder):
                above, slash, name = path.rpartition("/")
                for sign in re.finditer(r"[\W_]", name):
                    ends.setdefault(f"{above}{slash}{name[sign.end() :]}", (path, name[: sign.end()]))
        above, slash, name = image.stem.rpartition("/")
        first = re.match(r"[^\W_]+[\W_]", name)
        for start in ("", *([first[0]] if first else ())):
            wanted = f"{above}{slash}{name.removeprefix(start)}{self._data.mask_suffix}"
            path, instead = self._ends[folder].get(wanted, ("", ""))
            if path and not self._is_image(image.split, strip_affixes(path, "", self._data.mask_suffix)):
                yield path, [f"data.image_prefix={start}"] * bool(start) + [f"data.mask_prefix={instead}"]
