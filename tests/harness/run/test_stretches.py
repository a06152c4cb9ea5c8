"""Rates over stretches: whatever the rows, the batch size and the epochs, the figures agree."""

import dataclasses

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from harness.feed.plan import EpochPlan, Plan
from harness.run.history import History
from harness.run.records import Observer, Record, Stretch, Window
from harness.run.stretches import LEAST_SECONDS, stretches_of


class Listener(Observer):
    def __init__(self) -> None:
        self.stretches: list[Stretch] = []

    def tell(self, record: Record) -> None:
        if isinstance(record, Stretch):
            self.stretches.append(record)


def windows_of(plan: Plan, *, calls: int, row_seconds: float, step_seconds: float) -> list[Window]:
    """Returns the windows of a training whose steps take a time of their own and one for a row."""
    windows = []
    for epoch in range(plan.epochs):
        planned, step = EpochPlan(plan, epoch), 0
        while step < plan.steps_per_epoch:
            end = plan.dispatch_end(step, calls=calls)
            dispatch = planned.dispatch(step, end)
            seconds = dispatch.examples * row_seconds + dispatch.num_steps * step_seconds
            counted = {n: getattr(dispatch, n) for n in ("num_steps", "examples", "tokens")}
            windows.append(
                Window(
                    step=dispatch.step + dispatch.num_steps,
                    epoch=epoch,
                    batch_size=plan.batch_size,
                    **counted,
                    seconds=seconds,
                    data_wait_seconds=seconds / 8,
                    loss=0.5,
                    metrics={},
                )
            )
            step = end
    return windows


@given(
    rows=st.integers(1, 3_000),
    batch_size=st.integers(1, 700),
    epochs=st.integers(1, 4),
    steps_per_call=st.integers(1, 40),
    calls=st.integers(1, 5),
    row_seconds=st.floats(1e-6, 1e-3),
    step_seconds=st.floats(1e-5, 1e-2),
)
@example(1_312, 81, 3, 4, 4, 1e-6, 1e-4)  # 16 whole batches and one of 16 rows
def test_the_figures_of_a_run_agree(
    rows: int,
    batch_size: int,
    epochs: int,
    steps_per_call: int,
    calls: int,
    row_seconds: float,
    step_seconds: float,
) -> None:
    plan = Plan(
        lengths=np.ones([1, rows], np.int64),
        batch_size=min(rows, batch_size),
        replicas=1,
        steps_per_call=steps_per_call,
        seed=0,
        epochs=epochs,
    )
    how = {"row_seconds": row_seconds, "step_seconds": step_seconds}
    windows = windows_of(plan, calls=calls, **how)
    history = History([listener := Listener()], learning_rate=lambda: 0.25)
    for window in windows:
        history.window(window)
    found = history.end().windows
    # 1. Nothing is lost, and the mean is what a clock around the training says.
    seconds = sum(window.seconds for window in windows)
    assert (found.examples, found.train_seconds) == (rows * epochs, pytest.approx(seconds))
    assert found.mean_examples_per_second == pytest.approx(rows * epochs / seconds)
    assert found.data_wait_fraction == pytest.approx(1 / 8)
    # 2. Steps/s times the batch size are the examples/s, with smaller batches and without.
    for kind in ("", "mean_"):
        steps, examples = (getattr(found, f"{kind}{u}_per_second") for u in ("steps", "examples"))
        assert steps * plan.batch_size == pytest.approx(examples)
    # 3. Stretches are long enough; only a training that is short as a whole has a shorter one.
    stretches = stretches_of(map(dataclasses.asdict, windows), batch_size=plan.batch_size)
    assert len(stretches) == len(listener.stretches)
    assert sum(stretch.examples for stretch in stretches) == rows * epochs
    assert len(stretches) == 1 or all(s.seconds >= LEAST_SECONDS for s in stretches)
    assert stretches[-1].step == windows[-1].step
    rates = [stretch.examples_per_second for stretch in stretches]
    assert found.examples_per_second == pytest.approx(np.median(rates))
    assert {stretch.learning_rate for stretch in listener.stretches} == {0.25}
    # 4. No rate is that of a short batch alone, unless each step is a dispatch.
    if plan.whole_steps and steps_per_call * calls > 1:
        whole = plan.batch_size / (plan.batch_size * row_seconds + step_seconds)
        assert min(window.examples_per_second for window in windows) >= whole / 2 * (1 - 1e-9)
        assert min(stretch.examples_per_second for stretch in stretches) >= whole / 2 * (1 - 1e-9)
