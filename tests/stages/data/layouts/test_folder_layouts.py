# ruff: noqa: E501  (a row of the table is a line)
"""Folders as people have them: which image and which mask each id has, or what is said where nothing fits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from split_matching.configs.load import load_config
from split_matching.errors import DataError
from split_matching.stages.data.source import open_source
from tests.error_lines import error_line

COMPOSED, SINGLE = "caf\u0065\u0301", "caf\u00e9"


@dataclass(frozen=True)
class Case:
    """One layout.

    Args:
        name: what it is.
        files: paths below the root; "A -> B" is a link.
        train: ids with image and mask that the training split has; or words of the error.
        settings: fields of `data`.
        lists: text of the list files.
    """

    name: str
    files: Sequence[str]
    train: Mapping[str, tuple[str, str]] | tuple[str, ...]
    settings: Mapping[str, str] = field(default_factory=dict)
    lists: Mapping[str, str] = field(default_factory=dict)


def pair(image: str, mask: str) -> tuple[str, str]:
    return image, mask


LIST = {"train_split": "train.txt"}
CAMVID = {"image_folder": "{split}", "mask_folder": "{split}annot"}
FLAT = ["images/a.jpg", "masks/a.png", "images/b.jpg", "masks/b.png"]

CASES = [
    Case("parallel", ["images/train/a.jpg", "masks/train/a.png"], {"train.a": pair("images/train/a.jpg", "masks/train/a.png")}),
    Case("nested", ["images/train/x/y/a.jpg", "masks/train/x/y/a.png"], {"train.x.y.a": pair("images/train/x/y/a.jpg", "masks/train/x/y/a.png")}),
    Case(
        "ADE20K",
        ["images/training/ADE_1.jpg", "annotations/training/ADE_1.png"],
        {"training.ADE_1": pair("images/training/ADE_1.jpg", "annotations/training/ADE_1.png")},
        {"mask_folder": "annotations", "train_split": "training"},
    ),
    Case(
        "Cityscapes",
        ["leftImg8bit/train/ulm/u_1_leftImg8bit.png", "gtFine/train/ulm/u_1_gtFine_labelTrainIds.png", "gtFine/train/ulm/u_1_gtFine_color.png"],
        {"train.ulm.u_1": pair("leftImg8bit/train/ulm/u_1_leftImg8bit.png", "gtFine/train/ulm/u_1_gtFine_labelTrainIds.png")},
        {"image_folder": "leftImg8bit", "mask_folder": "gtFine", "image_suffix": "_leftImg8bit.png", "mask_suffix": "_gtFine_labelTrainIds.png"},
    ),
    Case(
        "CamVid by folders",
        ["train/a.png", "trainannot/a.png", "val/b.png", "valannot/b.png"],
        {"train.a": pair("train/a.png", "trainannot/a.png")},
        CAMVID,
    ),
    Case(
        "CamVid by its lists",
        ["train/a.png", "trainannot/a.png", "val/b.png", "valannot/b.png"],
        {"train.a": pair("train/a.png", "trainannot/a.png")},
        {**CAMVID, **LIST},
        {"train.txt": "/SegNet/CamVid/train/a.png /SegNet/CamVid/trainannot/a.png\n"},
    ),
    Case(
        "split first (Roboflow, Kaggle)",
        ["train/images/a.jpg", "train/masks/a.png", "valid/images/a.jpg", "valid/masks/a.png"],
        {"train.a": pair("train/images/a.jpg", "train/masks/a.png")},
        {"image_folder": "{split}/images", "mask_folder": "{split}/masks"},
    ),
    Case(
        "below a folder, split first",
        ["data/train/images/x/a.jpg", "data/train/masks/x/a.png"],
        {"train.x.a": pair("data/train/images/x/a.jpg", "data/train/masks/x/a.png")},
        {"image_folder": "data/{split}/images", "mask_folder": "data/{split}/masks"},
    ),
    Case(
        "split in a folder's name",
        ["img_train/a.jpg", "seg_train/a.png"],
        {"train.a": pair("img_train/a.jpg", "seg_train/a.png")},
        {"image_folder": "img_{split}", "mask_folder": "seg_{split}"},
    ),
    Case(
        "image and mask side by side",
        ["all/a.jpg", "all/a.png"],
        {"a": pair("all/a.jpg", "all/a.png")},
        {"image_folder": "all", "mask_folder": "all", "image_suffix": ".jpg", **LIST},
        {"train.txt": "a\n"},
    ),
    Case(
        "a name's end for masks",
        ["images/train/a.png", "images/train/a_mask.png"],
        {"train.a": pair("images/train/a.png", "images/train/a_mask.png")},
        {"mask_folder": "images", "mask_suffix": "_mask.png", **LIST},
        {"train.txt": "train/a\n"},
    ),
    Case("images in the root", ["a.jpg", "m/a.png"], {"a": pair("a.jpg", "m/a.png")}, {"image_folder": ".", "mask_folder": "m", **LIST}, {"train.txt": "a\n"}),
    Case("list of ids", FLAT, {"a": pair("images/a.jpg", "masks/a.png")}, LIST, {"train.txt": "a\n"}),
    Case("list with endings", FLAT, {"a": pair("images/a.jpg", "masks/a.png")}, LIST, {"train.txt": "a.jpg\n"}),
    Case("list of paths", FLAT, {"a": pair("images/a.jpg", "masks/a.png")}, LIST, {"train.txt": "images/a.jpg\n"}),
    Case("list of paths with ./", FLAT, {"a": pair("images/a.jpg", "masks/a.png")}, LIST, {"train.txt": "./images/a.jpg\r\n"}),
    Case("list of absolute paths", FLAT, {"a": pair("images/a.jpg", "masks/a.png")}, LIST, {"train.txt": "/data/images/a.jpg\n"}),
    Case("list with a tab", FLAT, {"a": pair("images/a.jpg", "masks/a.png")}, LIST, {"train.txt": "images/a.jpg\tmasks/a.png\n"}),
    Case("list with a comma", FLAT, {"a": pair("images/a.jpg", "masks/a.png")}, LIST, {"train.txt": "images/a.jpg, masks/a.png\n"}),
    Case("list with other masks", FLAT, ("line 1", "the mask is labels/a.png", "data.mask_folder"), LIST, {"train.txt": "images/a.jpg labels/a.png\n"}),
    Case("list of another folder", ["images/x/a.jpg", "masks/x/a.png"], ("no image y.a",), LIST, {"train.txt": "y/a\n"}),
    Case("list that leads out", FLAT, ("line 1", "neither an image nor an id"), LIST, {"train.txt": "../images/a.jpg\n"}),
    Case("list of Windows", FLAT, {"a": pair("images/a.jpg", "masks/a.png"), "b": pair("images/b.jpg", "masks/b.png")}, LIST, {"train.txt": "images\\a.jpg\r\nD:\\data\\images\\b.jpg\r\n"}),
    Case("list of pairs of Windows", FLAT, {"a": pair("images/a.jpg", "masks/a.png")}, LIST, {"train.txt": "images\\a.jpg masks\\a.png\n"}),
    Case("list with a comment and blanks", FLAT, {"a": pair("images/a.jpg", "masks/a.png")}, LIST, {"train.txt": "\ufeff# mine\n\n  a \t\n\n"}),
    Case("list with quotes", FLAT, ("line 2", "'\"images/b.jpg\"' is neither an image nor an id"), LIST, {"train.txt": "a\n\"images/b.jpg\"\n"}),
    Case("list with an image twice", FLAT, ("line 2: a was already on line 1",), LIST, {"train.txt": "a\nimages/a.jpg\n"}),
    Case("list in another case", FLAT, ("no image A", "did you mean a?"), LIST, {"train.txt": "A\n"}),
    Case("list with endings in another case", FLAT, {"a": pair("images/a.jpg", "masks/a.png")}, LIST, {"train.txt": "images/a.JPG\n"}),
    Case("list that ends in .TXT", FLAT, {"a": pair("images/a.jpg", "masks/a.png")}, {"train_split": "train.TXT"}, {"train.TXT": "a\n"}),
    Case("list that ends otherwise", FLAT, ("train.csv: a file", "a list that ends in .txt"), {"train_split": "train.csv"}, {"train.csv": "a\n"}),
    Case("empty list", FLAT, ("the list is empty",), LIST, {"train.txt": "\n"}),
    Case("list in a folder", FLAT, {"b": pair("images/b.jpg", "masks/b.png")}, {"train_split": "lists/train.txt"}, {"lists/train.txt": "b\n"}),
    Case("blanks and brackets", ["images/train/img (1).jpg", "masks/train/img (1).png"], {"train.img__1_": pair("images/train/img (1).jpg", "masks/train/img (1).png")}),
    Case("plus and at", ["images/train/a+b@2.jpg", "masks/train/a+b@2.png"], {"train.a_b_2": pair("images/train/a+b@2.jpg", "masks/train/a+b@2.png")}),
    Case("a list of odd names", ["images/img (1).jpg", "masks/img (1).png"], {"img__1_": pair("images/img (1).jpg", "masks/img (1).png")}, LIST, {"train.txt": "img (1).jpg\n"}),
    Case("an odd file that no list names", [*FLAT, "images/shot (1).png", "images/shot [1].png"], {"a": pair("images/a.jpg", "masks/a.png")}, LIST, {"train.txt": "a\n"}),
    Case("two odd files of one id", ["images/train/a (1).jpg", "images/train/a [1].jpg"], ("1 image id is of several files", "rename one")),
    Case("images of a Mac", [f"images/train/{COMPOSED}.jpg", f"masks/train/{SINGLE}.png"], {f"train.{SINGLE}": pair(f"images/train/{COMPOSED}.jpg", f"masks/train/{SINGLE}.png")}),
    Case("masks of a Mac", [f"images/train/{SINGLE}.jpg", f"masks/train/{COMPOSED}.png"], {f"train.{SINGLE}": pair(f"images/train/{SINGLE}.jpg", f"masks/train/{COMPOSED}.png")}),
    Case("a list of a Mac", [f"images/{SINGLE}.jpg", f"masks/{SINGLE}.png"], {SINGLE: pair(f"images/{SINGLE}.jpg", f"masks/{SINGLE}.png")}, LIST, {"train.txt": f"{COMPOSED}\n"}),
    Case(
        "endings in capitals",
        ["images/train/a.JPG", "masks/train/a.PNG", "images/train/b.jpg", "masks/train/b.png"],
        {"train.a": pair("images/train/a.JPG", "masks/train/a.PNG"), "train.b": pair("images/train/b.jpg", "masks/train/b.png")},
    ),
    Case("jfif and gif", ["images/train/a.jfif", "masks/train/a.png"], {"train.a": pair("images/train/a.jfif", "masks/train/a.png")}),
    Case("JPEG 2000", ["images/train/a.jp2", "masks/train/a.png"], {"train.a": pair("images/train/a.jp2", "masks/train/a.png")}),
    Case("heic alone", ["images/train/a.heic", "masks/train/a.png"], ("no image (there is .heic (1))", "expected names that end in .jpg", "convert them")),
    Case("no endings", ["images/train/a", "masks/train/a.png"], ("there is no ending (1)",)),
    Case(
        "what other systems leave",
        ["images/train/a.jpg", "images/train/__MACOSX/b.jpg", "images/train/@eaDir/a.jpg/THUMB.jpg", "images/train/Thumbs.db", "masks/train/a.png"],
        {"train.a": pair("images/train/a.jpg", "masks/train/a.png")},
    ),
    Case(
        "CVAT, VOC-like",
        ["JPEGImages/a.jpg", "SegmentationClass/a.png"],
        {"a": pair("JPEGImages/a.jpg", "SegmentationClass/a.png")},
        {"image_folder": "JPEGImages", "mask_folder": "SegmentationClass", "train_split": "ImageSets/Segmentation/default.txt"},
        {"ImageSets/Segmentation/default.txt": "a\n"},
    ),
    Case(
        "Roboflow's masks",
        ["train/a_jpg.rf.1b2c.jpg", "train/a_jpg.rf.1b2c_mask.png", "train/_classes.csv"],
        {"train.a_jpg.rf.1b2c": pair("train/a_jpg.rf.1b2c.jpg", "train/a_jpg.rf.1b2c_mask.png")},
        {"image_folder": "{split}", "mask_folder": "{split}", "image_suffix": ".jpg", "mask_suffix": "_mask.png"},
    ),
    Case(
        "Supervisely's masks",
        ["ds/img/a.jpg", "ds/masks_machine/a.jpg.png"],
        {"ds.a": pair("ds/img/a.jpg", "ds/masks_machine/a.jpg.png")},
        {"image_folder": "{split}/img", "mask_folder": "{split}/masks_machine", "mask_suffix": ".jpg.png", "train_split": "ds"},
    ),
    Case("Supervisely's polygons", ["ds/img/a.jpg", "ds/ann/a.jpg.json"], ("a.jpg.json holds polygons",), {"image_folder": "{split}/img", "mask_folder": "{split}/ann", "train_split": "ds"}),
    Case("COCO's polygons", ["images/train/a.jpg", "annotations/instances_train.json"], ("no such folder of masks", "instances_train.json holds polygons of LabelMe or COCO")),
    Case("YOLO's polygons", ["images/train/a.jpg", "labels/train/a.txt"], ("a.txt holds polygons or boxes of YOLO",), {"mask_folder": "labels"}),
    Case("masks in one folder", ["images/train/a.jpg", "images/val/b.jpg", "masks/a.png", "masks/b.png"], {"train.a": pair("images/train/a.jpg", "masks/a.png")}, {"image_folder": "images/{split}"}),
    Case("masks in one folder, not said", ["images/train/a.jpg", "masks/a.png"], ("there is", "masks/a.png; if only images have folders", "data.image_folder=images/{split}")),
    Case("masks end otherwise", ["images/train/a.jpg", "masks/train/a-m.png", "masks/train/ab.png"], ("a-m.png; if that is the mask: --set data.mask_suffix=-m.png",)),
    Case("masks behind the images' endings", ["images/train/a.jpg", "masks/train/a.jpg.png", "images/train/b.png", "masks/train/b.png.png"], {"train.a": pair("images/train/a.jpg", "masks/train/a.jpg.png"), "train.b": pair("images/train/b.png", "masks/train/b.png.png")}),
    Case("masks beside the images", ["all/x/a.png", "all/x/a_mask.png"], {"x.a": pair("all/x/a.png", "all/x/a_mask.png")}, {"image_folder": "all", "mask_folder": "all", "mask_suffix": "_mask.png", "train_split": "x"}),
    Case("masks without the images' folders", ["images/train/cats/a.jpg", "masks/train/a.png"], ("there is", "masks/train/a.png; expected the image's own folders above it")),
    Case("a list with masks behind endings", ["images/train/a.jpg", "masks/train/a.jpg.png"], {"train.a": pair("images/train/a.jpg", "masks/train/a.jpg.png")}, LIST, {"train.txt": "images/train/a.jpg masks/train/a.jpg.png\n"}),
    Case("an image whose name ends like a mask", ["d/x/a.png", "d/x/a_m.png", "d/x/gas_m.png", "d/x/gas_m_m.png"], {"x.a": pair("d/x/a.png", "d/x/a_m.png"), "x.gas_m": pair("d/x/gas_m.png", "d/x/gas_m_m.png")}, {"image_folder": "d", "mask_folder": "./d", "mask_suffix": "_m.png", "train_split": "x"}),
    Case("a mask of the image with the longer name", ["images/train/a.jpg", "images/train/a.jpg.jpg", "masks/train/a.jpg.png"], ("masks/train/a.png: the mask is absent",)),
    Case("a link to itself", ["images/train/a.jpg", "masks/train/a.png", "images/train/loop -> images/train/loop"], {"train.a": pair("images/train/a.jpg", "masks/train/a.png")}),
    Case("a name of two lines", ["images/train/a\nb.jpg", "masks/train/a\nb.png"], {"train.a_b": pair("images/train/a\nb.jpg", "masks/train/a\nb.png")}),
    Case("a list with masks of another folder", ["images/train/a.jpg", "masks/train/a.png", "old/train/a.png"], ("the mask is old/train/a.png, but by data.mask_folder",), LIST, {"train.txt": "images/train/a.jpg old/train/a.png\n"}),
    Case("a list with folders above the root", ["images/train/a.jpg", "masks/train/a.png"], {"train.a": pair("images/train/a.jpg", "masks/train/a.png")}, LIST, {"train.txt": "/data/my/images/train/a.jpg /data/my/masks/train/a.png\n"}),
    Case("the mask of another image", ["images/train/a_1.jpg", "images/train/a_1_2.jpg", "masks/train/a_1_2.png"], ("a_1.png: the mask is absent though there is its image; add it, or",)),
    Case("masks of two images end otherwise", ["images/train/a_1.jpg", "images/train/a_1_2.jpg", "masks/train/a_1_2_x.png", "masks/train/a_1_x.png"], ("--set data.mask_suffix=_x.png",)),
    Case("masks end with signs of the shell", ["images/train/a.jpg", "masks/train/a (1).png"], ("--set 'data.mask_suffix=\" (1).png\"'",)),
    Case("masks begin otherwise", ["images/train/x/a.jpg", "masks/train/x/mask_a.png"], {"train.x.a": pair("images/train/x/a.jpg", "masks/train/x/mask_a.png")}, {"mask_prefix": "mask_"}),
    Case("masks begin otherwise, not said", ["images/train/x/a.jpg", "masks/train/x/mask_a.png"], ("mask_a.png; if that is the mask: --set data.mask_prefix=mask_",)),
    Case("both begin otherwise", ["images/Image_1.jpg", "images/image_2.jpg", "images/other.jpg", "masks/mask_1.png", "masks/mask_2.PNG"], {"1": pair("images/Image_1.jpg", "masks/mask_1.png"), "2": pair("images/image_2.jpg", "masks/mask_2.PNG")}, {"image_prefix": "image_", "mask_prefix": "mask_", **LIST}, {"train.txt": "Image_1.jpg\n2\n"}),
    Case("both begin otherwise, not said", ["images/train/image_1.jpg", "masks/train/mask_1.png"], ("mask_1.png; if that is the mask: --set data.image_prefix=image_ data.mask_prefix=mask_",)),
    Case("the mask of an image whose name ends so", ["images/train/1.jpg", "images/train/img_1.jpg", "masks/train/img_1.png"], ("1.png: the mask is absent though there is its image; add it, or",)),
    Case("a file beside the folders", ["train", "images/train/a.jpg", "masks/train/a.png"], {"train.a": pair("images/train/a.jpg", "masks/train/a.png")}),
    Case("a name that begins with #", ["images/#9.jpg", "masks/#9.png", "images/_a.jpg", *FLAT], {"_9": pair("images/#9.jpg", "masks/#9.png"), "b": pair("images/b.jpg", "masks/b.png")}, LIST, {"train.txt": "# all\n#9.jpg\n#a.jpg\n# a\nb\n"}),
    Case("masks of another kind", ["images/train/a.jpg", "masks/train/a_label.tif"], ("--set data.mask_suffix=_label.tif",)),
    Case("a split that is a link", ["images/real/a.jpg", "masks/real/a.png", "images/train -> images/real", "masks/train -> masks/real"], {"train.a": pair("images/train/a.jpg", "masks/train/a.png")}),
    Case("TIFF masks", ["images/train/a.tif", "masks/train/a.tif"], {"train.a": pair("images/train/a.tif", "masks/train/a.tif")}, {"mask_suffix": ".tif"}),
    Case("hidden files", ["images/train/a.jpg", "images/train/._a.jpg", "images/.cache/b.jpg", "masks/train/a.png"], {"train.a": pair("images/train/a.jpg", "masks/train/a.png")}),
    Case("the image as its own mask", ["images/train/a.png"], ("the image itself would be its mask",), {"mask_folder": "images"}),
    Case("LabelMe", ["images/train/a.jpg", "images/train/a.json", "masks/x.png"], ("a.json holds polygons of LabelMe", "labelme2voc.py")),
    Case("arrays", ["images/train/a.jpg", "masks/train/a.npy"], ("a.npy holds an array", "Image.fromarray")),
    Case("polygons in XML", ["images/train/a.jpg", "masks/train/a.xml"], ("a.xml holds polygons", "segmentation mask")),
    Case("no folder of masks", ["images/train/a.jpg"], ("no such folder of masks", "data.mask_folder=NAME")),
    Case("a split of no folder", ["images/training/a.jpg"], ("no such folder of images (there is training)",)),
    Case("a name of 201 bytes", [f"images/train/{'x' * 195}.jpg"], ("1 name is too long",)),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_layout(tmp_path: Path, case: Case) -> None:
    for name in case.files:
        link, _, target = name.partition(" -> ")
        (tmp_path / link).parent.mkdir(parents=True, exist_ok=True)
        if target:
            (tmp_path / link).symlink_to(tmp_path / target)
        else:
            (tmp_path / link).touch()
    for name, text in case.lists.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(text.encode())
    (tmp_path / "classes.txt").write_text("wall\ndoor\n")
    (tmp_path / "my.yaml").write_text("data: {layout: folder, root: ., classes: classes.txt, unseen: [door]}\n")
    data = load_config(str(tmp_path / "my.yaml"), overrides=[f'data.{k}="{v}"' for k, v in case.settings.items()]).data

    def found() -> dict[str, tuple[str, str]]:
        source = open_source(data, data.root)
        ids = source.ids("train")
        places = {image_id: (source.image_path(image_id), source.mask_path(image_id)) for image_id in ids}
        return {image_id: tuple(str(p.relative_to(tmp_path)) for p in both) for image_id, both in places.items()}  # type: ignore[misc]

    if isinstance(case.train, tuple):
        message = error_line(found, DataError)
        assert all(word in message for word in case.train), message
    else:
        assert found() == case.train


CONTEXT = "VOCdevkit/VOC2010"
SHIPPED = {
    "ade20k": (
        ("images/training/A_1.jpg", "annotations/training/A_1.png"),
        ("images/validation/A_2.jpg", "annotations/validation/A_2.png"),
    ),
    "cityscapes": (
        ("leftImg8bit/train/ulm/u_leftImg8bit.png", "gtFine/train/ulm/u_gtFine_labelTrainIds.png"),
        ("leftImg8bit/val/bonn/b_leftImg8bit.png", "gtFine/val/bonn/b_gtFine_labelTrainIds.png"),
    ),
    "camvid": (("train/a.png", "trainannot/a.png"), ("val/b.png", "valannot/b.png")),
    "pascal_context": (
        (f"{CONTEXT}/JPEGImages/a.jpg", f"{CONTEXT}/SegmentationClassContext/a.png"),
        (f"{CONTEXT}/JPEGImages/b.jpg", f"{CONTEXT}/SegmentationClassContext/b.png"),
    ),
}


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_configs_find_their_files(tmp_path: Path, name: str) -> None:
    for path in (path for pairs in SHIPPED[name] for path in pairs):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    lists = tmp_path / CONTEXT / "ImageSets/SegmentationContext"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("a\n")
    (lists / "val.txt").write_text("b\n")
    source = open_source(load_config(name, overrides=[f"data.root={tmp_path}"]).data, tmp_path)
    for split, (image, mask) in zip(("train", "val"), SHIPPED[name], strict=True):
        (image_id,) = source.ids(split)
        assert (source.image_path(image_id), source.mask_path(image_id)) == (tmp_path / image, tmp_path / mask)
    assert source.stray_masks() == []
