"""The checks that settings share."""

from harness.errors import InputError

INT32_MAX = 2**31 - 1


def require(holds: bool, message: str) -> None:
    """Raises InputError with the message unless `holds`."""
    if not holds:
        raise InputError(message)


def require_count(name: str, value: int | str, *, least: int = 1, most: int | None = None) -> None:
    """Raises InputError unless the number is within its limits; "auto" always is."""
    if isinstance(value, str):
        return  # "auto": the Literal type has admitted it
    if most is None:
        require(value >= least, f"{name} is {value}; it must be at least {least}")
    else:
        require(least <= value <= most, f"{name} is {value}; choose from {least} to {most}")
