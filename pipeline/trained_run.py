"""A trained run, ready to label images: from Python as from the verbs `predict` and `export`.

from split_matching.pipeline.trained_run import load_run, load_segmenter
segmenter = load_segmenter("shapes")  # the run of a config
segmenter = load_run("2d389961").segmenter()  # a run that `runs` lists, by its key or name
prediction = segmenter.predict("street.jpg", ["car", "traffic cone", "road"])
"""

from __future__ import annotations

import contextlib
import json
import shlex
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from split_matching.configs.class_list import ClassEntry, load_classes
from split_matching.configs.class_names import prompts_of
from split_matching.configs.load import known_datasets, load_config, restore
from split_matching.configs.schema import Config, decoder_weights_file
from split_matching.environment import command, default_artifacts
from split_matching.errors import ConfigError, DataError
from split_matching.model.weights_identity import weights_identity
from split_matching.pipeline.known_runs import EVALUATED, TRAINED, Run, find_run, recorded_sections
from split_matching.pipeline.plan import Plan
from split_matching.pipeline.stages import make_plan
from split_matching.pipeline.text import describe_state
from split_matching.stages.data.image_ids import check_ids_exist

if TYPE_CHECKING:
    from split_matching.stages.inference.segmenter import Array, Picture, Prediction, Segmenter


def load_segmenter(dataset: str, overrides: Sequence[str] = (), set_files: Sequence[Path] = ()) -> Segmenter:
    """Return the trained decoder of a config, ready to label images.

    Args:
        dataset: name of a file in `configs/`, or the path of a config.
        overrides: `section.key=value`, as after `--set`.
        set_files: as after `--set-file`.

    Raises:
        UserError: the config is wrong, or its decoder is not trained or not fresh; the message says what to run.
    """
    words = ["--dataset", dataset]
    words += ["--set-file", *map(str, set_files)] if set_files else []
    words += ["--set", *overrides] if overrides else []
    return segmenter_of(make_plan(load_config(dataset, set_files, overrides)), words)


def segmenter_of(plan: Plan, arguments: Sequence[str]) -> Segmenter:
    """Return the trained decoder of a plan.

    Args:
        plan: the plan of the config.
        arguments: the words of the command line that choose the config, for the command that a message names.

    Raises:
        ConfigError: the config asks for a baseline without a decoder.
        DataError: the decoder is missing or not fresh.
    """
    config = plan.config
    if config.evaluate.predictor != "decoder":
        raise ConfigError(
            f"evaluate.predictor {config.evaluate.predictor} is a baseline without a decoder: leave it at decoder"
        )
    state = plan["train"].state
    if not state.fresh:
        raise DataError(
            f"the decoder of {config.dataset} in {plan.root} is {describe_state(state)}: run "
            f"`{command()} TrainDecoder {shlex.join(arguments)}`"
        )
    from safetensors.torch import load_file

    from split_matching.model.clip import FrozenClip
    from split_matching.stages.ground.device import resolve_device
    from split_matching.stages.inference.segmenter import Segmenter

    trained = plan["pretrain"].artifact().file("clip.safetensors") if config.clip.weights == "pretrain" else None
    clip = FrozenClip(config.clip, resolve_device(config.runtime.device), trained)
    classes = load_classes(config.data)
    seen = classes.seen(config.data.fold, config.data.folds)
    artifact = plan["train"].artifact()
    weights = load_file(artifact.file(decoder_weights_file(config)))
    run = f"{config.dataset}/train/{artifact.key[:16]}"
    prompts = prompts_of(classes.entries, config.text)
    return Segmenter(config, clip, weights, [entry.name for entry in seen], run, prompts, classes.names)


