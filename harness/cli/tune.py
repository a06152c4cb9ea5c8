"""The settings of `harness tune`, which `tune_run` runs."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, field

from harness.base.checks import require
from harness.data.options import DataConfig
from harness.tools.tune.space import SearchConfig, Space
from harness.trainer.settings import Settings, check_folder


@dataclass(frozen=True, kw_only=True)
class TuneData(DataConfig):
    """The data set to use, and how to prepare it. The test rows are never looked at."""

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
class TuneConfig(SearchConfig):
    """Search for the settings that do best on a validation part of the training rows: learning
    rate, width, depth, dropout, weight decay, and for texts n-grams and vocabulary. The recipe of
    `train` is the first trial, and the rest of it holds for all. Needs the extra `tune`."""

    data: TuneData = field(default_factory=TuneData)
    space: Space = field(default_factory=Space)
    execution: Settings = field(default_factory=Settings)
    tune_dir: str | None = None
    """Folder for the study, the trials' folders and best.toml. Default: runs/tune_ and the time."""
    overwrite: bool = False
    """Replace the search that is already in the folder."""
    resume: bool = False
    """Go on with a search in the folder, with the same settings, however it ended."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.execution.replicas in ("auto", 1),
            f"--replicas is {self.execution.replicas}, but each trial has one device; leave it "
            "out, and set --jobs to the number of trials at the same time",
        )
        check_folder("--tune-dir", self.tune_dir, resume=self.resume, overwrite=self.overwrite)


def tune(config: TuneConfig, *, given: Set[str] = frozenset()) -> int:
    """Runs the command, as `harness.cli.tune_run.run_tune` describes it."""
    from harness.cli.tune_run import run_tune

    return run_tune(config, given)
