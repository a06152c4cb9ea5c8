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


def constrained_in_float64(inputs: Any) -> Any:
    x = harness.MultiHotDense(
        16,
        TOKENS,
        activation="gelu",
        kernel_constraint=keras.constraints.UnitNorm(),
        bias_constraint="non_neg",
        dtype="float64",
    )(inputs)
    return keras.layers.Dense(1)(x)


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


def accumulated() -> keras.optimizers.Optimizer:
    return keras.optimizers.Adam(1e-2, gradient_accumulation_steps=4)


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


def batches(
    sets: harness.RaggedSets, seed: int, weights: np.ndarray | None
) -> Iterator[tuple[Any, ...]]:
    """Yields the batches in the trainer's order."""
    for epoch in range(EPOCHS):
        order = epoch_order(sets.num_rows, seed=seed, epoch=epoch)
        for start in range(0, sets.num_rows, BATCH):
            part = sets.take(order[start : start + BATCH])
            inputs = {"values": part.values, "row_splits": part.row_splits.astype(np.int32)}
            labels = part.labels.astype(np.float32)[:, None]
            own = () if weights is None else (weights[order[start : start + BATCH]],)
            yield inputs, labels, *own


def dataset(
    sets: harness.RaggedSets, seed: int, weights: np.ndarray | None = None
) -> tf.data.Dataset:
    spec = {
        "values": tf.TensorSpec([None], tf.int32),
        "row_splits": tf.TensorSpec([None], tf.int32),
    }
    signature: tuple[Any, ...] = (spec, tf.TensorSpec([None, 1], tf.float32))
    if weights is not None:
        signature += (tf.TensorSpec([None], tf.float32),)
    return tf.data.Dataset.from_generator(
        lambda: batches(sets, seed, weights), output_signature=signature
    )


@pytest.mark.parametrize(
    ("function", "optimizer"),
    [
        (normalized, adam),
        (regularized, clipped),
        (constrained_in_float64, adam),
        (plain, averaged),
        (plain, accumulated),
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


def largest(y: Any, p: Any) -> Any:
    return keras.ops.max(keras.ops.square(y - p))


@pytest.mark.parametrize(
    ("loss", "kind", "metrics", "weighed"),
    [
        ("mse", "auto", ["mae", "r2_score"], "rows"),
        (lambda y, p: keras.ops.abs(y - p), "auto", ["mse"], "none"),
        (largest, "regression", ["mae"], "rows"),
        (lambda y, z: keras.losses.hinge(y, z), "binary", [], "classes"),
    ],
)
def test_numbers_and_functions(
    sets: harness.RaggedSets, loss: Any, kind: Any, metrics: list[str], weighed: str
) -> None:
    """The tasks are regressions, and losses that are functions of rows or of a batch."""
    rng = np.random.default_rng()
    rows = sets
    if kind != "binary":
        numbers = sets.labels + rng.normal(size=ROWS)
        rows = harness.RaggedSets(
            values=sets.values, row_splits=sets.row_splits, labels=numbers, num_tokens=TOKENS
        ).unique()
        assert rows.take([2, 1]).labels.tolist() == rows.labels[[2, 1]].tolist()
    if loss is largest:  # the last batch is smaller
        rows = rows.take(np.arange(ROWS - 20))
    weights = rng.uniform(0, 2, rows.num_rows).astype(np.float32) if weighed == "rows" else None
    classes = {0: 0.5, 1: 3.0} if weighed == "classes" else None
    theirs, ours = built(plain, 3), built(plain, 3)
    theirs.compile("sgd", loss, metrics=metrics)
    data = dataset(rows, 5, weights)
    expected = theirs.fit(
        *(data, None, None, 2, 0),
        steps_per_epoch=ROWS // BATCH,
        validation_data=data,
        validation_steps=ROWS // BATCH,
        shuffle=False,
        class_weight=classes,
    ).history
    task = harness.Task(kind, loss=loss, metrics=metrics, class_weight=classes)
    trainer = harness.Trainer(
        ours, task=task, optimizer="sgd", batch_size=BATCH, seed=5, replicas=1
    )
    examples = harness.Examples(inputs={"": rows}, labels=rows.labels, weights=weights)
    found = trainer.fit(examples, validation=examples, epochs=2, verbose=False).history
    assert found.keys() == expected.keys()
    for name in found:
        # Keras takes the first input's length, which is rows + 1, for the size of a batch.
        if loss is not largest or "loss" not in name:
            np.testing.assert_allclose(
                found[name], expected[name], rtol=2e-5, atol=1e-6, err_msg=name
            )
    for mine, their in zip(trainer.model.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(mine, their, rtol=1e-4, atol=1e-6)
    assert trainer.evaluate(examples)["loss"] == pytest.approx(found["val_loss"][-1], rel=1e-6)
