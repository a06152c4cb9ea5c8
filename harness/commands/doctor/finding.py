"""One line of the doctor's report."""

from dataclasses import dataclass
from typing import Literal

from harness.config.commands import Part


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What was found of one subject."""

    subject: str
    state: Literal["ok", "limited", "broken"]
    """`limited`: runs work, but something that could be had is missing."""
    text: str
    """What was found, and the remedy where it is not all well."""
    part: Part | None = None
    """What `--need` calls it: then `limited` is as bad as `broken`."""
