"""Which stages rerun after a change, for every config field and for edits of the code, through the real command line.

What is expected is written down by hand in rerun_table.py, apart from the declarations of `pipeline/stages.py` that it
checks: a new field fails until somebody has said which stages read it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from split_matching.cache import code as code_module
from split_matching.cache.build import open_build
from split_matching.configs.load import load_config
from split_matching.pipeline.cli import main
from split_matching.pipeline.stages import make_plan
from tests.conftest import VocTree, blocks
from tests.pipeline.rerun_table import (
    BASE,
    BELOW,
    CLIP,
    FIELDS,
    NOTHING,
    PSEUDO,
    READS,
    STAGES,
    VALUES,
    and_below,
    overrides_of,
)

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
FOLDERS = ("cache", "configs", "model", "pipeline", "stages")


class Cache:
    """A cache in which every stage of one config is fresh."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "cache"

    def arguments(self, *overrides: str) -> list[str]:
        return ["--dataset", "shapes", "--artifacts", str(self.root), "--set", *BASE, *overrides]

    def reruns(self, capsys: pytest.CaptureFixture[str], *overrides: str) -> set[str]:
        """Ask `status` which stages are not fresh; `plan Report` says nothing of PretrainClip."""
        capsys.readouterr()
        assert main(["status", "--json", *self.arguments(*overrides)]) == 0, capsys.readouterr().err
        return {stage["stage"] for stage in json.loads(capsys.readouterr().out)["stages"] if stage["state"] != "fresh"}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    made = Cache(tmp_path_factory.mktemp("matrix"))
    assert main(["Report", *made.arguments(), "--quiet"]) == 0
    # training the small CLIP takes a minute: its place is filled with the weights of the repository
    config = load_config("shapes", overrides=[*BASE, f"runtime.artifacts={made.root}"])
    plan = make_plan(config)
    build = open_build(plan["pretrain"].entry, plan["pretrain"].recipe)
    shutil.copy(ROOT / "model/weights/shapes-vit.safetensors", build.path / "clip.safetensors")
    with build.lock() as held:
        assert held
        build.commit(1.0)
    return made


# ---- config ----


def test_table_names_every_field_and_no_other() -> None:
    named = set(READS) | {"dataset"}
    assert set(FIELDS) - named == set(), "say in READS of rerun_table.py which stages read these new fields"
    assert named - set(FIELDS) == set(), "these fields are gone: remove them from READS"
    assert set(VALUES) <= set(FIELDS)
    assert set(BELOW) == set(STAGES)


def test_everything_is_fresh_before(cache: Cache, capsys: pytest.CaptureFixture[str]) -> None:
    assert cache.reruns(capsys) == set()


