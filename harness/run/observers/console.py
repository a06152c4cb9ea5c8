"""Prints a run: a progress bar in a terminal, else lines."""

import shlex
import textwrap
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path

from rich.console import Console
from rich.text import Text

from harness.base.errors import as_command, printable
from harness.run import records

Rows = list[tuple[str, str]]

SECONDS_BETWEEN_LINES = 5.0
SECONDS_BETWEEN_REDRAWS = 0.1
_BAR_WIDTH = 30
_NOTEBOOK_WIDTH = 120
_TO_COPY = ("run folder", "curves")  # rows that stay whole
# The display names of the measures of held-out rows in summary.json.
FIGURES = {
    "f1_macro": "macro F1",
    "f1_micro": "micro F1",
    "precision_macro": "macro precision",
    "recall_macro": "macro recall",
    "roc_auc": "ROC-AUC",
}
_SHOWN_FIGURES = ("f1_macro", "roc_auc")  # the measures in the closing report


class ConsoleObserver(records.Observer):
    """Prints what is trained, its progress and its results. In a terminal or a notebook a window
    redraws a bar over all steps of the run, at most ten times a second. Elsewhere it prints a line,
    if the last such line is `SECONDS_BETWEEN_LINES` old. An epoch, a compilation and a message each
    get a line."""

    def __init__(
        self,
        console: Console,
        *,
        tensorboard_dir: Path | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._has_bar = console.is_jupyter or console.is_interactive
        if console.is_jupyter:
            # As a stream: rich would display a block of its own for every line.
            console = Console(
                file=console.file, force_jupyter=False, force_terminal=False, width=_NOTEBOOK_WIDTH
            )
        self._console = console
        self._tensorboard_dir = tensorboard_dir
        self._clock = clock
        self._run: records.RunStart  # from `RunStart` on
        self._drawn = ""  # the bar at the end of the output, which the next one replaces
        self._began_at = self._shown_at = 0.0
        self._rate: float | None = None  # examples/s of the last stretch

    def tell(self, record: records.Record) -> None:
        match record:
            case records.RunStart():
                self._run = record
                self._print_rows(starting_rows(record))
                self._began_at = self._shown_at = self._clock()
                if self._has_bar:
                    epoch = min(record.start_step // record.steps_per_epoch, record.epochs - 1)
                    self._draw(record.start_step, self._place(epoch, record.start_step))
            case records.Compilation():
                # Those before an overwritten run was cleared were no part of the time since then.
                self._began_at = min(self._began_at + record.seconds, self._clock())
                self._print(
                    f"compiled {record.program} for {record.capacity:,} ids per batch and replica "
                    f"in {record.seconds:.2f} s"
                )
            case records.Window():
                self._window(record)
            case records.Stretch():
                self._rate = record.examples_per_second
            case records.Epoch():
                self._epoch(record)
            case records.Message():
                style = "yellow" if record.kind == "warning" else None
                self._print(f"{record.kind}: {record.text}", style)
            case records.Summary():
                self._end(record)

    def _window(self, window: records.Window) -> None:
        now = self._clock()
        every_seconds = SECONDS_BETWEEN_REDRAWS if self._has_bar else SECONDS_BETWEEN_LINES
        if now - self._shown_at < every_seconds:
            return
        self._shown_at = now
        line = f"{self._place(window.epoch, window.step)}  "
        line += self._trained(window.loss, window.metrics)
        line += f"  {self._rate or window.examples_per_second:,.0f} examples/s"
        if not self._has_bar:
            self._print(line)
            return
        rate = (window.step - self._run.start_step) / (now - self._began_at)
        left = timedelta(seconds=round((self._run.total_steps - window.step) / rate))
        self._draw(window.step, f"{line}  {left} left")

    def _epoch(self, epoch: records.Epoch) -> None:
        parts = [self._place(epoch.epoch, epoch.step), self._trained(epoch.loss, epoch.metrics)]
        if (found := epoch.evaluation) is not None:
            what = "validation " if self._run.dataset.validation_rows else "test "
            parts.append(_values(found.values, prefix=what))
            parts.append(f"({found.examples:,} rows in {found.seconds:.2f} s)")
        self._print("  ".join(filter(None, parts)))
        self._shown_at = self._clock()

    def _trained(self, loss: float | None, metrics: Mapping[str, float]) -> str:
        values = metrics if loss is None else {"loss": loss, **metrics}
        if self._run.task.name == "multi_label":  # an answer without any class has a high accuracy
            values = {name: value for name, value in values.items() if name != "accuracy"}
        return _values(values)

    def _end(self, summary: records.Summary) -> None:
        self.close()
        self._print("")
        if summary.interrupted:
            of = self._run.total_steps
            self._print(f"interrupted after step {summary.steps:,} of {of:,}", "yellow")
        if summary.diverged:
            self._print(f"diverged: the loss is not finite at step {summary.steps:,}", "yellow")
        rows = closing_rows(summary, self._run)
        if self._run.run_dir:
            rows.append(("run folder", self._run.run_dir))
        if self._tensorboard_dir is not None:
            command = as_command(f"tensorboard {shlex.quote(str(self._tensorboard_dir))}")
            rows.append(("curves", command))
        self._print_rows(rows)

    def close(self) -> None:
        self._replace("")

    def _place(self, epoch: int, step: int) -> str:
        return f"epoch {epoch + 1}/{self._run.epochs}  step {step:,}/{self._run.total_steps:,}"

    def _draw(self, step: int, text: str) -> None:
        most = self._console.width - 1  # a longer line would wrap
        place, *parts = text.split("  ")
        # The bar shows the step too; the rate and the time left, which come last, stay.
        while len(text) > most and len(parts) > 2:
            del parts[0 if parts[0].startswith("step") else -3]
            text = "  ".join([place, *parts])
        width = max(0, min(_BAR_WIDTH, most - len(text) - 1))
        done = round(width * step / self._run.total_steps)
        full, empty = "#-" if self._console.options.ascii_only else "━┈"
        self._replace(f"{full * done}{empty * (width - done)} {text}"[:most])

    def _replace(self, line: str) -> None:
        """Puts a line in the place of the bar: terminals and notebooks go back at a return."""
        if line or self._drawn:
            self._console.file.write(f"\r{' ' * len(self._drawn)}\r{line}")
            self._console.file.flush()
            self._drawn = line

    def _print_rows(self, rows: Rows) -> None:
        width = max(len(name) for name, _ in rows) + 2
        for name, value in rows:
            value = printable(value, one_line=True)
            lines = [value] if name in _TO_COPY else self._wrapped(value, indent=width)
            for line in lines:
                self._print(Text.assemble((name.ljust(width), "bold"), line))
                name = ""

    def _wrapped(self, text: str, *, indent: int = 0) -> list[str]:
        """Returns the lines that a text takes in a terminal, behind an indent. Elsewhere it
        stays one line, and a path stays whole everywhere, so that it can be copied."""
        if not self._has_bar or not text:
            return [text]
        most = max(self._console.width - indent, _BAR_WIDTH)
        return textwrap.wrap(text, most, break_long_words=False, break_on_hyphens=False)

    def _print(self, text: str | Text, style: str | None = None) -> None:
        self._replace("")
        if isinstance(text, str):
            text = "\n".join("\n".join(self._wrapped(t)) for t in printable(text).split("\n"))
        # Rich would also break a path; no markup, since a path may hold brackets.
        self._console.print(text, style=style, soft_wrap=True, markup=False, highlight=False)


def starting_rows(run: records.RunStart) -> Rows:
    """Returns rows that say what will be trained, on which data, and how every `auto` resolved."""
    data = run.dataset
    parts = [f"{data.rows:,} rows for training"]
    held_out = {"validation": data.validation_rows, "testing": data.test_rows}
    parts += [f"{number:,} for {use}" for use, number in held_out.items() if number]
    classes = {"regression": "targets", "outputs": "outputs"}.get(run.task.name, "classes")
    parts.append(f"{data.num_classes} {classes}")
    repeated = "repeated ids dropped" if data.unique else "repeated ids kept"
    if data.weighted:  # those of repeated ids add up either way
        repeated = "with weights"
    ids = f"{data.nnz / data.rows:.1f} per row ({repeated}), below {data.num_tokens:,}"
    steps = f"{run.total_steps:,} of {run.batch_size:,} rows: "
    steps += f"{_count(run.epochs, 'epoch')} of {run.steps_per_epoch:,}"
    if run.start_step:
        steps += f"; resumed after step {run.start_step:,}"
    return [
        ("data set", f"{data.name}: {', '.join(parts)}"),
        ("token ids", ids),
        ("task", _choice(run.task)),
        ("devices", ", ".join(run.devices)),
        ("strategy", f"tf.distribute.{run.strategy}"),
        *(_of_choice(name, choice) for name, choice in run.choices.items()),
        ("parameters", f"{run.num_parameters:,}"),
        ("steps", steps),
        *([("run folder", run.run_dir)] if run.run_dir else []),
    ]


def closing_rows(summary: records.Summary, run: records.RunStart) -> Rows:
    """Returns the rows of the results, throughput first; a dash stands for a missing one."""
    step_ms, mean_ms = (
        None if rate is None else 1e3 / rate
        for rate in (summary.steps_per_second, summary.mean_steps_per_second)
    )
    rates = (
        ("examples/s", summary.examples_per_second, summary.mean_examples_per_second, 0),
        ("steps/s", summary.steps_per_second, summary.mean_steps_per_second, 1),
        ("step time, ms", step_ms, mean_ms, 3),
        ("tokens/s", summary.tokens_per_second, summary.mean_tokens_per_second, 0),
    )
    programs = _count(summary.compilations, "training program")
    rows = [
        *((name, _rate(*values, digits=digits)) for name, *values, digits in rates),
        ("data wait", _number(summary.data_wait_fraction, "{:.1%}")),
        ("training", f"{summary.train_seconds:.2f} s"),
        ("compilation", f"{summary.compile_seconds:.2f} s ({programs})"),
        ("wall time", f"{summary.wall_seconds:.2f} s"),
        ("peak memory", f"{summary.peak_rss_bytes / 1e9:.2f} GB"),
        *((f"GPU {n}", gpu_text(gpu)) for n, gpu in enumerate(summary.gpus)),
    ]
    most, at_first = summary.choices["steps_per_dispatch"], run.choices["steps_per_dispatch"].value
    if most != at_first:
        rows.append(("steps/dispatch", f"up to {most} ({at_first} at the start)"))
    if summary.gpu_hours is not None:
        joules = summary.joules_per_1000_examples
        energy = "energy not known" if joules is None else f"{joules:,.4g} J per 1,000 examples"
        rows.append(("GPUs", f"{summary.gpu_hours:.4f} GPU-hours, {energy}"))
    if summary.skipped_steps:
        rows.append(("skipped steps", f"{summary.skipped_steps:,} (a gradient was not finite)"))
    if share := summary.non_finite_gradient_fraction:
        rows.append(("gradients", f"{share:.2%} not finite at the end of an epoch"))
    what, found = "validation", summary.validation if run.dataset.validation_rows else {}
    if run.dataset.test_rows:
        what, found = "test", summary.test
    names = dict.fromkeys((*run.metrics, *_SHOWN_FIGURES, "loss"))
    tested = {_named(n): found[n] for n in names if n in found}
    return [*rows, *((f"{what} {name}", _number(v, "{:.4f}")) for name, v in tested.items())]


def gpu_text(gpu: Mapping[str, float]) -> str:
    """Returns a GPU's figures over the training, of those that it reports."""
    shapes = {
        "utilization_percent": ("{:.0f} % busy", 1),
        "memory_peak_bytes": ("{:.2f} GiB at most", 2**30),
        "power_watts": ("{:.0f} W", 1),
    }
    parts = [shape.format(gpu[n] / unit) for n, (shape, unit) in shapes.items() if n in gpu]
    return ", ".join(parts) or "no samples"


def _values(values: Mapping[str, float], prefix: str = "") -> str:
    return "  ".join(f"{prefix}{_named(name)} {value:.4f}" for name, value in values.items())


def _words(name: str) -> str:
    return name.replace("_per_", "/").replace("_", " ")


def _named(measure: str) -> str:
    return FIGURES.get(measure, _words(measure))


def _rate(median: float | None, mean: float | None, *, digits: int = 0) -> str:
    if median is None or mean is None:
        return "-"
    return f"{median:,.{digits}f} (median), {mean:,.{digits}f} (mean)"


def _of_choice(name: str, choice: records.Choice) -> tuple[str, str]:
    if name != "precision_watch":
        return _words(name), _choice(choice)
    often = {"0": "off", "1": "every epoch"}.get(choice.name, f"every {choice.name} epochs")
    return "gradient checks", f"{often} ({choice.why})"


def _choice(choice: records.Choice) -> str:
    return f"{choice.name} ({choice.why})"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def _number(value: float | None, shape: str) -> str:
    return "-" if value is None else shape.format(value)
