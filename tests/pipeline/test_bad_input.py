"""Bad input through the real command line: each kind ends in one line and its exit code, or is taken as it should be.

A row of the table says how the input is spoilt, which exit code is due, and what the one line holds. `{image}` and the
like stand for paths. Rows with code 0 are input that looks bad and is not; they say what must come out.
"""

from __future__ import annotations

import io
import json
import os
import re
import struct
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from split_matching.cache.shard_reader import ShardSet
from split_matching.pipeline.cli import main
from tests.conftest import VocTree, blocks
from tests.pipeline.test_command_line import TINY

WEIGHTS = Path(__file__).parents[2] / "model" / "weights" / "shapes-vit.safetensors"


@dataclass
class Place:
    """A small data set in VOC's layout and a cache, both empty of trouble until a row spoils something.

    Training images t0 and t1, validation image v0, all 32x24 pixels.
    """

    folder: Path
    tree: VocTree
    dataset: str = "voc_cached"
    settings: list[str] = field(default_factory=list)
    arguments: list[str] = field(default_factory=list)

    @property
    def cache(self) -> Path:
        return self.folder / "cache"

    def image(self, picture: Image.Image, image_id: str = "t0", kind: str = "JPEG", **how: Any) -> None:
        """Put another image in place of one; a PNG under a name that ends in .png."""
        self.tree.image(image_id).unlink()
        ending = ".jpg" if kind == "JPEG" else ".png"
        picture.save(self.tree.image(image_id).with_suffix(ending), kind, **how)

    def mask(self, values: np.ndarray, image_id: str = "t0", mode: str | None = None) -> None:
        """Put another mask in place of one."""
        Image.fromarray(values).convert(mode).save(self.tree.mask(image_id))

    def list(self, text: str | bytes, name: str = "trainaug") -> None:
        self.tree.listing(name).write_bytes(text.encode() if isinstance(text, str) else text)

    def set(self, *settings: str) -> None:
        self.settings += settings

    def file(self, text: str | bytes, name: str = "extra.yaml") -> Path:
        path = self.folder / name
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    def set_file(self, text: str | bytes) -> None:
        self.arguments += ["--set-file", str(self.file(text))]

    def tensors(self, change: Callable[[dict[str, torch.Tensor]], Any], name: str = "w.safetensors") -> None:
        """Use weights that differ from the bundled ones."""
        tensors = load_file(WEIGHTS)
        change(tensors)
        save_file(tensors, self.folder / name)
        self.set(f"clip.weights={self.folder / name}")

    def weights(self, data: bytes, name: str = "w.safetensors") -> None:
        self.set(f"clip.weights={self.file(data, name)}")

    def saved(self, value: Any, name: str = "w.pt") -> None:
        torch.save(value, self.folder / name)
        self.set(f"clip.weights={self.folder / name}")

    def names(self) -> dict[str, Any]:
        """What the messages of the table may name."""
        tree = self.tree
        return {
            "folder": self.folder,
            "root": tree.root,
            "base": tree.base,
            "image": tree.image("t0"),
            "mask": tree.mask("t0"),
            "list": tree.listing("trainaug"),
            "val": tree.listing("val"),
            "extra": self.folder / "extra.yaml",
            "weights": self.folder / "w.safetensors",
            "pt": self.folder / "w.pt",
        }


Spoil = Callable[[Place], Any]


@dataclass(frozen=True)
class Row:
    """One kind of input.

    Args:
        name: of the row.
        spoil: changes the data set, the settings or the arguments.
        code: the exit code.
        message: what the one line holds; for code 0 nothing.
        verb: the stage or verb that is run.
        holds: for code 0: checks what came out.
    """

    name: str
    spoil: Spoil
    code: int = 3
    message: str = ""
    verb: str = "PrepareDataset"
    holds: Callable[[Place], bool] = lambda place: True


def pixels(shape: tuple[int, ...] = (24, 32, 3), kind: Any = np.uint8) -> np.ndarray:
    """A slope, so that turned, clipped or inverted pixels are told apart."""
    count = int(np.prod(shape))
    return (np.arange(count) * np.iinfo(kind).max // count).astype(kind).reshape(shape)


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that claims a size."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")


