"""`harness bench --diagnose`: what bounds a run, at each point of the grid."""

import dataclasses
from pathlib import Path
from typing import Any, get_args

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.bench.diagnose import Diagnosis, diagnose, work_of_step
from harness.bench.in_turns import measure_in_turns
from harness.bench.jobs import job
from harness.bench.process import OutOfMemoryError, ProcessFailedError
from harness.bench.protocol import Variant
from harness.bench.rows import Cell
from harness.bench.table import varying
from harness.config.bench import BenchConfig
from harness.errors import InputError

_OF_SEVERAL: Variant = "no all-reduce"
"""Needs several replicas."""
_HEADINGS = {
    "input": "input",
    "launch": "launch",
    "reduce": "communication",
    "first layer": "first layer",
    "update": "optimizer",
    "other layers": "other layers",
}
"""Of the columns, and the stages that they show."""


def diagnose_all(
    config: BenchConfig, planned: tuple[Cell, ...], data: Path, console: Console
) -> dict[str, Any]:
    """Measures every variant of each cell, and prints where the time of its step goes.

    Raises:
        InputError: when a cell cannot be measured.
    """
    axes = varying(planned)
    table = Table(box=SIMPLE, padding=(0, 1, 0, 0), pad_edge=False)
    for heading in (*axes, "step ms", *_HEADINGS, "memory roof", "compute roof", "bound by"):
        table.add_column(heading.replace("_", " "), justify="right")
    content = {}
    for cell in planned:
        found = _diagnose(config, cell, data, console)
        content[cell.label()] = dataclasses.asdict(found)
        table.add_row(
            *(str(getattr(cell, axis)) for axis in axes),
            f"{found.step_ms:.2f}",
            *(f"{found.shares[stage]:.0%}" for stage in _HEADINGS.values()),
            f"{found.memory_roof_share:.0%}",
            f"{found.compute_roof_share:.0%}",
            found.bound,
        )
    console.print(table)
    console.print(
        "Shares of the step's time; they overlap. The first layer's holds the update of its "
        "weights. Roofs: what a step has to do, over what a triad and a matrix product reached "
        "here; caches can lift the memory's above 100 %."
    )
    return content


def _diagnose(config: BenchConfig, cell: Cell, data: Path, console: Console) -> Diagnosis:
    jobs = {
        variant: job(config, cell, data, variant=variant, roofs=variant == "full")
        for variant in get_args(Variant)
        if variant != _OF_SEVERAL or cell.replicas != "1"
    }
    try:
        with console.status(cell.label()):
            times, marks = measure_in_turns(jobs, seconds=config.seconds)
            full = times["full"].resolved
            replicas = int(full["replicas"])
    except (OutOfMemoryError, ProcessFailedError) as error:
        raise InputError(
            f"{cell.label()} cannot be diagnosed: {error}; leave the cell out"
        ) from error
    step_ms = {name: measured.step_ms for name, measured in times.items()}
    if replicas == 1:  # nothing was reduced: two times of one program would differ by noise
        step_ms[_OF_SEVERAL] = step_ms["fixed batch"]
    # Its windows hold no step, but are counted with those that were planned.
    step_ms["empty dispatch"] *= times["empty dispatch"].steps_per_dispatch
    roofs = {
        name: value * (replicas if "GPU" in full["devices"][0] else 1)
        for name, value in full["roofs"].items()
    }
    dataset = full["dataset"]
    found = diagnose(
        step_ms,
        data_wait_fraction=times["full"].data_wait_fraction,
        steps_per_dispatch=times["full"].steps_per_dispatch,
        work=work_of_step(
            rows=cell.batch_size,
            ids=dataset["nnz"] / dataset["rows"] * cell.batch_size,
            num_tokens=dataset["num_tokens"],
            hidden_units=config.model.hidden_units,
            num_outputs=1 if dataset["num_classes"] == 2 else dataset["num_classes"],
            compute_bytes=4 if full["precision"] == "float32" else 2,
        ),
        roofs=roofs,
    )
    parts = ", ".join(f"{name} {ms:.2f}" for name, ms in step_ms.items())
    text = (
        f"{cell.label(['batch_size'])}: ms of a step (of a dispatch where empty): {parts}; roofs "
        f"{roofs['bytes_per_second'] / 1e9:.1f} GB/s, "
        f"{roofs['flops_per_second'] / 1e9:.0f} GFLOP/s"
    )
    console.print(Text("; ".join([text, *marks])), soft_wrap=True)
    return found
