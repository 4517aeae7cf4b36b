"""`PrepareDataset --download` on stand-ins of the original archives, served on this machine."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy.io import savemat
from scipy.sparse import csc_array

from split_matching.pipeline.cli import main
from split_matching.stages.data.download import coco_stuff as coco_archives
from split_matching.stages.data.download import fetch as download
from split_matching.stages.data.download import voc as voc_archives
from split_matching.stages.data.download.fetch import Archive
from split_matching.stages.data.layouts.coco_stuff import RAW_IDS
from split_matching.stages.data.layouts.voc import voc_palette
from tests.served import Served, serving

Mask = NDArray[np.uint8]
SHAPE = (12, 16)
VOC_TRAIN, VOC_VAL = ["2007_000001", "2007_000002"], ["2007_000003", "2007_000004"]
SBD_TRAIN, SBD_VAL = ["2008_000001", "2007_000001", "2007_000003"], ["2008_000002", "2008_000003"]
TRAINAUG = ["2007_000001", "2007_000002", "2008_000001", "2008_000002", "2008_000003"]
COUNTS = ["data.expected_train=5", "data.expected_val=2"]


def voc_mask(image_id: str) -> Mask:
    """VOC's own mask: a void border, which SBD's masks have not."""
    mask = np.full(SHAPE, 1 + int(image_id[-1]), np.uint8)
    mask[0] = 255
    return mask


def sbd_mask(image_id: str) -> Mask:
    mask = np.zeros(SHAPE, np.uint8)
    mask[:, 8:] = 10 + int(image_id[-1])
    return mask


def picture(image_id: str) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng([*image_id.encode()]).integers(0, 256, (*SHAPE, 3), np.uint8)
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


def png(mask: Mask) -> bytes:
    buffer, image = io.BytesIO(), Image.fromarray(mask)
    image.putpalette(voc_palette())
    image.save(buffer, "PNG")
    return buffer.getvalue()


def mat(mask: Mask) -> bytes:
    """A mask as SBD has it: a MATLAB struct with boundaries of every class beside the segmentation."""
    boundaries = np.empty((20, 1), object)
    for place in range(20):
        boundaries[place, 0] = csc_array(mask == place + 1)
    content = {"Boundaries": boundaries, "Segmentation": mask, "CategoriesPresent": np.unique(mask[mask > 0])}
    buffer = io.BytesIO()
    savemat(buffer, {"GTcls": content}, do_compression=True)
    return buffer.getvalue()


def tar(files: dict[str, bytes], mode: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as bundle:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            bundle.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def lines(ids: list[str]) -> bytes:
    return "".join(f"{image_id}\n" for image_id in ids).encode()


def voc_tar() -> bytes:
    base, images = "VOCdevkit/VOC2012", sorted({*VOC_TRAIN, *VOC_VAL, *SBD_TRAIN, *SBD_VAL})
    return tar(
        {
            f"{base}/Annotations/2007_000001.xml": b"<annotation/>",
            f"{base}/ImageSets/Segmentation/train.txt": lines(VOC_TRAIN),
            f"{base}/ImageSets/Segmentation/val.txt": lines(VOC_VAL),
            f"{base}/ImageSets/Segmentation/trainval.txt": lines(VOC_TRAIN + VOC_VAL),
            **{f"{base}/JPEGImages/{i}.jpg": picture(i) for i in images},
            **{f"{base}/SegmentationClass/{i}.png": png(voc_mask(i)) for i in VOC_TRAIN + VOC_VAL},
            **{f"{base}/SegmentationObject/{i}.png": png(voc_mask(i)) for i in VOC_TRAIN + VOC_VAL},
        },
        "w",
    )


def sbd_tgz() -> bytes:
    base, images = "benchmark_RELEASE/dataset", sorted({*SBD_TRAIN, *SBD_VAL})
    return tar(
        {
            "benchmark_RELEASE/benchmark_code_RELEASE/readme.txt": b"code",
            **{f"{base}/cls/{i}.mat": mat(sbd_mask(i)) for i in images},
            **{f"{base}/inst/{i}.mat": mat(sbd_mask(i)) for i in images},
            **{f"{base}/img/{i}.jpg": picture(i) for i in images},
            f"{base}/train.txt": lines(SBD_TRAIN),
            f"{base}/val.txt": lines(SBD_VAL),
        },
        "w:gz",
    )


@pytest.fixture
def voc(monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    files = {"VOCtrainval_11-May-2012.tar": voc_tar(), "benchmark.tgz": sbd_tgz()}
    monkeypatch.setattr(download, "PAUSE", 0.0)
    with serving(files) as served:
        voc_name, sbd_name = files
        md5s = {name: hashlib.md5(content).hexdigest() for name, content in files.items()}
        for function, name in (("voc_archive", voc_name), ("sbd_archive", sbd_name)):
            archive = Archive(f"{served.url}/{name}", name, md5s[name])
            monkeypatch.setattr(voc_archives, function, lambda archive=archive: archive)
        yield served


def prepare(tmp_path: Path, *settings: str, dataset: str = "voc", more: tuple[str, ...] = ("--download",)) -> int:
    values = [f"data.root={tmp_path / 'data'}", *settings]
    return main(
        ["PrepareDataset", "--dataset", dataset, "--artifacts", str(tmp_path / "cache"), "--set", *values, *more]
    )


def read(path: Path) -> Mask:
    return np.asarray(Image.open(path))


def test_the_archives_are_those_that_torchvision_knows() -> None:
    voc, sbd = voc_archives.voc_archive(), voc_archives.sbd_archive()
    assert voc.url.startswith("https://") and voc.url.endswith(voc.name) and len(voc.md5 or "") == 32
    assert sbd.url.startswith("https://") and sbd.url.endswith("benchmark.tgz") and len(sbd.md5 or "") == 32


def test_voc_and_sbd_from_nothing(voc: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert prepare(tmp_path, *COUNTS) == 0
    shown = capsys.readouterr()
    assert "VOCtrainval_11-May-2012.tar: " in shown.err and str(tmp_path / "data") in shown.err
    base = tmp_path / "data/VOCdevkit/VOC2012"
    assert sorted(p.name for p in base.iterdir()) == [
        "ImageSets", "JPEGImages", "SegmentationClass", "SegmentationClassAug",
    ]  # fmt: skip
    assert (base / "ImageSets/Segmentation/trainaug.txt").read_text().split() == TRAINAUG
    masks = base / "SegmentationClassAug"
    assert sorted(p.stem for p in masks.iterdir()) == sorted({*TRAINAUG, *VOC_VAL})
    for image_id in (*VOC_TRAIN, *VOC_VAL):  # VOC's own, void border and all, though SBD has some of them too
        np.testing.assert_array_equal(read(masks / f"{image_id}.png"), voc_mask(image_id))
    for image_id in ("2008_000001", "2008_000002", "2008_000003"):
        np.testing.assert_array_equal(read(masks / f"{image_id}.png"), sbd_mask(image_id))
        assert Image.open(masks / f"{image_id}.png").getpalette()[3:6] == [128, 0, 0]  # aeroplane, as VOC paints it
    images = json.loads((Path(shown.out.splitlines()[-1]) / "images.json").read_text())
    assert [entry["id"] for entry in images["train"]] == TRAINAUG and len(images["val"]) == 2
    assert not list((tmp_path / "data").rglob("*.partial")) and not list((tmp_path / "data").rglob("*.tmp"))
    requests = len(voc.requests)
    assert prepare(tmp_path, *COUNTS) == 0 and len(voc.requests) == requests == 2


def test_an_interrupted_derivation_goes_on(voc: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    converted: list[str] = []
    whole = voc_archives.read_sbd_mask

    def stop(data: bytes, where: str) -> Mask:
        if len(converted) == 2:
            raise KeyboardInterrupt
        converted.append(where)
        return whole(data, where)

    monkeypatch.setattr(voc_archives, "read_sbd_mask", stop)
    assert prepare(tmp_path, *COUNTS) == 130
    base = tmp_path / "data/VOCdevkit/VOC2012"
    assert not (base / "SegmentationClassAug").exists() and not (base / "ImageSets/Segmentation/trainaug.txt").exists()
    assert len(list((base / "SegmentationClassAug.partial").iterdir())) == 2
    again: list[str] = []
    monkeypatch.setattr(voc_archives, "read_sbd_mask", lambda data, where: again.append(where) or whole(data, where))
    assert prepare(tmp_path, *COUNTS) == 0
    assert len(converted) == 2 and len(again) == 1 and not set(converted) & set(again)
    assert len(voc.requests) == 2


def test_an_interrupted_unpacking_goes_on(voc: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    partial = tmp_path / "data/VOCdevkit.partial/VOC2012/JPEGImages"
    partial.mkdir(parents=True)
    (partial / "2007_000001.jpg").write_bytes(b"half")
    (partial / ".2007_000002.jpg.tmp").write_bytes(b"half")
    assert prepare(tmp_path, *COUNTS) == 0
    images = tmp_path / "data/VOCdevkit/VOC2012/JPEGImages"
    assert (images / "2007_000001.jpg").read_bytes() == picture("2007_000001")
    assert not list(images.glob(".*"))


def test_other_counts_are_errors_with_the_remedy(
    voc: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prepare(tmp_path) == 3
    error = capsys.readouterr().err.splitlines()[-1]
    assert "5 images; expected 10,582" in error and "--set data.expected_train=5" in error
    assert not (tmp_path / "data/VOCdevkit/VOC2012/SegmentationClassAug").exists()
    assert prepare(tmp_path, "data.expected_train=5") == 3
    assert "validation list has 2 images; expected 1,449" in capsys.readouterr().err
    assert prepare(tmp_path, "data.expected_train=null", "data.expected_val=null") == 0


def test_without_download_what_is_missing_is_named(
    voc: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    remedy = "PrepareDataset --dataset voc --download"
    assert prepare(tmp_path, *COUNTS, more=()) == 3
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and str(tmp_path / "data") in error and remedy in error
    assert prepare(tmp_path, *COUNTS) == 0
    base = tmp_path / "data/VOCdevkit/VOC2012"
    (base / "ImageSets/Segmentation/trainaug.txt").rename(tmp_path / "list")
    capsys.readouterr()
    assert prepare(tmp_path, *COUNTS, more=()) == 3
    error = capsys.readouterr().err
    assert "trainaug.txt: no such list" in error and remedy in error
    (tmp_path / "list").rename(base / "ImageSets/Segmentation/trainaug.txt")
    (base / "SegmentationClassAug").rename(tmp_path / "masks")
    assert prepare(tmp_path, *COUNTS, more=()) == 3
    error = capsys.readouterr().err
    assert "no such mask folder" in error and remedy in error and "data.mask_folder=SegmentationClass" in error
    assert prepare(tmp_path, *COUNTS) == 0  # the masks alone are made again, from the archive that is there
    assert len(voc.requests) == 2


def test_a_devkit_without_sbd_fetches_sbd_alone_and_keeps_the_users_list(voc: Served, tmp_path: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(voc_tar())) as bundle:
        bundle.extractall(tmp_path / "data")  # our own: `filter` came with 3.11.4
    mine = tmp_path / "data/VOCdevkit/VOC2012/ImageSets/Segmentation/trainaug.txt"
    mine.write_text("2008_000001\n")
    assert prepare(tmp_path, *COUNTS) == 0
    assert [name for name, _ in voc.requests] == ["benchmark.tgz"]
    assert mine.read_text() == "2008_000001\n"


def test_voc_alone_needs_no_sbd(voc: Served, tmp_path: Path) -> None:
    assert prepare(tmp_path, "data.train_split=train", "data.mask_folder=SegmentationClass") == 0
    assert [name for name, _ in voc.requests] == ["VOCtrainval_11-May-2012.tar"]


def test_a_wrong_archive_leaves_nothing(voc: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    voc.files["benchmark.tgz"] += b"x"
    assert prepare(tmp_path, *COUNTS) == 3
    error = capsys.readouterr().err.splitlines()[-1]
    assert "MD5" in error and "benchmark.tgz" in error
    assert not (tmp_path / "data/VOCdevkit/VOC2012/SegmentationClassAug.partial").exists()
    assert sorted(p.name for p in (tmp_path / "data/archives").iterdir()) == ["VOCtrainval_11-May-2012.tar"]


def test_masks_that_are_no_masks_are_named(tmp_path: Path) -> None:
    good = np.array([[0, 20]], np.uint8)
    np.testing.assert_array_equal(voc_archives.read_sbd_mask(mat(good), "x"), good)
    buffer = io.BytesIO()
    savemat(buffer, {"GTinst": {"Segmentation": good}})
    wrong = (mat(np.array([[id_]], np.int8)) for id_ in (21, -1))
    for data in (b"", b"nonsense", buffer.getvalue(), *wrong):
        with pytest.raises(voc_archives.DataError, match="x\\.mat") as caught:
            voc_archives.read_sbd_mask(data, "x.mat")
        assert "\n" not in str(caught.value)


def test_nothing_to_download_for_other_layouts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert prepare(tmp_path, dataset="shapes") == 2
    assert "nothing to download for data.layout shapes" in capsys.readouterr().err


# ---- COCO-Stuff ----


def make_zip(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as bundle:
        for name, content in files.items():
            bundle.writestr(name, content)
    return buffer.getvalue()


def raw_map(place: int) -> bytes:
    mask = np.tile(np.array([RAW_IDS[place], RAW_IDS[170 - place], 255, 0], np.uint8).repeat(4), (12, 1))
    buffer = io.BytesIO()
    Image.fromarray(mask).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def coco(monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    ids = {"train2017": ["000000000009", "000000000025", "000000000030"], "val2017": ["000000000139"]}
    files = {
        f"{split}.zip": make_zip({f"{split}/": b"", **{f"{split}/{i}.jpg": picture(i) for i in members}})
        for split, members in ids.items()
    }
    maps = {f"{s}/{i}.png": raw_map(n) for s, members in ids.items() for n, i in enumerate(members)}
    files["stuffthingmaps_trainval2017.zip"] = make_zip(maps)
    with serving(files) as served:

        def archive(name: str) -> Archive:
            return Archive(f"{served.url}/{name}", name, hashlib.md5(files[name]).hexdigest())

        monkeypatch.setattr(coco_archives, "IMAGES", {split: archive(f"{split}.zip") for split in ids})
        monkeypatch.setattr(coco_archives, "MAPS", archive("stuffthingmaps_trainval2017.zip"))
        yield served


def test_coco_stuff_from_nothing(coco: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert prepare(tmp_path, dataset="coco_stuff", more=()) == 3
    assert "PrepareDataset --dataset coco_stuff --download" in capsys.readouterr().err
    assert prepare(tmp_path, dataset="coco_stuff") == 3
    error = capsys.readouterr().err.splitlines()[-1]
    assert "3 files train2017/*.jpg; expected 118,287" in error and "data.expected_train=3" in error
    assert not (tmp_path / "data/images/train2017").exists()
    counts = ("data.expected_train=3", "data.expected_val=1")
    assert prepare(tmp_path, *counts, dataset="coco_stuff") == 0
    out = Path(capsys.readouterr().out.splitlines()[-1])
    train = json.loads((out / "train.json").read_text())["images"]
    assert [entry["classes"] for entry in train] == [[0, 170], [0, 1, 169], [0, 2, 168]]
    assert [name for name, _ in coco.requests] == ["train2017.zip", "val2017.zip", "stuffthingmaps_trainval2017.zip"]
    (tmp_path / "data/images/val2017").rename(tmp_path / "val2017")
    assert prepare(tmp_path, *counts, dataset="coco_stuff") == 0
    assert len(coco.requests) == 3 and (tmp_path / "data/images/val2017/000000000139.jpg").is_file()
