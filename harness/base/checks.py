"""Checks that settings share."""

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from numbers import Integral, Real
from types import NoneType
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

from harness.base.errors import InputError

INT32_MAX = 2**31 - 1


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


def require_count(name: str, value: Any, *, least: int = 1, most: int | None = None) -> None:
    """Raises InputError unless a value is a whole number, perhaps NumPy's, within its limits."""
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise InputError(f"{name} is {value!r}; give a whole number")
    # Without a limit of its own it is an int32: the product of two, such as epochs and steps of an
    # epoch, is then an int64, which steps are counted in.
    number = int(value)
    if most is None:
        require(number >= least, f"{name} is {number}; it must be at least {least}")
        require(number <= INT32_MAX, f"{name} is {number}; it must be at most {INT32_MAX}")
    else:
        require(least <= number <= most, f"{name} is {number}; choose from {least} to {most}")


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
    """The limits of a setting that is a whole number, in the annotation of its type."""

    least: int = 1
    most: int | None = None


class Number(NamedTuple):
    """The limits of a setting that is any number, in the annotation of its type."""

    least: float = -math.inf
    above: float = -math.inf
    below: float = math.inf


class Checked:
    """Settings whose choices and limits, also of each item of a tuple, are checked when an object
    is made: tyro checks the types of flags, and `decoded` those in files."""

    def __post_init__(self) -> None:
        for name, hint in get_type_hints(type(self), include_extras=True).items():
            given, flag, known = getattr(self, name), flag_of(name), get_args(hint)
            if get_origin(hint) is Literal and given not in known:
                values = ", ".join(value for value in known if value != "auto")
                choices = f"auto or one of {values}"
                choices = choices if "auto" in known else values.replace(", ", " or ")
                raise InputError(f"{flag} is {given!r}; choose {choices}")
            if isinstance(given, Real) and hasattr(given, "item"):  # NumPy's, which is no JSON
                object.__setattr__(self, name, given := given.item())
            kind = known[0] if known else hint  # without the limits
            is_tuple = get_origin(kind) is tuple and isinstance(given, tuple | list)
            is_left_out = given is None and NoneType in get_args(kind)
            numbers = given if is_tuple else () if is_left_out else (given,)
            for value, limits in itertools.product(numbers, getattr(hint, "__metadata__", ())):
                if isinstance(limits, Whole) and not (value == "auto" and "auto" in str(hint)):
                    require_count(flag, value, least=limits.least, most=limits.most)
                elif isinstance(limits, Number):
                    ok = isinstance(value, Real)
                    ok = ok and value >= limits.least and limits.above < value < limits.below
                    named = limits._asdict().items()
                    words = [f"{word} {limit:g}" for word, limit in named if math.isfinite(limit)]
                    words += ["finite"] if limits.below == math.inf else []
                    must = " and ".join(words).replace("least", "at least")
                    require(ok, f"{flag} is {value!r}; it must be {must}")


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
