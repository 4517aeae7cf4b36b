"""Build the config of one run: schema defaults, then the data set's file, then `--set-file`, then `--set`.

Values are validated by the schema after merging, and only validated values are ever used or hashed: YAML reads `1e-4`
as text, the schema makes it a float. Every error is one line that says where the value came from.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from split_matching.configs.class_files import is_class_file
from split_matching.configs.class_list import load_classes
from split_matching.configs.schema import Config
from split_matching.configs.section import Section, format_reason
from split_matching.configs.strict_yaml import parse_value, read_mapping, shorten
from split_matching.configs.user_path import user_path
from split_matching.environment import default_artifacts, home
from split_matching.errors import ConfigError, did_you_mean

FOLDER = Path(__file__).resolve().parent
YAML_ENDINGS = (".yaml", ".yml")

_NAME = re.compile(r"[A-Za-z0-9]\w*([.\-]\w+)*")


def known_datasets() -> list[str]:
    """Return the names that `--dataset` takes: the YAML files of `configs/`."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load_config(
    dataset: str,
    set_files: Sequence[Path] = (),
    overrides: Sequence[str] = (),
    taken: Mapping[str, Any] | None = None,
) -> Config:
    """Build and check the config of one run; see `load_with_origins`."""
    return load_with_origins(dataset, set_files, overrides, taken)[0]


def load_with_origins(
    dataset: str,
    set_files: Sequence[Path] = (),
    overrides: Sequence[str] = (),
    taken: Mapping[str, Any] | None = None,
) -> tuple[Config, dict[str, str]]:
    """Build and check the config of one run.

    Args:
        dataset: name of a file in `configs/`, without ending; or the path of a YAML file of your own.
        set_files: YAML files laid over it, in this order.
        overrides: `section.key=value`, laid over the files, in this order; the value is YAML.
        taken: values laid over those of the data set first: the settings of a decoder that was trained elsewhere.

    Returns:
        The frozen config; and by dotted path, e.g. "train.lr", the file or option that set a field last.

    Raises:
        ConfigError: unknown data set, unknown key, invalid value, or a file that is missing or broken.
    """
    name, file, label = _locate(dataset)
    layers = _Layers(name)
    # data of our own configs are not to be downloaded into an installed package
    folder = home() / "configs" if file.parent == FOLDER else file.parent
    layers.add(read_mapping(file, label), label, folder)
    if taken:
        layers.add(taken, "--trained-on")
    for path in set_files:
        layers.add(read_mapping(path, str(path)), str(path), path.parent)
    for override in overrides:
        layers.add(_parse_override(override), "--set")
    config = layers.resolve()
    _check_classes(config)
    return config, layers.origins


def dataset_name(dataset: str) -> str:
    """Return the name of a data set that is given as for `--dataset`: of a path, the name of the file."""
    return Path(dataset).stem if dataset.endswith(YAML_ENDINGS) else dataset


def _locate(dataset: str) -> tuple[str, Path, str]:
    """Return the name of a data set, its file, and how errors name the file."""
    known = known_datasets()
    if not dataset.endswith(YAML_ENDINGS):
        if dataset not in known:
            hint = did_you_mean(dataset, known)
            expected = f"expected one of: {', '.join(known)}, or a YAML file of your own"
            raise ConfigError(f"unknown data set {dataset!r}; {expected}{hint and f'; {hint}'}")
        return dataset, FOLDER / f"{dataset}.yaml", f"configs/{dataset}.yaml"
    file, name = user_path(dataset), dataset_name(dataset)
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{file}: {name!r} cannot name a folder of the cache; use letters, digits, _ and -")
    if name in known and file.absolute().parent != FOLDER.absolute():
        raise ConfigError(
            f"{file}: {name} is the name of a data set in configs/, and names share a folder of the cache; "
            "rename the file"
        )
    return name, file, dataset


