"""Validation while training: what it measures, that it is blind to unseen classes, and that it resumes exactly."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from split_matching.configs.class_list import load_shipped_classes
from split_matching.configs.load import load_config
from split_matching.errors import ConfigError, DataError
from split_matching.model.criterion import Targets
from split_matching.stages.data.source import open_source
from split_matching.stages.training import train, train_online
from split_matching.stages.training.augmented import AugmentedImages
from split_matching.stages.training.batches import CachedImages, batch_ids, hold_out
from split_matching.stages.training.validation import BestWeights, mean_iou, true_labels
from tests.handmade import Chain

SETTINGS = ("train.validate_every=2", "train.validate_images=2", "train.lr=1e-2")


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    return Chain(tmp_path_factory.mktemp("validated"), *SETTINGS).to_regions()


def lines_of(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "validation.jsonl").read_text().splitlines()]


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith("checkpoint")}


def test_held_out_images_are_spread_and_not_trained_on() -> None:
    config = load_config("shapes", overrides=["train.validate_every=5", "train.validate_images=3"]).train
    ids = [f"{number:02}" for number in range(9)]
    kept, held = hold_out(ids, config)
    assert held == ["00", "03", "06"] and kept == ["01", "02", "04", "05", "07", "08"]
    assert not {i for step in range(20) for i in batch_ids(kept, config, step)} & set(held)
    assert hold_out(ids, config.model_copy(update={"validate_every": 0})) == (ids, [])
    with pytest.raises(DataError, match=r"validate_images 3 holds out all of 2 training images: lower it"):
        hold_out(ids[:2], config)


def test_best_and_last_weights_are_kept_and_the_best_is_that_of_the_log(chain: Chain) -> None:
    told: list[dict[str, float]] = []
    folder = chain.whole(train, "train", report=lambda step, numbers: told.append(dict(numbers)))
    lines = lines_of(folder)
    assert [line["step"] for line in lines] == [2, 4, 6] and all(0 <= x["held_out_mIoU"] <= 100 for x in lines)
    assert [n["held_out_mIoU"] for n in told if "held_out_mIoU" in n] == [line["held_out_mIoU"] for line in lines]
    best = max(lines, key=lambda line: line["held_out_mIoU"])
    # a training that ends there holds out the same images; its schedule is another one, so weights are compared by hand
    weights = [load_file(folder / name) for name in ("best.safetensors", "weights.safetensors")]
    same = all(torch.equal(weights[0][name], weights[1][name]) for name in weights[1])
    assert weights[0].keys() == weights[1].keys() and same == (best["step"] == 6)


@pytest.mark.parametrize("stop", [3, 5])
def test_interrupted_and_resumed_equals_undisturbed(chain: Chain, stop: int) -> None:
    undisturbed = files_of(chain.whole(train, "whole"))

    def interrupt(done: int, total: int) -> None:
        if done == stop:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        chain.whole(train, f"stopped-{stop}", progress=interrupt)
    assert files_of(chain.whole(train, f"stopped-{stop}")) == undisturbed
    assert {"best.safetensors", "validation.jsonl", "weights.safetensors"} <= undisturbed.keys()


def test_without_it_nothing_is_held_out_and_nothing_written(chain: Chain, tmp_path: Path) -> None:
    plain = chain.branch(tmp_path, "train.validate_images=3", "train.steps=1")
    assert CachedImages(plain.context("x")).held_out == []
    assert {"best.safetensors", "validation.jsonl"}.isdisjoint(files_of(plain.whole(train, "train")))


@pytest.mark.parametrize("blank", ["other unseen", "background"])
def test_unseen_labels_change_no_byte(chain: Chain, tmp_path: Path, blank: str) -> None:
    """Of held-out images least of all: neither the numbers, nor which weights are best."""
    root = tmp_path / "root"
    shutil.copytree(chain.root, root)
    unseen = [entry.id for entry in load_shipped_classes("shapes").unseen_entries]
    source, changed = open_source(chain.config.data, root), 0
    for image_id in source.ids("train"):
        pixels = np.asarray(Image.open(source.mask_path(image_id)))
        hidden = np.isin(pixels, unseen)
        held = image_id in CachedImages(chain.context("x")).held_out
        changed += int(hidden.sum()) * held
        blanked = np.where(hidden, unseen[-1] if blank == "other unseen" else 0, pixels).astype(np.uint8)
        Image.fromarray(blanked).save(source.mask_path(image_id))
    assert changed > 0  # otherwise this test would prove nothing
    other = chain.branch(tmp_path / "other", *SETTINGS, root=root)
    assert files_of(other.whole(train, "train")) == files_of(chain.whole(train, "whole"))


def test_validation_images_of_the_data_set_are_not_read(chain: Chain, tmp_path: Path) -> None:
    root = tmp_path / "root"
    shutil.copytree(chain.root, root)
    source = open_source(chain.config.data, root)
    for image_id in source.ids("val"):
        source.image_path(image_id).unlink()
        source.mask_path(image_id).unlink()
    other = chain.branch(tmp_path / "other", *SETTINGS, root=root)
    assert files_of(other.whole(train, "train")) == files_of(chain.whole(train, "whole"))


def test_it_measures_what_the_weights_say(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    """mIoU by hand, image by image and class by class, from what the model is told to predict."""
    data = CachedImages(chain.context("x"))
    items = data.load_whole(data.held_out)
    truth, guess = [], 3
    for item in items:
        covered = item.seen_masks.reshape(len(item.seen_masks), -1)
        half = np.where(covered.max(0) >= 0.5, item.seen_labels[covered.argmax(0)], -1)
        truth.append(half[half >= 0])
    pixels = np.concatenate(truth)
    known = np.union1d(np.unique(pixels), [guess])
    expected = np.mean([(pixels == c).sum() / len(pixels) if c == guess else 0.0 for c in known])
    monkeypatch.setattr(
        "split_matching.stages.training.validation.Validation._labels",
        lambda self, output: torch.full((len(output.masks), output.masks[0, 0].numel()), guess),
    )
    told: list[float] = []
    chain.whole(train, "fixed", report=lambda step, numbers: told.append(numbers.get("held_out_mIoU", -1)))
    assert max(told) == pytest.approx(100 * expected, abs=1e-3)


def test_online_training_validates_on_whole_images(tmp_path: Path, chain: Chain) -> None:
    online = chain.branch(tmp_path, *SETTINGS, "train.features=online", "decoder.prompts=2", "train.steps=2")
    images, cached = AugmentedImages(online.context("x")), CachedImages(chain.context("x"))
    assert images.held_out == cached.held_out
    for whole, item in zip(images.load_whole(images.held_out), cached.load_whole(cached.held_out), strict=True):
        assert whole.tokens[0].shape[:2] == item.tokens[0].shape[:2]
        assert np.array_equal(whole.seen_labels, item.seen_labels)
        assert np.allclose(whole.seen_masks, item.seen_masks, atol=0.3)  # labels are scaled before cells are averaged
    folder = online.whole(train_online, "train")
    assert [line["step"] for line in lines_of(folder)] == [2] and (folder / "best.safetensors").is_file()


def test_no_annotated_class_is_an_error(chain: Chain, tmp_path: Path) -> None:
    root = tmp_path / "root"
    shutil.copytree(chain.root, root)
    source = open_source(chain.config.data, root)
    for image_id in source.ids("train"):
        Image.fromarray(np.zeros((64, 64), np.uint8)).save(source.mask_path(image_id))
    other = chain.branch(tmp_path / "other", *SETTINGS, root=root)
    with pytest.raises(DataError, match=r"held-out images: raise train\.validate_images, or set"):
        other.whole(train, "train")


# --- its parts --------------------------------------------------------------------------------------------------------


def test_mean_iou_of_a_table_by_hand() -> None:
    counts = torch.tensor([[3, 1, 0, 0], [2, 4, 0, 0], [0, 0, 0, 0], [0, 0, 2, 0]])
    # 3 / (4 + 5 - 3), 4 / (6 + 5 - 4), class 2 is only predicted: 0, class 3 only true: 0
    assert mean_iou(counts) == pytest.approx((3 / 6 + 4 / 7 + 0 + 0) / 4)
    assert mean_iou(torch.tensor([[5, 0], [0, 0]])) == 1.0  # a class that does not occur counts nowhere


def test_cells_that_no_class_covers_by_half_are_not_counted() -> None:
    masks = torch.tensor([[[0.9, 0.4, 0.5, 1.0], [0.1, 0.3, 0.5, 0.0]]])  # two targets, four cells
    valid = torch.tensor([[1.0, 1.0, 1.0, 0.0]])
    empty = torch.zeros(1, 0, 4), torch.zeros(1, 0, 4)
    targets = Targets(torch.tensor([[7, 2]]), masks, (2,), empty[0], empty[1], (0,), valid)
    assert true_labels(targets, 9).tolist() == [[7, 9, 7, 9]]
    none = Targets(torch.zeros(1, 0, dtype=torch.int64), empty[0], (0,), empty[0], empty[1], (0,), valid)
    assert true_labels(none, 9).tolist() == [[9, 9, 9, 9]]


def test_the_first_of_equally_good_weights_is_kept() -> None:
    model, best = torch.nn.Linear(1, 1, bias=False), BestWeights()
    for step, (weight, score) in enumerate([(1.0, 0.2), (2.0, 0.5), (3.0, 0.5), (4.0, 0.1)], 1):
        torch.nn.init.constant_(model.weight, weight)
        best.offer(score, step, model)
    assert (best.step, best.score, best.weights["weight"].item()) == (2, 0.5, 2.0)
    other = BestWeights()
    other.load_state_dict(best.state_dict())
    assert (other.step, other.score, other.weights["weight"].item()) == (2, 0.5, 2.0)


def test_the_best_needs_validation() -> None:
    with pytest.raises(ConfigError, match=r"evaluate\.checkpoint best needs train\.validate_every above 0"):
        load_config("shapes", overrides=["evaluate.checkpoint=best"])
