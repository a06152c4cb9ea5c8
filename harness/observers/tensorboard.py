"""A run's curves for TensorBoard, over optimizer steps."""

import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from harness.records import Evaluation, Observer, RunStart, Summary, Window, WindowTelemetry
from harness.statistics import percentile

if TYPE_CHECKING:
    from harness.observers.event_file import EventFile

FOLDER_NAME = "tensorboard"
RECENT_WINDOWS = 50
"""`step_time_ms_p50` and `step_time_ms_p95` are over the mean step times of that many windows."""

FLUSH_SECONDS = 2.0
_LEAST_CPU_SECONDS = 0.1
"""Below this, psutil documents its CPU percentages as meaningless."""


class TensorBoardObserver(Observer):
    """Writes an event file under `<run_dir>/tensorboard/`, in the place of those of a run before. A
    resumed run adds one, and takes out of those before it the steps that it repeats.

    Tags: `train/{loss,accuracy}` (means over a window), `validation/{loss,accuracy}`,
    `throughput/{steps_per_second,examples_per_second,tokens_per_second,data_wait_fraction}` of a
    window, `throughput/{step_time_ms_p50,step_time_ms_p95}` over the last `RECENT_WINDOWS`,
    `host/cpu_percent` (of the whole machine, 0 to 100, since the value before), `host/rss_bytes`
    (of this process), `precision/{loss_scale,skipped_steps}` where gradients are scaled, skipped
    steps counted from the start of this process, and the tags of telemetry: the mean over a window
    in which samples were taken, of counters the last.

    Flushed at evaluations, at the end, and with the first window `FLUSH_SECONDS` after the last
    flush. A window costs the thread that trains about 0.05 ms.

    Raises:
        OSError: naming the file, when it cannot be written.
    """

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        """`clock` gives seconds since the epoch."""
        self._clock = clock
        self._file: EventFile | None = None
        self._flushed_at = 0.0
        self._recent_step_times_ms: deque[float] = deque(maxlen=RECENT_WINDOWS)
        self._skipped_steps = 0
        self._telemetry: WindowTelemetry | None = None
        self._process = psutil.Process()
        self._sampled_cpu_at = 0.0

    def on_start(self, run: RunStart) -> None:
        """Opens the event file."""
        # TensorFlow takes seconds to import, and who imports this module may not need it.
        from harness.observers.event_file import EventFile, drop_all_events, drop_events_after

        folder = Path(run.run_dir) / FOLDER_NAME
        if run.start_step > 0:
            drop_events_after(folder, run.start_step)
        else:
            drop_all_events(folder)
        self._file = EventFile(folder, clock=self._clock)
        self._flushed_at = self._sampled_cpu_at = self._clock()
        psutil.cpu_percent()  # the next call reports the time since this one

    def on_telemetry(self, telemetry: WindowTelemetry) -> None:
        """Keeps it for its window."""
        self._telemetry = telemetry

    def on_window(self, window: Window) -> None:
        """Adds a window's scalars."""
        assert self._file is not None, "a window came before on_start or after close"
        self._recent_step_times_ms.append(window.step_time_ms)
        step_times_ms = tuple(self._recent_step_times_ms)
        values = {
            "train/loss": window.loss,
            "train/accuracy": window.accuracy,
            "throughput/steps_per_second": window.steps_per_second,
            "throughput/examples_per_second": window.examples_per_second,
            "throughput/tokens_per_second": window.tokens_per_second,
            "throughput/step_time_ms_p50": percentile(step_times_ms, 50),
            "throughput/step_time_ms_p95": percentile(step_times_ms, 95),
            "throughput/data_wait_fraction": window.data_wait_fraction,
            "host/rss_bytes": self._process.memory_info().rss,
        }
        now = self._clock()
        if now - self._sampled_cpu_at >= _LEAST_CPU_SECONDS:
            values["host/cpu_percent"] = psutil.cpu_percent()
            self._sampled_cpu_at = now
        if self._telemetry is not None:
            assert self._telemetry.step == window.step, "telemetry of another window"
            values |= {tag: spread.value for tag, spread in self._telemetry.figures.items()}
            self._telemetry = None
        if window.loss_scale is not None:
            self._skipped_steps += window.skipped_steps
            values["precision/loss_scale"] = window.loss_scale
            values["precision/skipped_steps"] = self._skipped_steps
        self._file.scalars(window.step, values)
        if now - self._flushed_at >= FLUSH_SECONDS:
            self._flush()

    def on_evaluation(self, evaluation: Evaluation) -> None:
        """Adds an evaluation's scalars and flushes."""
        assert self._file is not None, "an evaluation came before on_start or after close"
        self._file.scalars(
            evaluation.step,
            {"validation/loss": evaluation.loss, "validation/accuracy": evaluation.accuracy},
        )
        self._flush()

    def on_end(self, summary: Summary) -> None:
        """Flushes."""
        self._flush()

    def close(self) -> None:
        """Closes the event file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _flush(self) -> None:
        assert self._file is not None
        self._file.flush()
        self._flushed_at = self._clock()
