"""What a run leaves behind."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class OutputConfig:
    """What a run leaves behind."""

    run_dir: str | None = None
    """Folder for everything the run writes. Left out: runs/ and the time of day."""

    overwrite: bool = False
    """Replace a run that is already in the run folder."""

    resume: bool = False
    """Go on from the run folder's last checkpoint, with the same settings."""

    summary: bool = False
    """Print the network's layers and parameters before training."""

    timing: bool = False
    """Print where the wall time went, from the start of the process on."""

    tensorboard: Literal["on", "off"] = "on"
    """Write event files to the run folder's tensorboard/."""
