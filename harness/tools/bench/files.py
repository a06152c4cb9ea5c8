"""What a sweep leaves beside results.json: results.csv, results.png, and pages for TensorBoard."""

import contextlib
import importlib.util
import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from harness.base.quiet import quiet_import
from harness.tools.bench.results import Cell, csv_text, varying
from kernels.files import replacing

CSV_FILE_NAME, PLOT_FILE_NAME, TENSORBOARD_FOLDER_NAME = "results.csv", "results.png", "tensorboard"
Lines = Mapping[Cell, Mapping[str, Any]]
# What TensorBoard's pages show of a sweep, in their order.
_SHOWN = (
    *("examples_per_second", "step_time_ms_p50", "gpu_utilization_percent"),
    *("mean_examples_per_second", "steps_per_second", "compile_seconds", "peak_rss_bytes"),
)


def write_files(folder: Path, lines: Lines) -> list[str]:
    """Writes the files from what `summarized` returns; returns notes on those that it left out."""
    with replacing(folder / CSV_FILE_NAME) as beside:
        beside.write_text(csv_text(lines), encoding="utf-8")
    measured = {cell: figures for cell, figures in lines.items() if "note" not in figures}
    _write_events(folder / TENSORBOARD_FOLDER_NAME, measured)
    if importlib.util.find_spec("matplotlib") is None:
        return [f"{PLOT_FILE_NAME} needs matplotlib; pip install 'multi-hot-harness[bench]'"]
    with replacing(folder / PLOT_FILE_NAME) as beside:
        plot(measured, beside)
    return []


def series_of(lines: Lines) -> dict[str, list[tuple[Cell, Mapping[str, Any]]]]:
    """Returns the cells that differ in their batch size alone, by the name that they share."""
    found = defaultdict(list)
    axes = [axis for axis in varying(lines) if axis != "batch_size"]
    for cell in sorted(lines, key=lambda cell: cell.batch_size):
        found[cell.label(axes) or "all"].append((cell, lines[cell]))
    return dict(found)


def plot(lines: Lines, path: Path) -> None:
    """Draws examples/s and the time of a step over the batch size, with intervals, as PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator

    figure = Figure(figsize=(10, 4), layout="constrained")
    rates, times = figure.subplots(1, 2)
    for name, cells in series_of(lines).items():
        sizes = [cell.batch_size for cell, _ in cells]
        for axes, names in (
            (rates, ("examples_per_second", "low", "high")),
            (times, ("step_time_ms_p50", "step_time_ms_p50", "step_time_ms_p99")),
        ):
            middle, low, high = ([figures[n] for _, figures in cells] for n in names)
            errors = [[m - one for m, one in zip(middle, low, strict=True)]]
            errors += [[one - m for m, one in zip(middle, high, strict=True)]]
            axes.errorbar(sizes, middle, yerr=errors, marker="o", capsize=3, label=name)
    rates.set_ylim(bottom=0)
    times.set_yscale("log")
    times.set_ylim(times.get_ylim()[0] / 2, times.get_ylim()[1] * 2)
    times.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    for axes, label in (
        (rates, "examples/s, interval of the median"),
        (times, "ms a step, p50 to p99"),
    ):
        sizes = sorted({cell.batch_size for cell in lines})
        axes.set_xscale("log")
        axes.set_xticks(sizes, [f"{size:,}" for size in sizes], minor=False)
        axes.minorticks_off()
        axes.set(xlabel="batch size", ylabel=label)
        axes.yaxis.set_major_formatter("{x:,g}")
        axes.grid(alpha=0.3)
    if len(series_of(lines)) > 1:
        figure.legend(*rates.get_legend_handles_labels(), loc="outside lower center")
    FigureCanvasAgg(figure).print_png(path)


def _write_events(folder: Path, lines: Lines) -> None:
    """Writes a run for each series, with curves over the batch size as the step, and one for each
    cell, a row of the HParams page."""
    with quiet_import():
        from tensorboard.plugins.hparams import summary_v2

        from harness.run.observers.tensorboard import scalars

    shutil.rmtree(folder, ignore_errors=True)
    for name, cells in series_of(lines).items():
        with _events(folder / name) as write_curves:
            for cell, figures in cells:
                shown = {n: figures[n] for n in _SHOWN if n in figures}
                write_curves(cell.batch_size, scalars({f"sweep/{n}": v for n, v in shown.items()}))
                with _events(folder / "cells" / cell.label(varying(lines))) as write_row:
                    write_row(0, summary_v2.hparams_pb(asdict(cell)))
                    values = scalars({f"cell/{n}": v for n, v in shown.items()})
                    write_row(cell.batch_size, values)


@contextlib.contextmanager
def _events(folder: Path) -> Iterator[Callable[[int, Any], None]]:
    """Yields a function that writes a plugin's `Summary` at a step into a new event file."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    writer = EventFileWriter(str(folder))

    def write(step: int, summary: Any) -> None:
        # As bytes: some are of TensorFlow's class of that name, others of TensorBoard's.
        own = Summary.FromString(summary.SerializeToString())
        writer.add_event(Event(wall_time=time.time(), step=step, summary=own))

    yield write
    writer.close()
