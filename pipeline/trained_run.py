"""A trained run, ready to label images: from Python as from the verbs `predict` and `export`.

from split_matching.pipeline.trained_run import load_run, load_segmenter
segmenter = load_segmenter("shapes")  # the run of a config
segmenter = load_run("2d389961").segmenter()  # a run that `runs` lists, by its key or name
prediction = segmenter.predict("street.jpg", ["car", "traffic cone", "road"])
"""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from split_matching.configs.class_list import ClassEntry, load_classes, prompts_of
from split_matching.configs.load import known_datasets, load_config, restore
from split_matching.configs.schema import Config, weights_file
from split_matching.environment import command, default_artifacts
from split_matching.errors import ConfigError, DataError
from split_matching.model.weights_identity import weights_identity
from split_matching.pipeline.known_runs import TRAINED, Run, find_run, recorded_sections
from split_matching.pipeline.plan import Plan
from split_matching.pipeline.stages import make_plan
from split_matching.pipeline.text import describe_state

if TYPE_CHECKING:
    from split_matching.stages.inference.segmenter import Segmenter


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
    weights = load_file(artifact.file(weights_file(config)))
    run = f"{config.dataset}/train/{artifact.key[:16]}"
    prompts = prompts_of(classes.entries, config.text)
    return Segmenter(config, clip, weights, [entry.name for entry in seen], run, prompts, classes.names)


class TrainedRun(Run):
    """A run of the cache, see `Run`; its config need not be there any more, and its code may be an earlier one."""

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
        if TRAINED not in self.behind or self.settings.get("evaluate.predictor", "decoder") != "decoder":
            raise DataError(f"{self.artifact.path} has no decoder of its own: it evaluates something else")
        if "text" not in self.behind:
            raise DataError(f"{self.artifact.path}: its result of EmbedText, which names the seen classes, is gone")
        from safetensors.torch import load_file

        from split_matching.model.clip import FrozenClip
        from split_matching.stages.ground.device import resolve_device
        from split_matching.stages.inference.segmenter import Segmenter

        config = self._config(clip_weights)
        trained = self.behind["pretrain"].file("clip.safetensors") if config.clip.weights == "pretrain" else None
        clip = FrozenClip(config.clip, resolve_device(device), trained)
        classes = recorded_sections(self.behind)["classes"]
        entries = [
            ClassEntry(entry["id"], entry["name"], tuple(entry.get("prompts", ())))
            for entry in classes.get("all", {"entries": classes["seen"]})["entries"]
        ]
        decoder = self.behind[TRAINED]
        return Segmenter(
            config,
            clip,
            load_file(decoder.file(weights_file(config))),
            [entry["name"] for entry in classes["seen"]],
            f"{self.dataset}/{TRAINED}/{decoder.key[:16]}",
            prompts_of(entries, config.text),
            [entry.name for entry in entries],
        )

    def _config(self, clip_weights: str) -> Config:
        """Return the config of the run; what it does not record is as usual for its data set."""
        values: dict[str, Any] = {"dataset": self.dataset}
        for name, value in {**self.usual, **self.settings}.items():
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


def load_run(key: str, artifacts: Path | str | None = None) -> TrainedRun:
    """Return a run of the cache.

    Args:
        key: first digits of its key, as `runs` lists it, or its name.
        artifacts: folder of the cache; None for the usual one.

    Raises:
        UserError: no run has this key or name, or several have.
    """
    found = find_run(Path(artifacts) if artifacts else default_artifacts(), key)
    return TrainedRun(found.artifact, found.behind, found.note, found.usual, found.report)
