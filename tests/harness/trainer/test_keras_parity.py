"""The trainer takes the same steps as `keras.Model.fit`."""

from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import harness
from harness.feed.plan import epoch_order

ROWS, TOKENS, BATCH, EPOCHS = 1000, 300, 50, 4
STEPS = EPOCHS * ROWS // BATCH


@pytest.fixture(scope="module")
def sets() -> harness.RaggedSets:
    rng = np.random.default_rng()
    lengths = rng.integers(0, 40, ROWS)
    splits = np.concatenate([[0], np.cumsum(lengths)])
    values = rng.integers(0, TOKENS, splits[-1])
    ragged = harness.RaggedSets(values=values, row_splits=splits, num_tokens=TOKENS)
    likely = np.array([np.sin(ragged.row(i)).sum() for i in range(ROWS)])
    labels = (likely + rng.normal(size=ROWS) > 0).astype(np.int32)
    return harness.RaggedSets(
        values=values, row_splits=splits, labels=labels, num_tokens=TOKENS, name="random"
    ).unique()


def plain(inputs: Any) -> Any:
    x = harness.MultiHotDense(16, TOKENS, activation="gelu")(inputs)
    return keras.layers.Dense(1)(keras.layers.Dense(8, activation="tanh")(x))


def normalized(inputs: Any) -> Any:
    # A bias before the normalization would have no gradient but rounding.
    x = harness.MultiHotDense(16, TOKENS, use_bias=False)(inputs)
    x = keras.layers.Activation("gelu")(keras.layers.BatchNormalization()(x))
    return keras.layers.Dense(1)(x)


def regularized(inputs: Any) -> Any:
    l2 = keras.regularizers.L2(1e-3)
    x = harness.MultiHotDense(
        16,
        TOKENS,
        activation="gelu",
        kernel_regularizer=l2,
        bias_regularizer="l1",
        activity_regularizer=l2,
    )(inputs)
    x = keras.layers.Dense(8, activation="tanh", activity_regularizer="l2")(x)
    return keras.layers.Dense(1, kernel_regularizer="l2")(x)


def built(function: Callable[[Any], Any], seed: int) -> keras.Model:
    keras.utils.set_random_seed(seed)
    inputs = {
        name: keras.Input(batch_shape=(None,), dtype="int32", name=name)
        for name in ("values", "row_splits")
    }
    return keras.Model(inputs, function(inputs))


def adam() -> keras.optimizers.Optimizer:
    return keras.optimizers.Adam(1e-2)


def averaged() -> keras.optimizers.Optimizer:
    schedule = keras.optimizers.schedules.CosineDecay(
        1e-2, STEPS, warmup_target=3e-2, warmup_steps=10
    )
    return keras.optimizers.AdamW(schedule, weight_decay=1e-2, use_ema=True, ema_momentum=0.9)


def clipped() -> keras.optimizers.Optimizer:
    return keras.optimizers.SGD(0.3, momentum=0.9, clipnorm=0.1)


class Losses(keras.callbacks.Callback):
    """Records the loss of every batch, from the mean of the epoch so far that `fit` reports."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[float] = []
        self._sum = 0.0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        before = 0.0 if batch == 0 else self._sum
        self._sum = logs["loss"] * (batch + 1)
        self.found.append(self._sum - before)


def dataset(sets: harness.RaggedSets, seed: int) -> tf.data.Dataset:
    """Returns the batches in the trainer's order."""

    def batches() -> Iterator[tuple[Any, ...]]:
        for epoch in range(EPOCHS):
            order = epoch_order(sets.num_rows, seed=seed, epoch=epoch)
            for start in range(0, sets.num_rows, BATCH):
                part = sets.take(order[start : start + BATCH])
                inputs = {"values": part.values, "row_splits": part.row_splits.astype(np.int32)}
                yield inputs, part.labels.astype(np.float32)[:, None]

    spec = {name: tf.TensorSpec([None], tf.int32) for name in ("values", "row_splits")}
    signature = (spec, tf.TensorSpec([None, 1], tf.float32))
    return tf.data.Dataset.from_generator(batches, output_signature=signature)


@pytest.mark.parametrize(
    ("function", "optimizer"),
    [
        (normalized, adam),
        (regularized, clipped),
        (plain, averaged),
    ],
)
def test_losses_of_80_steps(
    sets: harness.RaggedSets,
    function: Callable[[Any], Any],
    optimizer: Callable[[], keras.optimizers.Optimizer],
) -> None:
    seed = int(np.random.default_rng().integers(1000))
    theirs, ours = built(function, seed), built(function, seed)
    theirs.compile(
        optimizer(),
        keras.losses.BinaryCrossentropy(from_logits=True),
        metrics=[keras.metrics.BinaryAccuracy(name="accuracy", threshold=0.0)],
    )
    expected = Losses()
    history = theirs.fit(
        dataset(sets, seed),
        epochs=EPOCHS,
        steps_per_epoch=ROWS // BATCH,
        callbacks=[expected],
        shuffle=False,  # it comes in order
        verbose=0,
    )
    found = Losses()
    trainer = harness.Trainer(ours, optimizer=optimizer(), batch_size=BATCH, seed=seed)
    own = trainer.fit(sets, epochs=EPOCHS, callbacks=[found], verbose=False)
    assert len(found.found) == STEPS
    np.testing.assert_allclose(found.found, expected.found, rtol=1e-4)
    np.testing.assert_allclose(own.history["loss"], history.history["loss"], rtol=1e-4)
    np.testing.assert_allclose(own.history["accuracy"], history.history["accuracy"], atol=2e-3)
    for mine, their in zip(trainer.model.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(mine, their, rtol=2e-3, atol=2e-4)
