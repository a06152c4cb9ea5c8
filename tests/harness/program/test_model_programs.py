"""The programs under the real loop: its records, and what a window costs in host syncs."""

import itertools
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from harness.feed.plan import evaluation_plan
from harness.run.background import Background
from harness.run.checkpoints import Checkpoints
from harness.run.history import History
from harness.run.records import Observer, Record, Window
from harness.task.task import Task
from harness.trainer.cadence import Cadence
from harness.trainer.loop import Rows, Training, train
from tests.harness.program.rig import Rig, assert_same, build_rig, sets_with_outliers
from tests.harness.random_sets import random_sets


def run_of(rig: Rig, checkpoints: Checkpoints | None = None, *, start_step: int = 0) -> Training:
    """Returns a rig's training, with an evaluation on the rows that it trains on."""
    plan = evaluation_plan(rig.plan.lengths, batch_size=8, replicas=1, steps_per_call=4)
    return Training(
        programs=rig.programs,
        rows=Rows(feed=rig.feed, plan=rig.plan),
        validation=Rows(feed=rig.feed, plan=plan),
        cadence=Cadence(steps_per_call=rig.plan.steps_per_call, fixed=True),
        checkpoints=checkpoints,
        start_step=start_step,
    )


@contextmanager
def host_reads() -> Iterator[list[str]]:
    """Records the reads of device values by the host, by dtype and shape.

    TensorFlow's eager tensor hands out its content only through this method (besides the buffer
    protocol, which NumPy uses when it is given a tensor).
    """
    kind = type(tf.constant(0))
    reads: list[str] = []
    own = kind._numpy_internal

    def counted(tensor: tf.Tensor) -> Any:
        reads.append(f"{tensor.dtype.name} {tensor.shape}")
        return own(tensor)

    kind._numpy_internal = counted
    try:
        yield reads
    finally:
        kind._numpy_internal = own


@dataclass
class Reads(Observer):
    """Counts the reads up to each window."""

    reads: list[str]
    at_windows: list[int] = field(default_factory=list)

    def tell(self, record: Record) -> None:
        if isinstance(record, Window):
            self.at_windows.append(len(self.reads))


@pytest.mark.parametrize("precision", ["float32", "mixed_float16"])
def test_a_window_costs_one_host_sync(precision: str) -> None:
    # 12 steps in 6 dispatches, stopped before the epoch's evaluation.
    sets = random_sets(np.random.default_rng(), rows=96)
    rig = build_rig(sets, precision=precision, dropout=0.2, steps_per_call=2)
    run = run_of(rig)
    dispatches = run.dispatches(epochs=1)
    with host_reads() as reads:
        first = next(dispatches)
        run.prepare(*first)
        reads.clear()
        observer = Reads(reads)
        progress = train(
            itertools.chain([first], dispatches),
            run,
            History([observer]),
            steps_per_epoch=rig.plan.steps_per_epoch,
            should_stop=lambda: len(observer.at_windows) == 5,
        )
    assert progress.step == 10
    # The sums, for which it waits; the loss scale and the count of skipped steps are there then.
    each = ["float64 (2,)", *(["int64 ()", "float32 ()"] if precision == "mixed_float16" else [])]
    assert observer.at_windows == [len(each) * window for window in range(1, 6)]
    assert reads[: 5 * len(each)] == 5 * each


def test_epochs_without_the_host_between_them_are_those_with_it() -> None:
    """A dispatch of three epochs has one host sync, and the records of three dispatches."""
    sets = random_sets(np.random.default_rng(), rows=43)  # 5 steps an epoch and a smaller batch
    found = []
    for num_calls in (3, 9):
        rig = build_rig(sets, dropout=0.2, steps_per_call=2, epochs=7, input="resident")
        steps = rig.plan.steps_per_epoch
        cadence = Cadence(steps_per_call=2, fixed=True, steps_per_epoch=steps, num_calls=num_calls)
        run = replace(run_of(rig), validation=None, cadence=cadence)
        with host_reads() as reads:
            dispatches = run.dispatches(epochs=7)
            first = next(dispatches)
            run.prepare(*first)
            reads.clear()
            observer = Reads(reads)
            every = itertools.chain([first], dispatches)
            progress = train(every, run, History([observer]), steps_per_epoch=steps)
        ends = [(epoch.step, epoch.loss, epoch.metrics) for epoch in progress.epochs]
        found.append((ends, rig.values()))
        # The sums, then whether the weights are finite.
        if num_calls == 3:
            assert reads == 7 * ["float64 (2,)", "bool ()"]
        else:
            each = ["float64 (3, 2)", "bool ()"]
            assert reads == [*each, *each, "float64 (2,)", "bool ()"]
            assert observer.at_windows == [1, 1, 1, 3, 3, 3, 5]
    (ends, values), (other_ends, other_values) = found
    assert len(ends) == 7
    assert ends == other_ends
    assert_same(values, other_values)


def test_programs_that_are_compiled_together_change_nothing() -> None:
    sets = sets_with_outliers(np.random.default_rng())
    task = Task(metrics=[keras.metrics.Recall()])
    rig = build_rig(sets, steps_per_call=16, precision="mixed_float16", dropout=0.2, task=task)
    run = run_of(rig)
    before = rig.values()
    first = next(rig.dispatches())
    start = time.perf_counter()
    compilations = run.prepare(*first)
    seconds = time.perf_counter() - start
    assert [c.program for c in compilations] == ["evaluation", *2 * ["training step"]]
    assert all(c.seconds > 0 for c in compilations)
    assert sum(c.seconds for c in compilations) <= seconds
    assert_same(rig.values(), before)
    assert not run.prepare(*first)


def test_skipped_steps_are_those_of_the_window_also_after_a_checkpoint(tmp_path: Path) -> None:
    sets = random_sets(np.random.default_rng(), rows=64)
    skipped = []
    for resumed in (False, True):
        rig = build_rig(sets, precision="mixed_float16")
        with Background() as background:
            programs = rig.programs
            checkpoints = Checkpoints(tmp_path, programs.state, background)
            if resumed:
                checkpoints.restore()
            dispatch, batches = next(rig.dispatches())
            programs.prepare(rig.plan, dispatch, batches, start_step=0)
            for scale in (2.0**15, 2.0**120):  # the larger overflows, whatever the gradients
                state = programs.state
                assert state.loss_scale is not None
                state.loss_scale.scale.assign(scale)
                (sums,) = programs.train([(dispatch, batches)])
                skipped.append(sums.skipped_steps)
                assert sums.loss_scale == (scale if scale < 2**16 else scale / 2**4)
            checkpoints.save(8)
    assert skipped == [0, 4, 0, 4]


def test_a_state_with_an_infinite_slot_is_never_saved(tmp_path: Path) -> None:
    """The square of a huge gradient overflows in Adam's slot, but weights and losses stay
    finite."""
    rig = build_rig(random_sets(np.random.default_rng(), rows=16))
    slots = rig.state.optimizer.variables
    velocity = next(slot for slot in slots if "velocity" in slot.name)
    with Background() as background:
        run = run_of(rig, Checkpoints(tmp_path, rig.state, background))
        for step, slot in ((1, np.inf), (2, 0.0)):
            velocity.assign(np.full(velocity.shape, slot))
            history = History([], start_step=step)
            run.save(history)
            assert (history.progress.divergence is None) == (step == 2)
    assert [path.name for path in tmp_path.iterdir()] == ["ckpt-2.npz"]
