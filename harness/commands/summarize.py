"""From what the loop saw to what summary.json says."""

from harness.records import Progress, RunStart, Summary
from harness.statistics import window_statistics
from harness.telemetry import host
from harness.telemetry.observer import MachineUse


def summarize(start: RunStart, progress: Progress, use: MachineUse) -> Summary:
    """The summary of a run that is over, or was interrupted after at least one window."""
    statistics = window_statistics(progress.windows)
    wall_seconds = host.seconds_since_process_start()
    examples = sum(window.examples for window in progress.windows)
    last = progress.evaluations[-1] if progress.evaluations else None
    return Summary(
        test_accuracy=last.accuracy if last else None,
        test_loss=last.loss if last else None,
        examples_per_second=statistics.examples_per_second,
        steps_per_second=statistics.steps_per_second,
        tokens_per_second=statistics.tokens_per_second,
        mean_examples_per_second=statistics.mean_examples_per_second,
        mean_steps_per_second=statistics.mean_steps_per_second,
        mean_tokens_per_second=statistics.mean_tokens_per_second,
        data_wait_fraction=statistics.data_wait_fraction,
        train_seconds=statistics.train_seconds,
        compile_seconds=sum(c.seconds for c in progress.compilations),
        wall_seconds=wall_seconds,
        peak_rss_bytes=host.peak_rss_bytes(),
        epochs=(progress.step - start.start_step) / start.steps_per_epoch,
        steps=progress.step,
        batch_size=start.batch_size,
        steps_per_dispatch=max(
            int(start.steps_per_dispatch.name), *(window.num_steps for window in progress.windows)
        ),
        precision=start.precision.name,
        implementation=start.implementation.name,
        input=start.input.name,
        replicas=start.replicas,
        devices=start.devices,
        compilations=sum(c.program == "training step" for c in progress.compilations),
        cached_programs=start.cached_programs,
        skipped_steps=sum(window.skipped_steps for window in progress.windows),
        non_finite_gradient_fraction=max(
            (i.non_finite_fraction for i in progress.inspections), default=None
        ),
        underflow_fraction=max(
            (
                i.underflow_fraction
                for i in progress.inspections
                if i.underflow_fraction is not None
            ),
            default=None,
        ),
        interrupted=progress.interrupted,
        diverged=progress.divergence is not None,
        dataset=start.dataset,
        versions=start.versions,
        host=start.host,
        joules_per_1000_examples=None if use.joules is None else 1000 * use.joules / examples,
        gpu_hours=use.num_gpus * wall_seconds / 3600 if use.num_gpus else None,
    )
