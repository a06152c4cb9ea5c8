"""What the end of a run says that a person should know before trusting the model, and why a loss is
no longer finite."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from harness.data.examples import Examples, num_repeated
from harness.run.history import Progress
from harness.run.observers.run_files import CHECKPOINT_FOLDER_NAME, MODEL_FILE_NAME
from harness.run.records import Divergence, RunStart
from harness.task.losses import ACCURACY
from harness.task.measures import Quality
from harness.task.naive_bayes import naive_bayes

_FALLS = 0.95  # Ratio of the last two epochs' losses below which the loss was still falling
_LEARNED = 0.9  # Accuracy on the train rows from which a loss that still falls is no news
_PARTED = 1.05  # Ratio of the last validation loss to the lowest above which the two have parted
_MOST_NAMED = 5
_REPEATED = 0.02  # Share of held-out rows from which rows that are train rows as well matter
_RISE = 2.0  # the multiple of its minimum above which the last loss counts as having risen


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


def advice_on_rows(
    train: Examples, rows: Examples, quality: Quality, untrained: Quality | None, *, what: str
) -> Iterator[str]:
    """Yields messages on held-out rows, `what` for users, whose predictions have the `quality`:
    whether a linear model does better, by the measures `untrained`, unless these are None; and how
    many rows repeat."""
    if untrained is not None and (linear := naive_bayes(train, rows, untrained)):
        name, reached = quality.leading
        _, least = linear.leading
        # Two standard errors: fewer may be chance.
        if least - reached > 2 * math.sqrt(least * (1 - least) / rows.num_rows):
            yield (
                f"the {name} of {reached:.4f} is below the {least:.4f} of naive Bayes, a linear "
                "model that takes one pass over the train rows; train for more --epochs, set "
                "another --learning-rate or --batch-size, or, for texts, leave the settings to the "
                "recipe"
            )
    if (repeated := num_repeated(rows, train)) > _REPEATED * rows.num_rows:
        yield (
            f"{repeated:,} of {rows.num_rows:,} {what} rows have the same ids as a train row, so "
            f"the {what} figures are too good; take such rows out"
        )


def _of_losses(progress: Progress, *, validates: bool) -> Iterator[str]:
    held_out = [epoch.evaluation.loss for epoch in progress.epochs if epoch.evaluation]
    if held_out and held_out[-1] > _PARTED * (best := min(held_out)):
        # Test rows choose no epoch, so others must be held out.
        what, first = ("validation", "") if validates else ("test", "--validation-split 0.1 and ")
        yield (
            f"the {what} loss was lowest after epoch {1 + held_out.index(best)} ({best:.4f}) and "
            f"ended at {held_out[-1]:.4f}: since then the model has been overfitting; set "
            f"{first}--early-stopping 2, or more --dropout"
        )
    trained = [epoch.loss for epoch in progress.epochs if epoch.loss is not None]
    if len(losses := held_out if validates else trained) < 2:
        return
    is_learned = progress.epochs[-1].metrics.get(ACCURACY, 1.0) >= _LEARNED
    if losses[-1] < _FALLS * losses[-2] and (validates or not is_learned):
        what = "validation loss" if validates else "loss"
        yield (
            f"the {what} was still falling in the last epoch ({losses[-2]:.4f} to "
            f"{losses[-1]:.4f}); raise --epochs"
        )


def divergence_message(divergence: Divergence, start: RunStart, progress: Progress) -> str:
    """Returns a message: the fact with its step, the likely cause and its remedy, what is saved."""
    first, last = divergence.first_step, divergence.last_step
    where = f"step {last:,}" if first == last else f"steps {first:,} to {last:,}"
    what = f"the {divergence.what} became {divergence.value}"
    what = "weights are not finite" if divergence.what == "weights" else what
    before = "" if divergence.loss_before is None else f" ({divergence.loss_before:.4g} before)"
    folder, saved = Path(start.run_dir, CHECKPOINT_FOLDER_NAME), divergence.saved_step
    checkpoint = f"the last good checkpoint is {folder}/ckpt-{saved}.npz: --resume repeats the run "
    checkpoint += "from there, with --on-nan=continue past this"
    checkpoint = "no checkpoint had been saved" if saved is None else checkpoint
    return (
        f"{what} in {where} of {start.total_steps:,}{before}; likely cause: "
        f"{likely_cause(divergence, start, progress)}; {checkpoint}; no {MODEL_FILE_NAME} was saved"
    )


def likely_cause(divergence: Divergence, start: RunStart, progress: Progress) -> str:
    """Returns the cause that the losses before, the precision and the skipped steps suggest. A loss
    that rose points to the learning rate; so does one that was never finite, unless float16 skipped
    steps. In float16, a loss that did not rise points to activations above the largest number,
    65,504: loss scaling skips the steps whose gradients overflow, but cannot mend a loss."""
    least, last = divergence.least_loss_before, divergence.loss_before
    rate = "the learning rate is too high"
    remedy = f"lower --learning-rate (now {start.learning_rate:g})"
    if last is not None and least is not None and last > _RISE * least:
        return f"{rate}: the loss had risen from {least:.4g} to {last:.4g}; {remedy}"
    skipped = progress.windows.skipped_steps
    window = progress.last_window
    scale = window.loss_scale if window is not None else None
    if scale is not None and (last is not None or skipped):
        return (
            f"float16 overflowed: gradients were not finite in {skipped:,} of the steps, and the "
            f"loss scale is {scale:g}; set --precision to mixed_bfloat16 or float32, or {remedy}"
        )
    if last is None:
        return f"{rate}: there was no finite loss before; {remedy}"
    return f"{rate} for this network, or a batch is unlike the others; {remedy}"
