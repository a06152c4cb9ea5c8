"""Checks that settings share: of their types, choices and limits, and of what they say together."""

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from harness.base.errors import InputError

INT32_MAX = 2**31 - 1
_WORDS: Mapping[Any, str] = {
    str: "a text",
    Path: "a path",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    NoneType: '"None"',
}


def require(holds: bool, message: str) -> None:
    if not holds:
        raise InputError(message)


def require_extra(extra: str, what: str, *packages: str) -> None:
    """Raises InputError unless the packages of an extra are installed, which `what` needs."""
    missing = " and ".join(name for name in packages if find_spec(name) is None)
    require(
        not missing,
        f"{what} needs {missing}; install the extra `{extra}`: "
        f"pip install 'multi-hot-harness[{extra}]'",
    )


def require_count(name: str, value: Any, *, least: int = 1, most: int = INT32_MAX) -> None:
    """Raises InputError unless a value is a whole number, perhaps NumPy's, within its limits."""
    checked(int, value, name, Whole(least, most))


def require_choice(name: str, value: Any, known: Sequence[str]) -> None:
    require(value in known, f"{name} is {value!r}; choose one of {', '.join(known)}")


def flag_of(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def flags_of(settings: Mapping[str, Any]) -> Iterator[str]:
    """Yields the words that give settings on a command line."""
    for name, value in settings.items():
        if isinstance(value, bool):
            yield flag_of(name if value else f"no_{name}")
        else:
            yield flag_of(name)
            yield from map(str, value if isinstance(value, list | tuple) else [value])


class Whole(NamedTuple):
    """The limits of a setting that is a whole number, in the annotation of its type. The product of
    two int32, such as epochs and steps of an epoch, is an int64, which steps are counted in."""

    least: int = 1
    most: int = INT32_MAX

    def take(self, value: int) -> bool:
        return self.least <= value <= self.most

    def __str__(self) -> str:
        return f"a whole number from {self.least:,} to {self.most:,}"


class Number(NamedTuple):
    """The limits of a setting that is any finite number, in the annotation of its type."""

    least: float = -math.inf
    above: float = -math.inf
    below: float = math.inf

    def take(self, value: float) -> bool:
        return value >= self.least and self.above < value < self.below

    def __str__(self) -> str:
        named = {"at least": self.least, "above": self.above, "below": self.below}
        limits = (f"{word} {limit:g}" for word, limit in named.items() if math.isfinite(limit))
        return f"a finite number {' and '.join(limits)}"


class Checked:
    """Settings that are checked by their types when an object is made."""

    def __post_init__(self) -> None:
        for name, hint in get_type_hints(type(self), include_extras=True).items():
            object.__setattr__(self, name, checked(hint, getattr(self, name), flag_of(name)))


def checked(hint: Any, value: Any, place: str = "", limits: Whole | Number | None = None) -> Any:
    """Returns `value`, of mappings, lists and plain values, as the type `hint`: a dataclass, union,
    tuple, mapping, or plain type; numbers within limits. An InputError names the place."""
    origin, arguments = get_origin(hint), get_args(hint)
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):  # NumPy's, which is no JSON
        value = value.item()
    if origin is Annotated:
        found = (one for one in hint.__metadata__ if isinstance(one, Whole | Number))
        return checked(arguments[0], value, place, next(found, None))
    if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        kind: Any = hint
        fields = {field.name: field for field in dataclasses.fields(kind)}
        path = {name: f"{place}.{name}".removeprefix(".") for name in fields.keys() | value.keys()}
        for name in sorted(value.keys() ^ fields.keys()):
            if name not in fields:
                raise InputError(f"{path[name]} is unknown; leave it out")
            if fields[name].default is fields[name].default_factory:  # both are missing
                raise InputError(f"{path[name]} is missing; it has no default")
        if not issubclass(kind, Checked):
            hints = get_type_hints(kind, include_extras=True)
            value = {name: checked(hints[name], one, path[name]) for name, one in value.items()}
        return kind(**value)
    if origin in (UnionType, Union):
        if isinstance(value, str) and value == "None" and NoneType in arguments:  # even for a text
            return None
        # The first type that takes the value, in the order in which the union names them.
        for option in arguments:
            try:
                return checked(option, value, place, limits)
            except InputError:
                continue
    elif origin is Literal:
        # Types count too: True == 1, but only one of them is an option.
        if any(type(value) is type(option) and value == option for option in arguments):
            return value
    elif origin is tuple and isinstance(value, list | tuple):
        items = enumerate(value)
        return tuple(checked(arguments[0], one, f"{place}[{i}]", limits) for i, one in items)
    elif origin is Mapping and isinstance(value, Mapping):
        return {key: checked(arguments[1], one, f"{place}.{key}") for key, one in value.items()}
    elif hint is Any:
        return value
    elif origin is None:
        if hint is float and type(value) is int and value.bit_length() < 1024:  # those of floats
            value = float(value)
        value = str(value) if hint is str and isinstance(value, Path) else value
        is_right = isinstance(value, hint) and isinstance(value, bool) == (hint is bool)
        if is_right and (limits is None or value is None or limits.take(value)):
            return value
    raise InputError(f"{place} is {value!r:.100}; it must be {_in_words(hint, limits)}")


def _in_words(hint: Any, limits: Whole | Number | None) -> str:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (UnionType, Union):
        return " or ".join(_in_words(one, limits) for one in arguments)
    if origin is Literal:
        return " or ".join(f'"{option}"' for option in arguments)
    if origin is tuple:
        return f"a list, each item {_in_words(arguments[0], limits)}"
    return str(limits) if limits and hint in (int, float) else _WORDS.get(hint, "a table")


def parse_share(flag: str, text: str) -> float:
    """Returns a share such as `5%` or `0.05`, in [0, 1), as a number."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(%?)", text.strip())
    share = math.nan if match is None else float(match[1]) / (100 if match[2] else 1)
    if not 0 <= share < 1:
        raise InputError(f"{flag} is {text!r}; give a share below 1, as in 5% or 0.05")
    return share


def check_batch(*, batch_size: int, rows: int, replicas: int, workers: int = 1) -> None:
    require(
        batch_size <= rows,
        f"--batch-size is {batch_size} but the data set has {rows} rows to train on; "
        f"set --batch-size to {rows} or less",
    )
    require_even_shares(batch_size, replicas, workers=workers)


def require_even_shares(batch_size: int, replicas: int, *, workers: int = 1) -> None:
    """Raises InputError unless all replicas of all workers get equally many rows of a batch."""
    of_workers = f" of each of {workers} workers" if workers > 1 else ""
    replicas *= workers
    below = batch_size // replicas * replicas
    possible = f"{below} or {below + replicas}" if below else f"{below + replicas}"
    require(
        batch_size % replicas == 0,
        f"--batch-size is {batch_size}, which does not divide over {replicas // workers} "
        f"replicas{of_workers}; set --batch-size to {possible}, or --replicas to a divisor",
    )