def cut(path: Path, bytes_kept: int) -> None:
    path.write_bytes(path.read_bytes()[:bytes_kept])


def turned(place: Place) -> None:
    """An image whose EXIF says that a viewer is to turn it; its mask fits the stored pixels, as VOC's do."""
    exif = Image.Exif()
    exif[274] = 6
    place.image(Image.fromarray(pixels()), exif=exif)


def turned_with_mask(place: Place) -> None:
    turned(place)
    place.mask(blocks(0, 1, shape=(32, 24)))


class Evil:
    """Runs a command if somebody unpickles it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


def pickled(place: Place) -> None:
    import pickle

    place.weights(pickle.dumps(Evil(place.folder / "pwned")), "w.pt")


def scripted(place: Place) -> None:
    """The form in which OpenAI publishes its weights."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch means to give the format up
        torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(2)).save(str(place.folder / "w.pt"))
    place.set(f"clip.weights={place.folder / 'w.pt'}")


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


# ---- what came out ----


def entry(place: Place, image_id: str = "t0") -> dict[str, Any]:
    images = json.loads(next(place.cache.glob("voc_cached/dataset/*/images.json")).read_text())
    return next(image for members in images.values() for image in members if image["id"] == image_id)


def sized(height: int, width: int) -> Callable[[Place], bool]:
    return lambda place: (entry(place)["height"], entry(place)["width"]) == (height, width)


def ids_are(*ids: str) -> Callable[[Place], bool]:
    def check(place: Place) -> bool:
        images = json.loads(next(place.cache.glob("voc_cached/dataset/*/images.json")).read_text())
        return [image["id"] for image in images["train"]] == list(ids)

    return check


def classes_are(*ids: int) -> Callable[[Place], bool]:
    def check(place: Place) -> bool:
        train = json.loads(next(place.cache.glob("voc_cached/dataset/*/train.json")).read_text())["images"]
        return next(image["classes"] for image in train if image["id"] == "t0") == list(ids)

    return check


def features(place: Place) -> np.ndarray:
    """Of t0, as the newest artifact has them."""
    paths = place.cache.glob("voc_cached/features/*/train-00000.h5")
    return ShardSet([max(paths, key=lambda path: path.stat().st_mtime_ns)]).read("t0", "dense")


def same_features_as(picture: Callable[[], Image.Image]) -> Callable[[Place], bool]:
    """The features are those of a plain RGB image with these pixels."""

    def check(place: Place) -> bool:
        found = features(place)
        for path in place.tree.base.glob("JPEGImages/t0.*"):
            path.unlink()
        picture().save(place.tree.image("t0").with_suffix(".png"))
        assert run(place, "ExtractFeatures") == 0
        return bool((features(place) == found).all())

    return check


def cmyk() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels()).convert("CMYK").save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def grey(values: np.ndarray) -> Image.Image:
    return Image.fromarray(np.repeat(values.astype(np.uint8)[..., None], 3, 2))


DEEP = pixels((24, 32), np.uint16)
CLEAR = np.dstack([pixels(), np.tile(np.arange(32, dtype=np.uint8) * 8, (24, 1))])

