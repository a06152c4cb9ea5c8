"""`harness bench`: its settings. `bench_run` has what it does."""

import itertools
import math
from dataclasses import dataclass, field
from typing import Any, Literal

from rich.console import Console

from harness.bench.results import AXES
from harness.checks import parse_share, require, require_count, require_even_shares
from harness.cli.train import ExperimentConfig, check_folder
from harness.errors import InputError
from harness.settings import Precision, Settings, TableOptimizer
from kernels.multi_hot import Implementation


@dataclass(frozen=True, kw_only=True)
class GridConfig:
    """What a sweep varies. Every combination is a cell."""

    batch_size: tuple[int, ...] = (32, 128, 500, 2048, 8192)
    """Rows per optimizer step, over all replicas."""

    implementation: tuple[Literal["auto", Implementation], ...] = ("auto",)
    """How the multi-hot product is computed."""

    precision: tuple[Literal["auto", Precision], ...] = ("auto",)
    """Number format of the layers' arithmetic."""

    input: tuple[Literal["auto", "stream", "resident", "mapped"], ...] = ("auto",)
    """How batches reach the device."""

    replicas: tuple[Literal["auto"] | int, ...] = ("auto",)
    """Devices that a batch is spread over."""

    steps_per_dispatch: tuple[Literal["auto"] | int, ...] = ("auto",)
    """Optimizer steps in one call of the compiled function."""

    table_optimizer: TableOptimizer = "auto"
    """What updates the table of the multi-hot layer in every cell, as of `harness train`."""

    seed: int = 0
    """Seed of the initial weights, the row order and dropout; the same in every cell."""

    def __post_init__(self) -> None:
        for axis in AXES:
            values: tuple[Any, ...] = getattr(self, axis)
            flag = f"--{axis.replace('_', '-')}"
            if not values:
                raise InputError(f"{flag} is empty; name at least one value")
            twice = [value for value in dict.fromkeys(values) if values.count(value) > 1]
            if twice:
                raise InputError(f"{flag} names {twice[0]} more than once; name each value once")
        for point in itertools.product(*(getattr(self, axis) for axis in AXES)):
            cell = dict(zip(AXES, point, strict=True))
            Settings(**cell, seed=self.seed, table_optimizer=self.table_optimizer)  # its checks
            if cell["replicas"] != "auto":
                require_even_shares(cell["batch_size"], cell["replicas"])


@dataclass(frozen=True, kw_only=True)
class GateConfig:
    """For CI: exit codes that tell whether B is slower than A in any cell."""

    fail_if_slower: str | None = None
    """Exit code 1 when B is shown to be slower than A by more than this, as in 5%."""

    fail_if_inconclusive: bool = False
    """With --fail-if-slower: exit code 3 when the interval neither shows nor excludes that."""

    def __post_init__(self) -> None:
        if self.fail_if_slower is not None:
            parse_share("--fail-if-slower", self.fail_if_slower)
        require(
            self.fail_if_slower is not None or not self.fail_if_inconclusive,
            "--fail-if-inconclusive needs --fail-if-slower: the slowdown to allow",
        )


@dataclass(frozen=True, kw_only=True)
class BenchConfig(ExperimentConfig):
    """Measure training throughput over a grid of settings, each cell in processes of its own. With
    --against, compare two versions or settings that take turns."""

    grid: GridConfig = field(default_factory=GridConfig)

    repeats: Literal["auto"] | int = "auto"
    """Processes for each cell; with --against, pairs of processes. `auto`: 5; 10 with --against,
    which then detects a slowdown of 5 % on a quiet machine."""

    seconds: float = 3.0
    """How long each process trains, warm-up included, compilation excluded; with --against, both
    sides together."""

    steps: int | None = None
    """Optimizer steps that each process trains, instead of a time. Not with --against."""

    bench_dir: str | None = None
    """Folder for results, plot and event files. Default: runs/bench_ and the time."""

    overwrite: bool = False
    """Replace the results that are already in the folder."""

    resume: bool = False
    """Go on with an interrupted sweep in the folder, with the same settings."""

    plot: Literal["on", "off"] = "on"
    """Draw throughput and step time over batch size, as PNG; needs the extra `bench`."""

    tensorboard: Literal["on", "off"] = "on"
    """Write the cells as hyperparameter runs for TensorBoard."""

    against: str | None = None
    """Compare with another version or with other settings: the root folder of a checkout, a git
    revision, or a TOML file of settings that override the flags. That side is A; this version
    with the flags is B. They take turns: A B B A."""

    against_set: tuple[str, ...] = ()
    """Compare with other settings, as in: --against-set implementation=gather seed=1"""

    gate: GateConfig = field(default_factory=GateConfig)

    def __post_init__(self) -> None:
        require_count("--repeats", self.repeats)
        require(0 < self.seconds < math.inf, f"--seconds is {self.seconds}; it must be above 0")
        require(
            self.steps is None or self.steps >= 1, f"--steps is {self.steps}; it must be at least 1"
        )
        check_folder("--bench-dir", self.bench_dir, resume=self.resume, overwrite=self.overwrite)
        require(
            self.against is None or not self.against_set,
            "--against and --against-set exclude each other; put the settings into the file",
        )
        require(
            self.steps is None or not self.compares,
            "--steps does not go with --against, whose sides take turns by time; set --seconds",
        )
        require(
            self.num_repeats >= 3 or not self.compares,
            f"--repeats is {self.repeats}; a comparison needs at least 3 pairs of processes to "
            "estimate how much processes of one program differ",
        )
        require(
            self.gate.fail_if_slower is None or self.compares,
            "--fail-if-slower needs --against or --against-set: what to compare with",
        )

    @property
    def num_repeats(self) -> int:
        """`repeats` with `auto` resolved."""
        if self.repeats == "auto":
            return 10 if self.compares else 5
        return self.repeats

    @property
    def compares(self) -> bool:
        """Whether two sides take turns."""
        return self.against is not None or bool(self.against_set)


def bench(config: BenchConfig) -> int:
    """Runs the command.

    Returns:
        Its exit code: 1 when a cell failed for another reason than memory or --fail-if-slower
        found one, 3 when --fail-if-inconclusive found one, 130 when interrupted.

    Raises:
        InputError: when the settings do not fit the data, the folder or the machine.
        OSError: when the disk is full, naming the file.
    """
    from harness.cli.bench_run import run_bench

    return run_bench(config, Console())
