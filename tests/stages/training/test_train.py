"""Training: it learns, it resumes exactly, it learns nothing from unseen labels, and it never divides by zero."""

import json
import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from split_matching.cache.code import module_closure
from split_matching.cache.entry import read_progress
from split_matching.configs.class_list import load_shipped_classes
from split_matching.configs.settings import DecoderConfig, TrainConfig
from split_matching.errors import UserError
from split_matching.model.process_group import ProcessGroup
from split_matching.model.query_decoder import LayerOutputs, QueryDecoder
from split_matching.stages.candidates import pseudo_masks
from split_matching.stages.data.source import open_source
from split_matching.stages.inference import evaluate
from split_matching.stages.training import checkpoint, train
from split_matching.stages.training.batches import Batch, batch_ids
from split_matching.stages.training.learner import Learner
from split_matching.stages.training.signals import ENDING, DelayedSignals
from split_matching.stages.training.train import learning_rate
from tests.handmade import Chain


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    return Chain(tmp_path_factory.mktemp("chain")).to_regions()


class Interrupted(Exception):
    """Stands for Ctrl-C or a kill."""


def trained(chain: Chain, name: str) -> dict[str, bytes]:
    """Train into a folder of its own and return its files."""
    folder = chain.whole(train, name)
    return {p.name: p.read_bytes() for p in folder.iterdir() if not p.name.startswith("checkpoint")}


def test_same_seed_same_bytes(chain: Chain) -> None:
    assert trained(chain, "first") == trained(chain, "second")


@pytest.mark.parametrize("stop", [1, 2, 3, 5])
def test_interrupted_and_resumed_equals_undisturbed(chain: Chain, stop: int) -> None:
    undisturbed = trained(chain, "whole")

    def interrupt(done: int, total: int) -> None:
        if done == stop:
            raise Interrupted

    with pytest.raises(Interrupted):
        chain.whole(train, f"stopped-{stop}", progress=interrupt)
    assert not (chain.folder(f"stopped-{stop}") / "weights.safetensors").exists()
    assert trained(chain, f"stopped-{stop}") == undisturbed


@pytest.fixture
def usual_signals() -> Iterator[None]:
    """Signals that end the test by a KeyboardInterrupt; in a process in the background Ctrl-C is ignored."""
    former = {number: signal.signal(number, signal.default_int_handler) for number in ENDING}
    yield
    for number, handler in former.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("number", "stop"),
    [
        (signal.SIGINT, 2),
        (signal.SIGINT, 5),
        (signal.SIGINT, 6),
        (signal.SIGTERM, 5),
        (signal.SIGUSR1, 2),
        (signal.SIGHUP, 5),
    ],
)
def test_a_signal_ends_the_training_after_its_step(chain: Chain, usual_signals: None, number: int, stop: int) -> None:
    undisturbed = trained(chain, "whole")
    name = f"{number}-{stop}"
    started = []

    def end(done: int, total: int) -> None:
        started.append(done)
        if done == stop - 1:
            signal.raise_signal(number)

    with pytest.raises(KeyboardInterrupt):
        chain.whole(train, name, progress=end)
    assert started == list(range(1, stop)) and read_progress(chain.folder(name))[:2] == (stop, 6)
    assert trained(chain, name) == undisturbed


def test_a_second_ctrl_c_does_not_wait(usual_signals: None) -> None:
    with pytest.raises(KeyboardInterrupt), DelayedSignals() as signals:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        assert signals.received == signal.SIGINT
        signal.raise_signal(signal.SIGINT)
        pytest.fail("it waited")


def test_signals_that_are_ignored_stay_ignored() -> None:
    former = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        with DelayedSignals() as signals:
            signal.raise_signal(signal.SIGUSR1)
            assert not signals.received
        assert signal.getsignal(signal.SIGUSR1) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGUSR1, former)


def test_checkpoints_by_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = torch.nn.Linear(1, 1)
    clock = iter([0.0, 1.0, 599.0, 600.0, 601.0, 1200.0])
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: next(clock))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with checkpoint.Checkpoints(tmp_path, {"model": model, "optimizer": optimizer}, 100, 50) as checkpoints:
        found = [[checkpoints.step_done(step), read_progress(tmp_path)][1] for step in range(1, 6)]
    assert found == [(0, 0, 0.0), (0, 0, 0.0), (3, 50, 600.0), (3, 50, 600.0), (5, 50, 1200.0)]


