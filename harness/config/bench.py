"""Every setting of `harness bench` and `harness compare`, with its default and its check.

Standard library only, as the rest of this room, and for the same reason.
"""

import itertools
import math
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_type_hints

from harness.config import DataConfig, ExecutionConfig, ModelConfig, OptimizerConfig
from harness.config.checks import require, require_count
from harness.errors import InputError

if TYPE_CHECKING:
    _Implementation = str
    _Precision = str
    _Input = str
else:
    # What a sweep may hold is what a run may be asked for.
    _OF_A_RUN = get_type_hints(ExecutionConfig)
    _Implementation = _OF_A_RUN["implementation"]
    _Precision = _OF_A_RUN["precision"]
    _Input = _OF_A_RUN["input"]

AXES = ("batch_size", "implementation", "precision", "input", "replicas", "steps_per_dispatch")
"""Settings of `ExecutionConfig` that a sweep varies."""


def parse_share(flag: str, text: str) -> float:
    """`5%` or `0.05` as 0.05.

    Raises:
        InputError: when it is neither, or outside [0, 1).
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(%?)", text.strip())
    share = math.nan if match is None else float(match[1]) / (100 if match[2] else 1)
    if not 0 <= share < 1:
        raise InputError(f"{flag} is {text!r}; give a share below 1, as in 5% or 0.05")
    return share


@dataclass(frozen=True, kw_only=True)
class GridConfig:
    """What a sweep varies: every combination is a cell."""

    batch_size: tuple[int, ...] = (32, 128, 500, 2048, 8192)
    """Rows per optimizer step, over all replicas."""

    implementation: tuple[_Implementation, ...] = ("auto",)
    """Of the multi-hot product."""

    precision: tuple[_Precision, ...] = ("auto",)
    """Of the layers' arithmetic."""

    input: tuple[_Input, ...] = ("auto",)
    """How batches reach the device."""

    replicas: tuple[Literal["auto"] | int, ...] = ("auto",)
    """Devices to spread a batch over."""

    steps_per_dispatch: tuple[Literal["auto"] | int, ...] = ("auto",)
    """Optimizer steps in one call of the compiled function."""

    seed: int = 0
    """Of the initial weights, the row order and dropout; the same in every cell."""

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
            ExecutionConfig(**cell, seed=self.seed)  # its own checks
            replicas, batch_size = cell["replicas"], cell["batch_size"]
            if replicas != "auto" and batch_size % replicas:
                raise InputError(
                    f"the grid holds batch size {batch_size} with {replicas} replicas, which do "
                    "not divide it; choose --batch-size and --replicas that go together in every "
                    "combination, or run two sweeps"
                )


@dataclass(frozen=True, kw_only=True)
class BenchConfig:
    """Measure training throughput over a grid of settings, each cell in processes of its own; or,
    with --against, compare two versions or settings in turn."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    grid: GridConfig = field(default_factory=GridConfig)

    repeats: Literal["auto"] | int = "auto"
    """Processes for each cell; with --against, pairs of processes. `auto`: 5; 10 with --against,
    which then finds 5 % on a quiet machine."""

    seconds: float = 3.0
    """How long each process trains, warm-up included and compilation not; with --against, for
    both sides together."""

    steps: int | None = None
    """Optimizer steps that each process trains, instead of a time. Not with --against."""

    bench_dir: str | None = None
    """Folder for results, plot and event files. Left out: runs/bench_ and the time of day."""

    overwrite: bool = False
    """Replace the results that are already in the folder."""

    resume: bool = False
    """Go on with an interrupted sweep in the folder, of the same settings."""

    plot: Literal["on", "off"] = "on"
    """Draw throughput and step time over batch size, as PNG; needs the extra `bench`."""

    tensorboard: Literal["on", "off"] = "on"
    """Write the cells as hyperparameter runs for TensorBoard."""

    against: str | None = None
    """Compare with: the root folder of another checkout, or a TOML file of settings that stand
    over the flags. That side is A, this program with the flags alone is B; they run A B B A."""

    against_set: tuple[str, ...] = ()
    """Compare with other settings, as in: --against-set implementation=gather seed=1"""

    fail_if_slower: str | None = None
    """With --against: exit code 1 when B is shown to be slower than A by more than this, as in
    5%."""

    diagnose: bool = False
    """Instead of the sweep, find what bounds a run at each batch size: parts of the step are left
    out in turn."""

    def __post_init__(self) -> None:
        require_count("--repeats", self.repeats)
        require(0 < self.seconds < math.inf, f"--seconds is {self.seconds}; it must be above 0")
        require(
            self.steps is None or self.steps >= 1, f"--steps is {self.steps}; it must be at least 1"
        )
        require(
            not (self.resume and self.overwrite),
            "--resume and --overwrite exclude each other: one keeps results, one replaces them",
        )
        require(
            not self.resume or self.bench_dir is not None,
            "--resume needs --bench-dir: the folder of the sweep to go on with",
        )
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
            f"--repeats is {self.repeats}; a comparison needs at least 3 pairs of processes, to "
            "tell how far processes of one program differ",
        )
        require(
            self.fail_if_slower is None or self.compares,
            "--fail-if-slower needs --against or --against-set: what to compare with",
        )
        require(
            not (self.diagnose and self.compares),
            "--diagnose does not go with --against; call it once for each side",
        )
        if self.fail_if_slower is not None:
            parse_share("--fail-if-slower", self.fail_if_slower)

    @property
    def num_repeats(self) -> int:
        """`repeats`, settled."""
        if self.repeats == "auto":
            return 10 if self.compares else 5
        return self.repeats

    @property
    def compares(self) -> bool:
        """Whether two sides run in turn."""
        return self.against is not None or bool(self.against_set)


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """Compare two results files of `harness bench`, cell by cell: the ratio of throughput with its
    interval, and the smallest effect that the data could have shown. Machines drift: where both
    versions are at hand, `harness bench --against` sees smaller differences."""

    baseline: str
    """Results file (or folder) A."""

    candidate: str
    """Results file (or folder) B."""

    across_machines: bool = False
    """Compare although the files are from different machines."""

    fail_if_slower: str | None = None
    """Exit code 1 when B is shown to be slower than A by more than this in any cell, as in 5%."""

    def __post_init__(self) -> None:
        if self.fail_if_slower is not None:
            parse_share("--fail-if-slower", self.fail_if_slower)
