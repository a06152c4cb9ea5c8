"""A sweep as pictures: a plot of throughput over batch size, and TensorBoard's HParams page."""

from operator import attrgetter
from pathlib import Path

from harness.bench.results import AXES, Results, Row, varying
from harness.bench.tables import summarize
from harness.quiet import quiet_import
from kernels.files import replacing


def draw(results: Results, path: Path) -> None:
    """Writes a PNG: a line for each combination of the other axes, medians with p20 to p80. Cells
    that failed or ran out of memory have no point. Needs matplotlib."""
    # Without pyplot, which keeps state and looks for a display.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.5), layout="constrained")
    rates, times = figure.subplots(1, 2)
    others = [axis for axis in varying(results.cells) if axis != "batch_size"]
    lines: dict[str, list[Row]] = {}
    for cell in sorted(results.cells):
        lines.setdefault(cell.label(others), []).append(summarize(cell, results.rows))
    for label, rows in lines.items():
        figures = {row.cell.batch_size: row.figures for row in rows if row.figures is not None}
        for axes, names in (
            (rates, [f"examples_per_second.{name}" for name in ("median", "p20", "p80")]),
            (times, [f"step_time_ms_{name}" for name in ("p50", "p50", "p95")]),
        ):
            middle, low, high = ([attrgetter(n)(f) for f in figures.values()] for n in names)
            (line,) = axes.plot(list(figures), middle, marker="o", label=label)
            axes.fill_between(list(figures), low, high, alpha=0.2, color=line.get_color())
    rates.set(title="training throughput (median, p20 to p80)", ylabel="examples/s")
    rates.set_ylim(bottom=0)
    times.set(title="step time (p50 to p95)", ylabel="ms")
    if any(row.figures for row in results.rows):  # a logarithmic axis needs data
        times.set_yscale("log")
    sizes = sorted({cell.batch_size for cell in results.cells})
    for axes in (rates, times):
        axes.set(xlabel="batch size", xscale="log")
        axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
        axes.set_xticks([], minor=True)
        axes.grid(alpha=0.3)
    if others:
        rates.legend(fontsize="small")
    provenance = results.provenance
    common = results.cells[0].label(axis for axis in AXES if axis not in ("batch_size", *others))
    title = f"{provenance.dataset['name']} on {provenance.machine}; {common}"
    figure.suptitle(title, fontsize="small")
    with replacing(path) as beside:
        FigureCanvasAgg(figure).print_png(beside)


METRICS = {
    "throughput/examples_per_second": ("examples/s", "figures.examples_per_second.median"),
    "throughput/steps_per_second": ("steps/s", "figures.steps_per_second.median"),
    "throughput/step_time_ms_p50": ("step time, ms, p50", "figures.step_time_ms_p50"),
    "throughput/step_time_ms_p95": ("step time, ms, p95", "figures.step_time_ms_p95"),
    "throughput/step_time_ms_p99": ("step time, ms, p99", "figures.step_time_ms_p99"),
    "throughput/data_wait_fraction": ("data wait", "figures.data_wait_fraction"),
    "host/rss_bytes": ("peak memory, bytes", "peak_rss_bytes"),
    "compile_seconds": ("compilation, s", "compile_seconds"),
}
"""Tags, their names on the HParams page, and where a `Row` has their values."""


def write_hparams(results: Results, folder: Path) -> None:
    """Writes event files into `folder`: the experiment's, and a run for each measured cell; none
    where no cell was measured. The settings are columns to filter and sort by, each `auto` replaced
    by what it came to."""
    with quiet_import():  # here: TensorFlow takes memory that the cells should have had
        from tensorboard.plugins.hparams import summary_v2

        from harness.observe.hparams import TableRow, write_table

    rows = [
        TableRow(
            name="-".join(str(getattr(cell, axis)) for axis in AXES),
            settings={axis: _setting(summary, axis) for axis in AXES},
            scalars=[
                (0, {tag: float(attrgetter(at)(summary)) for tag, (_, at) in METRICS.items()})
            ],
        )
        for cell in results.cells
        if (summary := summarize(cell, results.rows)).figures is not None
    ]
    if rows:
        values = {axis: {row.settings[axis] for row in rows} for axis in AXES}
        domains = {axis: summary_v2.Discrete(found) for axis, found in values.items()}
        names = {tag: name for tag, (name, _) in METRICS.items()}
        write_table(folder, domains=domains, metrics=names, rows=rows)


def _setting(summary: Row, axis: str) -> int | str:
    text = str(summary.resolved[axis])
    return int(text) if text.isdigit() else text
