"""What `harness bench` does: checks, measurements in processes of their own, and the report."""

import shlex
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from harness.bench.against import code_state, find_baseline
from harness.bench.charts import draw, write_hparams
from harness.bench.compare import compare_pairs, judge, print_comparison
from harness.bench.measure import Side, measure, measure_pair
from harness.bench.results import AXES, RESULTS_FILE_NAME, Cell, Pair, Results, Row, varying
from harness.bench.sweep import (
    PLOT_FILE_NAME,
    TENSORBOARD_FOLDER_NAME,
    Recorder,
    cells,
    open_folder,
    remaining,
)
from harness.bench.tables import print_table
from harness.child import OWN_CODE, ProcessEndedError
from harness.cli.bench import BenchConfig
from harness.cli.compare import require_package
from harness.cli.train import TrainConfig
from harness.data.options import DataConfig
from harness.data.sources import load_configured
from harness.decoding import changed, flattened, from_mapping
from harness.errors import InputError, as_command, printable
from harness.interrupt import EXIT_INTERRUPTED
from harness.settings import Settings


def run_bench(config: BenchConfig, console: Console) -> int:
    """Runs the command, as `harness.cli.bench.bench` describes it."""
    with ExitStack() as temporary:
        # 1. Everything that may be wrong is checked before anything is measured or removed.
        baseline: Side | None = None
        if config.compares:
            require_package("scipy", "to compare", "leave out --against")
            scratch = Path(temporary.enter_context(tempfile.TemporaryDirectory()))
            baseline, name = find_baseline(config.against, config.against_set, scratch=scratch)
            config = replace(config, against=name)
        elif config.plot == "on":
            require_package("matplotlib", "to draw the plot", "set --plot off")
        dataset = load_configured(config.data)
        planned = cells(vars(config.grid), rows=dataset.train.num_rows)
        folder = open_folder(
            config.bench_dir, temporary, overwrite=config.overwrite, resume=config.resume
        )
        if baseline is not None:
            for cell in planned:
                settings_of(config, cell, folder, over=baseline.settings)
        recorder = Recorder(folder, dataset, asdict(config), resume=config.resume)
        # 2. The measurements. Ctrl-C keeps those that are done.
        in_folder = tempfile.TemporaryDirectory(dir=folder, prefix=".data-")
        data = Path(temporary.enter_context(in_folder)) / "data"
        # In the harness's own format, which each process maps into memory.
        replace(dataset, validation=None).save(data)
        del dataset  # leaves its memory to the measured processes
        try:
            _measure_all(config, baseline, planned, data, recorder, console)
            interrupted = False
        except KeyboardInterrupt:
            interrupted = True
    # 3. The report.
    results = recorder.results
    code = 0
    if results.rows:
        _report(config, results, folder, console)
        code = 1 if any(row.status == "failed" for row in results.rows) else 0
    comparison = compare_pairs(results.pairs)
    if comparison.effects:
        print_comparison(comparison, console)
        code = judge(comparison, console, **vars(config.gate))
    if results.rows or results.pairs:
        console.out(printable(f"results        {folder / RESULTS_FILE_NAME}"))
    if interrupted:
        left = len(remaining(planned, config.num_repeats, results))
        again = f"--bench-dir {shlex.quote(str(folder))} --resume"
        text = (
            f"interrupted with {left} of {len(planned) * config.num_repeats} measurements left; to "
            f"go on, add {again} to the command"
        )
        console.out(printable(text))
        return EXIT_INTERRUPTED
    return code


def _measure_all(
    config: BenchConfig,
    baseline: Side | None,
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
            if baseline is None:
                row = measure(
                    cell,
                    settings_of(config, cell, data),
                    repeat=repeat,
                    seconds=None if config.steps else config.seconds,
                    steps=config.steps,
                )
                recorder.add(row)
                line = _row_line(row)
            else:
                pair = _pair(config, baseline, cell, repeat, data)
                recorder.add(pair)
                line = _pair_line(pair)
        console.out(printable(f"{number}  {cell.label(axes)}: {line}"))


def settings_of(
    config: BenchConfig, cell: Cell, data: Path, *, over: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The settings of `TrainConfig` that the process of a cell trains with, by their bare names,
    without those at their default, so that older versions understand them.

    Args:
        config: of the sweep.
        cell: a point of its grid.
        data: the folder of the data.
        over: settings that override all others.

    Raises:
        InputError: when `over` holds an unknown setting or a wrong value.
    """
    execution: dict[str, Any] = {axis: getattr(cell, axis) for axis in AXES}
    for axis in ("replicas", "steps_per_dispatch"):
        execution[axis] = "auto" if execution[axis] == "auto" else int(execution[axis])
    asked = TrainConfig(
        # The folder holds the rows as they were loaded; `unique` says whether to keep them so.
        data=DataConfig(data=str(data.absolute()), unique=config.data.unique),
        model=config.model,
        optimizer=config.optimizer,
        execution=Settings(
            **execution, seed=config.grid.seed, table_optimizer=config.grid.table_optimizer
        ),
    )
    if over:
        names = flattened(asdict(asked)) | dict(over)
        asked = from_mapping(TrainConfig, names, where="the settings to compare with")
    return changed(asked)


def _pair(config: BenchConfig, baseline: Side, cell: Cell, repeat: int, data: Path) -> Pair:
    a = replace(baseline, settings=settings_of(config, cell, data, over=baseline.settings))
    b = Side(settings=settings_of(config, cell, data), state=code_state(OWN_CODE))
    try:
        return measure_pair(cell, a, b, repeat=repeat, seconds=config.seconds)
    except ProcessEndedError as error:
        raise InputError(
            f"{cell.label()} cannot be compared, because one of the two sides ended: {error}; "
            "leave the cell out"
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


def _report(config: BenchConfig, results: Results, folder: Path, console: Console) -> None:
    """Prints the table, and writes the plot and the event files."""
    print_table(results, console)
    if config.plot == "on":
        draw(results, folder / PLOT_FILE_NAME)
        console.out(printable(f"plot           {folder / PLOT_FILE_NAME}"))
    if config.tensorboard == "on":
        place = folder / TENSORBOARD_FOLDER_NAME
        shutil.rmtree(place, ignore_errors=True)  # of the sweep before it was resumed
        write_hparams(results, place)
        command = as_command(f"tensorboard {shlex.quote(str(place))}")
        console.out(printable(f"cells          {command}"))