IMAGES = [
    Row(
        "truncated JPEG",
        lambda p: cut(p.tree.image("t0"), -200),
        message="{image}: the image cannot be decoded (image file is truncated (",
    ),
    Row("truncated header", lambda p: cut(p.tree.image("t0"), 10), message="{image}: the image cannot be decoded ("),
    Row("zero bytes", lambda p: cut(p.tree.image("t0"), 0), message="{image}: the image file is empty; restore it or"),
    Row(
        "text under the name of an image",
        lambda p: p.tree.image("t0").write_text("<html>404 Not Found</html>"),
        message="{image}: the image cannot be decoded (a web page, not an image: expected JPEG, PNG, BMP, GIF, TIFF "
        "or WEBP); restore the file or remove its id from the split",
    ),
    Row(
        "a folder under the name of an image",
        lambda p: replace_by_folder(p.tree.image("t0")),
        message="{image}: the image is absent though its split names it",
    ),
    Row("absent image", lambda p: p.tree.image("t0").unlink(), message="{image}: the image is absent"),
    Row(
        "decompression bomb",
        lambda p: p.tree.image("t0").write_bytes(bomb(60000, 60000)),
        message="{image}: the image cannot be decoded (it claims 60000x60000 pixels; expected 134,217,728 at most)",
    ),
    Row(
        "large image of a few bytes",  # Pillow itself would only warn
        lambda p: p.tree.image("t0").write_bytes(bomb(12000, 12000)),
        message="it claims 12000x12000 pixels",
    ),
    Row(
        "32-bit pixels",
        lambda p: p.image(Image.fromarray(pixels((24, 32), np.int32).astype(np.float32)), kind="TIFF"),
        message="t0.png: pixels of 32 bits have no fixed range; save the image with 8 or 16 bits a channel",
    ),
    Row(
        "several bad files",
        lambda p: [cut(p.tree.image(i), 0) for i in ("t0", "t1", "v0")],
        message="{image}: the image file is empty; restore it or remove its id from the split (and 2 more bad files, "
        "all listed in {folder}/cache/",
    ),
    Row(
        "CMYK",
        lambda p: p.tree.image("t0").write_bytes(cmyk()),
        0,
        verb="ExtractFeatures",
        holds=same_features_as(lambda: Image.open(io.BytesIO(cmyk())).convert("RGB")),
    ),
    Row(
        "16 bits",
        lambda p: p.image(Image.fromarray(DEEP), kind="PNG"),
        0,
        verb="ExtractFeatures",
        holds=same_features_as(lambda: grey(DEEP >> 8)),
    ),
    Row(
        "alpha, which is dropped",
        lambda p: p.image(Image.fromarray(CLEAR), kind="PNG"),
        0,
        verb="ExtractFeatures",
        holds=same_features_as(lambda: Image.fromarray(CLEAR[..., :3])),
    ),
    Row(
        "one bit a pixel",
        lambda p: p.image(Image.fromarray(pixels((24, 32)) > 99), kind="PNG"),
        0,
        verb="ExtractFeatures",
        holds=same_features_as(lambda: grey((pixels((24, 32)) > 99) * 255)),
    ),
    Row("EXIF says turn, and the mask fits the stored pixels", turned, 0, holds=sized(24, 32)),
    Row(
        "EXIF says turn, and so is the mask",
        turned_with_mask,
        message="{mask}: the mask is 24x32 but its image is 32x24 (turned by 90 degrees: does the image have an EXIF "
        "orientation?); replace one of them",
    ),
    Row(
        "one pixel",
        lambda p: (p.image(Image.fromarray(pixels((1, 1, 3)))), p.mask(blocks(1, shape=(1, 1)))),
        0,
        verb="EmbedRegions",
        holds=lambda p: sized(1, 1)(p) and bool(np.isfinite(features(p)).all()),
    ),
    Row(
        "one pixel high",
        lambda p: (p.image(Image.fromarray(pixels((1, 300, 3)))), p.mask(blocks(1, 0, shape=(1, 300)))),
        0,
        verb="EmbedRegions",
        holds=sized(1, 300),
    ),
]

