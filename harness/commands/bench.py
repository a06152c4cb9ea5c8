"""`harness bench`: measure throughput over a grid of settings, each cell in its own processes."""

import shlex
import shutil
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

from harness.bench.against import Side, measure_pair
from harness.bench.cell import measure
from harness.bench.compare import compare_pairs
from harness.bench.comparison_table import print_comparison
from harness.bench.jobs import job, settings_of_file, settings_of_words, write_data
from harness.bench.plot import draw
from harness.bench.process import OWN_CODE, OutOfMemoryError, ProcessFailedError, check_code
from harness.bench.rows import RESULTS_FILE_NAME, Cell, Pair, Results, Row
from harness.bench.sweep import cells, remaining
from harness.bench.table import print_table, varying
from harness.commands.bench_diagnose import diagnose_all
from harness.commands.bench_folder import (
    DIAGNOSIS_FILE_NAME,
    PLOT_FILE_NAME,
    TENSORBOARD_FOLDER_NAME,
    Recorder,
    begin,
    check_folder,
)
from harness.commands.compare import require_package, verdict
from harness.commands.interrupt import EXIT_INTERRUPTED
from harness.config.bench import BenchConfig
from harness.data.sources import load_configured
from harness.errors import InputError
from harness.files import write_json
from harness.quiet import quiet_import


def bench(config: BenchConfig, console: Console | None = None) -> int:
    """Runs the command.

    Returns:
        Its exit code: 1 when a cell failed for another reason than memory or --fail-if-slower
        found one, 130 when interrupted.

    Raises:
        InputError: when the settings do not fit the data, the folder or the machine.
        OSError: when the disk is full, naming the file.
    """
    console = console or Console()
    # 1. What may be wrong is found before anything runs.
    against = _Against.of(config) if config.compares else None
    if against is not None:
        require_package("scipy", "to compare", "leave out --against")
    elif config.plot == "on" and not config.diagnose:
        require_package("matplotlib", "to draw the plot", "set --plot off")
    dataset = load_configured(config.data)
    planned = cells(config.grid, rows=dataset.train.num_rows)
    folder = check_folder(config)
    if against is not None:
        for cell in planned:  # wrong settings are found before anything is removed or runs
            job(config, cell, folder, over=against.over)
    recorder = Recorder(begin(config, folder, dataset), folder)
    # 2. The measurements. Ctrl-C keeps those that are done.
    interrupted = False
    with tempfile.TemporaryDirectory(dir=folder, prefix=".data-") as temporary:
        data = Path(temporary) / "data"
        write_data(dataset, data)
        del dataset  # the memory is for the processes that are measured
        if config.diagnose:
            found = diagnose_all(config, planned, data, console)
            write_json(folder / DIAGNOSIS_FILE_NAME, found)
            console.print(Text(f"diagnosis      {folder / DIAGNOSIS_FILE_NAME}"), soft_wrap=True)
            return 0
        try:
            _measure_all(config, against, planned, data, recorder, console)
        except KeyboardInterrupt:
            interrupted = True
    # 3. What they come to.
    results = recorder.results
    code = 0
    if results.rows:
        _report(config, results, folder, console)
        code = 1 if any(row.status == "failed" for row in results.rows) else 0
    comparison = compare_pairs(results.pairs)
    if comparison.cells:
        print_comparison(comparison, console)
        code = verdict(comparison, config.fail_if_slower, console)
    if results.rows or results.pairs:
        console.print(Text(f"results        {folder / RESULTS_FILE_NAME}"), soft_wrap=True)
    if interrupted:
        left = len(remaining(planned, config.num_repeats, results))
        again = f"--bench-dir {shlex.quote(str(folder))} --resume"
        text = f"interrupted with {left} measurements left; the same command with {again} goes on"
        console.print(Text(text), soft_wrap=True)
        return EXIT_INTERRUPTED
    return code


def _report(config: BenchConfig, results: Results, folder: Path, console: Console) -> None:
    """Prints the table, and writes what else was asked for."""
    print_table(results, console)
    if config.plot == "on":
        draw(results, folder / PLOT_FILE_NAME)
        console.print(Text(f"plot           {folder / PLOT_FILE_NAME}"), soft_wrap=True)
    if config.tensorboard == "on":
        with quiet_import():  # which takes seconds, and memory that the cells should have had
            from harness.bench.hparams import write_hparams
        place = folder / TENSORBOARD_FOLDER_NAME
        shutil.rmtree(place, ignore_errors=True)  # of the sweep before it was resumed
        write_hparams(results, place)
        where = shlex.quote(str(place))
        console.print(Text(f"cells          tensorboard --logdir {where}"), soft_wrap=True)


class _Against:
    """Side A of a comparison: other settings over those of the flags, or other code."""

    def __init__(self, *, over: dict[str, object], code: Path) -> None:
        self.over = over
        self.code = code

    @classmethod
    def of(cls, config: BenchConfig) -> "_Against":
        """What `--against` or `--against-set` names.

        Raises:
            InputError: when it is neither a checkout that can be measured nor settings.
        """
        if config.against is None:
            return cls(over=settings_of_words(config.against_set), code=OWN_CODE)
        path = Path(config.against).absolute()
        if path.is_dir():
            check_code(path)
            return cls(over={}, code=path)
        return cls(over=settings_of_file(path), code=OWN_CODE)


def _measure_all(
    config: BenchConfig,
    against: _Against | None,
    planned: tuple[Cell, ...],
    data: Path,
    recorder: Recorder,
    console: Console,
) -> None:
    """Measures what is left of the grid, one process (or pair of them) after another."""
    axes = varying(planned)
    total = len(planned) * config.num_repeats
    while left := remaining(planned, config.num_repeats, recorder.results):
        cell, repeat = left[0]
        number = f"{total - len(left) + 1:>{len(str(total))}}/{total}"
        with console.status(f"{number} {cell.label(axes)}"):
            if against is None:
                measured: Row | Pair = measure(
                    cell,
                    job(config, cell, data),
                    repeat=repeat,
                    seconds=None if config.steps else config.seconds,
                    steps=config.steps,
                )
            else:
                measured = _pair(config, against, cell, repeat, data)
        recorder.add(measured)
        line = _row_line(measured) if isinstance(measured, Row) else _pair_line(measured)
        console.print(Text(f"{number}  {cell.label(axes)}: {line}"), soft_wrap=True)


def _pair(config: BenchConfig, against: _Against, cell: Cell, repeat: int, data: Path) -> Pair:
    a = Side(job=job(config, cell, data, over=against.over), code=against.code)
    b = Side(job=job(config, cell, data))
    try:
        return measure_pair(cell, a, b, repeat=repeat, seconds=config.seconds)
    except (OutOfMemoryError, ProcessFailedError) as error:
        raise InputError(
            f"{cell.label()} cannot be compared, one of the two sides ended: {error}; leave the "
            "cell out"
        ) from error


def _row_line(row: Row) -> str:
    if row.figures is None:
        return f"{row.status}: {row.note}"
    rate = row.figures.examples_per_second
    text = (
        f"{rate.median:,.0f} examples/s ({rate.p20:,.0f} - {rate.p80:,.0f}), warm-up "
        f"{row.num_warm_up_windows} of {len(row.windows.seconds)} windows"
    )
    return "; ".join([text, *row.marks])


def _pair_line(pair: Pair) -> str:
    a, b = pair.examples_per_second_a, pair.examples_per_second_b
    return "; ".join([f"A {a:,.0f}, B {b:,.0f} examples/s, B / A {b / a:.3f}", *pair.marks])
