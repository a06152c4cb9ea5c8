"""What the end of a run says that a person should know before trusting the model."""

from collections.abc import Iterator, Sequence

from harness.run.history import Progress
from harness.task.losses import ACCURACY
from harness.task.measures import Quality

_FALLS = 0.95  # Ratio of the last two epochs' losses below which the loss was still falling
_LEARNED = 0.9  # Accuracy on the train rows from which a loss that still falls is no news
_PARTED = 1.05  # Ratio of the last validation loss to the lowest above which the two have parted
_MOST_NAMED = 5


def advice(
    progress: Progress,
    quality: Quality | None,
    class_names: Sequence[str],
    *,
    validates: bool,
    stopped_early: bool,
) -> Iterator[str]:
    """Yields messages for the user; `validates`: evaluations are not of the test rows."""
    if not stopped_early:
        yield from _of_losses(progress, validates=validates)
    if quality is None:
        return
    if hint := quality.hint(class_names):
        yield hint
    is_missed = (quality.support > 0) & (quality.predicted == 0)
    missed = [name for name, missed in zip(class_names, is_missed, strict=True) if missed]
    if missed:
        named = ", ".join(f"{name:.40}" for name in missed[:_MOST_NAMED])
        more = f" and {len(missed) - _MOST_NAMED:,} more" if len(missed) > _MOST_NAMED else ""
        balanced = "" if quality.kind == "multi_label" else "set --class-weight balanced, "
        yield (
            f"{len(missed):,} of {len(class_names):,} classes are never predicted ({named}{more}); "
            f"train for more --epochs, {balanced}or give more rows of them"
        )


def _of_losses(progress: Progress, *, validates: bool) -> Iterator[str]:
    if validates:
        losses = [epoch.evaluation.loss for epoch in progress.epochs if epoch.evaluation]
    else:
        losses = [epoch.loss for epoch in progress.epochs if epoch.loss is not None]
    if len(losses) < 2:
        return
    best = min(losses)
    if validates and losses[-1] > _PARTED * best:
        yield (
            f"the validation loss was lowest after epoch {1 + losses.index(best)} ({best:.4f}) and "
            f"ended at {losses[-1]:.4f}: since then the model has learned its train rows by heart; "
            "set --early-stopping 2, or more --dropout"
        )
    is_learned = progress.epochs[-1].metrics.get(ACCURACY, 1.0) >= _LEARNED
    if losses[-1] < _FALLS * losses[-2] and (validates or not is_learned):
        what = "validation loss" if validates else "loss"
        yield (
            f"the {what} was still falling in the last epoch ({losses[-2]:.4f} to "
            f"{losses[-1]:.4f}); raise --epochs"
        )
