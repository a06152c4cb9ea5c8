"""The message about a loss that is no longer finite: where, the likely cause, what is saved."""

from pathlib import Path

from harness.run.history import Progress
from harness.run.observers.run_files import CHECKPOINT_FOLDER_NAME, MODEL_FILE_NAME
from harness.run.records import Divergence, RunStart

_RISE = 2.0  # the multiple of its minimum above which the last loss counts as having risen


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
