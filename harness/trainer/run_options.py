"""What a run records, saves and watches: settings that decide nothing of what is trained."""

import re
from dataclasses import dataclass
from typing import Literal

from harness.base.checks import require, require_count
from harness.base.errors import InputError
from harness.program.saving import Every

LEAST_HZ, MOST_HZ = 0.01, 100.0


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """What a run records besides its metrics."""

    tensorboard: str = "on"
    """`on`: event files go to the run folder's tensorboard/; `off`: there are none; anything else:
    the folder to write them to. Event files there are replaced with --overwrite, continued with
    --resume, and refused otherwise."""

    histograms: int = 0
    """Write histograms of the weights and of one batch's gradients to TensorBoard every so many
    epochs; 0: never. Windows exclude the time this takes."""

    precision_watch: Literal["auto"] | int = "auto"
    """Measure every so many epochs which share of one batch's gradients is not finite and, in 16
    bits, which share underflowed; 0: never. Windows exclude the time this takes. `auto`: 1 in 16
    bits, 0 in float32."""

    profile_steps: str | None = None
    """Profile steps A:B of the run, counted from 0, B left out, in whole dispatches. TensorBoard
    shows the profile; the printed breakdown needs the extra `profile`."""

    checkpoint_every: int | str = "epoch"
    """When to save a checkpoint: after every `epoch`, after a number of steps, as in 500, or after
    a time, as in 30s, 10m or 1h. One is also saved at the end, and when the run is stopped."""

    keep: int = 2
    """How many checkpoints to keep. With validation rows, the one with the lowest validation loss
    is kept besides."""

    def __post_init__(self) -> None:
        Every.of(self.checkpoint_every)
        require_count("--keep", self.keep)
        require(self.tensorboard != "", "--tensorboard is empty; give on, off, or a folder")
        require_count("--histograms", self.histograms, least=0)
        require(
            self.histograms == 0 or self.tensorboard != "off",
            f"--histograms is {self.histograms}, but --tensorboard is off, so nothing would show "
            "them; leave out one of the two",
        )
        require_count("--precision-watch", self.precision_watch, least=0)
        if self.profile_steps is not None:
            step_range(self.profile_steps)


@dataclass(frozen=True, kw_only=True)
class Telemetry:
    """What is sampled of the machine during training."""

    telemetry_hz: float = 5.0
    """How often a second to sample the GPUs (through NVML) and the host, in the background. 0
    samples nothing."""

    def __post_init__(self) -> None:
        hz = self.telemetry_hz
        require(
            hz == 0 or LEAST_HZ <= hz <= MOST_HZ,
            f"--telemetry-hz is {hz:g}; choose 0 for none, or from {LEAST_HZ:g} to {MOST_HZ:g}",
        )


@dataclass(frozen=True, kw_only=True)
class OnNan:
    """What to do about a loss that is not finite."""

    on_nan: Literal["stop", "continue"] = "stop"
    """What to do when the loss is not finite. `stop`: end the run with the likely cause;
    `continue`: warn. Either way, a state with such a loss is not saved, and a run that ends in one
    leaves no model.keras and exit code 1."""

    def __post_init__(self) -> None:
        known = self.on_nan in ("stop", "continue")
        require(known, f"--on-nan is {self.on_nan!r}; choose stop or continue")


@dataclass(frozen=True, kw_only=True)
class RunOptions(Recorded, Telemetry, OnNan):
    """What a fit watches, and what it leaves in its folder."""

    def __post_init__(self) -> None:
        Recorded.__post_init__(self)
        Telemetry.__post_init__(self)
        OnNan.__post_init__(self)


def step_range(text: str) -> tuple[int, int]:
    """The steps that `A:B` of --profile-steps names, B left out: as (A, B).

    Raises:
        InputError: unless both are whole numbers and A is below B.
    """
    found = re.fullmatch(r"(\d+):(\d+)", text)
    if found is None:
        raise InputError(
            f"--profile-steps is '{text}'; give two whole numbers, as in 100:120 for the 20 steps "
            "after 100"
        )
    first, last = int(found[1]), int(found[2])
    require(
        first < last,
        f"--profile-steps is {text}, which holds no step; the first must be below the last",
    )
    return first, last
