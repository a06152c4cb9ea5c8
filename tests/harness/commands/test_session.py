"""Whole sessions, from the settings to the losses: what must not depend on the implementation."""

from pathlib import Path

import numpy as np
import pytest

from harness.commands.session import build_session
from harness.config import (
    DataConfig,
    ExecutionConfig,
    Implementation,
    ModelConfig,
    TrainConfig,
)
from harness.data import store
from harness.data.ragged import RaggedSets
from harness.pipeline.plan import training_plan
from kernels.multi_hot.native.build import find_compiler

NUM_STEPS = 80


def step_losses(data: str, implementation: Implementation, folder: Path) -> np.ndarray:
    """The summed loss of each of the first steps of the default run, dropout included."""
    config = TrainConfig(
        data=DataConfig(data=data),
        execution=ExecutionConfig(
            implementation=implementation,
            steps_per_dispatch=1,
            precision="float32",
        ),
    )
    session = build_session(config, checkpoint_dir=folder)
    losses = []
    for dispatch, batches in session.dispatches(epochs=1):
        session.engine.prepare(dispatch, batches)
        losses.append(session.engine.fetch(session.engine.train(dispatch, batches)).loss)
    return np.array(losses)


def check_native_against_gather(data: str, folder: Path) -> None:
    native = step_losses(data, "native", folder)
    gather = step_losses(data, "gather", folder)
    assert len(native) == NUM_STEPS
    assert native[-1] < 0.8 * native[0], "the network has learned nothing that could differ"
    np.testing.assert_allclose(native, gather, rtol=1e-4)


def trained(data: str, seed: int, replicas: int, folder: Path) -> tuple[np.ndarray, list]:
    """Mean losses of the first steps, and the weights after them."""
    config = TrainConfig(
        data=DataConfig(data=data),
        model=ModelConfig(dropout=(0.0,)),  # replicas drop units of their own
        execution=ExecutionConfig(
            implementation="native",
            precision="float32",
            replicas=replicas,
            seed=seed,
            steps_per_dispatch=1,
        ),
    )
    session = build_session(config, checkpoint_dir=folder)
    losses = []
    for dispatch, batches in session.dispatches(epochs=1):
        session.engine.prepare(dispatch, batches)
        losses.append(session.engine.fetch(session.engine.train(dispatch, batches)).loss)
    return np.array(losses), session.network.logits.get_weights()


def check_one_replica_against_two(data: str, seed: int, folder: Path) -> None:
    losses, weights = trained(data, seed, 1, folder)
    losses_of_two, weights_of_two = trained(data, seed, 2, folder)
    assert len(losses) == NUM_STEPS
    np.testing.assert_allclose(losses_of_two, losses, rtol=1e-6)  # sums of a step's rows
    for one, two in zip(weights, weights_of_two, strict=True):
        np.testing.assert_array_equal(one, two)


def save_with_a_heavy_first_batch(folder: Path, batch_size: int) -> None:
    """4,000 rows of 5 ids to train on, but one of 3,000 that is in the first batch of the epoch."""
    rng = np.random.default_rng()
    lengths = np.full(4020, 5)
    plan = training_plan(
        lengths[20:], batch_size=batch_size, replicas=1, steps_per_dispatch=1, seed=0
    )
    lengths[20 + plan.order(0)[3]] = 3000
    sets = RaggedSets(
        values=np.concatenate([rng.choice(5000, n, replace=False) for n in lengths]),
        row_splits=np.concatenate([[0], np.cumsum(lengths)]),
        labels=rng.integers(0, 2, 4020),
        num_tokens=5000,
        name="heavy",
    )
    store.save(sets, folder, held_out_rows=20)


needs_compiler = pytest.mark.skipif(find_compiler() is None, reason="needs a C++ compiler")


@needs_compiler
def test_native_trains_as_gather_does(tmp_path: Path) -> None:
    check_native_against_gather("synthetic", tmp_path)


@needs_compiler
def test_native_trains_as_gather_does_on_real_data(imdb_path: Path, tmp_path: Path) -> None:
    check_native_against_gather(str(imdb_path), tmp_path)


@needs_compiler
@pytest.mark.usefixtures("logical_devices")
@pytest.mark.parametrize("replicas", [1, 2])
def test_a_program_is_tried_out_on_a_batch_that_it_holds(replicas: int, tmp_path: Path) -> None:
    save_with_a_heavy_first_batch(tmp_path / "heavy", batch_size=20)
    config = TrainConfig(
        data=DataConfig(data=str(tmp_path / "heavy")),
        execution=ExecutionConfig(
            batch_size=20,
            implementation="native",
            input="resident",
            precision="float32",
            replicas=replicas,
        ),
    )
    session = build_session(config, checkpoint_dir=tmp_path)
    compilations = []
    for dispatch, batches in session.dispatches(epochs=1):
        compilations.append(session.engine.prepare(dispatch, batches))
        assert np.isfinite(session.engine.fetch(session.engine.train(dispatch, batches)).loss)
    assert [made.capacity > 3000 for made in compilations if made] == [True, False]


@needs_compiler
@pytest.mark.usefixtures("logical_devices")
def test_two_replicas_train_as_one_to_the_last_bit(tmp_path: Path) -> None:
    check_one_replica_against_two("synthetic", 10, tmp_path)


@needs_compiler
@pytest.mark.usefixtures("logical_devices")
def test_two_replicas_train_as_one_on_real_data(imdb_path: Path, tmp_path: Path) -> None:
    check_one_replica_against_two(str(imdb_path), 0, tmp_path)
