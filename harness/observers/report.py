"""The words of the console: the rows of its two blocks and its lines, as plain text."""

from harness.records import Choice, Compilation, Evaluation, RunStart, Summary, Window

Rows = list[tuple[str, str]]

NOTEWORTHY_UNDERFLOW = 0.01
"""Below it, the closing report is silent about gradients that 16 bits lost."""


def starting_rows(run: RunStart) -> Rows:
    """What is about to be trained, on what, and what every `auto` came to."""
    data = run.dataset
    repeated = "repeated ids dropped" if data.unique else "repeated ids kept"
    return [
        (
            "data set",
            f"{data.name}: {data.rows:,} rows to train on, {data.test_rows:,} to test on, "
            f"{data.num_classes} classes",
        ),
        (
            "token ids",
            f"{data.nnz / data.rows:.1f} a row ({repeated}), below {data.num_tokens:,}",
        ),
        ("devices", f"{', '.join(run.devices)} ({_count(run.replicas, 'replica')})"),
        ("precision", _choice(run.precision)),
        ("implementation", _choice(run.implementation)),
        ("input", _choice(run.input)),
        ("steps/dispatch", _choice(run.steps_per_dispatch)),
        ("XLA cache", _choice(run.compilation_cache)),
        ("parameters", f"{run.num_parameters:,}"),
        (
            "steps",
            f"{run.total_steps:,} of {run.batch_size:,} rows: "
            f"{_count(run.epochs, 'epoch')} of {run.steps_per_epoch:,}"
            + (f"; resumed after step {run.start_step:,}" if run.start_step else ""),
        ),
        ("run folder", run.run_dir),
    ]


def closing_rows(summary: Summary, run: RunStart) -> Rows:
    """What the run came to; a figure that there is none of is a dash."""
    rows = [
        ("test accuracy", _figure(summary.test_accuracy, "{:.4f}")),
        ("test loss", _figure(summary.test_loss, "{:.4f}")),
        ("examples/s", _rate(summary.examples_per_second, summary.mean_examples_per_second)),
        ("steps/s", _rate(summary.steps_per_second, summary.mean_steps_per_second, digits=1)),
        ("tokens/s", _rate(summary.tokens_per_second, summary.mean_tokens_per_second)),
        ("data wait", _figure(summary.data_wait_fraction, "{:.1%}")),
        ("training", f"{summary.train_seconds:.2f} s"),
        (
            "compilation",
            f"{summary.compile_seconds:.2f} s ({_count(summary.compilations, 'training program')})",
        ),
        ("wall time", f"{summary.wall_seconds:.2f} s"),
        ("peak memory", f"{summary.peak_rss_bytes / 1e9:.2f} GB"),
    ]
    if str(summary.steps_per_dispatch) != run.steps_per_dispatch.name:
        began = f"{run.steps_per_dispatch.name} at the start"
        rows.append(("steps/dispatch", f"up to {summary.steps_per_dispatch} ({began})"))
    if summary.gpu_hours is not None:
        joules = summary.joules_per_1000_examples
        energy = "energy not known" if joules is None else f"{joules:,.3g} J per 1,000 examples"
        rows.append(("GPUs", f"{summary.gpu_hours:.4f} GPU-hours, {energy}"))
    if summary.skipped_steps:
        rows.append(("skipped steps", f"{summary.skipped_steps:,} (a gradient was not finite)"))
    if summary.non_finite_gradient_fraction:
        share = _figure(summary.non_finite_gradient_fraction, "{:.2%}")
        rows.append(("gradients", f"{share} not finite at the end of an epoch"))
    if (summary.underflow_fraction or 0) >= NOTEWORTHY_UNDERFLOW:
        share = _figure(summary.underflow_fraction, "{:.2%}")
        rows.append(
            ("underflow", f"{share} of the gradients are zero in {summary.precision} alone")
        )
    return rows


def compilation_line(compilation: Compilation) -> str:
    """One compiled program."""
    return (
        f"compiled {compilation.program} for {compilation.capacity:,} ids a batch and replica "
        f"in {compilation.seconds:.2f} s"
    )


def window_line(window: Window, run: RunStart) -> str:
    """Where training stands."""
    return (
        f"epoch {window.epoch + 1}/{run.epochs}  step {window.step:,}/{run.total_steps:,}  "
        f"loss {window.loss:.4f}  accuracy {window.accuracy:.4f}  "
        f"{window.examples_per_second:,.0f} examples/s"
    )


def evaluation_line(evaluation: Evaluation, run: RunStart) -> str:
    """One pass over the held-out rows."""
    return (
        f"epoch {evaluation.epoch + 1}/{run.epochs}  step {evaluation.step:,}/{run.total_steps:,}  "
        f"validation loss {evaluation.loss:.4f}  validation accuracy {evaluation.accuracy:.4f}  "
        f"({evaluation.examples:,} rows in {evaluation.seconds:.2f} s)"
    )


def _rate(median: float | None, mean: float | None, *, digits: int = 0) -> str:
    if median is None or mean is None:
        return "-"
    return f"{median:,.{digits}f} in the median window, {mean:,.{digits}f} over all"


def _choice(choice: Choice) -> str:
    return f"{choice.name} ({choice.why})"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def _figure(value: float | None, shape: str) -> str:
    return "-" if value is None else shape.format(value)