def restore(values: Mapping[str, Any]) -> Config:
    """Build a config from values that were once those of a config, e.g. in an exported file.

    Raises:
        ConfigError: a key or value that this version does not know; says which.
    """
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ConfigError(f"{'.'.join(str(part) for part in first['loc'])}: {format_reason(first)}") from None


class _Layers:
    """Values merged so far, and where each came from."""

    def __init__(self, dataset: str) -> None:
        self.values: dict[str, Any] = {"dataset": dataset}
        self.origins: dict[str, str] = {}

    def add(self, layer: Mapping[str, Any], source: str, folder: Path | None = None) -> None:
        """Lay one layer over what is there; unknown keys are errors that name `source`.

        Args:
            layer: the values.
            source: how errors name it.
            folder: what a relative `data.root` in it is relative to; None for the working folder.
        """
        if layer.get("dataset", self.values["dataset"]) != self.values["dataset"]:
            raise ConfigError(
                f"{source}: dataset is {layer['dataset']!r} but the run is for {self.values['dataset']!r}; "
                "the data set is chosen with --dataset"
            )
        self._merge(Config, layer, self.values, "", source)
        root = layer.get("data", {}).get("root") if isinstance(layer.get("data"), Mapping) else None
        if isinstance(root, str):
            # absolute, so that it means the same when the resolved config is read from another place
            self.values["data"]["root"] = Path(os.path.normpath((folder or Path()).absolute() / user_path(root)))

    def _merge(
        self, model: type[Section], layer: Mapping[str, Any], into: dict[str, Any], prefix: str, source: str
    ) -> None:
        for key, value in layer.items():
            path = prefix + key
            field = model.model_fields.get(key)
            if field is None:
                parent, dot, rest = key.partition(".")
                nested = f"expected `{parent}: {{{rest}: ...}}`" if dot and path in list_paths() else ""
                raise ConfigError(f"{source}: unknown key {path}; {nested or suggest(path)}")
            section = field.annotation
            if isinstance(section, type) and issubclass(section, Section):
                if value is not None and not isinstance(value, Mapping):
                    raise ConfigError(
                        f"{source}: {path} is {shorten(repr(value))}; expected keys below it, such as "
                        f"{path}.{next(iter(section.model_fields))}"
                    )
                self._merge(section, value or {}, into.setdefault(key, {}), f"{path}.", source)
            else:
                into[key] = _convert(path, value, field, source)
                self.origins[path] = source

    def resolve(self) -> Config:
        """Validate what was merged."""
        self.values.setdefault("runtime", {}).setdefault("artifacts", default_artifacts())
        try:
            return Config.model_validate(self.values)
        except ValidationError as error:
            raise ConfigError(self._explain(error)) from None

    def _explain(self, error: ValidationError) -> str:
        """Return one line for the first error of the schema."""
        details = error.errors(include_url=False)
        first = details[0]
        path = ".".join(str(part) for part in first["loc"])
        known = [known for known in self.origins if path == known or path.startswith(f"{known}.")]
        more = f" (and {len(details) - 1} more)" if len(details) > 1 else ""
        if known:
            source = self.origins[known[0]]
            value = format_value(first["input"])
            return f"{source}: {path} is {value}: {format_reason(first)}; change it or leave it out{more}"
        # A rule over several fields, of one section or (without a path) of several: name every layer that set one of
        # them. The message of a rule over sections names its fields.
        message = format_reason(first)
        origins = [(known, source) for known, source in self.origins.items() if known in message or path]
        sources = dict.fromkeys(source for known, source in origins if known.startswith(f"{path}." if path else ""))
        return f"{', '.join(sources)}: {message}; change one of them{more}"


