"""What the repeats of a cell come to."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from harness.bench.rows import Cell, Figures, Quantiles, Row


@dataclass(frozen=True, kw_only=True)
class CellSummary:
    """One cell over its repeats; figures are medians over the repeats that went well."""

    cell: Cell
    num_repeats: int
    """Those that went well."""
    figures: Figures | None
    """None where none did."""
    spread: Quantiles | None
    """Of examples/s between repeats: median, lowest, highest."""
    compile_seconds: float
    peak_rss_bytes: int
    peak_device_bytes: int | None
    device_utilization_percent: float | None
    notes: tuple[str, ...]
    """Why repeats failed, and what makes others doubtful."""


def summarize(cell: Cell, rows: Sequence[Row]) -> CellSummary:
    """Sums up the rows of `cell` among `rows`."""
    rows = [row for row in rows if row.cell == cell]
    good = [row for row in rows if row.figures is not None]
    notes = tuple(
        dict.fromkeys(
            note
            for row in rows
            for note in (
                *((f"{row.status}: {row.note}",) if row.note else ()),
                *(f"repeat {row.repeat + 1}: {mark}" for mark in row.marks),
            )
        )
    )
    figures = [row.figures for row in good if row.figures is not None]
    rates = [f.examples_per_second.median for f in figures]
    device_bytes = [r.peak_device_bytes for r in good if r.peak_device_bytes is not None]
    utilization = [
        r.device_utilization_percent for r in good if r.device_utilization_percent is not None
    ]
    return CellSummary(
        cell=cell,
        num_repeats=len(good),
        figures=_medians(figures) if figures else None,
        spread=Quantiles(median=statistics.median(rates), p20=min(rates), p80=max(rates))
        if rates
        else None,
        compile_seconds=statistics.median(r.compile_seconds for r in good) if good else 0.0,
        peak_rss_bytes=max((row.peak_rss_bytes for row in good), default=0),
        peak_device_bytes=max(device_bytes, default=None),
        device_utilization_percent=statistics.median(utilization) if utilization else None,
        notes=notes,
    )


def _medians(figures: Sequence[Figures]) -> Figures:
    def over(get: Callable[[Figures], float]) -> float:
        return statistics.median(map(get, figures))

    def rate(get: Callable[[Figures], Quantiles]) -> Quantiles:
        return Quantiles(
            median=over(lambda f: get(f).median),
            p20=over(lambda f: get(f).p20),
            p80=over(lambda f: get(f).p80),
        )

    return Figures(
        steps_per_second=rate(lambda f: f.steps_per_second),
        examples_per_second=rate(lambda f: f.examples_per_second),
        step_time_ms_p50=over(lambda f: f.step_time_ms_p50),
        step_time_ms_p95=over(lambda f: f.step_time_ms_p95),
        step_time_ms_p99=over(lambda f: f.step_time_ms_p99),
        data_wait_fraction=over(lambda f: f.data_wait_fraction),
    )