def test_matching_is_logged_for_every_query(chain: Chain) -> None:
    lines = [json.loads(line) for line in (chain.whole(train, "logged") / "matching.jsonl").read_text().splitlines()]
    decoder, batch = chain.config.decoder, chain.config.train.batch
    for line in lines:
        assert line["images"] == batch
        for group, count in (("seen", decoder.seen_queries), ("candidate", decoder.candidate_queries)):
            if f"{group}_queries" in line:
                matched = line[f"{group}_queries"]
                assert len(matched) == count and all(0 <= images <= batch for images in matched) and sum(matched) > 0
                assert 0 <= line[f"{group}_iou"] <= 1
    assert any("candidate_queries" in line for line in lines)


def test_who_watches_is_told_what_the_lines_say_and_the_speed(chain: Chain) -> None:
    told: list[tuple[int, dict[str, float]]] = []
    folder = chain.whole(train, "told", report=lambda step, numbers: told.append((step, dict(numbers))))
    lines = [
        json.loads(first) | json.loads(second)
        for first, second in zip(
            (folder / "metrics.jsonl").read_text().splitlines(),
            (folder / "matching.jsonl").read_text().splitlines(),
            strict=True,
        )
    ]
    assert [step for step, _ in told] == [line["step"] for line in lines] == list(range(6))
    config = chain.config.train
    for (_, numbers), line in zip(told, lines, strict=True):
        assert list(numbers)[:5] == ["images/s", "lr", "loss", "seen", "pseudo"] and numbers.pop("images/s") > 0
        seen = 2 * line["seen_class"] + 5 * line["seen_mask"] + 5 * line["seen_dice"]
        assert (config.loss_class, config.loss_mask, config.loss_dice) == (2, 5, 5)
        assert numbers.pop("seen") == pytest.approx(seen)
        assert numbers.pop("pseudo") == pytest.approx(line["loss"] - seen)
        assert numbers == {k: v for k, v in line.items() if k != "step" and not isinstance(v, list)}


def test_damaged_checkpoint_restarts(chain: Chain) -> None:
    undisturbed = trained(chain, "whole")
    folder = chain.folder("damaged")
    (folder / "checkpoint.pt").write_bytes(b"not a checkpoint")
    assert {k: v for k, v in trained(chain, "damaged").items() if not k.endswith(".damaged")} == undisturbed


@pytest.mark.slow
def test_overfits_two_images(tmp_path: Path) -> None:
    chain = Chain(
        tmp_path, "shapes.train_scenes=2", "train.steps=180", "train.lr=3e-3", "train.log_every=10"
    ).to_regions()
    lines = [json.loads(line) for line in (chain.train() / "metrics.jsonl").read_text().splitlines()]
    first, last = lines[0], lines[-1]
    assert last["loss"] < 0.35 * first["loss"]
    assert last["seen_dice"] < 0.3 and last["candidate_dice"] < 0.3 and last["candidate_cosine"] < 0.2


@pytest.mark.parametrize("blank", ["other unseen", "background", "void"])
def test_unseen_labels_change_no_byte(chain: Chain, tmp_path: Path, blank: str) -> None:
    """The inductive guarantee, from the masks on disk to the trained weights."""
    root = tmp_path / "root"
    shutil.copytree(chain.root, root)
    unseen = [entry.id for entry in load_shipped_classes("shapes").unseen_entries]
    value = {"other unseen": unseen[-1], "background": 0, "void": 255}[blank]
    source, changed = open_source(chain.config.data, root), 0
    for image_id in source.ids("train"):
        path = source.mask_path(image_id)
        mask = Image.open(path)
        pixels = np.asarray(mask)
        hidden = np.isin(pixels, unseen)
        changed += int((pixels[hidden] != value).sum())
        blanked = Image.fromarray(np.where(hidden, value, pixels).astype(np.uint8))
        blanked.putpalette(mask.getpalette())
        blanked.save(path)
    assert changed > 0  # otherwise this test would prove nothing
    other = Chain(tmp_path / "other", root=root).to_regions()
    for name in ("pseudo_masks", "regions", "text"):
        for path in chain.inputs[name].path.iterdir():
            assert path.read_bytes() == (other.inputs[name].path / path.name).read_bytes(), path.name
    assert trained(other, "train") == trained(chain, "whole")
    for engine in ("faiss", "torch"):
        found = []
        for side in (chain, other):
            clustered = side.branch(
                tmp_path / engine / side.base.name, "pseudo_masks.tokens=unannotated", f"pseudo_masks.engine={engine}"
            )
            clustered.sharded(pseudo_masks, "pseudo_masks")
            found.append((clustered.inputs["pseudo_masks"].path / "train-00000.h5").read_bytes())
        assert found[0] == found[1], f"{engine}, of unannotated cells alone"


