"""Settings from nested mappings, as TOML and JSON files hold them, and back.

Knows no setting by name: fields, types and groups are read from the dataclasses. Standard library
only, as config.py.
"""

import dataclasses
import tomllib
import typing
from collections.abc import Mapping
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

    Keys are field names with `_` or `-`. A field of a nested group may stand at the top level, as
    it does on the command line. What is left out keeps its default. TOML has no null: the text
    "None" stands for it.

    Raises:
        InputError: naming `where` and the key that is unknown, is set twice, is missing, or has a
            value of a wrong type or out of range.
    """
    hints = typing.get_type_hints(kind)
    groups: dict[str, Any] = {
        n: hint for n, hint in hints.items() if dataclasses.is_dataclass(hint)
    }
    own: dict[str, Any] = {}
    nested: dict[str, dict[str, Any]] = {name: {} for name in groups}
    for raw_key, value in content.items():
        key = _field_name(raw_key)
        if key in groups and isinstance(value, Mapping):
            for raw_inner, inner in value.items():
                _add(nested[key], groups[key], raw_inner, inner, where=f"{where}: [{raw_key}]")
        elif key in hints and key not in groups:
            _add(own, kind, raw_key, value, where=where)
        else:
            holder = next((n for n, g in groups.items() if key in typing.get_type_hints(g)), None)
            if holder is not None:
                _add(nested[holder], groups[holder], raw_key, value, where=where)
            elif key in groups:
                raise InputError(
                    f"{where}: '{raw_key}' is {value!r}, but it is a group of settings; "
                    f"write them under [{raw_key}]"
                )
            else:
                raise _unknown(raw_key, where)
    for name, group in groups.items():
        own[name] = _construct(group, nested[name], where=where)
    return _construct(kind, own, where=where)


def _field_name(key: str) -> str:
    return key.replace("-", "_")


def _unknown(key: str, where: str) -> InputError:
    return InputError(f"{where}: unknown setting '{key}'; `--help` lists them all")


def _add(settings: dict[str, Any], kind: type, raw_key: str, value: Any, *, where: str) -> None:
    """Puts one checked value among `settings`, which are fields of `kind`."""
    key = _field_name(raw_key)
    hints = typing.get_type_hints(kind)
    if key not in hints:
        raise _unknown(raw_key, where)
    if key in settings:
        raise InputError(f"{where}: '{raw_key}' is set twice; leave one of them out")
    try:
        settings[key] = _converted(value, hints[key])
    except TypeError as error:
        raise InputError(
            f"{where}: '{raw_key}' is {value!r}; it must be {_in_words(hints[key])}"
        ) from error


def _construct(kind: Any, settings: Mapping[str, Any], *, where: str) -> Any:
    for field in dataclasses.fields(kind):
        no_default = (field.default, field.default_factory) == (dataclasses.MISSING,) * 2
        if no_default and field.name not in settings:
            raise InputError(f"{where}: the setting '{field.name}' is missing; it has no default")
    try:
        return kind(**settings)
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