MASKS = [
    Row(
        "wrong size",
        lambda p: p.mask(blocks(0, 1, shape=(20, 30))),
        message="{mask}: the mask is 30x20 but its image is 32x24; replace one of them",
    ),
    Row(
        "colours instead of ids",
        lambda p: p.mask(blocks(0, 1), mode="RGB"),
        message="{mask}: the mask has pixels of mode RGB; expected class ids, as a palette or grey PNG",
    ),
    Row(
        "one bit a pixel, ids 0 and 1",
        lambda p: Image.fromarray(blocks(0, 1) > 0).save(p.tree.mask("t0")),
        0,
        holds=classes_are(1),
    ),
    Row(
        "unknown id",
        lambda p: p.mask(blocks(0, 77, 1, 1)),
        message="{mask}: id 77 (192 pixels) is not in the class list; correct the mask, or add the id to `classes` or",
    ),
    Row(
        "unknown id in the validation split",
        lambda p: p.mask(blocks(0, 21), "v0"),
        message="v0.png: id 21 (384 pixels) is not in the class list",
    ),
    Row(
        "JPEG, whose ids are smeared",
        lambda p: Image.fromarray(blocks(1, 15)).save(p.tree.mask("t0"), "JPEG", quality=30),
        message="{mask}: the mask is a JPEG, which smears ids; expected a PNG",
    ),
    Row("truncated", lambda p: cut(p.tree.mask("t0"), 60), message="{mask}: the mask cannot be decoded ("),
    Row("zero bytes", lambda p: cut(p.tree.mask("t0"), 0), message="{mask}: the mask file is empty;"),
    Row(
        "decompression bomb", lambda p: p.tree.mask("t0").write_bytes(bomb(99999, 9999)), message="it claims 99999x9999"
    ),
    Row(
        "absent mask",
        lambda p: p.tree.mask("t0").unlink(),
        message="{mask}: the mask is absent though its split names it",
    ),
    Row(
        "absent folder",
        lambda p: p.set("data.mask_folder=Masks"),
        message="{base}/Masks: no such mask folder; expected index masks in it: choose another: --set "
        "data.train_split=train data.mask_folder=SegmentationClass",
    ),
    Row(
        "all void, every training mask",
        lambda p: [p.mask(blocks(255), i) for i in ("t0", "t1")],
        message="no mask of the train list has a pixel of a seen class (images: 2): correct the masks in "
        "{root}/VOCdevkit/VOC2012/SegmentationClassAug, or choose another list: --set data.train_split=NAME",
    ),
    Row(
        "unseen classes only, every training mask",
        lambda p: [p.mask(blocks(0, 17), i) for i in ("t0", "t1")],
        message="no mask of the train list has a pixel of a seen class",
    ),
    Row(
        "all void, every validation mask",
        lambda p: p.mask(blocks(255), "v0"),
        message="no mask of the val list has a pixel of any class (images: 1)",
    ),
    Row("all void, one of several", lambda p: p.mask(blocks(255)), 0, verb="TrainDecoder", holds=classes_are()),
    Row("16 bits", lambda p: p.mask(blocks(0, 3).astype(np.uint16)), 0, holds=classes_are(3)),
    Row("grey instead of palette", lambda p: p.mask(blocks(0, 4), mode="L"), 0, holds=classes_are(4)),
]

