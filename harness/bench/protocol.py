"""What a measured process and its parent say to one another: JSON, one message a line.

The parent writes a `Job`, then requests for turns; the process answers each. The other side may be
another version of this code (`harness bench --against CHECKOUT`), so the job holds only settings
that differ from their defaults, and the number below grows with every change that an older process
would misunderstand.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

PROTOCOL_VERSION = 1

Variant = Literal[
    "full",
    "input only",
    "fixed batch",
    "no first layer",
    "no optimizer",
    "no all-reduce",
    "empty dispatch",
]
"""Parts of a step, for `--diagnose`. `fixed batch` and what follows get one dispatch's batches over
and over; `empty dispatch` runs no step of them."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What to train, and how."""

    settings: Mapping[str, Any]
    """Of `TrainConfig`, nested; those at their default left out."""
    variant: Variant = "full"
    """What is left out."""
    roofs: bool = False
    """Whether to measure the device's memory bandwidth and arithmetic too."""
    protocol: int = PROTOCOL_VERSION


def without_defaults(config: Any) -> dict[str, Any]:
    """A config's settings as nested mappings, those at their default left out."""
    changed: dict[str, Any] = {}
    default = type(config)()
    for field in dataclasses.fields(config):
        value, usual = getattr(config, field.name), getattr(default, field.name)
        if dataclasses.is_dataclass(value):
            if inner := without_defaults(value):
                changed[field.name] = inner
        elif value != usual:
            changed[field.name] = value
    return changed
