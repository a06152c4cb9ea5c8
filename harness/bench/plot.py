"""A sweep as a picture: throughput and step time over batch size, with their spread."""

from pathlib import Path

from harness.bench.rows import Cell, Results
from harness.bench.summary import CellSummary, summarize
from harness.bench.table import varying
from harness.files import replacing


def draw(results: Results, path: Path) -> None:
    """Writes a PNG: a line for each combination of the other axes, medians with p20 to p80.

    Needs matplotlib. Cells that ran out of memory or failed are crosses on the axis.

    Raises:
        OSError: when the disk is full, naming the file.
    """
    # The figure alone, without pyplot: it would keep state and look for a display.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.5), layout="constrained")
    rate_axes, time_axes = figure.subplots(1, 2)
    others = [axis for axis in varying(results.cells) if axis != "batch_size"]
    lines: dict[str, list[CellSummary]] = {}
    for cell in results.cells:
        lines.setdefault(cell.label(others), []).append(summarize(cell, results.rows))
    for label, summaries in lines.items():
        summaries.sort(key=lambda summary: summary.cell.batch_size)
        measured = [(s.cell.batch_size, f) for s in summaries if (f := s.figures) is not None]
        sizes = [size for size, _ in measured]
        rates = [figures.examples_per_second for _, figures in measured]
        (line,) = rate_axes.plot(sizes, [r.median for r in rates], marker="o", label=label)
        colour = line.get_color()
        low, high = [r.p20 for r in rates], [r.p80 for r in rates]
        rate_axes.fill_between(sizes, low, high, alpha=0.2, color=colour)
        time_axes.plot(
            sizes, [f.step_time_ms_p50 for _, f in measured], marker="o", color=colour, label=label
        )
        time_axes.fill_between(
            sizes,
            [f.step_time_ms_p50 for _, f in measured],
            [f.step_time_ms_p95 for _, f in measured],
            alpha=0.2,
            color=colour,
        )
        missing = [s.cell.batch_size for s in summaries if s.figures is None]
        rate_axes.plot(
            missing,
            [0.02] * len(missing),
            "x",
            color=colour,
            transform=rate_axes.get_xaxis_transform(),
            clip_on=False,
        )
    rate_axes.set(
        title="training throughput (median, p20 to p80)", ylabel="examples/s", ylim=(0, None)
    )
    time_axes.set(title="step time (p50 to p95)", ylabel="ms")
    if any(row.figures is not None for row in results.rows):  # else there is no scale
        time_axes.set_yscale("log")
    sizes = sorted({cell.batch_size for cell in results.cells})
    for axes in (rate_axes, time_axes):
        axes.set(xlabel="batch size", xscale="log", xticks=sizes)
        axes.set_xticks([], minor=True)
        axes.set_xticklabels([f"{size:,}" for size in sizes])
        axes.grid(alpha=0.3)
    if others:
        rate_axes.legend(fontsize="small")
    host = results.provenance.host
    gpus = ", ".join(str(gpu["name"]) for gpu in results.provenance.gpus)
    figure.suptitle(
        f"{results.provenance.dataset['name']} on {gpus or host['cpu']}, {host['cores']} cores; "
        f"{common(results.cells)}",
        fontsize="small",
    )
    with replacing(path) as beside:
        FigureCanvasAgg(figure).print_png(beside)


def common(cells: tuple[Cell, ...]) -> str:
    """What all cells share."""
    shared = [axis for axis in Cell.__dataclass_fields__ if axis not in varying(cells)]
    return cells[0].label(shared)
