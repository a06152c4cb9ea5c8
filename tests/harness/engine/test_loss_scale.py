"""Loss scaling: the rule by itself, and one replica's NaN in a real step of two."""

import numpy as np
import pytest
import tensorflow as tf

from harness.data.ragged import RaggedSets
from harness.engine.loss_scale import LossScale
from tests.harness.engine.rig import Rig, assert_same, build_rig

FINITE = [1.0, -2.0]


def apply(scale: LossScale, *gradients: list[float]) -> tuple[int, bool]:
    """Steps skipped, and whether the update ran."""
    ran = tf.Variable(False)
    skipped = tf.function(
        lambda: scale.apply([tf.constant(g) for g in gradients], lambda: ran.assign(True)),
        jit_compile=True,
    )()
    return int(skipped), bool(ran)


def test_a_finite_step_updates_and_keeps_the_scale() -> None:
    scale = LossScale()
    assert apply(scale, FINITE, FINITE) == (0, True)
    assert (float(scale.scale), int(scale.finite_steps)) == (2.0**15, 1)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("place", [0, 1])
def test_any_gradient_that_is_not_finite_skips_and_halves(wrong: float, place: int) -> None:
    scale = LossScale()
    scale.finite_steps.assign(7)
    gradients = [FINITE, FINITE]
    gradients[place] = [0.0, wrong]
    assert apply(scale, *gradients) == (1, False)
    assert (float(scale.scale), int(scale.finite_steps)) == (2.0**14, 0)


def test_doubles_after_2000_finite_steps_in_a_row() -> None:
    scale = LossScale()

    @tf.function(jit_compile=True)
    def many(steps: tf.Tensor) -> tf.Tensor:
        def body(step: tf.Tensor) -> tf.Tensor:
            scale.apply([tf.ones(2)], lambda: None)
            return step + 1

        return tf.while_loop(lambda step: step < steps, lambda step: [body(step)], [0])

    many(tf.constant(1999))
    assert (float(scale.scale), int(scale.finite_steps)) == (2.0**15, 1999)
    many(tf.constant(1))
    assert (float(scale.scale), int(scale.finite_steps)) == (2.0**16, 0)
    many(tf.constant(2000))
    assert (float(scale.scale), int(scale.finite_steps)) == (2.0**17, 0)


def test_never_falls_below_1() -> None:
    scale = LossScale()
    scale.scale.assign(1.5)
    for _ in range(2):
        apply(scale, [float("nan")])
        assert float(scale.scale) == 1.0


@pytest.fixture(scope="module")
def rig() -> Rig:
    """Two replicas; row i holds the id i alone."""
    rows = 8
    sets = RaggedSets(
        values=np.arange(rows),
        row_splits=np.arange(rows + 1),
        labels=np.arange(rows) % 2,
        num_tokens=rows,
        name="ids",
    )
    return build_rig(sets, replicas=2, precision="mixed_float16", steps_per_dispatch=1, epochs=1)


@pytest.mark.parametrize("replica", [0, 1])
def test_one_replicas_nan_skips_the_step_on_all(rig: Rig, replica: int) -> None:
    ((dispatch, batches),) = rig.dispatches()
    for one in rig.replicas:
        assert one.loss_scale is not None
        one.loss_scale.scale.assign(2.0**15)
        one.loss_scale.finite_steps.assign(5)
    # A row of the table is infinite; only the one replica's batch holds its id.
    weights = [w.copy() for w in rig.network.logits.get_weights()]
    poisoned = [weights[0].copy(), *weights[1:]]
    poisoned[0][batches[replica].values.numpy()[0, 1]] = np.inf
    rig.network.logits.set_weights(poisoned)
    before = rig.state()
    loss, _, skipped, scale = rig.step(batches, dispatch.num_steps).numpy()
    after = rig.state()
    rig.network.logits.set_weights(weights)

    assert not np.isfinite(loss)
    assert (skipped, scale) == (1, 2.0**14)
    for one, old, new in zip(rig.replicas, before, after, strict=True):
        assert_same([old[:-2]], [new[:-2]])  # weights and optimizer
        assert one.loss_scale is not None
        assert float(one.loss_scale.scale) == 2.0**14
        assert int(one.loss_scale.finite_steps) == 0
    # And the next one, with finite weights, is taken again.
    _, _, skipped, scale = rig.step(batches, dispatch.num_steps).numpy()
    assert (skipped, scale) == (0, 2.0**14)
    assert not np.array_equal(rig.network.logits.get_weights()[0], weights[0])
