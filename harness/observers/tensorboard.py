"""A run for TensorBoard: its curves over optimizer steps, and what it is."""

import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from harness.records import (
    Evaluation,
    Inspection,
    Observer,
    RunStart,
    Summary,
    Window,
    WindowTelemetry,
)
from harness.statistics import percentile

if TYPE_CHECKING:
    from harness.observers.event_file import EventFile

FOLDER_NAME = "tensorboard"
RECENT_WINDOWS = 50
"""`step_time_ms_p50` and `step_time_ms_p95` are over the mean step times of that many windows."""

FLUSH_SECONDS = 2.0


class TensorBoardObserver(Observer):
    """Writes an event file into a folder, in the place of those of a run before. A resumed run adds
    one, and takes out of those before it the steps that it repeats.

    Pages: Scalars, Custom Scalars with the charts of `layout`, Text with `run/settings` and
    `run/environment`, Graphs with the network's layers, HParams with a row for the run.

    Tags: `train/{loss,accuracy}` (means over a window), `validation/{loss,accuracy}`,
    `throughput/{steps_per_second,examples_per_second,tokens_per_second,data_wait_fraction}` of a
    window, `throughput/{step_time_ms_p50,step_time_ms_p95}` over the last `RECENT_WINDOWS`,
    `precision/{loss_scale,skipped_steps}` where gradients are scaled, skipped steps counted from
    the start of this process; those of telemetry, `gpu/<index>/*` and `host/*`: the mean over the
    window, of counters the last value; and, after an epoch with an inspection,
    `precision/{non_finite_gradient_fraction,underflow_fraction}` and the histograms
    `weights/LAYER/NAME` and `gradients/LAYER/NAME`.

    Flushed at evaluations, at the end, and with the first window `FLUSH_SECONDS` after the last
    flush. A window costs about 0.05 ms.

    Raises:
        OSError: naming the file, when it cannot be written.
    """

    def __init__(self, folder: Path, *, clock: Callable[[], float] = time.time) -> None:
        """`folder` is the run's alone; `clock` gives seconds since the epoch."""
        self._folder = folder
        self._clock = clock
        self._file: EventFile | None = None
        self._flushed_at = 0.0
        self._recent_step_times_ms: deque[float] = deque(maxlen=RECENT_WINDOWS)
        self._skipped_steps = 0
        self._telemetry: WindowTelemetry | None = None

    def on_start(self, run: RunStart) -> None:
        """Opens the event file and writes what the run is."""
        # TensorFlow takes seconds to import, and who imports this module may not need it.
        from harness.observers.event_file import EventFile
        from harness.observers.event_folder import drop_all_events, drop_events_after, writer_name
        from harness.observers.run_pages import write_run_pages

        if run.start_step > 0:
            drop_events_after(self._folder, run.start_step)
        else:
            drop_all_events(self._folder)
        self._file = EventFile(
            self._folder, writer=writer_name(Path(run.run_dir)), clock=self._clock
        )
        write_run_pages(self._file, run, start_seconds=self._clock())
        self._file.flush()
        self._flushed_at = self._clock()

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
        }
        if self._telemetry is not None:
            assert self._telemetry.step == window.step, "telemetry of another window"
            values |= {tag: spread.value for tag, spread in self._telemetry.figures.items()}
            self._telemetry = None
        if window.loss_scale is not None:
            self._skipped_steps += window.skipped_steps
            values["precision/loss_scale"] = window.loss_scale
            values["precision/skipped_steps"] = self._skipped_steps
        self._file.scalars(window.step, values)
        if self._clock() - self._flushed_at >= FLUSH_SECONDS:
            self._flush()

    def on_evaluation(self, evaluation: Evaluation) -> None:
        """Adds an evaluation's scalars and flushes."""
        assert self._file is not None, "an evaluation came before on_start or after close"
        self._file.scalars(
            evaluation.step,
            {"validation/loss": evaluation.loss, "validation/accuracy": evaluation.accuracy},
        )
        self._flush()

    def on_inspection(self, inspection: Inspection) -> None:
        """Adds what the gradients were like, and the histograms that came with it; flushes."""
        from harness.observers.histograms import histograms_summary

        assert self._file is not None, "an inspection came before on_start or after close"
        values = {"precision/non_finite_gradient_fraction": inspection.non_finite_fraction}
        if inspection.underflow_fraction is not None:
            values["precision/underflow_fraction"] = inspection.underflow_fraction
        self._file.scalars(inspection.step, values)
        for prefix, distributions in (
            ("weights", inspection.weights),
            ("gradients", inspection.gradients),
        ):
            if distributions:
                self._file.summary(inspection.step, histograms_summary(prefix, distributions))
        self._flush()

    def on_end(self, summary: Summary) -> None:
        """Marks the run's row of the HParams page as over, and flushes."""
        from harness.observers.hparams import session_end

        assert self._file is not None, "the end came before on_start or after close"
        end = session_end(
            done=not (summary.interrupted or summary.diverged), end_seconds=self._clock()
        )
        self._file.summary(summary.steps, end)
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
