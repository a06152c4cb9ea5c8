"""`harness bench`: a sweep, or a comparison of two versions or settings that take turns."""

import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from rich.console import Console

from harness.base.checks import Number, Whole, check_batch, parse_share, require, require_extra
from harness.base.decoding import changed, from_mapping
from harness.base.errors import printable
from harness.base.files import write_json
from harness.base.interrupt import EXIT_INTERRUPTED
from harness.model.options import TableOptimizer
from harness.tools.bench.results import RESULTS_FILE_NAME, Cell, Row, print_table, varying
from harness.tools.experiment import ExperimentConfig, TrainConfig
from harness.trainer.settings import Precision
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
    """Devices that a batch is spread over; on a CPU, shares of it."""
    steps_per_dispatch: tuple[Literal["auto"] | int, ...] = ("auto",)
    """Optimizer steps from one host sync to the next."""
    table_optimizer: TableOptimizer = "auto"
    """What updates the table of the multi-hot layer in every cell, as of `harness train`."""


@dataclass(frozen=True, kw_only=True)
class BenchConfig(ExperimentConfig):
    """Measure training throughput over a grid of settings, each cell in processes of its own. With
    --against, compare two versions or settings that take turns."""

    grid: GridConfig = field(default_factory=GridConfig)
    repeats: Annotated[Literal["auto"] | int, Whole()] = "auto"
    """Processes for each cell; with --against, pairs of processes. `auto`: 5; 10 with --against,
    which then detects a slowdown of 5 % on a quiet machine."""
    seconds: Annotated[float, Number(above=0)] = 3.0
    """How long each process trains, warm-up included, compilation excluded; with --against, both
    sides together."""
    run_dir: str | None = None
    """Folder for the results. Default: runs/bench_ and the time."""
    overwrite: bool = False
    """Replace the results that are already in the folder."""
    against: str | None = None
    """Compare with another version or with other settings: the root folder of a checkout, a git
    revision, or a TOML file of settings that override the flags. That side is A; this version
    with the flags is B. They take turns: A B B A."""
    fail_if_slower: str | None = None
    """Exit code 1 when B is shown to be slower than A by more than this, as in 5%."""
    fail_if_inconclusive: bool = False
    """With --fail-if-slower: exit code 3 when the interval neither shows nor excludes that."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.fail_if_slower is not None:
            parse_share("--fail-if-slower", self.fail_if_slower)
            needed = "--fail-if-slower needs --against: what to compare with"
            require(self.against is not None, needed)
        ok = self.fail_if_slower is not None or not self.fail_if_inconclusive
        require(ok, "--fail-if-inconclusive needs --fail-if-slower: the slowdown to allow")
        if self.against is not None:
            require_extra("bench", "a comparison", "scipy")
            require(
                self.repeats == "auto" or self.repeats >= 3,
                f"--repeats is {self.repeats}; a comparison needs at least 3 pairs of processes",
            )


def bench(config: BenchConfig) -> int:
    """Returns the exit code: 1 if a process ended or --fail-if-slower finds a cell, 3 if
    --fail-if-inconclusive does, 130 if interrupted, else 0."""
    from harness.data.sources import load_configured
    from harness.run.run_folder import claim
    from harness.tools.bench.measure import Side, cells, find_baseline, measure, provenance

    console, compares = Console(), config.against is not None
    folder = Path(config.run_dir or time.strftime("runs/bench_%Y-%m-%d_%H-%M-%S")).absolute()
    path = folder / RESULTS_FILE_NAME
    with ExitStack() as closing:
        # Everything that may be wrong is checked before anything is measured or replaced.
        claim(folder, closing, what="folder")
        ok = config.overwrite or not path.exists()
        require(ok, f"{folder} already holds results; give --overwrite, or another --run-dir")
        in_folder = tempfile.TemporaryDirectory(dir=folder, prefix=".bench-")
        scratch = Path(closing.enter_context(in_folder))
        sides = [Side(name="B")]
        if config.against is not None:
            sides.insert(0, find_baseline(config.against, scratch=scratch))
        planned, data, measured = cells(vars(config.grid)), scratch / "data", {}
        for cell in planned:
            named = [settings_of(config, cell, data, over=side.settings) for side in sides]
            measured[cell] = [replace(s, settings=n) for s, n in zip(sides, named, strict=True)]
        dataset = load_configured(config.data)
        num_rows = dataset.train.num_rows
        for cell in planned:
            replicas = cell.replicas if isinstance(cell.replicas, int) else 1
            check_batch(batch_size=cell.batch_size, rows=num_rows, replicas=replicas)
        # In the harness's own format, which each process maps into memory.
        replace(dataset, validation=None).save(data)
        results = provenance() | {"config": asdict(config)}
        rows: list[Row] = []
        del dataset  # leaves its memory to the measured processes
        usual = 10 if compares else 5
        repeats = range(usual if config.repeats == "auto" else config.repeats)
        # In alternating order, so that a drift of the machine favours no cell.
        order = [(cell, n) for n in repeats for cell in planned[:: 1 if n % 2 == 0 else -1]]
        interrupted = False
        try:
            for number, (cell, repeat) in enumerate(order, 1):
                if any(row.note for row in rows if row.cell == cell):
                    continue  # its process ended, and would do so again
                label = f"{number}/{len(order)}  {cell.label(varying(planned))}"
                with console.status(label):
                    new = measure(cell, measured[cell], repeat=repeat, seconds=config.seconds)
                rows += new
                write_json(path, results | {"rows": [*map(asdict, rows)]})
                for row in new:
                    side_name = f", {row.side}" if compares else ""
                    console.out(printable(f"{label}{side_name}: {row.line}"))
        except KeyboardInterrupt:  # what has been measured is kept
            interrupted = True
    code = 0
    if rows:
        if compares:
            from harness.tools.bench.compare import compare, report

            gate = config.fail_if_slower, config.fail_if_inconclusive
            code = report(*compare(rows), console, *gate)
        else:
            print_table(rows, console)
        console.out(printable(f"results        {path}"))
    if any(row.note for row in rows):
        code = 1  # what could not be measured has not passed
    return EXIT_INTERRUPTED if interrupted else code


def settings_of(
    config: BenchConfig, cell: Cell, data: Path, *, over: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns the settings that the process of a cell trains with, by their bare names, without
    those at their defaults, so that older versions understand them."""
    names: dict[str, Any] = {
        # The folder holds the rows as they were loaded; `unique` says whether to keep them so.
        "data": str(data.absolute()),
        "unique": config.data.unique,
        **asdict(config.model),
        **asdict(config.optimizer),
        **vars(cell),
        "table_optimizer": config.grid.table_optimizer,
        **over,
    }
    where = "the settings to compare with" if over else "the grid"
    return changed(from_mapping(TrainConfig, names, where=where))
