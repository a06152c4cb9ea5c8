"""Builds dataclasses from the contents of TOML and JSON files; checks every value, ignores none."""

import dataclasses
from collections.abc import Mapping
from typing import Any, get_type_hints

from harness.base.checks import checked, flag_of
from harness.base.errors import InputError


def from_mapping(kind: type, content: Mapping[str, Any], *, where: str) -> Any:
    """Builds settings of the class `kind` from nested mappings, as read from TOML or config.json;
    an InputError names `where` and the key. Keys are field names with `_` or `-`. Every field has a
    name of its own, so it may stand in any group or in none. Missing fields keep their defaults.
    The text "None" stands for a null."""
    if not isinstance(content, Mapping):
        raise InputError(f"{where}: {content!r:.100} stands there; give a table of settings")
    flat = flattened(content, where=where)
    nested = _grouped(kind, flat)
    for name in flat:  # what no group has taken
        raise InputError(f"{where}: unknown setting '{name}'; `--help-all` lists them all")
    return decoded(kind, nested, where=where)


def decoded(kind: Any, content: Any, *, where: str) -> Any:
    """Returns the contents of a file, named `where` in messages, as an object of the class `kind`;
    see `checked`."""
    try:
        return checked(kind, content)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


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
        f"{flag_of(name)} was {were[name]} and is now {value}"
        for name, value in are.items()
        if name in were and value != were[name]
    )


def _grouped(kind: Any, flat: dict[str, Any]) -> dict[str, Any]:
    grouped: dict[str, Any] = {}
    for name, hint in get_type_hints(kind).items():
        if not dataclasses.is_dataclass(hint):
            if name in flat:
                grouped[name] = flat.pop(name)
        elif inner := _grouped(hint, flat):
            grouped[name] = inner
    return grouped
