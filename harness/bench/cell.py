"""One cell of a sweep, measured once: a process of its own becomes a row."""

import numpy as np

from harness.bench import machine
from harness.bench.gpu import Utilization
from harness.bench.process import MeasuredProcess, OutOfMemoryError, ProcessFailedError, Turn
from harness.bench.protocol import Job
from harness.bench.rows import Cell, Figures, Quantiles, Row, Windows
from harness.bench.steady import is_steady, num_warm_up

_NO_WINDOWS = Windows(seconds=(), num_steps=(), examples=(), data_wait_seconds=())


def measure(cell: Cell, job: Job, *, repeat: int, seconds: float | None, steps: int | None) -> Row:
    """Runs `job` in a process of its own, for a time or a number of steps.

    Too little memory, or a process that ends, makes a row that says so.

    Raises:
        InputError: when the settings do not fit the data or the devices.
    """
    load = machine.load_average()
    try:
        with MeasuredProcess(job) as process:
            gpus = tuple(process.wait_until_ready()["pci_bus_ids"])
            before = machine.read((process.pid,))
            with Utilization(gpus) as utilization:
                turn = process.turn(seconds=seconds, steps=steps)
            marks = machine.marks(before, machine.read((process.pid,)))
            return _row(cell, repeat, process, turn, marks, utilization.median_percent, load)
    except (OutOfMemoryError, ProcessFailedError) as error:
        return Row(
            cell=cell,
            repeat=repeat,
            status="out of memory" if isinstance(error, OutOfMemoryError) else "failed",
            note=str(error),
            marks=(),
            resolved={},
            windows=_NO_WINDOWS,
            num_warm_up_windows=0,
            figures=None,
            compile_seconds=0.0,
            start_seconds=0.0,
            peak_rss_bytes=0,
            peak_device_bytes=None,
            device_utilization_percent=None,
            load_average_before=load,
            load_average_after=machine.load_average(),
        )


def _row(
    cell: Cell,
    repeat: int,
    process: MeasuredProcess,
    turn: Turn,
    marks: tuple[str, ...],
    utilization: float | None,
    load: float,
) -> Row:
    step_times = np.array(turn.windows.seconds) / np.array(turn.windows.num_steps)
    warm_up = num_warm_up(step_times)
    if not is_steady(step_times):
        marks = (*marks, "not steady: step time still changes; give more --seconds")
    return Row(
        cell=cell,
        repeat=repeat,
        status="ok",
        note="",
        marks=marks,
        resolved=process.wait_until_ready()["resolved"],
        windows=turn.windows,
        num_warm_up_windows=warm_up,
        figures=figures(turn.windows, warm_up),
        compile_seconds=turn.compile_seconds,
        start_seconds=process.wait_until_ready()["start_seconds"],
        peak_rss_bytes=turn.peak_rss_bytes,
        peak_device_bytes=turn.peak_device_bytes,
        device_utilization_percent=utilization,
        load_average_before=load,
        load_average_after=machine.load_average(),
    )


def figures(windows: Windows, num_warm_up_windows: int) -> Figures:
    """The figures of the windows after the warm-up, of which there is at least one."""
    steady = slice(num_warm_up_windows, None)
    seconds = np.array(windows.seconds[steady])
    num_steps = np.array(windows.num_steps[steady])
    p50, p95, p99 = np.percentile(1e3 * seconds / num_steps, [50, 95, 99]).tolist()
    return Figures(
        steps_per_second=_quantiles(num_steps / seconds),
        examples_per_second=_quantiles(np.array(windows.examples[steady]) / seconds),
        step_time_ms_p50=p50,
        step_time_ms_p95=p95,
        step_time_ms_p99=p99,
        data_wait_fraction=float(sum(windows.data_wait_seconds[steady]) / seconds.sum()),
    )


def _quantiles(rates: np.ndarray) -> Quantiles:
    p20, median, p80 = np.percentile(rates, [20, 50, 80]).tolist()
    return Quantiles(median=median, p20=p20, p80=p80)
