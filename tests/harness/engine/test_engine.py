"""The engine under the real loop: its records, and what a window costs in host syncs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from harness.background import Background
from harness.config import OptimizerConfig
from harness.data.ragged import RaggedSets
from harness.engine.engine import Engine
from harness.loop import train
from harness.pipeline.plan import evaluation_plan
from harness.pipeline.stream import Stream
from harness.records import Compilation, Observer, Window
from tests.harness.engine.outliers import sets_with_outliers
from tests.harness.engine.rig import Rig, build_rig
from tests.harness.random_sets import random_sets


def engine_of(rig: Rig, folder: Path, background: Background | None = None) -> Engine:
    plan = evaluation_plan(
        rig.sets.lengths, batch_size=8, replicas=len(rig.replicas), steps_per_dispatch=4
    )
    return Engine(
        rig.network,
        rig.devices,
        OptimizerConfig(),
        scaled=rig.replicas[0].loss_scale is not None,
        test_feed=Stream(rig.sets, plan),
        checkpoint_dir=folder,
        background=background or Background(),
    )


@contextmanager
def host_reads() -> Iterator[list[str]]:
    """The reads of device values by the host, by the name of what read.

    TensorFlow's eager tensor hands its content out through these methods alone (beside the buffer
    protocol, which NumPy uses where it is given a tensor).
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


def test_every_way_to_read_a_tensor_is_counted() -> None:
    tensor = tf.constant(3.0)
    ways: list[Callable] = [bool, int, float, str, repr, tf.get_static_value, "{:.1f}".format]
    for way in [lambda tensor: tensor.numpy(), *ways]:
        with host_reads() as reads:
            way(tensor)
        assert reads == ["float32 ()"], way
    variable = tf.Variable(tensor)
    with host_reads() as reads:
        float(variable.numpy())
        float(variable)
    assert len(reads) == 2


@dataclass
class Reads(Observer):
    """How many reads had been made at each window."""

    reads: list[str]
    at_windows: list[int] = field(default_factory=list)

    def on_window(self, window: Window) -> None:
        self.at_windows.append(len(self.reads))


@pytest.mark.parametrize(("replicas", "precision"), [(1, "float32"), (2, "mixed_float16")])
def test_a_window_costs_one_host_sync(tmp_path: Path, replicas: int, precision: str) -> None:
    # 12 steps in 6 dispatches, stopped before the epoch's evaluation.
    sets = random_sets(np.random.default_rng(), rows=96)
    rig = build_rig(sets, replicas=replicas, precision=precision, dropout=0.2, steps_per_dispatch=2)
    stream = rig.stream()
    with Background() as background, host_reads() as reads:
        engine = engine_of(rig, tmp_path, background)
        engine.prepare(*next(iter(stream)))
        reads.clear()
        observer = Reads(reads)
        progress = train(
            stream,
            engine,
            [observer],
            steps_per_epoch=rig.plan.steps_per_epoch,
            should_stop=lambda: len(observer.at_windows) == 5,
        )
    assert progress.step == 10
    assert observer.at_windows == [1, 2, 3, 4, 5]
    assert set(reads[:5]) == {"float64 (4,)"}


class Compilations(Observer):
    def __init__(self) -> None:
        self.seen: list[Compilation] = []

    def on_compilation(self, compilation: Compilation) -> None:
        self.seen.append(compilation)


def test_the_records_of_a_run(tmp_path: Path) -> None:
    sets = sets_with_outliers(np.random.default_rng())
    rig = build_rig(sets, steps_per_dispatch=16, epochs=2)
    observer = Compilations()
    with Background() as background:
        progress = train(
            rig.stream(),
            engine_of(rig, tmp_path, background),
            [observer],
            steps_per_epoch=rig.plan.steps_per_epoch,
        )
    assert [window.step for window in progress.windows] == [16, 32, 40, 56, 72, 80]
    assert [evaluation.step for evaluation in progress.evaluations] == [40, 80]
    assert sum(window.examples for window in progress.windows) == 2 * 320
    assert sum(window.tokens for window in progress.windows) == 2 * sets.nnz
    assert all(0 <= window.accuracy <= 1 for window in progress.windows)
    assert all(window.loss_scale is None for window in progress.windows)
    assert all(0 <= w.data_wait_seconds <= w.seconds for w in progress.windows)
    assert progress.compilations == tuple(observer.seen)
    by_program: dict[str, list[int]] = {}
    for compilation in progress.compilations:
        by_program.setdefault(compilation.program, []).append(compilation.capacity)
    assert len(by_program["evaluation"]) == 1
    capacities = rig.plan.capacities
    assert sorted(by_program["training step"]) == [capacities.typical, capacities.largest]
    assert {path.name for path in tmp_path.iterdir()} == {"ckpt-40.npz", "ckpt-80.npz"}


def test_unprepared_shapes_are_noticed(tmp_path: Path) -> None:
    sets = random_sets(np.random.default_rng(), rows=16)
    rig = build_rig(sets)
    engine = engine_of(rig, tmp_path)
    dispatch, batches = next(rig.dispatches())
    with pytest.raises(AssertionError, match="compiled unseen"):
        engine.train(dispatch, batches)


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    sets = random_sets(np.random.default_rng(), rows=64)
    whole = continued_losses(sets, tmp_path / "whole", stop_after=None)
    assert continued_losses(sets, tmp_path / "stopped", stop_after=1) == whole


def continued_losses(sets: RaggedSets, folder: Path, *, stop_after: int | None) -> list[float]:
    """The windows' losses of a run that is stopped, if asked to, and resumed by a new engine."""
    losses: list[float] = []
    start_step = 0
    while True:
        rig = build_rig(sets, dropout=0.2, steps_per_dispatch=3, epochs=2)
        with Background() as background:
            engine = engine_of(rig, folder, background)
            if start_step:
                assert engine.restore() == start_step
            progress = train(
                rig.stream(start_step=start_step),
                engine,
                [],
                steps_per_epoch=rig.plan.steps_per_epoch,
                start_step=start_step,
                should_stop=iter([*[False] * (stop_after - 1), True]).__next__
                if stop_after
                else lambda: False,
            )
        losses += [window.loss for window in progress.windows]
        start_step, stop_after = progress.step, None
        if not progress.interrupted:
            return losses