NO_ID = "{list}, line 2: {found} is no image id; expected a file name without folder and ending, such as 2007_000032"
SPLITS = [
    Row("empty", lambda p: p.list(""), message="{list}: the list is empty; expected one image id a line: fill it or"),
    Row("blank lines only", lambda p: p.list("\n \n\t\n"), message="{list}: the list is empty;"),
    Row(
        "an id twice", lambda p: p.list("t0\nt1\nt0\n"), message="{list}, line 3: t0 was already on line 1; remove one"
    ),
    Row(
        "an id in both lists",
        lambda p: p.list("v0\nt1\n", "val"),
        message="image t1 is in the training and in the validation list; expected no image in both: remove it from one",
    ),
    Row(
        "an id without files",
        lambda p: p.list("t0\nghost\n"),
        message="{base}/JPEGImages/ghost.jpg: the image is absent",
    ),
    Row(
        "file names instead of ids",
        lambda p: p.list("t0.jpg\nt1.jpg\n"),
        message="{base}/JPEGImages/t0.jpg.jpg: the image is absent though its split names it; leave the ending out of "
        "the list: t0 (and 1 more",
    ),
    Row("..", lambda p: p.list("t0\n../../secret\n"), message=NO_ID.replace("{found}", "'../../secret'")),
    Row("absolute", lambda p: p.list("t0\n/etc/passwd\n"), message=NO_ID.replace("{found}", "'/etc/passwd'")),
    Row("a folder", lambda p: p.list("t0\na/t1\n"), message=NO_ID.replace("{found}", "'a/t1'")),
    Row("two columns", lambda p: p.list("t0\nt1  -1\n"), message=NO_ID.replace("{found}", "'t1  -1'")),
    Row("markup", lambda p: p.list("t0\n<b>t1</b>\n"), message=NO_ID.replace("{found}", "'<b>t1</b>'")),
    Row("endless id", lambda p: p.list(f"t0\n{'x' * 999}\n"), message=f"line 2: '{'x' * 200}' is no image id"),
    Row("control signs", lambda p: p.list("t0\nt1\x1b[31m\n"), message="line 2: 't1\\x1b[31m' is no image id"),
    Row("UTF-16", lambda p: p.list("t0\nt1\n".encode("utf-16")), message="{list}: the list cannot be read ('utf-8'"),
    Row(
        "no such list",
        lambda p: p.set("data.val_split=test"),
        message="ImageSets/Segmentation/test.txt: no such list; expected one image id a line. Add it, or choose one "
        "that is there (trainaug, val): --set data.val_split=NAME",
    ),
    Row("CRLF", lambda p: p.list("t0\r\nt1\r\n"), 0, holds=ids_are("t0", "t1")),
    Row("byte order mark, no last line break", lambda p: p.list("\ufefft1\nt0"), 0, holds=ids_are("t0", "t1")),
    Row(
        "no root",
        lambda p: p.set("data.root=null"),
        message="data.root is not set; expected the folder of the data set: --set data.root=PATH",
    ),
    Row(
        "absent root",
        lambda p: p.set("data.root=/no/where"),
        message="/no/where: no such folder; download it: python run_pipeline.py PrepareDataset --dataset voc",
    ),
    Row(
        "another layout",
        lambda p: p.set(f"data.root={p.folder}"),
        message="{folder}: holds no VOCdevkit/VOC2012/JPEGImages; download it: python",
    ),
    Row("line break in the root", lambda p: p.set('data.root="/a\\nb"'), message="error: /a\\nb: no such folder"),
]