@pytest.mark.parametrize("field", [field for field in FIELDS if VALUES.get(field, ()) is not None])
def test_a_changed_field_reruns_the_stages_that_read_it_and_all_below(
    field: str, cache: Cache, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = next((cache.root / "shapes/shapes").iterdir())
    overrides = [override.format(tree=tree) if "{tree}" in override else override for override in overrides_of(field)]
    before = load_config("shapes", overrides=BASE)
    after = load_config("shapes", overrides=[*BASE, *overrides])
    assert before != after
    assert cache.reruns(capsys, *overrides) == and_below(READS.get(field, NOTHING)), overrides


@pytest.mark.parametrize(
    ("mode", "override", "directly"),
    [
        ("features.shifts=1", "pseudo_masks.block=4", PSEUDO),
        # evaluation looks at pixels only if it embeds regions, and at the trained decoder only if it uses it
        ("evaluate.fusion=0", "regions.expand=1.5", {"EmbedRegions"}),
        ("evaluate.predictor=dense", "train.steps=7", {"TrainDecoder"}),  # nothing is below it
        ("evaluate.predictor=dense", "decoder.dim=64", {"TrainDecoder"}),
        ("evaluate.predictor=dense", "train.matching=single", {"TrainDecoder"}),
        ("evaluate.predictor=dense", "evaluate.fusion=0.2", NOTHING),
        ("evaluate.predictor=dense", "evaluate.gamma=0.2", {"Evaluate", "Report"}),
        ("evaluate.predictor=dense", "text.templates=['{}']", {"EmbedText", "TrainDecoder", "Evaluate", "Report"}),
        ("evaluate.predictor=dense", "regions.expand=1.5", {"EmbedRegions", "TrainDecoder", "Report"}),
        (
            "evaluate.predictor=dense",
            "pseudo_masks.min_area=0.01",
            {"ClusterPseudoMasks", "EmbedRegions", "TrainDecoder", "Report"},
        ),
        ("evaluate.predictor=regions", "regions.expand=1.5", {"EmbedRegions", "Evaluate"}),
        ("evaluate.predictor=regions", "pseudo_masks.merge=0.5", {"ClusterPseudoMasks", "Evaluate"}),
        ("evaluate.predictor=regions", "train.precision=bfloat16", {"TrainDecoder"}),
        # training reads images in the loop
        ("train.features=online", "clip.seed=3", {"EmbedText", "ExtractFeatures", "EmbedRegions", "TrainDecoder"}),
        ("train.features=online", "train.scale_range=[0.7, 1.5]", {"TrainDecoder"}),
        ("train.features=online", "train.cat_max_ratio=0.5", {"TrainDecoder"}),
        # what means something to one mode only
        ("train.validate_every=5", "train.validate_images=7", {"TrainDecoder"}),
        ("train.validate_every=5", "evaluate.checkpoint=best", {"Evaluate"}),
        ("pseudo_masks.method=kmeans", "pseudo_masks.k=3", PSEUDO),
        ("pseudo_masks.method=kmeans", "pseudo_masks.seed=3", PSEUDO),
        ("pseudo_masks.method=kmeans", "pseudo_masks.windows=[3]", NOTHING),
        ("evaluate.mode=slide", "evaluate.stride=100", {"Evaluate"}),
        ("evaluate.mode=slide", "evaluate.short_side=200", {"Evaluate"}),
        # the weights are the result of another stage
        ("clip.weights=pretrain", "pretrain.steps=5", {"PretrainClip", *CLIP}),
    ],
)
def test_modes_decide_what_is_read(mode: str, override: str, directly: set[str], cache: Cache) -> None:
    """By the keys, for these modes were not run."""
    keys = []
    for more in ((), (override,)):
        plan = make_plan(load_config("shapes", overrides=[*BASE, mode, *more]))
        keys.append({stage.command: stage.key for stage in plan.stages.values()})
    changed = {name for name in keys[0] if keys[0][name] != keys[1][name]}
    # nothing of a baseline is below the trained decoder
    complete = "dense" in mode or ("predictor" in mode and "train" in override)
    assert changed == (directly if complete else and_below(directly))


def test_weights_of_another_name_and_equal_bytes_rerun_nothing(
    cache: Cache, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy.safetensors"
    shutil.copy(ROOT / "model/weights/shapes-vit.safetensors", copy)
    assert cache.reruns(capsys, "clip.weights=bundled") == cache.reruns(capsys, f"clip.weights={copy}")
    one, two = (make_plan(load_config("shapes", overrides=[*BASE, f"clip.weights={w}"])) for w in ("bundled", copy))
    assert one["report"].key == two["report"].key


def test_plan_says_the_same_as_a_run_does(cache: Cache, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(cache.root, tmp_path / "cache")
    arguments = [*cache.arguments("regions.expand=1.3"), "--artifacts", str(tmp_path / "cache")]
    capsys.readouterr()
    assert main(["plan", "Report", "--json", *arguments]) == 0
    planned = json.loads(capsys.readouterr().out)
    runs = {stage["stage"]: stage for stage in planned["stages"] if stage["run"]}
    assert runs.keys() == {"EmbedRegions", "TrainDecoder", "Evaluate", "Report"}
    assert runs["EmbedRegions"]["reasons"] == ["config regions.expand 1.1 -> 1.3"]
    assert runs["EmbedRegions"]["shards"] == 1 and runs["EmbedRegions"]["seconds_before"] >= 0
    assert main(["Report", *arguments]) == 0
    assert ran(capsys.readouterr().out) == runs.keys()
    assert main(["plan", "Report", *arguments]) == 0
    assert capsys.readouterr().out.endswith("\nnothing would run\n")
    assert cache.reruns(capsys) == set()  # and the first config lost nothing


# ---- where things lie ----


def test_a_moved_cache_is_fresh(cache: Cache, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(cache.root, tmp_path / "moved", copy_function=shutil.copyfile)  # with other times, too
    assert cache.reruns(capsys, f"runtime.artifacts={tmp_path / 'moved'}") == set()


@pytest.mark.parametrize("place", ["elsewhere", "elsewhere/VOCdevkit/VOC2012"])
def test_moved_photographs_rerun_nothing(place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree = VocTree(tmp_path / "data")
    for name, image_id in (("trainaug", "t0"), ("val", "v0")):
        tree.write_list(name, [image_id])
        tree.write_image(image_id, (24, 32))
        tree.write_mask(image_id, blocks(0, 1))
    arguments = ["PrepareDataset", "--dataset", "voc", "--artifacts", str(tmp_path / "cache"), "--set"]
    assert main([*arguments, f"data.root={tree.root}"]) == 0
    tree.root.rename(tmp_path / "elsewhere")
    capsys.readouterr()
    assert main([*arguments, f"data.root={tmp_path / place}"]) == 0
    assert "PrepareDataset  fresh" in capsys.readouterr().out


# ---- code ----


class Checkout:
    """A copy of the code beside a copy of the cache. Commands run here, where code counts as it is in the copy."""

    def __init__(self, folder: Path, cache: Cache, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder / "checkout"
        self.arguments = [*cache.arguments(), "--artifacts", str(folder / "cache")]
        self.capsys = capsys
        for name in (*FOLDERS, "split_matching"):
            shutil.copytree(
                ROOT / name, self.folder / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__")
            )
        shutil.copy(ROOT / "run_pipeline.py", self.folder)
        shutil.copytree(cache.root, folder / "cache")

    def call(self, *words: str) -> str:
        code_module.forget_code()
        self.capsys.readouterr()
        code = main([*words, *self.arguments])
        said = self.capsys.readouterr()
        assert code == 0, said.err
        return said.out

    def call_copy(self, *words: str) -> str:
        """Run the code of the copy, in a process of its own."""
        command = [sys.executable, "run_pipeline.py", *words, *self.arguments]
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def stale(self) -> dict[str, list[str]]:
        """Stages that are not fresh because of themselves, with the reasons."""
        stages = json.loads(self.call("status", "--json"))["stages"]
        found = {s["stage"]: [r for r in s["reasons"] if not r.startswith("waits for ")] for s in stages}
        return {stage: reasons for stage, reasons in found.items() if reasons}

    def run(self, stage: str, *more: str) -> set[str]:
        """Run a stage; returns all that ran."""
        return ran(self.call(stage, *more))

    def edit(self, file: str, old: str, new: str) -> None:
        path = self.folder / file
        text = path.read_text(encoding="utf-8")
        assert old in text, f"{file} does not hold {old!r} any more: choose another place to edit"
        path.write_text(text.replace(old, new, 1), encoding="utf-8")


def ran(said: str) -> set[str]:
    """Return the stages that a run says that it ran."""
    return {line.split()[0] for line in said.splitlines() if " ran in " in line}


@pytest.fixture
def checkout(
    cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Checkout]:
    made = Checkout(tmp_path, cache, capsys)
    monkeypatch.setattr(code_module, "module_closure", partial(code_module.module_closure, root=made.folder))
    yield made
    code_module.forget_code()


def test_edits_that_change_no_meaning_rerun_nothing(checkout: Checkout) -> None:
    assert checkout.stale() == {}  # nor does another place of the code
    for file in [*(checkout.folder / "stages").rglob("*.py"), *(checkout.folder / "model").rglob("*.py")]:
        text = file.read_text(encoding="utf-8")
        if text.startswith('"""'):
            text = '"""Another docstring.\n\n' + text[3:]
        lines = text.replace("\n\n\ndef ", "\n\n\n\n# A comment.\ndef ").splitlines()
        file.write_text("\n".join(line + ("  # said" if line == "import json" else "") for line in lines) + "\n\n")
    assert checkout.stale() == {}


def test_code_that_makes_no_results_reruns_nothing(checkout: Checkout) -> None:
    """Of cache, configs and pipeline; what they may change is covered by schema numbers and by keys."""
    checkout.edit("pipeline/run/progress.py", "LOG_SECONDS = 10.0", "LOG_SECONDS = 5.0")
    checkout.edit("cache/disk_errors.py", "def explain_disk_error(", "UNUSED = 1\n\n\ndef explain_disk_error(")
    assert checkout.stale() == {}


@pytest.mark.long
def test_a_changed_constant_reruns_its_stage_and_what_then_differs(checkout: Checkout) -> None:
    first = "from __future__ import annotations"
    checkout.edit("stages/pages/report.py", first, f"{first}\n\nA = 1")
    assert checkout.stale() == {"Report": ["code stages/pages/report.py"]}
    checkout.edit("stages/training/text.py", first, f"{first}\n\nA = 1")
    assert checkout.stale().keys() == {"EmbedText", "Report"}
    # the embeddings come out the same, so the decoder is not trained again
    assert checkout.run("TrainDecoder") == {"EmbedText"}
    assert checkout.stale().keys() == {"Report"}
    checkout.edit("stages/training/text.py", "seen, ctx.config.text)", "seen, ctx.config.text).flip(0)")
    assert ran(checkout.call_copy("TrainDecoder")) == {"EmbedText", "TrainDecoder"}


def test_upstream_rebuilt_with_equal_bytes_reruns_nothing_below(checkout: Checkout) -> None:
    checkout.edit("stages/data/shapes.py", "SUPERSAMPLE", "SUPERSAMPLE_UNUSED = 1\nSUPERSAMPLE")
    assert checkout.stale().keys() == {"RenderShapes", "PretrainClip"}
    assert checkout.run("Report") == {"RenderShapes"}
    assert checkout.run("Report") == set()


def test_force_makes_one_stage_again_and_what_then_differs(checkout: Checkout) -> None:
    planned = json.loads(checkout.call("plan", "ClusterPseudoMasks", "--force", "--json"))["stages"]
    assert [stage["stage"] for stage in planned if stage["run"]] == ["ClusterPseudoMasks"]
    assert checkout.run("ClusterPseudoMasks", "--force") == {"ClusterPseudoMasks"}
    assert checkout.run("Report") == set()  # the same bytes came out


def test_adopt_takes_the_present_code(checkout: Checkout) -> None:
    checkout.edit("model/clip_weights.py", "list them with", "they are listed by")
    stale = checkout.stale()
    assert set(stale) >= {"EmbedText", "ExtractFeatures", "EmbedRegions"}
    assert all(reasons == ["code model/clip_weights.py"] for reasons in stale.values())
    assert "accepted the present model/clip_weights.py" in checkout.call("adopt", *stale)
    assert checkout.stale() == {}
    assert checkout.run("Report") == set()
