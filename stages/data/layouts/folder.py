"""Any other data set: a folder of images and a folder of masks with the same names.

    ROOT/images/train/a.jpg   ROOT/masks/train/a.png   data.train_split=train: a folder's name, in both
    ROOT/images/b.jpg         ROOT/masks/b.png         data.train_split=train.txt: a list of images, below the root
    ROOT/train/a.png          ROOT/trainannot/a.png    data.image_folder={split} data.mask_folder={split}annot

Folders may be nested; {split} stands for one folder's name, the same in both. The id of an image is its path below
`data.image_folder` (with the folder that {split} stands for) without `data.image_prefix` and `data.image_suffix` (or
its ending), with dots for slashes and _ for unusual signs: `train.a`, `b`. So equal names in two splits are two images.
Source: choice.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from split_matching.configs.colour_table import locate_colours, read_colours
from split_matching.errors import DataError, format_count
from split_matching.stages.data.absent_masks import SPLIT, AbsentMasks, FolderImage
from split_matching.stages.data.folder_files import (
    FOREIGN,
    PICTURES,
    add_affixes,
    describe_endings,
    is_folder,
    make_id,
    strip_affixes,
    walk,
)
from split_matching.stages.data.listing import LONGEST_ID, check_split, parse_list, read_text
from split_matching.stages.data.raw_files import Fingerprint, make_fingerprint, stat_file
from split_matching.stages.data.source import Layout

_PAIR = re.compile(r"(\S.*?\.\w{2,5})(?:\s*[,;]\s*|\s+)(\S.*\.\w{2,5})")
"""Image and mask on one line of a list."""


class FolderSource:
    """Files of a data set in two parallel folders.

    Args:
        data: names of the folders, the ends of the files' names, and the splits.
        root: the folder below which all of them lie.

    Raises:
        DataError: there is no folder of images, or it may not be read.
    """

    def __init__(self, data: Any, root: Path) -> None:
        self._data, self._root = data, root
        self._below: dict[Path, list[str]] = {}
        before, self._split, self._after = data.image_folder.partition(SPLIT)
        above, _, prefix = before.rpartition("/")
        self._before = prefix if self._split else ""
        self._images = root / (above if self._split else before)
        if not is_folder(self._images):
            found = sorted(path.name for path in root.iterdir() if path.is_dir()) if is_folder(root) else []
            there = f"there is {', '.join(found)}" if found else "there is no folder"
            raise DataError(
                f"{self._images}: no such folder of images ({there}); set where they are, below data.root: "
                "--set data.image_folder=NAME"
            )

    @cached_property
    def _absent(self) -> AbsentMasks:
        def is_image(split: str, stem: str) -> bool:
            return make_id(str(Path(split, stem))) in self._files

        return AbsentMasks(self._data, self._root, self._images, self._paths_below, is_image)

    @cached_property
    def _walked(self) -> tuple[list[tuple[str, str, str]], list[str]]:
        """Of the files in the folders of images: (path below `_images`, split, name) of pictures; paths of others."""
        inside = f"{re.escape(self._before)}([^/]+){re.escape(self._after)}/(.+)" if self._split else "()(.+)"
        pictures, others = [], []
        for path in walk(self._images):
            place = re.fullmatch(inside, path, re.DOTALL)
            if place is None:
                continue
            if path.lower().endswith(PICTURES) and self._image_stem(path):
                pictures.append((path, place[1], place[2]))
            else:
                others.append(path)
        return pictures, others

    @cached_property
    def _files(self) -> dict[str, list[FolderImage]]:
        """Image files by id; two files of one id are an error once a split has them."""
        files: dict[str, list[FolderImage]] = {}
        for path, split, name in self._walked[0]:
            image = FolderImage(self._images / path, split, self._image_stem(name))
            files.setdefault(make_id("/".join(image.parts)), []).append(image)
        return files

    def _is_mask(self, image: FolderImage) -> bool:
        """Whether a file beside the images is the mask of one, by a name with more than an ending: a_mask.png."""
        prefix, suffix = self._data.mask_prefix, self._data.mask_suffix
        folders = (os.path.normpath(folder) for folder in (self._data.mask_folder, self._data.image_folder))
        if not (prefix or suffix.rpartition(".")[0]) or len(set(folders)) > 1:
            return False
        stem = strip_affixes(image.path.name, prefix, suffix)
        return bool(stem) and make_id("/".join((*image.parts[:-1], stem))) in self._files

    def _image_stem(self, path: str) -> str:
        return strip_affixes(path, self._data.image_prefix, self._data.image_suffix or Path(path).suffix)

    def ids(self, split: str) -> list[str]:
        """Image ids of a split.

        Args:
            split: "train" or "val"; the config says which list or folder that is.

        Returns:
            Ids, sorted, each once.

        Raises:
            DataError: the list or folder is missing or empty, or the list has a line that is no id or an id twice, or
                two files of the split have one id.
        """
        check_split(split)
        name = getattr(self._data, f"{split}_split")
        found = self._read_list(split, name) if name.lower().endswith(".txt") else self._find_in_folder(split, name)
        twice = [self._files[image_id] for image_id in found if len(self._files.get(image_id, ())) > 1]
        if twice:
            count = format_count(len(twice), "image id is", "image ids are")
            raise DataError(
                f"{count} of several files, first: {twice[0][0].path} and {twice[0][1].path}; rename one of each"
            )
        long = [image_id for image_id in found if len(image_id.encode()) > LONGEST_ID]
        if long:
            count = format_count(len(long), "name is", "names are")
            raise DataError(
                f"{self._files[long[0]][0].path}: {count} too long, with their folders; expected {LONGEST_ID} bytes at "
                "most: rename them"
            )
        return found

    def _read_list(self, split: str, name: str) -> list[str]:
        path = self._root / name
        try:
            text = read_text(path)
        except FileNotFoundError:
            raise DataError(
                f"{path}: no such list; expected one image id a line. Add it, or name another list or a folder of "
                f"images: --set data.{split}_split=NAME"
            ) from None
        return parse_list(text, path, self._resolve)

    def _resolve(self, line: str, where: str) -> str:
        """Return the id of what a line names: an id, a path, with or without ending, or an image and its mask."""
        pair = _PAIR.fullmatch(line)
        image_id = self._find(pair[1]) if pair else ""
        if pair and image_id:
            image, named = self._files[image_id][0], Path(_posix(pair[2])).parts
            rule = self._mask_rule(image)
            places = [rule, *self._spellings(self._mask_folder(image.split), image)]
            # a list may have folders above the root, too, or leave out those below it
            below = [path.relative_to(self._root).parts[-len(named) :] for path in places]
            if not any(named[-len(parts) :] == parts for parts in below):
                raise DataError(
                    f"{where}: the mask is {pair[2]}, but by data.mask_folder and data.mask_suffix it is {rule}; set "
                    "them, for example data.mask_folder={split}annot"
                )
        image_id = image_id or self._find(line)
        if image_id or line[0] == "#":
            return image_id
        # what a line names may be absent, or the line be hostile: that is said later
        return line if ".." in line else _posix(line).replace("/", ".")

    def _find(self, name: str) -> str:
        """Return the id of the image that a list names, "" if there is none."""
        name = _posix(name)
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if ".." in parts:
            return ""
        for start in range(len(parts)):
            rest = "/".join(parts[start:])
            ends = [end for end in (self._data.image_suffix, *PICTURES) if end and rest.lower().endswith(end.lower())]
            stems = (rest, *(rest[: -len(end)] for end in ends))
            for stem in (*stems, *(strip_affixes(stem, self._data.image_prefix, "") for stem in stems)):
                image_id = make_id(stem)
                for image in self._files.get(image_id, ())[:1]:
                    # what was left out must be the folders above, or an absolute path of another machine
                    above = image.path.parts[: len(image.path.parts) - len(image.parts)]
                    if start == 0 or name.startswith("/") or list(above[-start:]) == parts[:start]:
                        # `#a` is also the id `_a`, and then the comment that leaves out image a
                        return image_id if name[0] != "#" or "#" in {part[0] for part in image.parts} else ""
        return ""

    def _find_in_folder(self, split: str, name: str) -> list[str]:
        parts = Path(os.path.normpath(name)).parts
        below = parts[1:] if self._split else parts
        folder = self._root.joinpath(self._data.image_folder.replace(SPLIT, parts[0]), *below)
        if not is_folder(folder):
            if (self._root / name).is_file():
                raise DataError(
                    f"{self._root / name}: a file; expected a folder's name, or a list that ends in .txt: rename it"
                )
            there = sorted(path.name for path in self._images.iterdir() if path.is_dir())
            raise DataError(
                f"{folder}: no such folder of images (there is {', '.join(there) or 'none'}); name one, or a list "
                f"such as {split}.txt: --set data.{split}_split=NAME"
            )
        found = sorted(
            image_id
            for image_id, images in self._files.items()
            if any(image.parts[: len(parts)] == parts and not self._is_mask(image) for image in images)
        )
        if not found:
            ends = self._data.image_suffix or ", ".join(PICTURES)
            others = walk(folder)
            others_are = f" (there is {describe_endings(others)})" if others else ""
            remedy = "see data.image_suffix" if self._data.image_suffix else "convert them, or choose another folder"
            raise DataError(f"{folder}: no image{others_are}; expected names that end in {ends}: {remedy}")
        return found

    def image_path(self, image_id: str) -> Path:
        """The image of an id.

        Raises:
            DataError: no such file.
        """
        return self._image(image_id).path

    def _image(self, image_id: str) -> FolderImage:
        if image_id in self._files:
            return self._files[image_id][0]
        written = tuple(f".{name}".casefold() for name in (image_id, os.path.splitext(image_id)[0]))  # noqa: PTH122
        close = [other for other in self._files if f".{other}".casefold().endswith(written)]
        example = next(iter(sorted(self._files)), "a")
        meant = f"did you mean {close[0]}?" if close else f"ids are names without ending, such as {example}"
        raise DataError(
            f"{self._images}: no image {image_id} though its split names it ({meant}); add the file or correct the list"
        )

    def mask_path(self, image_id: str) -> Path:
        """The mask of an id.

        Raises:
            DataError: no such file or folder, or it is the image itself.
        """
        image = self._image(image_id)
        path = self._mask_rule(image)
        if os.path.normpath(path) == os.path.normpath(image.path):
            raise DataError(
                f"{path}: the image itself would be its mask; set where masks are, or what their names end with: "
                "--set data.mask_folder=NAME data.mask_suffix=_mask.png"
            )
        if path.is_file():
            return path
        folder = self._mask_folder(image.split)
        if not is_folder(folder):
            other = self._absent.find_polygons(image)
            there = f" ({other} holds {FOREIGN['.json']})" if other else ""
            raise DataError(
                f"{folder}: no such folder of masks{there}; set where they are: --set data.mask_folder=NAME"
            )
        for other in self._spellings(folder, image):
            if other.is_file():
                return other
        raise DataError(f"{path}: the mask is absent though there is its image; {self._absent.remedy(image, folder)}")

    def _mask_folder(self, split: str) -> Path:
        return self._root / self._data.mask_folder.replace(SPLIT, split)

    def _mask_rule(self, image: FolderImage) -> Path:
        return self._mask_folder(image.split) / add_affixes(image.stem, self._data.mask_prefix, self._data.mask_suffix)

    def _spellings(self, folder: Path, image: FolderImage) -> list[Path]:
        """A mask's names with accents as other systems write them, behind an image's ending, or with one in capitals.

        a.jpg.png is the mask of a.jpg as Supervisely names it.
        """
        prefix, suffix = self._data.mask_prefix, self._data.mask_suffix
        longer = f"{image.stem}{image.path.suffix}"  # unless it is the name of another image
        written = [image.stem, *([longer] if make_id(str(Path(image.split, longer))) not in self._files else [])]
        stems = dict.fromkeys(
            [*written, *(unicodedata.normalize(form, stem) for form in ("NFC", "NFD") for stem in written)]
        )
        ends = (suffix, suffix.lower(), suffix.upper())
        return [folder / add_affixes(name, prefix, end) for name in stems for end in ends]

    def _paths_below(self, folder: Path) -> list[str]:
        """All files below a folder of masks, sorted; looked for once."""
        if folder not in self._below:
            self._below[folder] = walk(folder)
        return self._below[folder]

    def mask_table(self, mask: Path) -> Mapping[int, int] | None:
        """The ids of colours, with `data.colours`; else None: masks hold the class list's ids."""
        return self._colours

    @cached_property
    def _colours(self) -> Mapping[int, int] | None:
        name = self._data.colours
        return read_colours(locate_colours(name, self._root)).ids if name else None

    def fingerprint(self) -> Fingerprint:
        """Over both lists, with sizes and times of their files; and over the table of colours."""
        rows = [
            (split, image_id, stat_file(self.image_path, image_id), stat_file(self.mask_path, image_id))
            for split in ("train", "val")
            for image_id in self.ids(split)
        ]
        return make_fingerprint(rows, self._colours or {})

    def shared_masks(self, ids: Mapping[str, Sequence[str]]) -> list[tuple[str, str]]:
        """Pairs of images whose mask is one file by the settings; whether it exists is not looked at."""
        first: dict[Path, str] = {}
        there = (image_id for members in ids.values() for image_id in members if image_id in self._files)
        by_rule = [(first.setdefault(self._mask_rule(self._files[name][0]), name), name) for name in there]
        return [(one, other) for one, other in by_rule if one != other]

    def stray_masks(self) -> list[Path]:
        """Mask files that belong to no image file."""
        stems: dict[str, set[str]] = {} if SPLIT in self._data.mask_folder else {"": set()}
        for image in (image for images in self._files.values() for image in images):
            known = stems.setdefault(image.split if SPLIT in self._data.mask_folder else "", set())
            known |= {_plain(image.stem), _plain(f"{image.stem}{image.path.suffix}")}
        strays: list[Path] = []
        for split, known in stems.items():
            folder = self._mask_folder(split)
            masks = {
                name: strip_affixes(name, self._data.mask_prefix, self._data.mask_suffix)
                for name in self._paths_below(folder)
            }
            strays += [folder / name for name, stem in masks.items() if stem and _plain(stem) not in known]
        return strays

    def left_out(self) -> list[str]:
        """Paths of files in the folder of images that are no pictures by their names; none with `data.image_suffix`."""
        return [] if self._data.image_suffix else self._walked[1]


def _plain(stem: str) -> str:
    return unicodedata.normalize("NFC", stem)


def _posix(name: str) -> str:
    """Return a path as Linux writes it, without the drive of Windows."""
    return re.sub(r"^[A-Za-z]:(?=/)", "", name.replace("\\", "/"))


_PLACES = ("image_folder", "image_prefix", "image_suffix")

LAYOUT = Layout(
    FolderSource,
    images=_PLACES,
    masks=(*_PLACES, "mask_folder", "mask_prefix", "mask_suffix", "colours"),
    lists=(*_PLACES, "train_split", "val_split", "mask_folder", "mask_prefix", "mask_suffix"),
)
