"""Builds dataclasses from the contents of TOML and JSON files; checks every value, ignores none."""

import dataclasses
from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from harness.base.errors import InputError

_WORDS: Mapping[Any, str] = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    NoneType: '"None"',
}


def from_mapping(kind: type, content: Mapping[str, Any], *, where: str) -> Any:
    """Builds settings of the class `kind` from nested mappings, as read from TOML or config.json;
    an InputError names `where` and the key. Keys are field names with `_` or `-`. Every field has a
    name of its own, so it may stand in any group or in none. Missing fields keep their defaults.
    The text "None" stands for a null."""
    if not isinstance(content, Mapping):
        raise InputError(f"{where}: {content!r:.100} stands there; give a table of settings")
    flat = flattened(content, where=where)
    nested = _grouped(kind, flat, where)
    for name in flat:  # what no group has taken
        raise InputError(f"{where}: unknown setting '{name}'; `--help-all` lists them all")
    return decoded(kind, nested, where=where)


def flattened(content: Mapping[str, Any], *, where: str = "the settings") -> dict[str, Any]:
    """Returns the settings of nested groups in one mapping, by their own names."""
    flat: dict[str, Any] = {}
    for key, value in content.items():
        is_group = isinstance(value, Mapping)
        inner = flattened(value, where=where) if is_group else {key.replace("-", "_"): value}
        for name in flat.keys() & inner.keys():
            raise InputError(f"{where}: '{name}' is set twice; leave one of them out")
        flat |= inner
    return flat


def changed(settings: Any) -> dict[str, Any]:
    """Returns the settings in a dataclass that differ from their defaults, by their names."""
    usual = flattened(dataclasses.asdict(type(settings)()))
    now = flattened(dataclasses.asdict(settings))
    return {name: value for name, value in now.items() if value != usual[name]}


def differences(were: Mapping[str, Any], are: Mapping[str, Any]) -> str:
    """Describes the settings that changed, by flag; one that is only in `are` is newer."""
    return "; ".join(
        f"--{name.replace('_', '-')} was {were[name]} and is now {value}"
        for name, value in are.items()
        if name in were and value != were[name]
    )


def _grouped(kind: Any, flat: dict[str, Any], where: str) -> dict[str, Any]:
    """Moves the settings of the class `kind` out of `flat` into groups, as in the class."""
    grouped: dict[str, Any] = {}
    for name, hint in get_type_hints(kind).items():
        if not dataclasses.is_dataclass(hint):
            if name in flat:  # decoded here, so that messages do not name the group
                grouped[name] = decoded(hint, flat.pop(name), where=where, place=name)
        elif inner := _grouped(hint, flat, where):
            grouped[name] = inner
    return grouped


def decoded(hint: Any, value: Any, *, where: str, place: str = "") -> Any:
    """Returns `value`, of mappings, lists and plain values, as the type `hint`: a dataclass, union,
    tuple, mapping, or plain type. An InputError names the file, `where`, and the place in it."""
    origin, arguments = get_origin(hint), get_args(hint)

    def inner(hint: Any, value: Any, name: str) -> Any:
        return decoded(hint, value, where=where, place=f"{place}{name}".removeprefix("."))

    if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        kind: Any = hint
        hints = get_type_hints(kind)
        for name in sorted(value.keys() ^ hints.keys()):
            field = kind.__dataclass_fields__.get(name)
            if field is None or field.default is field.default_factory:  # both are missing
                fact = "unknown; leave it out" if field is None else "missing; it has no default"
                raise InputError(f"{where}: {f'{place}.{name}'.removeprefix('.')} is {fact}")
        values = {name: inner(hints[name], one, f".{name}") for name, one in value.items()}
        try:
            return kind(**values)
        except InputError as error:  # of what no single value shows, such as limits
            raise InputError(f"{where}: {error}") from error
    if origin in (UnionType, Union):
        if value == "None" and NoneType in arguments:  # even if a text is allowed as well
            return None
        # The first type that takes the value, in the order in which the union names them.
        for option in arguments:
            try:
                return inner(option, value, "")
            except InputError:
                continue
    elif origin is Literal:
        # Types count too: True == 1, but only one of them is an option.
        if any(value == option and type(value) is type(option) for option in arguments):
            return value
    elif origin is tuple and isinstance(value, list | tuple):
        return tuple(inner(arguments[0], one, f"[{i}]") for i, one in enumerate(value))
    elif origin is Mapping and isinstance(value, Mapping):
        return {key: inner(arguments[1], one, f".{key}") for key, one in value.items()}
    elif hint is Any or type(value) is hint:
        return value
    elif hint is float and type(value) is int:
        return float(value)
    elif hint is NoneType and value == "None":
        return None
    raise InputError(f"{where}: {place} is {value!r:.100}; it must be {_in_words(hint)}")


def _in_words(hint: Any) -> str:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (UnionType, Union):
        return " or ".join(map(_in_words, arguments))
    if origin is Literal:
        return " or ".join(f'"{option}"' for option in arguments)
    if origin is tuple:
        return f"a list, each item {_in_words(arguments[0])}"
    return _WORDS.get(hint, "a table")