def test_seen_labels_do_matter(chain: Chain, tmp_path: Path) -> None:
    root = tmp_path / "root"
    shutil.copytree(chain.root, root)
    source = open_source(chain.config.data, root)
    for image_id in source.ids("train"):
        Image.fromarray(np.zeros((64, 64), np.uint8)).save(source.mask_path(image_id))
    other = Chain(tmp_path / "other", root=root).to_regions()
    assert trained(other, "train") != trained(chain, "whole")


@pytest.mark.parametrize("kind", ["all unannotated", "fully annotated", "no candidates"])
def test_images_without_targets_train(chain: Chain, tmp_path: Path, kind: str) -> None:
    root = tmp_path / "root"
    shutil.copytree(chain.root, root)
    source = open_source(chain.config.data, root)
    seen = load_shipped_classes("shapes").seen()[0].id
    for image_id in source.ids("train"):
        fill = {"all unannotated": 255, "fully annotated": seen, "no candidates": 0}[kind]
        Image.fromarray(np.full((64, 64), fill, np.uint8)).save(source.mask_path(image_id))
    more = (
        ("pseudo_masks.min_area=1.0", "pseudo_masks.windows=[2]", "pseudo_masks.merge=1.0")
        if kind == "no candidates"
        else ()
    )
    other = Chain(tmp_path / "other", *more, root=root).to_regions()
    if kind != "all unannotated":
        masks = other.inputs["pseudo_masks"].shards("train")
        assert all(masks.read(i, "labels").max() == 0 for i in masks.ids)
    lines = (other.train() / "metrics.jsonl").read_text().splitlines()
    assert all(np.isfinite(json.loads(line)["loss"]) for line in lines)


def test_nan_stops_with_step_and_term(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    original = train.SplitCriterion.forward

    def broken(self, outputs, targets):
        terms = original(self, outputs, targets)
        broken.calls += 1
        if broken.calls == 4:
            terms["seen_dice"] = terms["seen_dice"] * torch.nan
            terms["loss"] = terms["loss"] + terms["seen_dice"]
        return terms

    broken.calls = 0
    monkeypatch.setattr(train.SplitCriterion, "forward", broken)
    with pytest.raises(UserError, match="step 3: seen_dice"):
        chain.whole(train, "nan")


@pytest.mark.parametrize(("layer", "part"), [(0, "kernels"), (1, "embeddings"), (0, "no_object")])
def test_nan_in_any_layer_stops_with_its_number(
    chain: Chain, monkeypatch: pytest.MonkeyPatch, layer: int, part: str
) -> None:
    """Also in a layer before the last one: matching would end in a traceback."""
    original = QueryDecoder.forward

    def broken(self: QueryDecoder, tokens: list[torch.Tensor], valid: torch.Tensor) -> LayerOutputs:
        outputs = original(self, tokens, valid)
        values = getattr(outputs, part).clone()
        values[:, layer] = torch.nan
        return replace(outputs, **{part: values})

    monkeypatch.setattr(QueryDecoder, "forward", broken)
    with pytest.raises(UserError, match=f"not finite at step 0: the predictions of layer {layer} of 1: lower train.lr"):
        chain.whole(train, f"nan-{layer}-{part}")


def test_regions_that_no_query_can_take_are_counted(chain: Chain, tmp_path: Path) -> None:
    few = chain.branch(tmp_path, "decoder.candidate_queries=1", "train.steps=3")
    lines = [json.loads(line) for line in (few.train() / "matching.jsonl").read_text().splitlines()]
    masks = chain.inputs["pseudo_masks"].shards("train")
    regions = {image_id: int(masks.read(image_id, "labels").max()) for image_id in masks.ids}
    expected = [
        sum(max(0, regions[image_id] - 1) for image_id in batch_ids(masks.ids, few.config.train, step))
        for step in range(3)
    ]
    assert [line["candidate_without_query"] for line in lines] == expected and max(expected) > 0
    single = chain.branch(tmp_path / "single", "train.matching=single", "train.steps=1")
    assert "candidate_without_query" not in (single.train() / "matching.jsonl").read_text()


def test_the_decoder_has_its_precision_and_clip_its_own(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tower runs outside the decoder's context, and predictions come out in float32."""
    formats: list[torch.dtype] = []

    def encoder(patches: torch.Tensor, *rest: object) -> list[torch.Tensor]:
        formats.append(torch.nn.functional.linear(patches, patches[0, 0, :1]).dtype)
        return [patches]

    decoder, text = DecoderConfig(dim=8, heads=2, ffn=8, layers=1), torch.eye(6)[:2]
    config = SimpleNamespace(
        decoder=decoder, train=TrainConfig(precision="bfloat16"), features=SimpleNamespace(decoder_blocks=[0])
    )
    learner = Learner(config, 4, text, 10.0, ProcessGroup(), "cpu", encoder)
    product = learner.model.mask_features.register_forward_hook(lambda module, inputs, out: formats.append(out.dtype))
    tokens, valid = [torch.ones(1, 2, 3, 4)], torch.ones(1, 2, 3, dtype=torch.bool)
    outputs = learner.predict(Batch(tokens, valid, [(2, 3)], SimpleNamespace()))  # it has no use for targets
    product.remove()
    assert formats == [torch.float32, torch.bfloat16]
    assert {value.dtype for value in vars(outputs).values()} == {torch.float32}


def test_training_in_half_precision_is_close_to_that_in_float32(chain: Chain, tmp_path: Path) -> None:
    losses = []
    for precision in ("float32", "bfloat16"):
        folder = chain.branch(tmp_path / precision, f"train.precision={precision}").train()
        losses.append(json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])["loss"])
    assert losses[0] != losses[1] and losses[1] == pytest.approx(losses[0], rel=0.05)