INSIDE = "expected a name inside the data set, without leading / and without ..; change it or leave it out"
LAUGHS = "a: &a [x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
CONFIGS = [
    Row(
        "unknown key", lambda p: p.set("train.stepz=3"), 2, "--set: unknown key train.stepz; did you mean train.steps?"
    ),
    Row("unknown section", lambda p: p.set("trian.steps=3"), 2, "unknown key trian.steps; did you mean train.steps?"),
    Row(
        "unknown key in a file",
        lambda p: p.set_file("decoder:\n  layer: 2\n"),
        2,
        "{extra}: unknown key decoder.layer; did you mean decoder.layers?",
    ),
    Row(
        "word for a number",
        lambda p: p.set("train.steps=many"),
        2,
        "--set: train.steps is many: input should be a valid integer",
    ),
    Row(
        "truth for a number",
        lambda p: p.set("train.steps=yes"),
        2,
        "train.steps is true: expected a number; quote the word if meant so",
    ),
    Row(
        "fraction for a count",
        lambda p: p.set("train.steps=1.5"),
        2,
        "train.steps is 1.5: input should be a valid integer",
    ),
    Row(
        "nothing for a number",
        lambda p: p.set("train.steps=null"),
        2,
        "train.steps is null: input should be a valid integer",
    ),
    Row(
        "value for a section",
        lambda p: p.set("train=3"),
        2,
        "train is 3; expected keys below it, such as train.matching",
    ),
    Row("NaN", lambda p: p.set("train.lr=.nan"), 2, "train.lr is .nan: input should be a finite number"),
    Row(
        "below the range",
        lambda p: p.set("train.steps=0"),
        2,
        "train.steps is 0: input should be greater than or equal to 1",
    ),
    Row(
        "above the range",
        lambda p: p.set("evaluate.fusion=2"),
        2,
        "evaluate.fusion is 2: input should be less than or equal to 1",
    ),
    Row(
        "unknown choice",
        lambda p: p.set("features.variant=best"),
        2,
        "features.variant is best: input should be 'value', 'maskclip', 'qq', 'kk', 'naclip', ",
    ),
    Row(
        "empty list",
        lambda p: p.set("pseudo_masks.windows=[]"),
        2,
        "pseudo_masks.windows is []: tuple should have at least 1 item",
    ),
    Row(
        "endless value",
        lambda p: p.set(f"train.steps={'x' * 9999}"),
        2,
        "train.steps is " + "x" * 97 + "...: input should be a valid integer",
    ),
    Row(
        "control signs",
        lambda p: p.set('train.steps="a\\nb\\e[31m"'),
        2,
        'train.steps is "a\\nb\\e[31m": input should be a valid integer',
    ),
    Row(
        "contradiction in a section",
        lambda p: p.set("decoder.dim=16", "decoder.heads=3"),
        2,
        "--set: decoder.dim 16 is not a multiple of decoder.heads 3; change one of them",
    ),
    Row(
        "contradiction between sections",
        lambda p: p.set("pseudo_masks.block=3"),
        2,
        "--set: pseudo_masks.block 3 is not cached: features.decoder_blocks is [2, 4]; change one of them",
    ),
    Row(
        "windows with gaps",
        lambda p: p.set("evaluate.stride=600"),
        2,
        "evaluate.stride 600 leaves gaps: evaluate.window is 512",
    ),
    Row("fold that is not there", lambda p: p.set("data.fold=3"), 2, "fold 3 does not exist: data.folds is 3, so 0..2"),
    Row(
        "prompts without images",
        lambda p: p.set("decoder.prompts=2"),
        2,
        "decoder.prompts 2 needs train.features online",
    ),
    Row(
        "unknown classes",
        lambda p: p.set("data.classes=coco"),
        2,
        "data.classes: no class list 'coco'; expected one of: ade20k, camvid, cityscapes, coco_stuff, ",
    ),
    Row(
        "path for classes",
        lambda p: p.set("data.classes=../voc"),
        2,
        "data.classes: no class list '../voc'; expected one of: ade20k, camvid, cityscapes, ",
    ),
    Row("path for a split", lambda p: p.set("data.val_split=../../x"), 2, f"data.val_split is ../../x: {INSIDE}"),
    Row("absolute mask folder", lambda p: p.set("data.mask_folder=/etc"), 2, f"data.mask_folder is /etc: {INSIDE}"),
    Row(
        "unknown data set",
        lambda p: setattr(p, "dataset", "vok"),
        2,
        "unknown data set 'vok'; expected one of: ade20k, camvid, cityscapes, coco_stuff, ",
    ),
    Row("broken YAML", lambda p: p.set_file("train: {steps: 1\n"), 2, "{extra}: broken YAML: "),
    Row(
        "a key twice", lambda p: p.set_file("train: {lr: 1}\ntrain: {lr: 2}\n"), 2, "key 'train' appears twice (line 2)"
    ),
    Row("a list of keys", lambda p: p.set_file("- train\n"), 2, "{extra}: holds a list; expected `key: value` lines"),
    Row(
        "a YAML tag",
        lambda p: p.set_file("a: !!python/object/apply:os.getcwd []\n"),
        2,
        "could not determine a constructor",
    ),
    Row(
        "billion laughs",
        lambda p: p.set_file(LAUGHS),
        2,
        "{extra}: broken YAML: alias *a is not allowed: write the value itself",
    ),
    Row("endless nesting", lambda p: p.set_file("[" * 9999), 2, "{extra}: nested too deeply"),
    Row("not text", lambda p: p.set_file(b"train: \xff\xfe"), 2, "{extra}: not UTF-8 text; save the file as UTF-8"),
    Row(
        "absent file",
        lambda p: p.arguments.extend(["--set-file", "/no.yaml"]),
        2,
        "/no.yaml: no such file; check the path",
    ),
    Row(
        "a folder",
        lambda p: p.arguments.extend(["--set-file", "/"]),
        2,
        "/: cannot be read (Is a directory); expected a YAML file",
    ),
    Row(
        "no value",
        lambda p: p.set("train.steps"),
        2,
        "--set 'train.steps': expected section.key=value, such as train.steps=1000",
    ),
    Row(
        "unknown option",
        lambda p: p.arguments.append("--wrokers=2"),
        2,
        "unrecognized arguments: --wrokers=2; see python run_pipeline.py PrepareDataset --help",
    ),
    Row(
        "no workers",
        lambda p: p.arguments.append("--workers=0"),
        2,
        "--set: runtime.workers is 0: input should be greater than or equal to 1",
    ),
    Row(
        "unknown image of a trial",
        lambda p: p.arguments.append("--images=t0,t9"),
        3,
        "no image 't9' among the 3 images: did you mean t",
    ),
]

