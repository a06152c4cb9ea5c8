"""The likely cause of a loss that is not a number, from a run's own records."""

import math
from pathlib import Path
from typing import Any

import pytest

from harness.run.history import COUNTED, Progress, statistics_of
from harness.run.observers.divergence import likely_cause
from harness.run.records import Divergence
from tests.harness.run.observers.samples import run_start, window


def diverged(*losses: float, what: str = "loss", **changes: Any) -> tuple[Divergence, Progress]:
    """Returns the divergence of a run whose windows of 20 steps had these losses."""
    counted: list[float] = []
    for number, loss in enumerate(losses):
        last = window(20 * (number + 1), loss=loss, **changes)
        counted += [getattr(last, name) for name in COUNTED]
    finite = [loss for loss in losses if math.isfinite(loss)]
    divergence = Divergence(
        what=what,
        value=math.nan,
        first_step=20 * len(losses) - 19,
        last_step=20 * len(losses),
        loss_before=finite[-1] if finite else None,
        least_loss_before=min(finite) if finite else None,
        saved_step=None,
    )
    progress = Progress(
        windows=statistics_of(counted),
        last_window=last,
        step=20 * len(losses),
        divergence=divergence,
    )
    return divergence, progress


@pytest.mark.parametrize(
    ("losses", "what", "changes", "cause"),
    [
        ((0.7, 3.0, math.nan), "loss", {}, "had risen from 0.7 to 3;"),
        ((0.7, 9.0), "validation loss", {}, "had risen from 0.7 to 9;"),
        ((math.nan,), "loss", {}, "learning rate is too high: there was no finite loss before"),
        ((0.7, 0.6, math.nan), "loss", {}, "or a batch is unlike the others"),
        (
            (0.7, 0.6, math.inf),
            "loss",
            {"skipped_steps": 2, "loss_scale": 64.0},
            "float16 overflowed: gradients were not finite in 6 of the steps, and the loss scale "
            "is 64; set --precision to mixed_bfloat16 or float32",
        ),
    ],
)
def test_likely_cause(
    losses: tuple[float, ...],
    what: str,
    changes: dict[str, Any],
    cause: str,
    tmp_path: Path,
) -> None:
    divergence, progress = diverged(*losses, what=what, **changes)
    said = likely_cause(divergence, run_start(tmp_path), progress)
    assert cause in said
    assert "lower --learning-rate (now 0.001)" in said
