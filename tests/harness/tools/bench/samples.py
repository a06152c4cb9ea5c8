"""Rows like those of a sweep, with figures that a test chooses."""

from typing import Any

from harness.run.stretches import stretches_of
from harness.tools.bench.measure import figures
from harness.tools.bench.results import Cell, Row

CELL = Cell(
    batch_size=500,
    implementation="auto",
    precision="auto",
    input="auto",
    replicas="auto",
    steps_per_dispatch="auto",
)


def row(cell: Cell, repeat: int, rate: float | None = 1e5, **resolved: Any) -> Row:
    """Returns the row of a process with windows at `rate` examples/s; None if it ended."""
    if rate is None:
        return Row(cell=cell, repeat=repeat, note="it ended")
    windows = [{"seconds": 1000 / rate, "examples": 1000, "data_wait_seconds": 0.0}]
    totals = {"compile_seconds": 1.5, "peak_rss_bytes": 10**9, "peak_device_bytes": None}
    found = figures(stretches_of(windows, batch_size=cell.batch_size), totals, {})
    resolved = {"implementation": "gather", **resolved}
    return Row(cell=cell, repeat=repeat, resolved=resolved, figures=found)