class TrainedRun(Run):
    """A run of the cache, see `Run`; its config need not be there any more, and its code may be an earlier one."""

    def predict(self, image: Picture, names: Sequence[str]) -> Prediction:
        """Label every pixel of an image with one of the names; the decoder is loaded once.

        Args:
            image: a Pillow image, an RGB array (H, W, 3) uint8, or a file.
            names: class names, seen in training or not; one of the run's own class list stands for its prompts.

        Returns:
            `labels` (H, W) uint8, `scores` (C, H', W') float32, and `regions`.

        Raises:
            UserError: see `segmenter` and `Segmenter.predict`.
        """
        return self._segmenter.predict(image, names)

    @cached_property
    def _segmenter(self) -> Segmenter:
        return self.segmenter()

    def pseudo_masks(self, image_id: str) -> Array:
        """Return the pseudo masks of a training image: 0 is none, 1..R the regions by falling area. (H', W') uint8.

        Raises:
            DataError: there is no such image, or the run was made without pseudo masks.
        """
        return self._read("pseudo_masks", "train", image_id, "labels")

    def features(self, image_id: str, name: str = "dense", split: str = "train") -> Array:
        """Return cached features of an image.

        Args:
            image_id: which image.
            name: "dense" (h, w, D), "tokens_N" (h, w, width) or "prefix_N" of block N; float16.
            split: "train" or "val".

        Raises:
            DataError: there is no such image or feature, or the run was made without cached features.
        """
        return self._read("features", split, image_id, name)

    def image_ids(self, split: str = "train") -> tuple[str, ...]:
        """Return the ids of the images of a split, sorted."""
        if "dataset" not in self.artifacts:
            raise DataError(f"{self.artifact.path}: its result of PrepareDataset is gone")
        return tuple(sorted(str(image["id"]) for image in self.artifacts["dataset"].json("images.json")[split]))

    def _read(self, stage: str, split: str, image_id: str, name: str) -> Array:
        if stage not in self.artifacts or split not in self.artifacts[stage].manifest["content"]:
            raise DataError(f"{self.artifact.path} was made without {stage} of {split} images, or they are gone")
        # a file that stays open could not be read with h5py itself, see docs/python.md
        with contextlib.closing(self.artifacts[stage].shards(split)) as shards:
            if name not in shards.fields:
                raise DataError(f"there is no {name!r} among the {stage}: expected one of {', '.join(shards.fields)}")
            check_ids_exist([image_id], shards.ids, f"images of {stage} ({split})")
            return shards.read(image_id, name)

    def segmenter(self, clip_weights: str = "", device: str = "auto") -> Segmenter:
        """Return the trained decoder of the run, ready to label images.

        Args:
            clip_weights: where CLIP's weights are, for a run on a file that is not the one that the config of its data
                set names.
            device: auto, cpu or cuda.

        Raises:
            DataError: the run trained no decoder, or it does not fit the present code, or CLIP's weights are not those
                of the run.
        """
        if TRAINED not in self.artifacts or self.settings.get("evaluate.predictor", "decoder") != "decoder":
            raise DataError(f"{self.artifact.path} has no decoder of its own: it evaluates something else")
        if "text" not in self.artifacts:
            raise DataError(f"{self.artifact.path}: its result of EmbedText, which names the seen classes, is gone")
        from safetensors.torch import load_file

        from split_matching.model.clip import FrozenClip
        from split_matching.stages.ground.device import resolve_device
        from split_matching.stages.inference.segmenter import Segmenter

        config = self._config(clip_weights)
        trained = self.artifacts["pretrain"].file("clip.safetensors") if config.clip.weights == "pretrain" else None
        clip = FrozenClip(config.clip, resolve_device(device), trained)
        classes = recorded_sections(self.artifacts)["classes"]
        entries = [
            ClassEntry(entry["id"], entry["name"], tuple(entry.get("prompts", ())))
            for entry in classes.get("all", {"entries": classes["seen"]})["entries"]
        ]
        decoder = self.artifacts[TRAINED]
        return Segmenter(
            config,
            clip,
            load_file(decoder.file(decoder_weights_file(config))),
            [entry["name"] for entry in classes["seen"]],
            f"{self.dataset}/{TRAINED}/{decoder.key[:16]}",
            prompts_of(entries, config.text),
            [entry.name for entry in entries],
        )

    def _config(self, clip_weights: str) -> Config:
        """Return the config of the run; what it does not record and is not `younger` is as usual for its data set."""
        values: dict[str, Any] = {"dataset": self.dataset}
        for name, value in {**self.usual, **self.younger, **self.settings}.items():
            section, _, field = name.partition(".")
            if section != "classes" and field != "identity":
                values.setdefault(section, {})[field] = value
        try:
            config = restore(values)
        except ConfigError as error:
            raise DataError(f"{self.artifact.path}: {error}; it was made by another version") from error
        clip = config.clip.model_copy(update=self._find_weights(config, clip_weights))
        return config.model_copy(update={"clip": clip})

    def _find_weights(self, config: Config, given: str) -> dict[str, Any]:
        """Return what `clip` needs to have the weights of the run.

        Raises:
            DataError: they are a file, and it is not known where.
        """
        identity = str(self.settings["clip.identity"])
        kind, _, name = identity.partition(":")
        if kind == "random":
            return {"weights": kind, "seed": int(name)}
        if kind != "sha256":
            return {"weights": {"tag": name}.get(kind, kind)}
        own = load_config(self.dataset).clip.weights if self.dataset in known_datasets() else ""
        for weights in [given] if given else ["bundled", own]:
            with contextlib.suppress(DataError):
                if weights and weights_identity(config.clip.model_copy(update={"weights": weights})) == identity:
                    return {"weights": weights}
        wrong = f"{given} is another file" if given else "it is not known where that file is"
        raise DataError(f"{self.artifact.path}: its CLIP weights are {identity}, and {wrong}: give clip_weights=PATH")


