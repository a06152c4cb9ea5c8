"""Settings from nested mappings, as TOML and JSON files hold them, and back.

Knows no setting by name: fields, types and groups are read from the dataclasses. Standard library
only, as the rest of this room.
"""

import dataclasses
import tomllib
import typing
from collections.abc import Mapping
from dataclasses import is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union, get_args, get_origin

from harness.errors import InputError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    Settings = TypeVar("Settings", bound=DataclassInstance)
else:
    Settings = TypeVar("Settings")

_WORDS: Mapping[type, str] = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    NoneType: '"None"',
}


def to_mapping(config: "DataclassInstance") -> dict[str, Any]:
    """The settings as nested plain mappings, for config.json."""
    return dataclasses.asdict(config)


def read_toml(kind: type[Settings], path: Path) -> Settings:
    """Builds settings from a TOML file, as `from_mapping` does.

    Raises:
        InputError: when the file cannot be read, is not TOML, or holds a wrong setting.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"--config {path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"--config {path} is not a TOML file: {error}") from error
    return from_mapping(kind, content, where=str(path))


def from_mapping(kind: type[Settings], content: Mapping[str, Any], *, where: str) -> Settings:
    """Builds settings from nested mappings, as read from TOML or config.json.

    Keys are field names with `_` or `-`. A field or group of a nested group may stand in any group
    around it, as fields stand bare on the command line. What is left out keeps its default. TOML
    has no null: the text "None" stands for it.

    Raises:
        InputError: naming `where` and the key that is unknown, is set twice, is missing, or has a
            value of a wrong type or out of range.
    """
    settings: dict[str, Any] = {}
    for key, value in content.items():
        _place(settings, kind, key, value, where=where)
    return _construct(kind, settings, where=where)


def _groups(kind: Any) -> dict[str, Any]:
    return {n: hint for n, hint in typing.get_type_hints(kind).items() if is_dataclass(hint)}


def _place(
    settings: dict[str, Any], kind: Any, raw_key: str, value: Any, *, where: str, table: str = ""
) -> None:
    """Puts a checked value where it belongs in `settings`, nested as the fields of `kind` are."""
    label = f"{where}: [{table}]" if table else where
    key = raw_key.replace("-", "_")
    if isinstance(value, Mapping) and (path := _path_to(kind, key, groups=True)) is not None:
        settings, kind = _below(settings, kind, (*path, key))
        inner_table = f"{table}.{raw_key}" if table else raw_key
        for inner_key, inner in value.items():
            _place(settings, kind, inner_key, inner, where=where, table=inner_table)
        return

    path = _path_to(kind, key, groups=False)
    if path is None and _path_to(kind, key, groups=True) is not None:
        raise InputError(
            f"{label}: '{raw_key}' is {value!r}, but it is a group of settings; "
            f"write them under [{raw_key}]"
        )
    if path is None:
        raise InputError(f"{label}: unknown setting '{raw_key}'; `--help` lists them all")
    settings, kind = _below(settings, kind, path)
    if key in settings:
        raise InputError(f"{label}: '{raw_key}' is set twice; leave one of them out")
    hint = typing.get_type_hints(kind)[key]
    try:
        settings[key] = _converted(value, hint)
    except TypeError as error:
        raise InputError(
            f"{label}: '{raw_key}' is {value!r}; it must be {_in_words(hint)}"
        ) from error


def _path_to(kind: Any, key: str, *, groups: bool) -> tuple[str, ...] | None:
    """The groups to go down through to the group or setting `key`; None when there is none."""
    hints = typing.get_type_hints(kind)
    if key in hints and is_dataclass(hints[key]) == groups:
        return ()
    for name, group in _groups(kind).items():
        path = _path_to(group, key, groups=groups)
        if path is not None:
            return (name, *path)
    return None


def _below(
    settings: dict[str, Any], kind: Any, path: tuple[str, ...]
) -> tuple[dict[str, Any], Any]:
    """The mapping and the class at the end of `path`; mappings that are missing are made."""
    for name in path:
        settings, kind = settings.setdefault(name, {}), _groups(kind)[name]
    return settings, kind


def _construct(kind: Any, settings: Mapping[str, Any], *, where: str) -> Any:
    groups = _groups(kind)
    values = {n: _construct(g, settings.get(n, {}), where=where) for n, g in groups.items()}
    values |= {name: value for name, value in settings.items() if name not in groups}
    for field in dataclasses.fields(kind):
        no_default = (field.default, field.default_factory) == (dataclasses.MISSING,) * 2
        if no_default and field.name not in values:
            raise InputError(f"{where}: the setting '{field.name}' is missing; it has no default")
    try:
        return kind(**values)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def _converted(value: Any, hint: Any) -> Any:
    """`value` as the type `hint`; TypeError when it is none of its values."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (UnionType, Union):
        if value == "None" and NoneType in arguments and str not in arguments:
            return None
        for option in arguments:
            try:
                return _converted(value, option)
            except TypeError:
                continue
    elif origin is Literal:
        # By type too: True == 1, but only one of them was admitted.
        if any(value == option and type(value) is type(option) for option in arguments):
            return value
    elif origin is tuple:
        if isinstance(value, list | tuple):
            return tuple(_converted(item, arguments[0]) for item in value)
    elif hint is float and type(value) is int:
        return float(value)
    elif type(value) is hint:
        return value
    raise TypeError(value)


def _in_words(hint: Any) -> str:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (UnionType, Union):
        return " or ".join(_in_words(option) for option in arguments)
    if origin is Literal:
        return " or ".join(f'"{option}"' for option in arguments)
    if origin is tuple:
        return f"a list, each item {_in_words(arguments[0])}"
    return _WORDS[hint]
