"""The source of VOC's layout: lists, files, and the fingerprint."""

from __future__ import annotations

import os
import shutil
from types import SimpleNamespace

import pytest

from split_matching.configs.data_settings import DataConfig
from split_matching.stages.data.source import open_source
from tests.conftest import VocTree
from tests.error_lines import check_error


def test_ids_are_sorted_and_lists_follow_the_config(voc_tree):
    tree = voc_tree()
    tree.write_list("mine", ["b", "a.1", "", "c-2"])
    source = open_source(DataConfig(train_split="mine"), tree.root)
    assert source.ids("train") == ["a.1", "b", "c-2"]
    assert source.ids("val") == ["2007_000003"]


@pytest.mark.parametrize("depth", ["", "VOCdevkit", "VOCdevkit/VOC2012"])
def test_root_may_be_any_folder_of_the_layout(voc_tree, depth):
    tree = voc_tree()
    source = open_source(DataConfig(), tree.root / depth)
    assert source.image_path("2007_000001") == tree.image("2007_000001")
    assert source.mask_path("2007_000001") == tree.mask("2007_000001")


def test_images_alone_need_no_other_field(voc_tree):
    tree = voc_tree()
    source = open_source(SimpleNamespace(layout="voc"), tree.root)
    assert source.image_path("2007_000001").is_file()


def test_missing_roots(tmp_path):
    check_error(lambda: open_source(DataConfig(), None), "data.root", "--set data.root=PATH")
    check_error(lambda: open_source(DataConfig(), tmp_path), tmp_path, "VOCdevkit", "--set data.root=PATH")
    check_error(lambda: open_source(DataConfig(), tmp_path / "no"), "no such folder")


@pytest.mark.parametrize(
    "line", ["../secret", "/etc/passwd", "a/b", "..", ".hidden", "a b", "a\\b", "2007_000001 1", "-x", "a\0b"]
)
def test_hostile_ids_are_errors(voc_tree, line):
    tree = voc_tree()
    tree.write_list("trainaug", ["ok", line])
    check_error(lambda: open_source(DataConfig(), tree.root).ids("train"), "trainaug.txt, line 2", "no image id")


def test_unusable_lists(voc_tree):
    tree = voc_tree()
    source = open_source(DataConfig(), tree.root)
    tree.write_list("trainaug", ["a", "b", "a"])
    check_error(lambda: source.ids("train"), "trainaug.txt, line 3", "line 1")
    tree.listing("trainaug").write_text("\n \n")
    check_error(lambda: source.ids("train"), "trainaug.txt", "empty")
    tree.listing("trainaug").write_bytes(b"\xff\xfe\x00")
    check_error(lambda: source.ids("train"), "trainaug.txt", "not text in UTF-8")
    tree.listing("trainaug").unlink()
    check_error(lambda: source.ids("train"), "trainaug.txt", "(val)", "--set data.train_split=NAME")


def test_absent_files(voc_tree):
    tree = voc_tree()
    source = open_source(DataConfig(), tree.root)
    check_error(lambda: source.image_path("ghost"), "JPEGImages/ghost.jpg", "absent")
    check_error(lambda: source.mask_path("ghost"), "SegmentationClassAug/ghost.png", "absent")
    elsewhere = open_source(DataConfig(mask_folder="Masks"), tree.root)
    check_error(lambda: elsewhere.mask_path("2007_000001"), "Masks", "no such mask folder", "data.mask_folder")


def test_unknown_split_is_a_bug(voc_tree):
    with pytest.raises(ValueError, match="test"):
        open_source(DataConfig(), voc_tree().root).ids("test")


def test_fingerprint_follows_the_files_and_not_their_place(voc_tree, tmp_path):
    tree = voc_tree()
    before = open_source(DataConfig(), tree.root).fingerprint()
    shutil.copytree(tree.root, tmp_path / "copy")  # keeps times
    copy = VocTree(tmp_path / "copy")
    assert open_source(DataConfig(), copy.root).fingerprint() == before
    os.utime(copy.mask("2007_000003"), ns=(1, 1))
    touched = open_source(DataConfig(), copy.root).fingerprint()
    assert touched.sizes == before.sizes and touched.times != before.times
    with copy.image("2007_000003").open("ab") as file:
        file.write(b"x")
    assert open_source(DataConfig(), copy.root).fingerprint().sizes != before.sizes
    tree.mask("2007_000001").unlink()
    assert open_source(DataConfig(), tree.root).fingerprint().sizes != before.sizes
