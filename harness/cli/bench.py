"""`harness bench`: a sweep, or a comparison of two versions or settings that take turns."""

import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from rich.console import Console

from harness.base.checks import (
    Number,
    Whole,
    check_batch,
    flag_of,
    parse_share,
    require,
    require_extra,
)
from harness.base.decoding import changed, flattened, from_mapping
from harness.base.errors import InputError, printable
from harness.base.files import json_text, write_json
from harness.base.interrupt import EXIT_INTERRUPTED
from harness.cli import github
from harness.model.options import TableOptimizer
from harness.tools.bench.results import (
    RESULTS_FILE_NAME,
    SKIPPED,
    Cell,
    Row,
    markdown,
    print_sweep,
    read_results,
    summarized,
    varying,
)
from harness.tools.experiment import ExperimentConfig, TrainConfig
from harness.trainer.settings import Precision
from kernels.multi_hot import Implementation

_MAY_CHANGE = ("run_dir", "resume", "overwrite", "repeats", "markdown")  # when a sweep is resumed


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
    """Devices that a batch is spread over; on a CPU, shares of it. With several numbers the table
    has the speed-up and the efficiency against the fewest."""
    weak: bool = False
    """Weak scaling: --batch-size is the rows of one replica, so that a batch grows with them."""
    steps_per_dispatch: tuple[Literal["auto"] | int, ...] = ("auto",)
    """Optimizer steps from one host sync to the next."""
    table_optimizer: TableOptimizer = "auto"
    """What updates the table of the multi-hot layer in every cell, as of `harness train`."""


@dataclass(frozen=True, kw_only=True)
class BenchConfig(ExperimentConfig):
    """Measure training throughput over a grid of settings, each cell in processes of its own. With
    --against, compare two versions or settings that take turns; with --compare, two results."""

    grid: GridConfig = field(default_factory=GridConfig)
    repeats: Annotated[Literal["auto"] | int, Whole()] = "auto"
    """Processes for each cell; with --against, pairs of processes. `auto`: 5; 10 with --against,
    which then detects a slowdown of 5 % on a quiet machine."""
    seconds: Annotated[float, Number(above=0)] = 3.0
    """How long each process trains, warm-up included, compilation excluded; with --against, both
    sides together."""
    own_model: str | None = None
    """Measure a model of your own: MODULE:FUNCTION, a function from inputs to outputs as
    `harness.Trainer` takes it, or a Keras model. It replaces the options of the network."""
    telemetry_hz: float = 5.0
    """How often a second to sample the GPUs and the host. 0 samples nothing."""
    run_dir: str | None = None
    """Folder for the results. Default: runs/bench_ and the time."""
    overwrite: bool = False
    """Replace the results that are already in the folder."""
    resume: bool = False
    """Continue the sweep whose results are in the folder: measure what they lack."""
    markdown: bool = False
    """Print the table as Markdown, as for a comment on a pull request."""
    against: str | None = None
    """Compare with another version or with other settings: the root folder of a checkout, a git
    revision, or a TOML file of settings that override the flags. That side is A; this version
    with the flags is B. They take turns: A B B A."""
    compare: tuple[str, ...] = ()
    """Compare the results.json of two sweeps, A and B, and measure nothing. They did not take
    turns, so a change of the machine's pace in between counts as a difference."""
    fail_if_slower: str | None = None
    """Exit code 1 when B is shown to be slower than A by more than this, as in 5%."""
    fail_if_inconclusive: bool = False
    """With --fail-if-slower: exit code 3 when the interval neither shows nor excludes that."""

    def __post_init__(self) -> None:
        super().__post_init__()
        compares = self.against is not None or len(self.compare) > 0
        if self.fail_if_slower is not None:
            parse_share("--fail-if-slower", self.fail_if_slower)
            needed = "--fail-if-slower needs --against or --compare: what to compare with"
            require(compares, needed)
        ok = self.fail_if_slower is not None or not self.fail_if_inconclusive
        require(ok, "--fail-if-inconclusive needs --fail-if-slower: the slowdown to allow")
        if compares:
            require_extra("bench", "a comparison", "scipy")
            require(not self.resume, "--resume continues a sweep, no comparison; leave it out")
        require(len(self.compare) in (0, 2), "--compare takes two files: A.json B.json")
        ok = self.against is None or not self.compare
        require(ok, "--against measures and --compare does not; leave one of them out")
        ok = not (self.resume and self.overwrite)
        require(ok, "--resume keeps what is there and --overwrite replaces it; leave one out")
        if self.against is not None:
            require(
                self.repeats == "auto" or self.repeats >= 3,
                f"--repeats is {self.repeats}; a comparison needs at least 3 pairs of processes",
            )
        if self.grid.weak:
            ok = all(isinstance(number, int) for number in self.grid.replicas)
            require(ok, "--weak needs numbers of --replicas, as in --replicas 1 2 4")


