"""Rows and results like those of a sweep, with figures that a test chooses."""

import dataclasses
from typing import Any

from harness.tools.bench.measure import figures
from harness.tools.bench.results import Cell, Pair, Provenance, Results, Row, Windows

CELL = Cell(
    batch_size=500,
    implementation="auto",
    precision="auto",
    input="auto",
    replicas="auto",
    steps_per_dispatch="auto",
)
RESOLVED: dict[str, Any] = {
    "implementation": "gather",
    "precision": "float32",
    "input": "resident",
    "replicas": 1,
    "steps_per_dispatch": "20",
}
"""The choices of `auto` in `CELL`."""


def row(
    cell: Cell,
    repeat: int,
    rate: float | None = 1e5,
    *,
    marks: tuple[str, ...] = (),
    **resolved: Any,
) -> Row:
    """Makes the row of a process with four windows at `rate` examples/s; None if it ran out of
    memory."""
    num = 0 if rate is None else 4
    asked = dataclasses.asdict(cell)
    settled = {axis: RESOLVED[axis] if value == "auto" else value for axis, value in asked.items()}
    windows = Windows(
        seconds=(1000 / (rate or 1.0),) * num,
        num_steps=(2,) * num,
        examples=(1000,) * num,
        data_wait_seconds=(0.0,) * num,
    )
    return Row(
        cell=cell,
        repeat=repeat,
        status="ok" if num else "out of memory",
        note="" if num else "none left",
        marks=marks,
        resolved={**settled, **resolved} if num else {},
        windows=windows,
        figures=figures(windows) if num else None,
        compile_seconds=1.5,
        peak_rss_bytes=10**9,
        peak_device_bytes=None,
    )


def pair(repeat: int, log_ratios: tuple[float, ...]) -> Pair:
    """Makes a pair of processes of one cell."""
    return Pair(
        cell=CELL,
        repeat=repeat,
        log_ratios=log_ratios,
        examples_per_second_a=1e5,
        examples_per_second_b=1e5,
        marks=(),
        resolved_a={"implementation": "gather"},
        resolved_b={"implementation": "gather"},
    )


def results(*measured: Row | Pair, **config: Any) -> Results:
    """Makes the content of a results file."""
    return Results(
        provenance=Provenance(
            versions={"harness": "0.1.0"},
            host={"cpu": "a processor", "cores": 2, "memory_bytes": 2**34, "system": "a system"},
            gpus=({"name": "a GPU", "driver": "1"},),
            commit="0123abc",
            dirty=False,
            dataset={"name": "synthetic", "rows": 40_000},
            started="2026-01-01T00:00:00+00:00",
        ),
        config={"data": {}, "model": {}, "optimizer": {}, **config},
        rows=tuple(one for one in measured if isinstance(one, Row)),
        pairs=tuple(one for one in measured if isinstance(one, Pair)),
    )
