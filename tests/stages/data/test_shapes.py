"""The embedded data set."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from split_matching.configs.class_list import load_shipped_classes
from split_matching.configs.data_settings import PretrainConfig, ShapesConfig
from split_matching.configs.schema import Config
from split_matching.stages.data import shapes
from split_matching.stages.ground.context import StageContext
from split_matching.stages.training.pretrain import caption, contrastive_loss, crop_scene, render_batch


def render(folder: Path, **changes: int) -> Path:
    config = ShapesConfig(**{"train_scenes": 6, "val_scenes": 3, "image_size": 64, **changes})
    folder.mkdir()
    shapes.run(StageContext(SimpleNamespace(shapes=config), {}, folder))
    return folder / "VOCdevkit" / "VOC2012"


def contents(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def test_same_seed_same_bytes_and_count_changes_nothing(tmp_path: Path) -> None:
    first, again = contents(render(tmp_path / "a")), contents(render(tmp_path / "b"))
    assert first == again
    more = contents(render(tmp_path / "c", train_scenes=8))
    assert all(more[name] == data for name, data in first.items() if not name.endswith("trainaug.txt"))
    assert contents(render(tmp_path / "d", seed=1)) != first


def test_files_are_in_voc_layout(tmp_path: Path) -> None:
    root = render(tmp_path / "a")
    names = (root / "ImageSets/Segmentation/val.txt").read_text().split()
    assert len(names) == 3
    for name in names:
        image, mask = Image.open(root / f"JPEGImages/{name}.jpg"), Image.open(root / f"SegmentationClassAug/{name}.png")
        assert (image.mode, mask.mode, image.size, mask.size) == ("RGB", "P", (64, 64), (64, 64))
        assert 0 < np.asarray(mask).max() <= 24


def test_classes_cover_every_colour_and_pattern() -> None:
    classes = load_shipped_classes("shapes")
    names = [f"{colour} {pattern}" for colour in shapes.COLOURS for pattern in shapes.PATTERNS]
    assert [entry.name for entry in classes.entries] == names
    assert list(classes.ids) == list(range(1, 25))
    assert len(classes.unseen_entries) == 6
    seen = [entry.name.split() for entry in classes.seen()]
    assert {colour for colour, _ in seen} == set(shapes.COLOURS)
    assert {pattern for _, pattern in seen} == set(shapes.PATTERNS)


def test_scenes_have_visible_objects_of_many_sizes() -> None:
    scenes = [shapes.render_scene(shapes.scene_rng(0, "train", i)) for i in range(60)]
    counts = {len(scene.things) for scene in scenes}
    assert counts == {1, 2, 3, 4}
    areas = [int((s.owner == i).sum()) for s in scenes for i in range(len(s.things))]
    assert min(areas) > 15 and max(areas) > 30 * min(areas)
    kinds = {thing.kind for scene in scenes for thing in scene.things}
    assert len(kinds) > 20
    scene = scenes[0]
    ids = {thing.kind + 1 for thing in scene.things} | {0}
    assert set(np.unique(scene.mask())) == ids


@pytest.mark.parametrize("pattern", shapes.PATTERNS)
def test_a_pattern_shows_dark_parts(pattern: str) -> None:
    kind = shapes.PATTERNS.index(pattern)  # red
    thing = shapes.Thing(kind, "square", 64, 64, 40, np.pi / 4, 10, 0.3, 0.2)
    surface = shapes._surface(thing, slice(40, 88), slice(40, 88), np.random.default_rng(0))
    dark = (surface[..., 0] < 120).mean()
    assert (dark == 0) if pattern == "plain" else (0.1 < dark < 0.7)


def test_captions_name_what_a_view_shows() -> None:
    rng = shapes.scene_rng(0, "pretrain", 1)
    scene = shapes.render_scene(rng, count=(2, 2))
    text = caption(list(scene.things), rng)
    for thing in scene.things:
        assert f"a {thing.colour} {thing.pattern}" in text
    image, text = crop_scene(scene, 32, rng)
    assert image.shape == (32, 32, 3) and any(t.colour in text for t in scene.things)


def test_batches_depend_on_config_and_step_only() -> None:
    config = PretrainConfig(batch=6)
    first, again, other = (render_batch((config, 32, step)) for step in (3, 3, 4))
    assert np.array_equal(first[0], again[0]) and first[1] == again[1]
    assert first[1] != other[1] and len(first[1]) == 6


def test_equal_captions_are_no_negatives() -> None:
    import torch

    eye = torch.eye(3)
    scale = torch.tensor(10.0)
    separate = contrastive_loss(eye, eye, scale, ["a", "b", "c"])
    twins = torch.tensor([[1.0, 0, 0], [1, 0, 0], [0, 1, 0]])
    assert contrastive_loss(twins, twins, scale, ["a", "a", "b"]) == pytest.approx(np.log(2) * 2 / 3, abs=1e-3)
    assert separate < 0.01


def test_default_size() -> None:
    config = Config().shapes
    assert (config.train_scenes, config.val_scenes, config.image_size) == (1000, 300, 128)
