"""Rows of spoilt images, masks and lists of ids, and of those that look bad and are not."""

import io
import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from split_matching.cache.shard_reader import ShardSet
from tests.conftest import blocks
from tests.pipeline.bad_input.place import Place, Row, run


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
        message="{image}: the image cannot be decoded (a web page, not an image: expected JPEG, PNG, BMP, GIF, TIFF, "
        "WEBP or JPEG2000); restore the file or remove its id from the split",
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
        message="{mask}: the mask is 24x32 but its image is 32x24; does the image have an EXIF "
        "orientation? It is not applied: turn the image's pixels, as `exiftran -ai`",
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
    Row(
        "UTF-16",
        lambda p: p.list("t0\nt1\n".encode("utf-16")),
        message="{list}: the list is not text in UTF-8; save it",
    ),
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
