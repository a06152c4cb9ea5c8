"""What a run leaves behind."""

from dataclasses import dataclass

from harness.config.checks import require


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

    tensorboard: str = "on"
    """`on`: event files in the run folder's tensorboard/; `off`: none; anything else: the folder to
    write them to, which may hold no other run's. --overwrite and --resume apply to it as well."""

    def __post_init__(self) -> None:
        require(self.tensorboard != "", "--tensorboard is empty; give on, off, or a folder")