def load_run(which: str, artifacts: Path | str | None = None, overrides: Sequence[str] = ()) -> TrainedRun:
    """Return a run of the cache.

    Args:
        which: name of a data set in `configs/` or path of a config: its fresh run; or the first digits of a key, as
            `runs` lists it, or the name of a run.
        artifacts: folder of the cache; None for the usual one.
        overrides: `section.key=value` for a config, as after `--set`.

    Raises:
        UserError: no run has this key or name, or several have; the config is wrong, or it has no fresh run: the
            message says what to run.
    """
    root = Path(artifacts) if artifacts else default_artifacts()
    if which in known_datasets() or is_config_file(which):
        root, which = _key_of_config(which, artifacts, overrides)
    elif overrides:
        raise ConfigError(f"{which!r} is no config: overrides are for those alone")
    found = find_run(root, which)
    return TrainedRun(found.artifact, found.artifacts, found.note, found.usual, found.report)


def is_config_file(text: str) -> bool:
    """Whether a text names a config by its path."""
    return text.endswith((".yaml", ".yml"))


def _key_of_config(dataset: str, artifacts: Path | str | None, overrides: Sequence[str]) -> tuple[Path, str]:
    """Return the folder of the cache of a config, and the evaluation or else the training that is fresh there.

    Raises:
        DataError: there is neither.
    """
    place = [f"runtime.artifacts={json.dumps(str(artifacts))}"] if artifacts else []
    plan = make_plan(load_config(dataset, (), [*overrides, *place]))
    for name in (EVALUATED, TRAINED):
        if plan[name].state.fresh:
            return plan.root, f"{plan.config.dataset}/{name}/{plan[name].key}"
    words = ["--dataset", dataset, *(["--set", *overrides] if overrides else [])]
    words += ["--artifacts", str(artifacts)] if artifacts else []
    raise DataError(
        f"the run of {dataset} in {plan.root} is {describe_state(plan[TRAINED].state)}: run "
        f"`{command()} Evaluate {shlex.join(words)}`"
    )
