"""What an experiment runs: the data set's own config and its variants, each several times."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from split_matching.configs.load import dataset_name, load_config
from split_matching.configs.schema import Config
from split_matching.configs.section import Section, is_runtime
from split_matching.errors import ConfigError
from split_matching.pipeline.arguments import with_user_threads
from split_matching.pipeline.stages import make_plan

if TYPE_CHECKING:
    from split_matching.stages.pages.ablation.tables import Variant

DEFAULT = "default"
"""Name of the data set's own config."""
STAGE = "Evaluate"
"""The stage that every run makes fresh."""
SEED = "train.seed"
FOLD = "data.fold"
FOLDS = "data.folds"


@dataclass(frozen=True)
class Request:
    """What the user asked for.

    Args:
        dataset: name of the data set.
        base: set files laid under every variant.
        variants: set files, one a variant.
        overrides: `--set`, laid over every variant.
        seeds: number of seeds: 0..seeds-1.
        on_folds: hide a fold of the seen classes in each run, and score on it, instead of on unseen classes.
        folds: number of folds; None for `data.folds`.
        name: folder of the results.
        out: the folder itself, if not the usual one.
        command: the command line, to be shown.
        jobs: evaluations at the same time.
        debug: print tracebacks.
    """

    dataset: str
    base: tuple[Path, ...] = ()
    variants: tuple[Path, ...] = ()
    overrides: tuple[str, ...] = ()
    seeds: int = 1
    on_folds: bool = False
    folds: int | None = None
    name: str = "main"
    out: Path | None = None
    command: str = ""
    jobs: int = 1
    debug: bool = False

    @property
    def folder(self) -> Path:
        """The folder of the results."""
        return self.out or self.usual_folder("folds" if self.on_folds else "ablations")

    def usual_folder(self, kind: str) -> Path:
        """Return artifacts/<dataset>/<kind>/<name>."""
        if not self.name or Path(self.name).name != self.name:
            raise ConfigError(f"--name {self.name!r}: expected a plain word; a path is given by --out")
        artifacts = load_config(self.dataset, self.base, self.overrides).runtime.artifacts
        return artifacts / dataset_name(self.dataset) / kind / self.name


@dataclass(frozen=True)
class Setup:
    """The layers of one variant's config.

    Args:
        name: of the variant.
        dataset: name of the data set.
        files: set files, the variant's own last.
        overrides: laid over the files.
        file: the variant's own file; None for the default.
    """

    name: str
    dataset: str
    files: tuple[Path, ...] = ()
    overrides: tuple[str, ...] = ()
    file: Path | None = None

    def config(self, *more: str) -> Config:
        """Return the config, with further overrides laid over all others."""
        return with_user_threads(load_config(self.dataset, self.files, [*self.overrides, *more]))


@dataclass(frozen=True)
class Repeat:
    """What differs between the runs of one variant.

    Args:
        seed: of training.
        fold: the hidden fold of the seen classes; None for none.
        folds: number of folds.
    """

    seed: int
    fold: int | None = None
    folds: int = 2

    def __str__(self) -> str:
        return f"seed {self.seed}" if self.fold is None else f"fold {self.fold}, seed {self.seed}"

    @property
    def overrides(self) -> list[str]:
        """The repeat as overrides of a config."""
        on_fold = [] if self.fold is None else [override(FOLDS, self.folds), override(FOLD, self.fold)]
        return [*on_fold, override(SEED, self.seed)]


def list_setups(request: Request) -> list[Setup]:
    """Return the default and the variants, named by their files, in order.

    Raises:
        ConfigError: an override of what every run sets itself, two files of one name, or a config that is wrong.
    """
    fixed = (SEED, FOLD, FOLDS) if request.on_folds else (SEED,)
    for given in request.overrides:
        if (key := given.partition("=")[0].strip()) in fixed:
            raise ConfigError(f"--set {key}: it is set for every run here; leave it out")
    setups = [Setup(DEFAULT, request.dataset, request.base, request.overrides)]
    for path in request.variants:
        if any(path.stem == setup.name for setup in setups):
            taken = "the data set's own config" if path.stem == DEFAULT else "another variant"
            raise ConfigError(f"{path}: {path.stem!r} is already the name of {taken}; rename the file")
        setups.append(Setup(path.stem, request.dataset, (*request.base, path), request.overrides, path))
    for setup in setups:
        setup.config()  # all are checked before any of them runs
    return setups


def list_repeats(request: Request, default: Setup) -> list[Repeat]:
    """Return the runs of each variant: every seed, or every seed on every fold."""
    seeds = range(request.seeds)
    if not request.on_folds:
        return [Repeat(seed) for seed in seeds]
    folds = default.config().data.folds if request.folds is None else request.folds
    default.config(override(FOLDS, folds))  # an error for too few or too many folds
    return [Repeat(seed, fold, folds) for fold in range(folds) for seed in seeds]


def override(key: str, value: object) -> str:
    """Return `key=value` as `--set` takes it; JSON is YAML, so any value survives."""
    return f"{key}={json.dumps(value)}"


def settings_key(config: Config) -> str:
    """Return a key of all settings that a gamma is chosen for: everything but fold, seed and gamma itself."""
    neutral = config.model_copy(
        update={
            "data": config.data.model_copy(update={"fold": None, "folds": 2}),
            "train": config.train.model_copy(update={"seed": 0}),
            "evaluate": config.evaluate.model_copy(update={"gamma": 0.0, "gamma_sweep": ()}),
        }
    )
    return make_plan(neutral).stage(STAGE).key[:16]


def describe_variants(setups: Sequence[Setup]) -> tuple[Variant, ...]:
    """Return for each variant what it shows, the changes to the default's config, and an equal earlier variant.

    Raises:
        DataError: the raw files or the weights that keys depend on are not there.
    """
    from split_matching.stages.pages.ablation.tables import Variant

    configs = [setup.config() for setup in setups]
    base = _result_values(configs[0])
    first_of: dict[str, str] = {}
    variants = []
    for setup, config in zip(setups, configs, strict=True):
        values = _result_values(config)
        same_as = first_of.setdefault(make_plan(config).stage(STAGE).key, setup.name)
        variants.append(
            Variant(
                name=setup.name,
                file=str(setup.file or ""),
                shows=opening_comment(setup.file) if setup.file else "",
                changes={key: (base[key], values[key]) for key in base if base[key] != values[key]},
                same_as="" if same_as == setup.name else same_as,
            )
        )
    return tuple(variants)


def opening_comment(path: Path) -> str:
    """Return the comment that a YAML file opens with, as one line; "" if there is none."""
    words = []
    for line in path.read_text(encoding="utf-8-sig").splitlines():
        if not line.startswith("#"):
            break
        words.append(line.lstrip("#").strip())
    return " ".join(word for word in words if word)


def _result_values(config: Config) -> dict[str, str]:
    """Return every value that can change a result by its dotted key, as JSON text."""
    values: dict[str, str] = {}
    for name in Config.model_fields:
        section = getattr(config, name)
        if isinstance(section, Section):
            plain = section.model_dump(mode="json")
            for key, info in type(section).model_fields.items():
                extra = info.json_schema_extra
                names_weights = isinstance(extra, Mapping) and "identity" in extra  # a path, but also which weights
                if names_weights or not is_runtime(info):
                    values[f"{name}.{key}"] = json.dumps(plain[key])
    return values