UNREAD = "cannot be read ("
WHOLE = "give a whole .safetensors file, a state dict saved by torch, or OpenAI's archive; pickles that need code are"
WEIGHTS_ROWS = [
    Row(
        "of another architecture",
        lambda p: p.set(f"clip.weights={WEIGHTS}", "clip.model=ViT-B-32", "clip.quick_gelu=false"),
        message=f"CLIP weights {WEIGHTS} do not fit ViT-B-32: ",
        verb="EmbedText",
    ),
    Row(
        "a tensor is missing",
        lambda p: p.tensors(lambda tensors: tensors.pop("visual.proj")),
        message="{weights} do not fit shapes-vit: visual.proj is missing; give clip.model the architecture that they",
        verb="EmbedText",
    ),
    Row(
        "a tensor of another size",
        lambda p: p.tensors(lambda tensors: tensors.update({"visual.proj": torch.zeros(3, 3)})),
        message="{weights} do not fit shapes-vit: visual.proj is 3 x 3, not 128 x 128; give clip.model the",
        verb="EmbedText",
    ),
    Row(
        "NaN",
        lambda p: p.tensors(lambda tensors: tensors["visual.proj"].view(-1)[5:6].fill_(float("nan"))),
        message="{weights} are damaged: visual.proj has values that are not finite; fetch them again",
        verb="ExtractFeatures",
    ),
    Row(
        "truncated",
        lambda p: p.weights(WEIGHTS.read_bytes()[:100_000]),
        message=f"{{weights}} {UNREAD}",
        verb="EmbedText",
    ),
    Row("zero bytes", lambda p: p.weights(b""), message=f"{{weights}} {UNREAD}", verb="EmbedText"),
    Row("text", lambda p: p.weights(b"404 Not Found"), message=WHOLE, verb="EmbedText"),
    Row(
        "a web page",
        lambda p: p.weights(b"<html>404"),
        message="are a web page, not weights: the download failed; fetch the file again",
        verb="EmbedText",
    ),
    Row("a pickle", pickled, message=f"{{pt}} {UNREAD}", verb="EmbedText"),
    Row(
        "a pickle inside torch's own format",
        lambda p: p.saved({"state_dict": Evil(p.folder / "pwned")}),
        message="{pt} hold more than weights (posix system): save its state dict as safetensors",
        verb="EmbedText",
    ),
    Row(
        "TorchScript of something else",
        scripted,
        message="{pt} do not fit shapes-vit: they hold no image tower; give a file with both towers of one training",
        verb="EmbedText",
    ),
    Row(
        "no tensors", lambda p: p.saved({}), message="{pt} do not fit shapes-vit: they hold no image", verb="EmbedText"
    ),
    Row(
        "absent",
        lambda p: p.set("clip.weights=/no.pt"),
        message="CLIP weights /no.pt for shapes-vit not found",
        verb="EmbedText",
    ),
    Row(
        "a folder",
        lambda p: p.set("clip.weights=/etc"),
        message="CLIP weights /etc for shapes-vit not found",
        verb="EmbedText",
    ),
    Row(
        "unknown tag",
        lambda p: p.set("clip.weights=best"),
        2,
        "clip.weights 'best' is not a file, nor a pretrained tag of shapes-vit: give a path",
        "EmbedText",
    ),
    Row(
        "unknown model",
        lambda p: p.set("clip.model=ViT-B-33"),
        2,
        "clip.model 'ViT-B-33' is neither an open_clip architecture nor a file in configs/clip/",
        "EmbedText",
    ),
    Row(
        "model without a ViT",
        lambda p: p.set("clip.model=RN50"),
        2,
        "clip.model 'RN50' has no plain ViT tower",
        "EmbedText",
    ),
    Row(
        "not bundled",
        lambda p: p.set("clip.model=ViT-B-32", "clip.weights=bundled"),
        3,
        "bundled weights are for shapes-vit",
        "EmbedText",
    ),
    Row(
        "blocks that the model lacks",
        lambda p: p.set("features.decoder_blocks=[2,40]"),
        2,
        "features.decoder_blocks [2, 40] does not fit shapes-vit: its blocks are 1 to 4",
        "ExtractFeatures",
    ),
    Row("tensors in torch's own format", lambda p: p.saved(load_file(WEIGHTS)), 0, "", "EmbedText"),
]

