"""What a run tells the person before it: a progress bar on a terminal, plain lines elsewhere."""

import shlex
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from harness.observers.report import (
    Rows,
    closing_rows,
    compilation_line,
    evaluation_line,
    starting_rows,
    window_line,
)
from harness.records import Compilation, Evaluation, Observer, RunStart, Summary, Window

SECONDS_BETWEEN_LINES = 5.0
SECONDS_BETWEEN_REDRAWS = 0.1


class ConsoleObserver(Observer):
    """Writes to `console`: what is trained, how it goes, what it came to.

    On a terminal a bar over all steps of the run shows epoch, loss, accuracy, examples/s and the
    remaining time, redrawn with a window, at most ten times a second and without a thread of its
    own. Elsewhere a window becomes a line when the last such line is `SECONDS_BETWEEN_LINES`
    ago, without any control code. Evaluations, compilations, warnings and notes are always a line.
    """

    def __init__(
        self,
        console: Console,
        *,
        tensorboard_dir: Path | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`tensorboard_dir`: where event files go, None without; `clock`: seconds, rising."""
        self._console = console
        self._tensorboard_dir = tensorboard_dir
        self._clock = clock
        self._run: RunStart | None = None
        self._progress: Progress | None = None
        self._task = TaskID(0)
        self._shown_at = 0.0

    def on_start(self, run: RunStart) -> None:
        """Prints what is about to be trained; starts the bar."""
        self._run = run
        self._print_rows(starting_rows(run))
        self._shown_at = self._clock()
        if self._console.is_interactive:
            self._progress = Progress(
                TextColumn("epoch {task.fields[epoch]}/{task.fields[epochs]}"),
                BarColumn(bar_width=None),
                TextColumn("{task.completed:,}/{task.total:,}"),
                TextColumn("{task.fields[figures]}"),
                TimeRemainingColumn(),
                console=self._console,
                auto_refresh=False,
                transient=True,
                expand=True,
                get_time=self._clock,
            )
            self._task = self._progress.add_task(
                "",
                total=run.total_steps,
                completed=run.start_step,
                epoch=min(run.start_step // run.steps_per_epoch + 1, run.epochs),
                epochs=run.epochs,
                figures="",
            )
            self._progress.start()

    def on_compilation(self, compilation: Compilation) -> None:
        """Prints the program, its capacity and its time."""
        self._print(compilation_line(compilation))

    def on_window(self, window: Window) -> None:
        """Moves the bar, or prints a line when it is time for one."""
        assert self._run is not None, "a window came before on_start"
        now = self._clock()
        if self._progress is not None:
            # Every window goes in, for the estimate of the remaining time; drawing costs more.
            redraw = now - self._shown_at >= SECONDS_BETWEEN_REDRAWS
            self._progress.update(
                self._task,
                completed=window.step,
                epoch=window.epoch + 1,
                figures=f"loss {window.loss:.4f}  accuracy {window.accuracy:.4f}  "
                f"{window.examples_per_second:,.0f} examples/s",
                refresh=redraw,
            )
            if redraw:
                self._shown_at = now
        elif now - self._shown_at >= SECONDS_BETWEEN_LINES:
            self._print(window_line(window, self._run))
            self._shown_at = now

    def on_evaluation(self, evaluation: Evaluation) -> None:
        """Prints the held-out rows' loss and accuracy."""
        assert self._run is not None, "an evaluation came before on_start"
        self._print(evaluation_line(evaluation, self._run))

    def on_warning(self, message: str) -> None:
        """Prints the message."""
        self._print(f"warning: {message}", style="yellow")

    def on_note(self, message: str) -> None:
        """Prints the message."""
        self._print(f"note: {message}")

    def on_end(self, summary: Summary) -> None:
        """Removes the bar and prints what the run came to."""
        assert self._run is not None, "the end came before on_start"
        self._stop_bar()
        self._print("")
        if summary.interrupted:
            total_steps = self._run.total_steps
            self._print(f"interrupted after step {summary.steps:,} of {total_steps:,}", "yellow")
        if summary.diverged:
            self._print(f"diverged: the loss is not finite at step {summary.steps:,}", "yellow")
        rows = [*closing_rows(summary, self._run), ("run folder", self._run.run_dir)]
        if self._tensorboard_dir is not None:
            command = f"tensorboard --logdir {shlex.quote(str(self._tensorboard_dir))}"
            rows.append(("curves", command))
        self._print_rows(rows)

    def close(self) -> None:
        """Gives the terminal back, also when the run failed with the bar on it."""
        self._stop_bar()

    def _stop_bar(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def _print_rows(self, rows: Rows) -> None:
        width = max(len(name) for name, _ in rows) + 2
        for name, value in rows:
            self._print(Text.assemble((name.ljust(width), "bold"), value))

    def _print(self, text: str | Text, style: str | None = None) -> None:
        # Unwrapped, so that a line stays one line in a log and a path can be copied; no markup,
        # since a path may hold brackets.
        self._console.print(text, style=style, soft_wrap=True, markup=False, highlight=False)
