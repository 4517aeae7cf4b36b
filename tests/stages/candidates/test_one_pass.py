"""Features that are not kept: what is made of them is what the separate stages make, and all commands go on without."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from split_matching.configs.load import load_config
from split_matching.errors import ConfigError
from split_matching.pipeline.cli import main
from split_matching.pipeline.plan import Plan
from split_matching.pipeline.stages import make_plan
from split_matching.stages.candidates import features, one_pass, pseudo_masks, regions
from split_matching.stages.candidates.computed_features import ComputedFeatures, open_training_features
from split_matching.stages.candidates.extractor import Extractor
from tests.handmade import TINY, Chain

NOT_KEPT = ("features.persist=false", "train.features=online")
RUN = (*TINY, "evaluate.fusion=0", "train.steps=2", "train.photometric=false")


def by_stages(base: Path, *overrides: str) -> Chain:
    """Features, pseudo masks and regions, a stage each."""
    chain = Chain(base / "stages", *overrides)
    chain.sharded(features, "features")
    chain.sharded(pseudo_masks, "pseudo_masks")
    chain.sharded(regions, "regions")
    return chain


def in_one_pass(base: Path, of: Chain, *overrides: str) -> Chain:
    """Pseudo masks and regions of the same images without a file of features."""
    chain = Chain(base / "one_pass", *NOT_KEPT, *overrides, root=of.root)
    chain.sharded(one_pass, "pseudo_masks")
    chain.sharded(regions, "regions")
    return chain


@pytest.mark.parametrize(
    "overrides",
    [
        ["regions.method=crop"],
        ["regions.method=mean", "pseudo_masks.block=null"],
        ["regions.method=attention", "regions.blocks=2"],  # from block 2, whose tokens there are
        ["regions.method=attention", "regions.blocks=1"],  # from block 3, whose tokens there are not
        ["regions.method=attention", "regions.blocks=2", "features.shifts=2"],
    ],
    ids=lambda overrides: " ".join(overrides),
)
def test_both_ways_make_the_same_bytes(overrides: list[str], tmp_path: Path) -> None:
    apart = by_stages(tmp_path, *overrides)
    once = in_one_pass(tmp_path, apart, *overrides)
    kept, made = (chain.inputs["pseudo_masks"].shards("train") for chain in (apart, once))
    assert made.ids == kept.ids and len(made.ids) == 4
    assert set(kept.fields) == {"labels"} and set(made.fields) == {"labels", "embeddings"}
    assert apart.progress == {
        slug: [(1, 4), (2, 4), (3, 4), (4, 4)] for slug in ("features", "pseudo_masks", "regions")
    }
    assert once.progress == {slug: [(1, 4), (2, 4), (3, 4), (4, 4)] for slug in ("pseudo_masks", "regions")}
    assert sum(int(kept.read(image_id, "labels").max()) for image_id in kept.ids) > 0
    for image_id in kept.ids:
        assert np.array_equal(made.read(image_id, "labels"), kept.read(image_id, "labels"))
    name = "regions/train-00000.h5"
    assert (once.base / name).read_bytes() == (apart.base / name).read_bytes()


def test_computed_features_of_the_last_image_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    class Watched:
        def __init__(self, ctx: object) -> None: ...
        def load(self, image_id: str) -> str:
            asked.append(image_id)
            return image_id

        def extract(self, images: list[str]) -> list[dict[str, str]]:
            return [{"dense": f"dense {image_id}", "cls": f"cls {image_id}"} for image_id in images]

    monkeypatch.setattr("split_matching.stages.candidates.computed_features.Extractor", Watched)
    found = ComputedFeatures(Chain(tmp_path, *NOT_KEPT).context("features"))
    first, second = found.ids[:2]
    read: list[object] = [
        found.read(i, f) for i, f in ((first, "dense"), (first, "cls"), (second, "cls"), (first, "cls"))
    ]
    assert read == [f"dense {first}", f"cls {first}", f"cls {second}", f"cls {first}"]
    assert asked == [first, second, first]


def test_images_that_share_forward_passes_keep_their_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU: several images a batch, the last one not full."""
    apart = by_stages(tmp_path, "shapes.train_scenes=7", "regions.method=attention", "regions.blocks=2")
    usual = Extractor.__init__

    def of_three(self: Extractor, ctx: object) -> None:
        usual(self, ctx)  # type: ignore[arg-type]
        self.batch = 3

    monkeypatch.setattr(Extractor, "__init__", of_three)
    once = in_one_pass(tmp_path, apart, "shapes.train_scenes=7", "regions.method=attention", "regions.blocks=2")
    kept, made = (chain.inputs["regions"].shards("train") for chain in (apart, once))
    assert made.ids == kept.ids and len(made.ids) == 7
    for image_id in kept.ids:
        before, after = (shards.read(image_id, "embeddings").astype(np.float32) for shards in (kept, made))
        assert before.shape == after.shape and np.abs(before - after).max(initial=0) < 5e-3


