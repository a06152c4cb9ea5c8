"""What a run leaves behind."""

from dataclasses import dataclass

from harness.config.checks import require
from harness.config.profile import step_range


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

    profile_steps: str | None = None
    """Profile steps A:B of the run, counted from 0, B left out, in whole dispatches. TensorBoard
    shows the profile; to print what it says takes the extra `profile`."""

    def __post_init__(self) -> None:
        if self.profile_steps is not None:
            step_range("--profile-steps", self.profile_steps)
        require(self.tensorboard != "", "--tensorboard is empty; give on, off, or a folder")