TABLE = {"image": IMAGES, "mask": MASKS, "split": SPLITS, "config": CONFIGS, "weights": WEIGHTS_ROWS}
ROWS = [pytest.param(row, id=f"{kind}: {row.name}") for kind, rows in TABLE.items() for row in rows]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    tree = VocTree(tmp_path / "data")
    for name, masks in (("trainaug", {"t0": blocks(0, 1, 16, 255), "t1": blocks(2)}), ("val", {"v0": blocks(3, 17)})):
        tree.write_list(name, list(masks))
        for image_id, mask in masks.items():
            tree.write_image(image_id, (24, 32))
            tree.write_mask(image_id, mask)
    return Place(tmp_path, tree)


def run(place: Place, verb: str) -> int:
    settings = [*TINY, f"data.root={place.tree.root}", *place.settings]
    arguments = ["--dataset", place.dataset, "--artifacts", str(place.cache), "--quiet", *place.arguments]
    return main([verb, *arguments, "--set", *settings])


def left_behind(cache: Path) -> list[str]:
    """Files in a cache that are no part of a whole artifact, nothing that a next run resumes from, and no log."""
    found = []
    for path in cache.rglob("*"):
        whole = (path.parent / "manifest.json").is_file() and ".partial" not in str(path)
        resumable = path.parent.name.endswith(".partial") and path.name in ("build.json", "build.lock", "bad_files.txt")
        scaffold = path.parent.name.endswith(".partial") and re.fullmatch(r"train-00000\.h5\.lock", path.name)
        if path.is_file() and path.parent.name not in ("logs", ".running") and not (whole or resumable or scaffold):
            found.append(path.relative_to(cache).as_posix())
    return found


@pytest.mark.parametrize("row", ROWS)
def test_bad_input_is_one_line_and_leaves_nothing(row: Row, place: Place, capfd: pytest.CaptureFixture[str]) -> None:
    row.spoil(place)
    capfd.readouterr()
    code = run(place, row.verb)
    printed = capfd.readouterr()
    assert code == row.code, printed.err
    if row.code == 0:
        assert row.holds(place)
        return
    assert printed.out == ""
    assert printed.err.startswith("error: ") and printed.err.endswith("\n")
    assert printed.err.count("\n") == 1 and "Traceback" not in printed.err and "--debug" not in printed.err
    assert printed.err[:-1].isprintable()
    assert row.message and row.message.format_map(place.names()) in printed.err
    assert not (place.folder / "pwned").exists(), "a pickle was loaded"
    assert left_behind(place.cache) == []
    assert not list(place.cache.glob(f"voc_cached/{SLUGS[row.verb]}/*/manifest.json"))


SLUGS = {"PrepareDataset": "dataset", "EmbedText": "text", "ExtractFeatures": "features"}


def test_debug_shows_where_it_came_from(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    cut(place.tree.image("t0"), 0)
    place.arguments.append("--debug")
    assert run(place, "PrepareDataset") == 3
    assert "Traceback" in capsys.readouterr().err


def test_a_run_continues_when_its_input_is_whole_again(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    data = place.tree.image("t0").read_bytes()
    cut(place.tree.image("t0"), 0)
    assert run(place, "ExtractFeatures") == 3
    place.tree.image("t0").write_bytes(data)
    assert run(place, "ExtractFeatures") == 0
    assert left_behind(place.cache) == []


def test_table_is_long_enough_and_each_row_has_a_name_of_its_own() -> None:
    names = [param.id for param in ROWS]
    assert len(names) == len(set(names)) >= 40
    assert all(row.message for rows in TABLE.values() for row in rows if row.code)