def test_learning_rate_warms_up_and_decays() -> None:
    config = TrainConfig(steps=100, warmup=10, lr=1.0, poly=1.0)
    assert learning_rate(config, 0) == pytest.approx(0.1)
    assert learning_rate(config, 9) == pytest.approx(0.91)
    assert learning_rate(config, 50) == pytest.approx(0.5)


def test_learning_rate_ends_at_its_floor() -> None:
    """mmcv: the poly decay goes from lr to min_lr, and the warm-up scales what comes out."""
    config = TrainConfig(steps=1000, warmup=10, lr=2e-4, min_lr=1e-6, poly=0.9)

    def expected(step: int) -> float:
        regular = (2e-4 - 1e-6) * (1 - step / 1000) ** 0.9 + 1e-6
        return regular * min(1, (step + 1) / 10)

    for step in (0, 4, 9, 10, 500, 999):
        assert learning_rate(config, step) == pytest.approx(expected(step), rel=1e-9), step
    assert 1e-6 < learning_rate(config, 999) < 1.5e-6
    with pytest.raises(ValueError, match=r"train.min_lr 1.0 is above train.lr 0.0001"):
        TrainConfig(min_lr=1.0)


def test_evaluate_covers_all_classes_or_the_fold(chain: Chain, tmp_path: Path) -> None:
    chain.train()
    metrics = json.loads((chain.whole(evaluate, "evaluate") / "metrics.json").read_text())
    assert metrics["images"] == 2 and [row["gamma"] for row in metrics["extra"]["gamma_sweep"]] == [
        0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3,
    ]  # fmt: skip
    labels = chain.inputs["evaluate"].shards("val")
    assert labels.read(labels.ids[0], "labels").shape == (64, 64)
    entries, seen = evaluate.competing_classes(chain.slice)
    assert len(entries) == 24 and seen.sum() == 18
    folded = Chain(tmp_path, "data.fold=1", root=chain.root)
    entries, seen = evaluate.competing_classes(folded.slice)
    unseen = {entry.id for entry in load_shipped_classes("shapes").unseen_entries}
    assert len(entries) == 18 and seen.sum() == 12 and not unseen & {entry.id for entry in entries}


def test_code_of_training_holds_no_clip_and_no_clustering() -> None:
    """What is in it retrains the decoder when it is edited."""
    cached = set(module_closure("split_matching.stages.training.train"))
    online = set(module_closure("split_matching.stages.training.train_online"))
    assert {"stages/training/train.py", "model/criterion.py", "model/matcher.py", "model/query_decoder.py"} <= cached
    assert not [path for path in cached if path.startswith(("model/clip", "model/token", "stages/data/augment"))]
    assert {"model/clip.py", "stages/data/augment.py"} <= online and cached < online
    elsewhere = ("stages/candidates/", "stages/inference/", "stages/pages/", "stages/data/layouts/")
    assert not [path for path in online if path.startswith(elsewhere)]