def _parse_override(text: str) -> dict[str, Any]:
    """Parse `a.b=value` into a nested mapping."""
    path, equals, value = text.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise ConfigError(f"--set {text!r}: expected section.key=value, such as train.steps=1000")
    try:
        layer: Any = parse_value(value)
    except ConfigError as error:
        raise ConfigError(f"--set {path.strip()}: {error}") from None
    if isinstance(layer, Mapping) and _is_field(keys):
        layer = value  # `key=a: b` is text for a field that is no section, not a mapping
    for place, key in enumerate(reversed(keys)):
        if place and not _is_section(keys[: len(keys) - place]):
            break
        layer = {key: layer}
    else:
        return dict(layer)
    raise ConfigError(f"--set: unknown key {path.strip()}; {suggest(path.strip())}")


def _convert(path: str, value: Any, field: FieldInfo, source: str) -> Any:
    """Convert a value, or reject it, where the schema would not read it as the user meant it."""
    types = set(_list_types(field.annotation))
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, bool) and bool not in types:
            # The schema would read `yes` as the number 1.
            expected = _name_types(types)
            raise ConfigError(
                f"{source}: {path} is {format_value(value)}: expected {expected}; quote the word if meant so"
            )
    if Path in types and isinstance(value, str):
        return user_path(value)  # a shell leaves the ~ of `data.root=~/voc` alone
    if str in types and isinstance(value, int | float):
        return str(value)  # a split or a class list may be named by a number
    return value


def _list_types(annotation: Any) -> Iterator[Any]:
    """Return the classes that an annotation is made of; of a literal, the class of its value."""
    arguments = get_args(annotation)
    if not arguments:
        yield annotation if isinstance(annotation, type) else type(annotation)
    for argument in arguments:
        yield from _list_types(argument)


def _name_types(types: set[Any]) -> str:
    words = {int: "a number", float: "a number", str: "text", Path: "a path", type(None): "null"}
    return " or ".join(sorted({words.get(kind, kind.__name__) for kind in types if kind in words})) or "another type"


def _is_section(keys: Sequence[str]) -> bool:
    return ".".join(keys) in {path.rpartition(".")[0] for path in list_paths()}


def _is_field(keys: Sequence[str]) -> bool:
    return ".".join(keys) in set(list_paths()) and not _is_section(keys)


def list_paths() -> list[str]:
    """Return every dotted path of the schema, sections and fields, in its order."""
    paths: list[str] = []
    for name, field in Config.model_fields.items():
        paths.append(name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            paths += [f"{name}.{key}" for key in field.annotation.model_fields]
    return paths


def suggest(path: str) -> str:
    """Say what an unknown setting was probably meant to be: a neighbour, a namesake elsewhere, or any similar path."""
    parent, _, name = path.rpartition(".")
    known = list_paths()
    siblings = {key.rpartition(".")[2]: key for key in known if key.rpartition(".")[0] == parent}
    namesakes = [key for key in known if key.rpartition(".")[2] == name]
    return (
        did_you_mean(name, siblings)
        or did_you_mean(path, namesakes)
        or (f"did you mean {' or '.join(namesakes)}?" if namesakes else "")
        or did_you_mean(path, known)
        or f"expected one of: {', '.join(sorted(siblings or Config.model_fields))}"
    )


def format_value(value: Any) -> str:
    """Return a value as YAML on one line."""
    if isinstance(value, Path):
        value = str(value)
    if isinstance(value, tuple):
        value = list(value)
    text = yaml.safe_dump(value, default_flow_style=True, width=10**9, allow_unicode=True) if _is_plain(value) else None
    return shorten(repr(value) if text is None else text.removesuffix("\n").removesuffix("...").strip())


def _is_plain(value: Any) -> bool:
    if isinstance(value, list):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, str | int | float)


def _check_classes(config: Config) -> None:
    """Check that the class list exists, and that every fold hides some seen class and leaves some."""
    if is_class_file(config.data.classes) and config.data.root is None:
        return  # it lies below the root: whatever reads it will say so
    classes = load_classes(config.data)
    fold, folds = config.data.fold, config.data.folds
    if fold is None:
        return
    if folds > len(classes.seen()):
        raise ConfigError(f"data.folds is {folds}, but {classes.name} has {len(classes.seen())} seen classes; lower it")
