"""Stages run by hand, as in a notebook: no luigi, no keys, plain folders. Used by the tests of the science."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from split_matching.cache.shard_reader import ShardSet
from split_matching.cache.shard_writer import ShardWriter
from split_matching.configs.class_list import load_shipped_classes
from split_matching.configs.load import load_config
from split_matching.configs.schema import Config
from split_matching.stages.candidates import features, pseudo_masks, regions
from split_matching.stages.data import shapes
from split_matching.stages.data.source import open_source
from split_matching.stages.ground.context import Shard, StageContext
from split_matching.stages.training import text, train, train_online

TINY = (
    "clip.weights=random",
    "shapes.train_scenes=4",
    "shapes.val_scenes=2",
    "shapes.image_size=64",
    "features.size=64",
    "features.decoder_blocks=[2, 4]",
    "pseudo_masks.block=2",
    "decoder.dim=32",
    "decoder.ffn=64",
    "decoder.layers=1",
    "decoder.seen_queries=5",
    "decoder.candidate_queries=4",
    "train.steps=6",
    "train.batch=2",
    "train.warmup=2",
    "train.checkpoint_every=2",
    "train.log_every=1",
)


class Folder:
    """Stands in for an artifact: files and shards of a plain folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def file(self, name: str) -> Path:
        return self.path / name

    def shards(self, split: str) -> ShardSet:
        return ShardSet(sorted(self.path.glob(f"{split}-*.h5")))

    def json(self, name: str) -> Any:
        return json.loads(self.file(name).read_text(encoding="utf-8"))


class Chain:
    """A data root and the stages run on it, each in a folder of its own under `base`."""

    def __init__(self, base: Path, *overrides: str, root: Path | None = None) -> None:
        self.base = base
        self.config: Config = load_config("shapes", overrides=[*TINY, *overrides])
        classes, data = load_shipped_classes("shapes"), self.config.data
        seen = classes.seen(data.fold, data.folds)
        view = SimpleNamespace(all=classes, seen=seen, seen_ids=tuple(entry.id for entry in seen))
        sections = {name: getattr(self.config, name) for name in Config.model_fields}
        self.slice = SimpleNamespace(**sections, classes=view)
        self.inputs: dict[str, Any] = {}
        self.progress: dict[str, list[tuple[int, int]]] = {}
        self.root = root or self.folder("shapes")
        if root is None:
            shapes.run(self.context("shapes"))
        source, folder = open_source(self.config.data, self.root), self.folder("dataset")
        lists = {split: [{"id": image_id} for image_id in source.ids(split)] for split in ("train", "val")}
        (folder / "images.json").write_text(json.dumps(lists))
        for split, images in lists.items():
            (folder / f"{split}.json").write_text(json.dumps({"images": images}))
        self.inputs["dataset"] = Folder(folder)

    def folder(self, stage: str) -> Path:
        path = self.base / stage
        path.mkdir(parents=True, exist_ok=True)
        return path

    def context(self, stage: str) -> StageContext:
        return StageContext(self.slice, self.inputs, self.folder(stage), self.config.runtime, self.root)

    def branch(self, base: Path, *overrides: str, root: Path | None = None) -> Chain:
        """A chain with settings of its own that shares everything that was made so far."""
        other = Chain(base, *overrides, root=root or self.root)
        other.inputs = dict(self.inputs)
        return other

    def sharded(self, module: Any, stage: str, splits: tuple[str, ...] = ("train",)) -> None:
        seen = self.progress.setdefault(stage, [])
        ctx = replace(self.context(stage), progress=lambda done, total: seen.append((done, total)))
        source = open_source(self.config.data, self.root)
        for split in splits:
            with ShardWriter(ctx.out / f"{split}-00000.h5", module.KIND, module.fields(self.slice)) as writer:
                module.run_shard(ctx, Shard(split, 0, tuple(source.ids(split))), writer)
        self.inputs[stage] = Folder(ctx.out)

    def whole(self, module: Any, stage: str, **replacements: Any) -> Path:
        values = {"runtime": self.config.runtime, "data_root": self.root, **replacements}
        module.run(StageContext(self.slice, self.inputs, self.folder(stage), **values))
        self.inputs[stage] = Folder(self.folder(stage))
        return self.folder(stage)

    def to_regions(self) -> Chain:
        """Run everything that training needs."""
        self.sharded(features, "features", ("train", "val"))
        self.sharded(pseudo_masks, "pseudo_masks")
        self.sharded(regions, "regions")
        self.whole(text, "text")
        return self

    def train(self, **replacements: Any) -> Path:
        module = train_online if self.config.train.features == "online" else train
        return self.whole(module, "train", **replacements)
