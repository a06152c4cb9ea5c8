"""The multinomial likelihood of ragged sets is NumPy's and Keras's of the dense targets."""

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from harness.base.errors import InputError
from harness.data.ragged import RaggedSets
from harness.task import multinomial
from harness.task.multinomial import Multinomial
from tests.harness.random_sets import random_sets

pytestmark = pytest.mark.usefixtures("logical_devices")
ITEMS = 37


def drawn(rows: int = 9) -> tuple[RaggedSets, dict[str, Any], np.ndarray]:
    """Draws rows, some empty and with repeated items; returns them, with padding behind them as a
    batch has it, and as 0 and 1 [rows, items]."""
    sets = random_sets(np.random.default_rng(), rows=rows, num_tokens=ITEMS, unique=False)
    dense = np.zeros([rows, ITEMS])
    for row in range(rows):
        dense[row, sets.row(row)] = 1
    padded = {"values": np.pad(sets.values, (0, 7)), "row_splits": sets.row_splits.astype(np.int32)}
    return sets, padded, dense


@pytest.mark.parametrize("compiled", [True, False])
def test_losses_and_gradients_are_those_of_dense_targets(compiled: bool) -> None:
    _, sets, dense = drawn()
    logits = np.random.default_rng().normal(0, 3, dense.shape)
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    expected = -(dense * log_p).sum(axis=1)
    gradients = dense.sum(axis=1, keepdims=True) * np.exp(log_p) - dense

    @tf.function(jit_compile=compiled, autograph=False)
    def both(values: Any, row_splits: Any, z: Any) -> Any:
        targets = {"values": values, "row_splits": row_splits}
        with tf.GradientTape() as tape:
            tape.watch(z)
            losses = Multinomial().of_sets(targets, z)
        return losses, tape.gradient(losses, z)

    z = tf.constant(logits, tf.float32)
    losses, found = both(sets["values"], sets["row_splits"], z)
    np.testing.assert_allclose(losses, expected, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(found, gradients, rtol=1e-4, atol=1e-5)
    plain = Multinomial(reduction="sum")(dense, z)  # as in Keras's own fit
    np.testing.assert_allclose(plain, expected.sum(), rtol=1e-5)


def test_samples_of_all_items_are_all_items_and_fewer_are_drawn_evenly() -> None:
    _, sets, dense = drawn()
    rng = np.random.default_rng()
    inputs = tf.constant(rng.normal(size=[len(dense), 5]), tf.float32)
    kernel = tf.constant(rng.normal(size=[5, ITEMS]), tf.float32)
    bias = tf.constant(rng.normal(size=[ITEMS]), tf.float32)

    @tf.function(jit_compile=True, autograph=False)
    def losses(loss: Multinomial) -> Any:
        with tf.GradientTape() as tape:
            tape.watch([kernel, bias, inputs])
            of = loss.of_sets if loss.num_samples is None else loss.of_samples
            found = of(sets, inputs @ kernel + bias)
        return found, [*map(tf.convert_to_tensor, tape.gradient(found, [kernel, bias, inputs]))]

    expected, found = losses(Multinomial()), losses(Multinomial(num_samples=ITEMS))
    for own, other in zip(tf.nest.flatten(found), tf.nest.flatten(expected), strict=True):
        np.testing.assert_allclose(own, other, rtol=1e-4, atol=1e-4)
    counts = np.zeros(ITEMS)
    for _ in range(300):
        part = multinomial._drawn(10, ITEMS, tf.constant(rng.normal(size=[2, 3]), tf.float32))
        counts += np.bincount(part, minlength=ITEMS)
    assert np.abs(counts - 3_000 / ITEMS).max() < 6 * np.sqrt(3_000 / ITEMS)


@pytest.mark.parametrize("own", [(4, 20_003), (20_003,)])
def test_the_own_items_of_a_row_count_once_among_the_drawn(
    own: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The estimate keeps its digits, although each of two drawn items stands for 20,000."""
    num_items, logits = 40_000, np.linspace(-2, 2, 40_000).astype(np.float32)
    logits[[4, 20_003]] = 9, 12
    sets = {
        "values": tf.constant([*own, 0], tf.int32),
        "row_splits": tf.constant([0, len(own)], tf.int32),
    }

    @tf.function(jit_compile=True, autograph=False)
    def estimate(drawn: tf.Tensor) -> tf.Tensor:
        monkeypatch.setattr(multinomial, "_drawn", lambda *_: drawn)
        return Multinomial(num_samples=2).of_samples(sets, tf.ones([1, 1]) @ logits[None])

    for drawn in ([4, 20_003], [7, 20_003], [4, 30_000]):
        others = [item for item in drawn if item not in own]
        total = np.exp(logits[[*own]], dtype=np.float64).sum()
        total += num_items / 2 * np.exp(logits[others], dtype=np.float64).sum()
        expected = len(own) * np.log(total) - logits[[*own]].sum(dtype=np.float64)
        found = estimate(tf.constant(drawn, tf.int32))
        np.testing.assert_allclose(found, [expected], rtol=2e-6, atol=2e-6)


def test_what_cannot_be_sampled_is_refused() -> None:
    _, sets, dense = drawn()

    def of(loss: Multinomial, layer: Any) -> None:
        tf.function(lambda x: loss.of_samples(sets, layer(x)), autograph=False)(dense)

    with pytest.raises(InputError, match="ends in a Tanh"):
        of(Multinomial(num_samples=5), keras.layers.Dense(ITEMS, activation=tf.tanh))
    with pytest.raises(InputError, match=r"num_samples is 38; it must be a whole .* from 1 to 37"):
        of(Multinomial(num_samples=38), keras.layers.Dense(ITEMS))
    with pytest.raises(InputError, match=r"num_samples is 2\.5; it must be a whole number"):
        Multinomial(num_samples=2.5)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="ragged sets"):
        Multinomial(num_samples=5).of_labels(dense, dense, sampled=True)
    with pytest.raises(InputError, match="the model gives 1"):
        Multinomial().of_labels(dense[:, :1], dense[:, :1], sampled=True)
    with pytest.raises(InputError, match="a whole number from 1"):
        Multinomial(num_samples=0)
    again = keras.losses.deserialize(keras.losses.serialize(Multinomial(num_samples=5)))
    assert again.num_samples == 5
