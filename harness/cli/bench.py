"""`harness bench`: checks, measurements in processes of their own, and the report."""

from __future__ import annotations

import itertools
import math
import shlex
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console

from harness.base.checks import (
    parse_share,
    require,
    require_count,
    require_even_shares,
    require_extra,
)
from harness.base.child import OWN_CODE
from harness.base.decoding import changed, from_mapping
from harness.base.errors import InputError, as_command, printable
from harness.base.interrupt import EXIT_INTERRUPTED
from harness.cli.settings import ExperimentConfig, TrainConfig, check_folder
from harness.tools.bench.results import (
    AXES,
    RESULTS_FILE_NAME,
    Cell,
    Pair,
    Results,
    Row,
    varying,
    write_results,
)
from harness.trainer.settings import Precision, Settings, TableOptimizer
from kernels.multi_hot import Implementation

if TYPE_CHECKING:
    from harness.tools.bench.against import Side


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
    """Exit codes for CI, which tell whether B is slower than A in any cell."""

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
        require_count("--steps", 1 if self.steps is None else self.steps)
        check_folder("--bench-dir", self.bench_dir, resume=self.resume, overwrite=self.overwrite)
        if not self.compares:
            require(
                self.gate.fail_if_slower is None,
                "--fail-if-slower needs --against or --against-set: what to compare with",
            )
            return
        require(
            self.against is None or not self.against_set,
            "--against and --against-set exclude each other; put the settings into the file",
        )
        require(
            self.steps is None,
            "--steps does not go with --against, whose sides take turns by time; set --seconds",
        )
        require(
            self.num_repeats >= 3,
            f"--repeats is {self.repeats}; a comparison needs at least 3 pairs of processes to "
            "estimate how much processes of one program differ",
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
    """Runs the command, and returns its exit code: 1 when a cell failed for another reason than
    memory or --fail-if-slower found one, 3 when --fail-if-inconclusive did, 130 when interrupted.
    """
    from harness.data.sources import load_configured
    from harness.tools.bench import sweep
    from harness.tools.bench.against import find_baseline

    console = Console()
    with ExitStack() as temporary:
        # 1. Everything that may be wrong is checked before anything is measured or removed.
        baseline: Side | None = None
        if config.compares:
            require_extra("bench", "a comparison", "scipy")
            scratch = Path(temporary.enter_context(tempfile.TemporaryDirectory()))
            baseline, name = find_baseline(config.against, config.against_set, scratch=scratch)
            config = replace(config, against=name)
        elif config.plot == "on":
            require_extra("bench", "the plot of --plot on", "matplotlib")
        dataset = load_configured(config.data)
        planned = sweep.cells(vars(config.grid), rows=dataset.train.num_rows)
        folder = sweep.open_folder(
            config.bench_dir, temporary, overwrite=config.overwrite, resume=config.resume
        )
        for cell in planned:
            settings_of(config, cell, folder, over=baseline.settings if baseline else None)
        results = sweep.begin(folder, dataset, asdict(config), resume=config.resume)
        # 2. The measurements. Ctrl-C keeps those that are done.
        in_folder = tempfile.TemporaryDirectory(dir=folder, prefix=".data-")
        data = Path(temporary.enter_context(in_folder)) / "data"
        # In the harness's own format, which each process maps into memory.
        replace(dataset, validation=None).save(data)
        del dataset  # leaves its memory to the measured processes
        total = len(planned) * config.num_repeats
        try:
            while left := sweep.remaining(planned, config.num_repeats, results):
                cell, repeat = left[0]
                number = f"{total - len(left) + 1:>{len(str(total))}}/{total}"
                label = cell.label(varying(planned))
                with console.status(f"{number} {label}"):
                    measured = _measured(config, cell, repeat, data, baseline)
                    results = results.plus(measured)
                    write_results(folder / RESULTS_FILE_NAME, results)
                console.out(printable(f"{number}  {label}: {measured.line}"))
        except KeyboardInterrupt:
            left = sweep.remaining(planned, config.num_repeats, results)
    code = _report(config, results, folder, console)
    if left:
        again = f"--bench-dir {shlex.quote(str(folder))} --resume"
        text = f"interrupted with {len(left)} of {total} measurements left; to go on, add {again}"
        console.out(printable(f"{text} to the command"))
    return EXIT_INTERRUPTED if left else code


def _measured(
    config: BenchConfig, cell: Cell, repeat: int, data: Path, baseline: Side | None
) -> Row | Pair:
    from harness.tools.bench.against import Side, code_state
    from harness.tools.bench.measure import measure, measure_pair
    from harness.tools.bench.process import ProcessEndedError

    settings = settings_of(config, cell, data)
    if baseline is None:
        seconds = None if config.steps else config.seconds
        return measure(cell, settings, repeat=repeat, seconds=seconds, steps=config.steps)
    a = replace(baseline, settings=settings_of(config, cell, data, over=baseline.settings))
    b = Side(settings=settings, state=code_state(OWN_CODE))
    try:
        return measure_pair(cell, a, b, repeat=repeat, seconds=config.seconds)
    except ProcessEndedError as error:
        raise InputError(
            f"{cell.label()} cannot be compared, because one of the two sides ended: {error}; "
            "leave the cell out"
        ) from error


def settings_of(
    config: BenchConfig, cell: Cell, data: Path, *, over: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The settings of `TrainConfig` that the process of a cell trains with, by their bare names,
    without those at their default, so that older versions understand them. Raises InputError when
    `over`, which overrides all others, holds an unknown setting or a wrong value."""
    names: dict[str, Any] = {
        # The folder holds the rows as they were loaded; `unique` says whether to keep them so.
        "data": str(data.absolute()),
        "unique": config.data.unique,
        **asdict(config.model),
        **asdict(config.optimizer),
        **{axis: int(v) if str(v).isdigit() else v for axis, v in vars(cell).items()},
        "seed": config.grid.seed,
        "table_optimizer": config.grid.table_optimizer,
        **(over or {}),
    }
    return changed(from_mapping(TrainConfig, names, where="the settings to compare with"))


def _report(config: BenchConfig, results: Results, folder: Path, console: Console) -> int:
    """Prints the tables, writes the plot and the event files, and returns the exit code."""
    from harness.tools.bench import show, sweep
    from harness.tools.bench.compare import compare_pairs, judge, print_comparison

    code = 0
    if results.rows:
        show.print_table(results, console)
        code = 1 if any(row.status == "failed" for row in results.rows) else 0
        if config.plot == "on":
            plot = folder / sweep.PLOT_FILE_NAME
            show.draw(results, plot)
            console.out(printable(f"plot           {plot}"))
        if config.tensorboard == "on":
            place = folder / sweep.TENSORBOARD_FOLDER_NAME
            shutil.rmtree(place, ignore_errors=True)  # of the sweep before it was resumed
            show.write_hparams(results, place)
            command = as_command(f"tensorboard {shlex.quote(str(place))}")
            console.out(printable(f"cells          {command}"))
    comparison = compare_pairs(results.pairs)
    if comparison.effects:
        print_comparison(comparison, console)
        code = judge(comparison, console, **vars(config.gate))
    if results.cells:
        console.out(printable(f"results        {folder / RESULTS_FILE_NAME}"))
    return code
