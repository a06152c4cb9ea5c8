"""The promises of a compiled loop, and the program that XLA makes of it."""

import re
from dataclasses import dataclass

import numpy as np
import pytest
import tensorflow as tf

from harness.data.ragged import RaggedSets
from harness.feed.plan import Call
from tests.harness.program.rig import Batches, Rig, Values, assert_same, build_rig, step_of
from tests.harness.random_sets import random_sets


@pytest.fixture(scope="module")
def rich_sets() -> RaggedSets:
    return random_sets(np.random.default_rng(), rows=70, unique=True)


def rich_rig(sets: RaggedSets) -> Rig:
    """Builds a rig with Adam, dropout, and float16 with its loss scale; an epoch has 9 steps in
    calls of 4, 4 and 1, the last of 6 rows."""
    return build_rig(sets, dropout=0.3, precision="mixed_float16", epochs=2)


@dataclass(frozen=True, kw_only=True)
class Run:
    """A rig that was compiled beforehand and then trained for two epochs."""

    rig: Rig
    start: Values
    compiled: Values
    """The values after compiling, before training."""
    sums: np.ndarray

    def first(self) -> tuple[Call, Batches]:
        """Sets the values of the start; returns the first call of four steps, and its batches."""
        self.rig.set_values(self.start)
        dispatch, batches = next(self.rig.dispatches())
        return dispatch.calls[0], batches


@pytest.fixture(scope="module")
def rich(rich_sets: RaggedSets) -> Run:
    rig = rich_rig(rich_sets)
    start = rig.values()
    _, batches = next(rig.dispatches())
    assert [(call.rows, call.num_steps) for call in rig.plan.programs()] == [(8, 4), (6, 1)]
    for call in rig.plan.programs():
        (made,) = rig.training.compile(batches, call, at_step=7)
        assert (made.program, made.step, made.capacity) == ("training step", 7, sum(call.capacity))
    return Run(rig=rig, start=start, compiled=rig.values(), sums=rig.train())


def test_compiling_leaves_every_variable_as_it_was(rich: Run) -> None:
    assert_same(rich.compiled, rich.start)


def test_same_seed_same_sums(rich: Run, rich_sets: RaggedSets) -> None:
    again = rich_rig(rich_sets)
    np.testing.assert_array_equal(again.train(), rich.sums)  # also without compiling beforehand


def test_many_steps_in_a_call_equal_many_calls(rich: Run) -> None:
    call, batches = rich.first()
    assert call.num_steps == 4
    together = rich.rig.run(call, batches)
    after = rich.rig.values()
    rich.first()
    single = [rich.rig.run(step_of(call, step), batches) for step in range(4)]
    assert_same(rich.rig.values(), after)
    # Added up over the rows by each call: in another order.
    np.testing.assert_allclose(np.sum(single, axis=0), together, rtol=1e-6)


def test_every_variable_is_trained(rich: Run) -> None:
    rich.first()
    rich.rig.train()
    changed = [
        not np.array_equal(new, old)
        for new, old in zip(rich.rig.values()[0], rich.start[0], strict=True)
    ]
    still = [
        v.name for v, has in zip(rich.rig.states[0].variables, changed, strict=True) if not has
    ]
    # Neither the rate nor, without an overflow, the scale and the count of skipped steps.
    assert len(still) == 3, still


def optimized(rig: Rig, batches: Batches, call: Call) -> str:
    """Returns the program that XLA makes of a device's loop on this CPU."""
    function = rig.training.on_device(0, call)
    (batch,) = batches[call.rows]
    leaves = [*tf.nest.flatten(batch), tf.constant(call.first, tf.int64)]

    @tf.function(jit_compile=True, autograph=False)
    def flat(*leaves: tf.Tensor) -> tf.Tensor:
        own = tf.nest.pack_sequence_as(batch, leaves[:-1])
        return function.python_function(own, leaves[-1])

    return flat.experimental_get_compiler_ir(*leaves)(stage="optimized_hlo")


@pytest.mark.parametrize(
    ("implementation", "input_"), [("gather", "resident"), ("dense", "stream")]
)
def test_xla_knows_how_often_a_loop_runs(implementation: str, input_: str) -> None:
    """Otherwise a GPU asks the host in every step whether to go on. `scripts/gpu-programs` compiles
    for GPUs and counts more."""
    sets = random_sets(np.random.default_rng(), rows=64)
    rig = build_rig(
        sets,
        steps_per_call=7,
        implementation=implementation,
        input=input_,
        dropout=0.2,
        precision="mixed_float16",
    )
    dispatch, batches = next(rig.dispatches())
    program = optimized(rig, batches, dispatch.calls[0])
    loops = re.findall(r" while\(.*", program)
    assert loops
    trips = [re.search(r'known_trip_count":\{"n":"(\d+)"\}', loop) for loop in loops]
    assert all(trips), loops
    assert "7" in [trip[1] for trip in trips if trip]
    for host in (" infeed(", " outfeed(", " send(", " recv(", " conditional("):
        assert host not in program
