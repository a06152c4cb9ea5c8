"""The checks that settings share."""

import math
import re

from harness.errors import InputError

INT32_MAX = 2**31 - 1


def require(holds: bool, message: str) -> None:
    """Raises InputError with the message unless `holds`."""
    if not holds:
        raise InputError(message)


def require_count(name: str, value: int | str, *, least: int = 1, most: int | None = None) -> None:
    """Raises InputError unless the number is within its limits; "auto" always is.

    Without a limit of its own a count is an int32: the product of two, such as epochs and steps of
    an epoch, is then an int64, as steps are counted.
    """
    if value == "auto":
        return
    if not isinstance(value, int) or isinstance(value, bool):
        raise InputError(f"{name} is {value!r}; give a whole number")
    if most is None:
        require(value >= least, f"{name} is {value}; it must be at least {least}")
        require(value <= INT32_MAX, f"{name} is {value}; it must be at most {INT32_MAX}")
    else:
        require(least <= value <= most, f"{name} is {value}; choose from {least} to {most}")


def parse_share(flag: str, text: str) -> float:
    """`5%` or `0.05` as 0.05.

    Raises:
        InputError: when it is neither, or not in [0, 1).
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(%?)", text.strip())
    share = math.nan if match is None else float(match[1]) / (100 if match[2] else 1)
    if not 0 <= share < 1:
        raise InputError(f"{flag} is {text!r}; give a share below 1, as in 5% or 0.05")
    return share
