"""A sweep as pictures: a plot of throughput over batch size, and TensorBoard's HParams page."""

from pathlib import Path

from harness.bench.results import AXES, Results, Row, varying
from harness.bench.tables import summarize
from harness.quiet import quiet_import
from kernels.files import replacing


def draw(results: Results, path: Path) -> None:
    """Writes a PNG: a line for each combination of the other axes, medians with p20 to p80.

    Needs matplotlib. Cells that failed or ran out of memory are crosses on the axis.

    Raises:
        OSError: when the disk is full, naming the file.
    """
    # Without pyplot, which keeps state and looks for a display.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.5), layout="constrained")
    rate_axes, time_axes = figure.subplots(1, 2)
    axes = varying(results.cells)
    others = [axis for axis in axes if axis != "batch_size"]
    lines: dict[str, list[Row]] = {}
    for cell in sorted(results.cells):
        lines.setdefault(cell.label(others), []).append(summarize(cell, results.rows))
    for label, summaries in lines.items():
        measured = {s.cell.batch_size: s.figures for s in summaries if s.figures is not None}
        sizes, figures = list(measured), list(measured.values())
        rates = [f.examples_per_second for f in figures]
        (line,) = rate_axes.plot(sizes, [r.median for r in rates], marker="o", label=label)
        colour = line.get_color()
        rate_axes.fill_between(
            sizes, [r.p20 for r in rates], [r.p80 for r in rates], alpha=0.2, color=colour
        )
        p50, p95 = [f.step_time_ms_p50 for f in figures], [f.step_time_ms_p95 for f in figures]
        time_axes.plot(sizes, p50, marker="o", color=colour, label=label)
        time_axes.fill_between(sizes, p50, p95, alpha=0.2, color=colour)
        failed = [s.cell.batch_size for s in summaries if s.figures is None]
        on_the_axis = rate_axes.get_xaxis_transform()
        rate_axes.plot(failed, [0.02] * len(failed), "x", color=colour, transform=on_the_axis)
    rate_axes.set(
        title="training throughput (median, p20 to p80)", ylabel="examples/s", ylim=(0, None)
    )
    time_axes.set(title="step time (p50 to p95)", ylabel="ms")
    if any(row.figures is not None for row in results.rows):  # a logarithmic axis needs data
        time_axes.set_yscale("log")
    ticks = sorted({cell.batch_size for cell in results.cells})
    for plot in (rate_axes, time_axes):
        plot.set(xlabel="batch size", xscale="log", xticks=ticks)
        plot.set_xticks([], minor=True)
        plot.set_xticklabels([f"{size:,}" for size in ticks])
        plot.grid(alpha=0.3)
    if others:
        rate_axes.legend(fontsize="small")
    host = results.provenance.host
    gpus = ", ".join(str(gpu["name"]) for gpu in results.provenance.gpus)
    common = results.cells[0].label(axis for axis in AXES if axis not in axes)
    figure.suptitle(
        f"{results.provenance.dataset['name']} on {gpus or host['cpu']}, {host['cores']} cores; "
        f"{common}",
        fontsize="small",
    )
    with replacing(path) as beside:
        FigureCanvasAgg(figure).print_png(beside)


def write_hparams(results: Results, folder: Path) -> None:
    """Writes an event file for each measured cell, each into its own folder below `folder`.

    The settings are columns to filter and sort by, each `auto` replaced by what it came to.

    Raises:
        OSError: naming the file, when it cannot be written.
    """
    with quiet_import():  # here: TensorFlow takes memory that the cells should have had
        from harness.observe.tensorboard_pages import write_hparams_row

    for cell in results.cells:
        summary = summarize(cell, results.rows)
        if (figures := summary.figures) is None:
            continue
        name = "-".join(str(getattr(summary.cell, axis)) for axis in AXES)
        settings = {axis: _setting(summary, axis) for axis in AXES}
        scalars = {
            "throughput/examples_per_second": figures.examples_per_second.median,
            "throughput/steps_per_second": figures.steps_per_second.median,
            "throughput/step_time_ms_p50": figures.step_time_ms_p50,
            "throughput/step_time_ms_p95": figures.step_time_ms_p95,
            "throughput/step_time_ms_p99": figures.step_time_ms_p99,
            "throughput/data_wait_fraction": figures.data_wait_fraction,
            "host/rss_bytes": summary.peak_rss_bytes,
            "compile_seconds": summary.compile_seconds,
        }
        write_hparams_row(folder / name, settings, [(0, scalars)])


def _setting(summary: Row, axis: str) -> int | str:
    text = str(summary.resolved[axis])
    return int(text) if text.isdigit() else text