def bench(config: BenchConfig) -> int:
    """Returns the exit code: 1 if a process ended or --fail-if-slower finds a cell, 3 if
    --fail-if-inconclusive does, 130 if interrupted, else 0."""
    from harness.tools.bench.compare import compare, report

    # The table alone goes to standard output, for a file.
    console = Console(stderr=config.markdown)
    gate = config.fail_if_slower, config.fail_if_inconclusive
    if config.compare:
        a, b = (read_results(Path(path))[1] for path in config.compare)
        rows = [replace(row, side="A", ratio=None) for row in a]
        rows += [replace(row, side="B", ratio=None) for row in b]
        return report(*compare(rows), Console(), *gate, markdown=config.markdown)
    folder = Path(config.run_dir or time.strftime("runs/bench_%Y-%m-%d_%H-%M-%S")).absolute()
    with ExitStack() as closing:
        content, rows, is_interrupted = _measured(config, folder, closing, console)
    notes = [row.note for row in rows if row.note]
    if notes and not any(row.figures for row in rows) and all(SKIPPED in note for note in notes):
        raise InputError(notes[0].removeprefix(SKIPPED))
    code = 0
    if config.against is not None and rows:
        code = report(*compare(rows), Console(), *gate, markdown=config.markdown)
        if code:
            github.error(
                "harness bench", f"--against {config.against}: see the log; exit code {code}"
            )
    elif any(row.figures for row in rows):
        _show(config, folder, content, rows, console)
    if rows:
        console.out(printable(f"results        {folder / RESULTS_FILE_NAME}"))
    # What ended has not passed, nor what a gate could not look at.
    if any(config.against is not None or not note.startswith(SKIPPED) for note in notes):
        code = 1
    return EXIT_INTERRUPTED if is_interrupted else code


