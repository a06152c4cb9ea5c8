"""What a run leaves behind."""

from dataclasses import dataclass
from typing import Literal

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

    histograms: int = 0
    """Every so many epochs, histograms of the weights, and of one batch's gradients, go to
    TensorBoard; 0: never. No window's time counts them."""

    precision_watch: Literal["auto"] | int = "auto"
    """Every so many epochs, a look at one batch's gradients tells the share that is not finite and,
    in 16 bits, the share that underflowed; 0: never. No window's time counts it. `auto`: 1 in 16
    bits, 0 in float32, where it compiles a program for what the loss tells as well."""

    def __post_init__(self) -> None:
        require(self.histograms >= 0, f"--histograms is {self.histograms}; it must be 0 or more")
        require(
            self.histograms == 0 or self.tensorboard != "off",
            f"--histograms is {self.histograms}, but --tensorboard is off, where nobody would see "
            "them; leave out one of the two",
        )
        require(
            self.precision_watch == "auto" or self.precision_watch >= 0,
            f"--precision-watch is {self.precision_watch}; it must be 0 or more, or auto",
        )
        if self.profile_steps is not None:
            step_range("--profile-steps", self.profile_steps)
        require(self.tensorboard != "", "--tensorboard is empty; give on, off, or a folder")


def precision_watch_every(setting: Literal["auto"] | int, precision: str) -> int:
    """What `precision_watch` comes to in a precision: every so many epochs, 0 for never."""
    if setting == "auto":
        return 0 if precision == "float32" else 1
    return setting
