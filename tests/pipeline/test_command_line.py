"""The real stages through the real command line: bad input ends in one line, and what was finished stays."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from split_matching.pipeline.cli import main
from split_matching.stages.training import pretrain
from tests.conftest import VocTree

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
TINY = (
    "clip.weights=random", "clip.model=shapes-vit", "features.size=32", "features.decoder_blocks=[2,4]",
    "pseudo_masks.windows=[2]", "decoder.dim=16", "decoder.heads=2", "decoder.ffn=16", "decoder.layers=1",
    "decoder.seen_queries=4", "decoder.candidate_queries=3", "train.steps=3", "train.batch=2",
)  # fmt: skip


@pytest.fixture
def tree(voc_tree: Callable[..., VocTree], make_mask: Callable[..., np.ndarray]) -> VocTree:
    train = {f"t{i}": make_mask(0, 1 + i, 16 + i, 255) for i in range(4)}
    return voc_tree(train=train, val={"v0": make_mask(0, 1, 17), "v1": make_mask(2, 16)})


def run(tmp_path: Path, tree: VocTree, stage: str, *more: str) -> int:
    settings = [*TINY, f"data.root={tree.root}", *more]
    return main(
        [stage, "--dataset", "voc_cached", "--artifacts", str(tmp_path / "cache"), "--quiet", "--set", *settings]
    )


def test_every_stage_runs_on_a_voc_tree(tmp_path: Path, tree: VocTree, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, tree, "Report") == 0
    report = Path(capsys.readouterr().out.splitlines()[-1])
    page = report.read_text()
    assert report.name == "report.html" and "Plumbing only" in page
    metrics = json.loads(next((tmp_path / "cache/voc_cached/evaluate").rglob("metrics.json")).read_text())
    assert metrics["images"] == 2 and set(metrics) >= {"pAcc", "mIoU_seen", "mIoU_unseen", "hIoU"}
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "cache").rglob("*") if p.is_file()}
    assert run(tmp_path, tree, "Report") == 0
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "cache").rglob("*") if p.is_file()} == before


def truncated(tree: VocTree) -> str:
    path = tree.image("t1")
    path.write_bytes(path.read_bytes()[:200])
    return "t1.jpg"


def other_size(tree: VocTree) -> str:
    Image.fromarray(np.zeros((5, 5), np.uint8)).save(tree.mask("t2"))
    return "t2.png"


def unknown_id(tree: VocTree) -> str:
    mask = np.asarray(Image.open(tree.mask("t3"))).copy()
    mask[0, 0] = 77
    Image.fromarray(mask).save(tree.mask("t3"))
    return "77"


def empty_split(tree: VocTree) -> str:
    tree.listing("val").write_text("")
    return "val.txt"


def absent_image(tree: VocTree) -> str:
    tree.image("v1").unlink()
    return "v1"


@pytest.mark.parametrize("spoil", [truncated, other_size, unknown_id, empty_split, absent_image])
def test_bad_data_is_one_line_and_nothing_is_lost(
    spoil: Callable[[VocTree], str], tmp_path: Path, tree: VocTree, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, tree, "EmbedText") == 0
    text = next((tmp_path / "cache/voc_cached/text").rglob("text.safetensors")).read_bytes()
    words = spoil(tree)
    capsys.readouterr()
    assert run(tmp_path, tree, "Evaluate") == 3
    lines = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert len(lines) == 1 and lines[0].startswith("error: ") and words in lines[0]
    assert next((tmp_path / "cache/voc_cached/text").rglob("text.safetensors")).read_bytes() == text
    assert not list((tmp_path / "cache/voc").glob("dataset/*/manifest.json"))


@pytest.mark.long
def test_workers_and_shards_change_no_byte(tmp_path: Path, tree: VocTree) -> None:
    # each in a process of its own, as from a shell: workers forked after a training in the same process hung here
    for name, more in (("a", ()), ("b", ("runtime.workers=2", "runtime.shard_size=2"))):
        cache = ["--artifacts", str(tmp_path / name), "--quiet", "--set", *TINY, f"data.root={tree.root}", *more]
        command = [sys.executable, str(ROOT / "run_pipeline.py"), "TrainDecoder", "--dataset", "voc_cached", *cache]
        subprocess.run(command, check=True, timeout=300)
    manifests = []
    for name in ("a", "b"):
        found = sorted((tmp_path / name).rglob("manifest.json"))
        manifests.append({p.relative_to(tmp_path / name): json.loads(p.read_text())["content"] for p in found})
    assert manifests[0] == manifests[1] and len(manifests[0]) == 6


@pytest.mark.long  # processes that render scenes
def test_weights_are_trained_and_used_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    probe = pretrain.probe
    monkeypatch.setattr(pretrain, "probe", lambda clip, scenes: probe(clip, 8))
    settings = ["clip.weights=pretrain", "pretrain.steps=2", "pretrain.batch=6", "pretrain.warmup=1"]
    cache = ["--artifacts", str(tmp_path), "--quiet", "--set", *settings]
    assert main(["EmbedText", "--dataset", "shapes", *cache]) == 0
    assert Path(capsys.readouterr().out.splitlines()[-1]).is_dir()
    assert len(list((tmp_path / "shapes/pretrain").rglob("clip.safetensors"))) == 1


def test_real_photographs_run_through_every_stage(
    tmp_path: Path, voc_mini: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """8 photographs, random weights: plumbing, not accuracy."""
    for part in ("JPEGImages", "SegmentationClassAug"):
        (tmp_path / "few/VOCdevkit/VOC2012" / part).mkdir(parents=True)
    base, few = voc_mini / "VOCdevkit/VOC2012", tmp_path / "few/VOCdevkit/VOC2012"
    (few / "ImageSets/Segmentation").mkdir(parents=True)
    for name in ("trainaug", "val"):
        ids = (base / f"ImageSets/Segmentation/{name}.txt").read_text().split()[:4]
        (few / f"ImageSets/Segmentation/{name}.txt").write_text("\n".join(ids) + "\n")
        for image_id in ids:
            shutil.copy(base / f"JPEGImages/{image_id}.jpg", few / "JPEGImages")
            shutil.copy(base / f"SegmentationClassAug/{image_id}.png", few / "SegmentationClassAug")
    assert run(tmp_path, VocTree(tmp_path / "few"), "Report", "features.size=128") == 0
    page = Path(capsys.readouterr().out.splitlines()[-1]).read_text()
    assert "Not the full data set" in page and "sheep" in page
    photos, out = few / "JPEGImages", tmp_path / "labelled"
    names = ["--image", str(photos), "--classes", "dog, sofa, traffic cone", "--out", str(out)]
    settings = [*TINY, f"data.root={tmp_path / 'few'}", "features.size=128"]
    cache = ["--artifacts", str(tmp_path / "cache"), "--quiet", "--set", *settings]
    assert main(["predict", "--dataset", "voc_cached", *names, *cache]) == 0
    count = len(list(photos.iterdir()))
    assert capsys.readouterr().out.splitlines()[0] == f"{count} labelled"
    for path in photos.iterdir():
        with Image.open(path) as image, Image.open(out / f"{path.name}.index.png") as labels:
            assert labels.size == image.size and set(np.unique(labels)) <= {0, 1, 2}
