"""`harness tune`: its settings. `tune_run` has what it does."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from rich.console import Console

from harness.checks import require, require_count
from harness.cli.train import check_folder
from harness.data.options import DataConfig
from harness.settings import Settings
from harness.tune.space import Space
from harness.tune.study import Objective, Pruner


@dataclass(frozen=True, kw_only=True)
class TuneData(DataConfig):
    """Which data set to use, and how to prepare it. The test rows are never looked at."""

    validation_split: float = 0.2
    """Share of the training rows that judges the trials, the same share of each class."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.validation_split > 0,
            "--validation-split is 0, but a search needs rows to judge by that are not the test "
            "rows; set it to a share of the training rows, as in 0.2",
        )


@dataclass(frozen=True, kw_only=True)
class TuneConfig:
    """Search for the settings that do best on a validation part of the training rows: learning
    rate, width, depth, dropout, weight decay, and for texts n-grams and vocabulary. Needs the extra
    `tune`."""

    data: TuneData = field(default_factory=TuneData)
    space: Space = field(default_factory=Space)
    execution: Settings = field(default_factory=Settings)

    trials: int = 30
    """Settings to try, in all; with --resume, those that were tried before included."""

    epochs: int = 10
    """The most passes over the training rows in a trial; the best one counts."""

    early_stopping: int | None = 2
    """End a trial after so many epochs without a better one. None: never."""

    objective: Objective = "accuracy"
    """What to search the best of, on the validation rows: the highest accuracy or the lowest
    loss."""

    pruner: Pruner = "median"
    """Ends trials early. `median`: those that after an epoch have done worse than the median of the
    others; `halving`: all but the best quarter after 1, 4, 16 ... epochs; `none`: nothing."""

    timeout: float | None = None
    """Start no trial after so many seconds."""

    jobs: Literal["auto"] | int = "auto"
    """Trials at the same time, each in a process of its own on its own GPU, or with its share of
    the CPU's cores. `auto`: one for each GPU; on a CPU one."""

    tune_dir: str | None = None
    """Folder for the study, the event files and best.toml. Default: runs/tune_ and the time."""

    overwrite: bool = False
    """Replace the search that is already in the folder."""

    resume: bool = False
    """Go on with a search in the folder, with the same settings, however it ended."""

    def __post_init__(self) -> None:
        require_count("--trials", self.trials)
        require_count("--epochs", self.epochs)
        require_count("--jobs", self.jobs)
        require(
            self.execution.replicas in ("auto", 1),
            f"--replicas is {self.execution.replicas}, but each trial has one device; leave it "
            "out, and set --jobs to the number of trials at the same time",
        )
        if self.early_stopping is not None:
            require_count("--early-stopping", self.early_stopping)
        if self.timeout is not None:
            ok = 0 < self.timeout < math.inf
            require(ok, f"--timeout is {self.timeout}; it must be above 0")
        check_folder("--tune-dir", self.tune_dir, resume=self.resume, overwrite=self.overwrite)


def tune(config: TuneConfig) -> int:
    """Runs the command.

    Returns:
        Its exit code: 1 when no trial came to its end, 130 when interrupted.

    Raises:
        InputError: when the settings do not fit the data, the folder or the machine.
        OSError: when the disk is full, naming the file.
    """
    from harness.cli.tune_run import run_tune

    return run_tune(config, Console())
