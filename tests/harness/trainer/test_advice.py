"""What the end of a run says, by losses and predictions that call for it and some that do not; and
the likely cause of a loss that is not a number."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import harness
from harness.data.examples import Examples
from harness.run.history import Progress
from harness.run.records import Divergence, Epoch, Evaluation
from harness.task.measures import Quality
from harness.trainer.advice import advice, advice_on_rows, likely_cause
from tests.harness.random_sets import random_sets
from tests.harness.run.observers.samples import progress_of, run_start, window


def progress(*losses: float, validated: Any = None, accuracy: float = 0.5) -> Progress:
    epochs = []
    for epoch, loss in enumerate(losses):
        evaluation = None
        if validated is not None:
            evaluation = Evaluation(
                step=epoch, epoch=epoch, examples=9, seconds=1.0, loss=validated[epoch], metrics={}
            )
        epochs.append(
            Epoch(
                epoch=epoch,
                step=epoch,
                loss=loss,
                metrics={"accuracy": accuracy},
                evaluation=evaluation,
            )
        )
    return Progress(step=len(losses), epochs=epochs)


def told(run: Progress, quality: Quality | None = None, **how: Any) -> list[str]:
    how = {"validates": False, "stopped_early": False} | how
    return list(advice(run, quality, ["a", "b", "c"], **how))


@pytest.mark.parametrize(
    ("run", "how", "expected"),
    [
        (progress(1.0, 0.5), {}, "the loss was still falling in the last epoch (1.0000 to 0.5000)"),
        (progress(1.0, 0.5, accuracy=0.95), {}, ""),
        (progress(1.0, 0.99), {}, ""),
        (progress(1.0), {}, ""),
        (progress(1.0, 0.5), {"stopped_early": True}, ""),
        (
            progress(1.0, 0.5, 0.1, validated=[0.8, 0.4, 0.9]),
            {"validates": True},
            "the validation loss was lowest after epoch 2 (0.4000) and ended at 0.9000",
        ),
        (
            progress(1.0, 0.5, 0.1, validated=[0.8, 0.4, 0.9], accuracy=0.95),
            {},
            "the test loss was lowest after epoch 2 (0.4000) and ended at 0.9000: since then the "
            "model has been overfitting; set --validation-split 0.1 and",
        ),
        (
            progress(1.0, 0.9, validated=[0.8, 0.4]),
            {"validates": True},
            "the validation loss was still falling",
        ),
        # Evaluations of the test rows choose nothing.
        (progress(1.0, 0.99, validated=[0.8, 0.4]), {}, ""),
    ],
)
def test_losses(run: Progress, how: dict[str, Any], expected: str) -> None:
    found = told(run, **how)
    assert len(found) == bool(expected)
    assert not expected or found[0].startswith(expected)


def test_a_class_that_is_never_predicted_is_named() -> None:
    sets = random_sets(np.random.default_rng(0), rows=6, num_classes=3)
    examples = Examples(inputs={"": sets}, labels=np.array([0, 0, 1, 1, 1, 2]), num_classes=3)
    answers = np.eye(3, dtype=np.float32)[[0, 0, 1, 1, 1, 0]]
    quality = Quality(examples, kind="multi_class", num_classes=3)
    quality.add(answers)
    (text,) = told(progress(1.0, 0.99), quality)
    assert text.startswith("1 of 3 classes are never predicted (c); ")


def test_a_network_below_a_linear_model_and_rows_that_repeat_are_told() -> None:
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 3, 400)
    rows = [[label, *rng.integers(3, 50, 4)] for label in labels]  # the first id is the class
    train, held_out = (
        Examples(
            inputs={"": harness.RaggedSets.from_lists(rows[part], num_tokens=50)},
            labels=labels[part],
            num_classes=3,
        )
        for part in (slice(300), slice(290, 400))
    )

    def said(answers: np.ndarray, *, recipe: bool = True) -> list[str]:
        quality, untrained = (Quality(held_out, kind="multi_class", num_classes=3) for _ in "ab")
        quality.add(np.eye(3, dtype=np.float32)[answers])
        into = untrained if recipe else None
        return list(advice_on_rows(train, held_out, quality, into, what="test"))

    repeated = "10 of 110 test rows have the same ids as a train row, so the test figures are too "
    repeated += "good; take such rows out"
    assert said(labels[290:]) == [repeated]
    below, again = said(np.zeros(110, np.int64))
    share = np.mean(labels[290:] == 0)
    assert below.startswith(f"the accuracy of {share:.4f} is below the 1.0000 of naive Bayes, ")
    assert again == repeated
    assert said(np.zeros(110, np.int64), recipe=False) == [repeated]


def diverged(*losses: float, what: str = "loss", **changes: Any) -> tuple[Divergence, Progress]:
    """Returns the divergence of a run whose windows of 20 steps had these losses."""
    windows = [window(20 * (n + 1), loss=loss, **changes) for n, loss in enumerate(losses)]
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
    return divergence, replace(progress_of(*windows), divergence=divergence)


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