def test_computed_features_are_the_cached_ones(tmp_path: Path) -> None:
    chain = Chain(tmp_path, "features.shifts=2")
    chain.sharded(features, "features")
    cached = chain.inputs["features"].shards("train")
    ids = [{"id": image_id} for image_id in reversed(cached.ids)]
    (chain.folder("dataset") / "images.json").write_text(json.dumps({"train": ids, "val": []}))

    class Dataset:
        def json(self, name: str) -> object:
            return json.loads((chain.base / "dataset" / name).read_text())

    chain.inputs["dataset"] = Dataset()
    computed = ComputedFeatures(chain.context("features"))
    assert computed.ids == cached.ids and set(computed.fields) == set(cached.fields)
    for image_id in cached.ids[:2]:
        for field in cached.fields:
            assert np.array_equal(computed.read(image_id, field), cached.read(image_id, field)), field
    assert open_training_features(chain.context("features")).ids == cached.ids
    with pytest.raises(KeyError):
        computed.read(cached.ids[0], "tokens_1")


# --- through the command line -----------------------------------------------------------------------------------------


def run(folder: Path, stage: str, *overrides: str, code: int = 0) -> None:
    assert main([stage, "--artifacts", str(folder), "--quiet", "--set", *RUN, *overrides]) == code


def plan(folder: Path, *overrides: str) -> Plan:
    return make_plan(load_config("shapes", overrides=[*RUN, *overrides, f"runtime.artifacts={folder}"]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with a reported run that kept no training features."""
    path = tmp_path_factory.mktemp("unkept")
    run(path, "Report", *NOT_KEPT)
    return path


def test_only_validation_features_are_on_the_disk(folder: Path) -> None:
    files = {path.name for path in folder.glob("shapes/features/*/*.h5")}
    assert files == {"val-00000.h5"}
    assert all(state.fresh for stage, state in plan(folder, *NOT_KEPT).states().items() if stage != "pretrain")


def test_the_run_ends_as_with_kept_features(folder: Path, tmp_path: Path) -> None:
    run(tmp_path, "Evaluate", "train.features=online")
    kept, unkept = plan(tmp_path, "train.features=online"), plan(folder, *NOT_KEPT)
    for stage, name in (("train", "weights.safetensors"), ("evaluate", "metrics.json"), ("regions", "train-00000.h5")):
        assert (kept[stage].entry.folder / name).read_bytes() == (unkept[stage].entry.folder / name).read_bytes(), name
    assert kept["train"].key != unkept["train"].key


def test_shards_and_workers_change_nothing(folder: Path, tmp_path: Path) -> None:
    cut = ("runtime.shard_size=3", "runtime.workers=2")
    run(tmp_path, "EmbedRegions", *NOT_KEPT, *cut)
    for stage in ("pseudo_masks", "regions"):
        assert (
            plan(tmp_path, *NOT_KEPT, *cut)[stage].artifact().content
            == plan(folder, *NOT_KEPT)[stage].artifact().content
        )
    assert len(list(tmp_path.glob("shapes/pseudo_masks/*/train-*.h5"))) == 2


def test_other_settings_of_regions_run_both_stages_again(folder: Path) -> None:
    other = plan(folder, *NOT_KEPT, "regions.expand=1.4")
    states = other.states(["train"])
    assert "features" not in states  # nothing that trains reads them
    assert {stage for stage, state in states.items() if not state.fresh} == {"pseudo_masks", "regions", "train"}


SLIDING = (*NOT_KEPT, "evaluate.mode=slide", "evaluate.window=48", "evaluate.stride=32")


def pictures(page: str) -> list[str]:
    """The pictures of pseudo masks, in their order."""
    return re.findall(r'<img src="(data:image/jpeg[^"]+)"[^>]*alt="pseudo mask[^"]*"', page)


def test_without_any_cached_feature_the_report_shows_the_same_pseudo_masks(folder: Path, tmp_path: Path) -> None:
    """Sliding windows read images, so nothing but the report's pictures is made of features of validation images."""
    shutil.copytree(folder, tmp_path / "cache")
    shutil.rmtree(tmp_path / "cache/shapes/features")
    run(tmp_path / "cache", "Report", *SLIDING)
    assert not (tmp_path / "cache/shapes/features").exists()
    computed, cached = (
        pictures((plan(place, *overrides)["report"].entry.folder / "report.html").read_text())
        for place, overrides in ((tmp_path / "cache", SLIDING), (folder, NOT_KEPT))
    )
    assert computed == cached and len(cached) == 4  # two images, as examples and as the worst
    for image_id in ("train_000001", "val_000001"):
        look = ["inspect", "features", "--image", image_id, "--out", str(tmp_path / "x.png")]
        assert main([*look, "--artifacts", str(tmp_path / "cache"), "--set", *RUN, *SLIDING]) == 0


@pytest.mark.parametrize("kind", ["pseudo_masks", "regions", "features", "matches"])
def test_what_is_cached_can_be_looked_at(kind: str, folder: Path, tmp_path: Path) -> None:
    arguments = ["inspect", kind, "--image", "train_000001", "--out", str(tmp_path / "x.png")]
    assert main([*arguments, "--artifacts", str(folder), "--set", *RUN, *NOT_KEPT]) == 0
    assert (tmp_path / "x.png").stat().st_size > 0


def test_looking_says_the_same_as_with_kept_features(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path, "EmbedRegions", "train.features=online")
    run(tmp_path, "EmbedText", "train.features=online")
    said = []
    for cache, overrides in ((tmp_path, ("train.features=online",)), (folder, NOT_KEPT)):
        capsys.readouterr()
        arguments = ["--out", str(tmp_path / "gallery.html"), "--artifacts", str(cache), "--set", *RUN, *overrides]
        assert main(["inspect", "pseudo_masks", *arguments]) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1] and "quality" in said[0]


def test_quality_is_measured_without_kept_features(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "quality", "--artifacts", str(folder), "--set", *RUN, *NOT_KEPT]) == 0
    assert "clusters an image" in capsys.readouterr().out


def test_photographs_of_many_sizes(voc_mini: Path, tmp_path: Path) -> None:
    base = Path("VOCdevkit/VOC2012/ImageSets/Segmentation")
    ids = [
        name for split in ("trainaug", "val") for name in (voc_mini / base / f"{split}.txt").read_text().split()[:12]
    ]
    settings = (
        *(f"data.root={voc_mini}", f"data.images={json.dumps(ids)}", f"runtime.artifacts={tmp_path}"),
        *("clip.model=shapes-vit", "clip.weights=random", "features.size=64", "features.decoder_blocks=[2, 4]"),
        *("regions.method=attention", "regions.blocks=2", "runtime.shard_size=8"),
    )
    files = []
    for more in ((), NOT_KEPT):
        assert main(["EmbedRegions", "--dataset", "voc_cached", "--quiet", "--set", *settings, *more]) == 0
        folder = make_plan(load_config("voc_cached", overrides=[*settings, *more]))["regions"].entry.folder
        files.append({path.name: path.read_bytes() for path in folder.glob("*.h5")})
    assert files[0] == files[1] and len(files[0]) == 2


def test_training_on_features_that_are_not_kept_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"features.persist false keeps no features .* set train.features online"):
        load_config("shapes", overrides=["features.persist=false"])