def _measured(
    config: BenchConfig, folder: Path, closing: ExitStack, console: Console
) -> tuple[dict[str, Any], list[Row], bool]:
    """Measures what is missing, and writes results.json after each process; returns its content
    without the rows, the rows, and whether Ctrl-C ended it."""
    from harness.data.sources import load_configured
    from harness.run.run_folder import claim
    from harness.tools.bench.measure import Side, cells, find_baseline, measure, provenance

    path = folder / RESULTS_FILE_NAME
    # Everything that may be wrong is checked before anything is measured or replaced.
    claim(folder, closing, what="folder")
    ok = config.overwrite or config.resume or not path.exists()
    remedy = "give --overwrite, --resume, or another --run-dir"
    require(ok, f"{folder} already holds results; {remedy}")
    content = provenance() | {"config": asdict(config)}
    rows = _resumed(path, content) if config.resume else []
    in_folder = tempfile.TemporaryDirectory(dir=folder, prefix=".bench-")
    scratch = Path(closing.enter_context(in_folder))
    sides = [Side(name="B", own_model=config.own_model)]
    if config.against is not None:
        baseline = find_baseline(config.against, scratch=scratch)
        sides.insert(0, replace(baseline, own_model=config.own_model))
    planned, data, measured = cells(asdict(config.grid)), scratch / "data", {}
    for cell in planned:
        named = [settings_of(config, cell, data, over=side.settings) for side in sides]
        measured[cell] = [replace(s, settings=n) for s, n in zip(sides, named, strict=True)]
    dataset = load_configured(config.data)
    why = {cell: _why_impossible(cell, dataset.train.num_rows) for cell in planned}
    if all(why.values()):
        raise InputError(str(why[planned[0]]))
    # In the harness's own format, which each process maps into memory.
    replace(dataset, validation=None).save(data)
    del dataset  # leaves its memory to the measured processes
    usual = 5 if config.against is None else 10
    repeats = range(usual if config.repeats == "auto" else config.repeats)
    # In alternating order, so that a drift of the machine favours no cell.
    order = [(cell, n) for n in repeats for cell in planned[:: 1 if n % 2 == 0 else -1]]
    try:
        for number, (cell, repeat) in enumerate(order, 1):
            mine = [row for row in rows if row.cell == cell]
            if any(row.repeat == repeat or row.note or row.same_as for row in mine):
                continue  # it is there, its process ended and would again, or another one's will do
            label = f"{number}/{len(order)}  {cell.label(varying(planned))}"
            if (reason := why[cell]) is not None:
                new = [Row(cell=cell, repeat=repeat, note=f"{SKIPPED}{reason}")]
            else:
                with console.status(label):
                    new = measure(
                        cell, measured[cell], repeat=repeat, seconds=config.seconds, before=rows
                    )
            rows += new
            write_json(path, content | {"rows": [*map(asdict, rows)]})
            for row in new:
                side_name = f", {row.side}" if len(sides) == 2 else ""
                console.out(printable(f"{label}{side_name}: {row.line}"))
    except KeyboardInterrupt:  # what has been measured is kept
        left = f"{len(rows)} of {len(order) * len(sides)} are measured"
        console.out(f"interrupted: {left}{'' if len(sides) == 2 else '; --resume goes on'}")
        return content, rows, True
    return content, rows, False


def _why_impossible(cell: Cell, num_rows: int) -> str | None:
    replicas = cell.replicas if isinstance(cell.replicas, int) else 1
    try:
        check_batch(batch_size=cell.batch_size, rows=num_rows, replicas=replicas)
    except InputError as error:
        return str(error.args[0])
    return None


def _resumed(path: Path, content: dict[str, Any]) -> list[Row]:
    """Returns the rows of a sweep of the same settings, program and machine."""
    if not path.exists():
        raise InputError(f"{path} is missing, so there is no sweep to resume; leave out --resume")
    before, rows = read_results(path)

    def kept(of: Mapping[str, Any]) -> dict[str, str]:
        settings = {n: v for n, v in flattened(of["config"]).items() if n not in _MAY_CHANGE}
        return {n: json_text(of[n]) for n in ("machine", "gpus", "versions")} | {
            flag_of(name): json_text(value) for name, value in settings.items()
        }

    were, are = kept(before), kept(content)
    changed = [f"{n} was {were.get(n)} and is {are[n]}" for n in are if were.get(n) != are[n]]
    differ = f"{path} is of another sweep: {'; '.join(changed)}"
    require(not changed, f"{differ}; give --overwrite, or another --run-dir")
    return rows


def _show(
    config: BenchConfig, folder: Path, content: Any, rows: Sequence[Row], console: Console
) -> None:
    from harness.tools.bench.files import write_files

    lines = summarized(rows, weak=config.grid.weak)
    text = printable(markdown(lines, content))
    github.step_summary(f"### harness bench\n\n{text}")
    if config.markdown:
        Console().out(text, end="")
    else:
        print_sweep(lines, console)
    for note in write_files(folder, lines):
        console.out(f"note: {note}")


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
        "telemetry_hz": config.telemetry_hz,
        **over,
    }
    where = "the settings to compare with" if over else "the grid"
    return changed(from_mapping(TrainConfig, names, where=where))
