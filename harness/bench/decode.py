"""Typed records from JSON: every field present, none besides, each of its type."""

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from harness.errors import InputError

Record = TypeVar("Record")


def decode(kind: type[Record], content: Any, *, where: str) -> Record:
    """Builds the dataclass `kind` from parsed JSON, which `dataclasses.asdict` and `json_text`
    turned it into.

    Raises:
        InputError: naming `where` and the field that is missing, unknown or of another type.
    """
    return typing.cast(Record, _decoded(kind, content, where))


def _decoded(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if dataclasses.is_dataclass(hint):
        return _record(hint, value, where)
    if origin in (Union, types.UnionType):
        for option in arguments:
            try:
                return _decoded(option, value, where)
            except InputError:
                continue
    elif hint is Any:
        return value
    elif origin is Literal:
        if value in arguments:
            return value
    elif origin is tuple and isinstance(value, list):
        return tuple(_decoded(arguments[0], v, f"{where}[{i}]") for i, v in enumerate(value))
    elif origin is Mapping and isinstance(value, dict):
        return {k: _decoded(arguments[1], v, f"{where}.{k}") for k, v in value.items()}
    elif hint is float and (type(value) is int or value in ("NaN", "Infinity", "-Infinity")):
        return float(value)
    elif hint is types.NoneType and value is None:
        return None
    elif type(value) is hint:
        return value
    shown = repr(value) if len(repr(value)) < 60 else type(value).__name__
    raise InputError(f"{where} is {shown}, which does not belong there; the file was changed")


def _record(kind: Any, value: Any, where: str) -> Any:
    hints = typing.get_type_hints(kind)
    if not isinstance(value, dict) or value.keys() != hints.keys():
        present = set(value) if isinstance(value, dict) else set()
        missing = ", ".join(sorted(hints.keys() - present)) or "nothing"
        unknown = ", ".join(sorted(present - hints.keys())) or "nothing"
        raise InputError(
            f"{where} lacks {missing} and has {unknown} besides; the file was changed, or written "
            "by another version: measure again"
        )
    return kind(**{name: _decoded(h, value[name], f"{where}.{name}") for name, h in hints.items()})
