"""A sweep for TensorBoard's HParams page: one run a cell, to be sorted, filtered and plotted there.

A cell's settings and figures are the columns. All cells are known here, so the page gets the values
of each setting to filter by.
"""

import time
from pathlib import Path

from tensorboard.plugins.hparams import summary_v2

from harness.bench.rows import Cell, Results
from harness.bench.summary import CellSummary, summarize
from harness.observers.event_file import EventFile
from harness.observers.hparams import session_end, session_start

METRICS = {
    "throughput/examples_per_second": "examples/s",
    "throughput/steps_per_second": "steps/s",
    "throughput/step_time_ms_p50": "step time, ms, p50",
    "throughput/step_time_ms_p95": "step time, ms, p95",
    "throughput/step_time_ms_p99": "step time, ms, p99",
    "throughput/data_wait_fraction": "data wait",
    "host/rss_bytes": "peak memory, bytes",
    "compile_seconds": "compilation, s",
}
"""Tags and what the page calls them."""


def write_hparams(results: Results, folder: Path) -> None:
    """Writes event files into `folder`: the experiment's, and one run for each measured cell.

    Raises:
        OSError: when one cannot be written, naming it.
    """
    experiment = EventFile(folder)
    hparams = [
        summary_v2.HParam(
            name, summary_v2.Discrete({getattr(cell, name) for cell in results.cells})
        )
        for name in Cell.__dataclass_fields__
    ]
    metrics = [summary_v2.Metric(tag, display_name=shown) for tag, shown in METRICS.items()]
    experiment.summary(0, summary_v2.hparams_config_pb(hparams, metrics))
    experiment.close()
    for cell in results.cells:
        summary = summarize(cell, results.rows)
        if summary.figures is not None:
            _write_run(summary, folder / _run_name(cell))


def _run_name(cell: Cell) -> str:
    return "-".join(str(getattr(cell, name)) for name in Cell.__dataclass_fields__)


def _write_run(summary: CellSummary, folder: Path) -> None:
    assert summary.figures is not None
    cell, figures = summary.cell, summary.figures
    settings = {name: getattr(cell, name) for name in Cell.__dataclass_fields__}
    run = EventFile(folder)
    run.summary(0, session_start(settings, name=folder.name, start_seconds=time.time()))
    values = (
        figures.examples_per_second.median,
        figures.steps_per_second.median,
        figures.step_time_ms_p50,
        figures.step_time_ms_p95,
        figures.step_time_ms_p99,
        figures.data_wait_fraction,
        float(summary.peak_rss_bytes),
        summary.compile_seconds,
    )
    run.scalars(0, dict(zip(METRICS, values, strict=True)))
    run.summary(0, session_end(done=True, end_seconds=time.time()))
    run.close()
