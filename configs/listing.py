"""Every setting of a resolved config with its type, range, default and origin: as YAML, as JSON; and a JSON schema.

What may be written in a field is read off the JSON schema that pydantic makes, so it is defined in one place.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from split_matching.configs.load import format_value, list_paths, suggest
from split_matching.configs.schema import Config
from split_matching.configs.section import Section, is_identity, is_runtime
from split_matching.errors import ConfigError

DIALECT = "https://json-schema.org/draft/2020-12/schema"
WIDTH = 80
COMPUTED = "where it runs, or another setting"
"""Origin of a value that no file and no option names, and that is not the default."""

_TYPES = {"integer": "int", "number": "number", "string": "text", "boolean": "true | false", "null": "null"}
_BOUNDS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}


@dataclass(frozen=True)
class Setting:
    """One field of a resolved config.

    Args:
        path: dotted, e.g. "train.lr".
        value: its value, as JSON.
        default: what it is where nobody sets it, as JSON.
        origin: the file or option that set it; "" for none.
        runtime: whether it changes no result.
        schema: what may be written there, as JSON schema.
        description: what it does.
    """

    path: str
    value: Any
    default: Any
    origin: str
    runtime: bool
    schema: Mapping[str, Any]
    description: str

    @property
    def changed(self) -> bool:
        """Whether the value is not the default."""
        return bool(self.value != self.default)

    def as_json(self) -> dict[str, Any]:
        """Return all of it, with types as text and as JSON schema."""
        return {
            "path": self.path,
            "value": self.value,
            "default": self.default,
            "changed": self.changed,
            "from": self.origin or (COMPUTED if self.changed else "default"),
            "runtime": self.runtime,
            "type": describe_type(self.schema),
            "schema": dict(self.schema),
            "description": self.description,
        }


def list_settings(config: Config, origins: Mapping[str, str], parts: Sequence[str] = ()) -> list[Setting]:
    """Return the settings of a config in the order of the schema.

    Args:
        config: a resolved config.
        origins: by path what set it, see `load_with_origins`.
        parts: sections or fields to return, e.g. "train" or "train.lr"; none for all.

    Raises:
        ConfigError: a part does not exist.
    """
    for part in parts:
        if part not in list_paths():
            raise ConfigError(f"there is no setting {part}: {suggest(part)}")
    found = list(_settings(config, origins))
    return [s for s in found if not parts or any(f"{s.path}.".startswith(f"{part}.") for part in parts)]


def _settings(config: Config, origins: Mapping[str, str]) -> Iterator[Setting]:
    values, defaults = config.model_dump(mode="json"), Config().model_dump(mode="json")
    known = field_schemas()
    for name, field in Config.model_fields.items():
        section = getattr(config, name)
        fields = type(section).model_fields if isinstance(section, Section) else {"": field}
        for key, info in fields.items():
            path = f"{name}.{key}".rstrip(".")
            value, default = (whole[name][key] if key else whole[name] for whole in (values, defaults))
            runtime = is_runtime(info) and not is_identity(info)
            yield Setting(
                path, value, default, origins.get(path, ""), runtime, known[path], str(info.description or "")
            )


def as_yaml(settings: Iterable[Setting], config: Config) -> Iterator[tuple[str, bool]]:
    """Yield the lines of a YAML file that `--set-file` takes, and for each whether it holds a changed value.

    Above each field is what it does; after it `*` if it is not the default, its type and range, default and origin.
    """
    last = ""
    for setting in settings:
        section, _, key = setting.path.rpartition(".")
        if section and section != last:
            yield "", False
            yield f"# {(type(getattr(config, section)).__doc__ or '').splitlines()[0]}", False
            yield f"{section}:", False
        last = section
        indent = "  " if section else ""
        comment = indent + "# "
        for line in textwrap.wrap(setting.description, WIDTH, initial_indent=comment, subsequent_indent=comment):
            yield line, False
        yield f"{indent}{key}: {format_value(setting.value)}  # {_notes(setting)}", setting.changed


def _notes(setting: Setting) -> str:
    notes = [f"{'* ' if setting.changed else ''}{describe_type(setting.schema)}"]
    notes += ["changes no result"] if setting.runtime else []
    notes.append(f"default {format_value(setting.default)}" if setting.changed else "default")
    if setting.origin or setting.changed:
        notes.append(f"from {setting.origin or COMPUTED}")
    return "; ".join(notes)


# --- JSON schema ------------------------------------------------------------------------------------------------------


def config_schema() -> dict[str, Any]:
    """Return a JSON schema of config files, for editors and validators.

    Every key may be left out, and a section may be empty, as in the files themselves.
    """
    schema = Config.model_json_schema()
    for definition in schema["$defs"].values():
        definition["properties"] = {name: _tidy(field) for name, field in definition["properties"].items()}
    for name, field in schema["properties"].items():
        if name in _sections():
            schema["properties"][name] = {"anyOf": [{"$ref": field["$ref"]}, {"type": "null"}]}
    return {"$schema": DIALECT, **schema}


def field_schemas() -> dict[str, dict[str, Any]]:
    """Return the JSON schema of every field by its path, without default and description."""
    schema = Config.model_json_schema()
    found = {"dataset": schema["properties"]["dataset"]}
    for section, kind in _sections().items():
        properties = schema["$defs"][kind.__name__]["properties"]
        found |= {f"{section}.{key}": field for key, field in properties.items()}
    dropped = ("default", "description")
    return {path: {k: v for k, v in _tidy(field).items() if k not in dropped} for path, field in found.items()}


def _sections() -> dict[str, type[Section]]:
    """The sections of the config by name."""
    kinds = {name: field.annotation for name, field in Config.model_fields.items()}
    return {name: kind for name, kind in kinds.items() if isinstance(kind, type) and issubclass(kind, Section)}


def _tidy(field: Mapping[str, Any]) -> dict[str, Any]:
    """Drop titles and our own marks, and let numbers stand for names, as `load` does."""
    tidied = {key: value for key, value in field.items() if key not in ("title", "runtime", "neutral", "identity")}
    if tidied.get("type") == "string" and "enum" not in tidied and "format" not in tidied:
        tidied["type"] = ["string", "number"]
    return tidied


def describe_type(schema: Mapping[str, Any]) -> str:
    """Say in a few words what a JSON schema of a field allows: "int >= 1", "split | single", "list of number"."""
    if "anyOf" in schema:
        return " | ".join(describe_type(part) for part in schema["anyOf"])
    if "enum" in schema or "const" in schema:
        return " | ".join(str(choice) for choice in schema.get("enum", [schema.get("const")]))
    kind = schema.get("type")
    if kind == "array":
        if "prefixItems" in schema:
            return f"[{', '.join(describe_type(item) for item in schema['prefixItems'])}]"
        return f"list of {describe_type(schema['items'])}"
    if isinstance(kind, list):
        kind = "string"
    word = "path" if schema.get("format") == "path" else _TYPES[str(kind)]
    bounds = [f"{sign} {schema[name]:g}" for name, sign in _BOUNDS.items() if name in schema]
    return " ".join([word, ", ".join(bounds)]).strip()
