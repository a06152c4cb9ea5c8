"""Steps of a user's own model against Keras, eager, on the same rows: several inputs, labels of
any kind, weights, BatchNormalization, added losses, frozen and unused layers.
"""

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from harness.data.examples import Examples
from harness.data.ragged import RaggedSets
from harness.model.layers import MultiHotDense
from harness.program.packing import variables_by_name
from harness.task.task import Task
from tests.harness.feed.rows import Labels, random_examples
from tests.harness.program.rig import Batches, Rig, build_rig

RATE = 0.5


class Own(keras.Model):
    """A model with one layer of each kind."""

    def __init__(self, num_outputs: int) -> None:
        super().__init__(name="own")
        decay = keras.regularizers.L2(0.01)
        self.words = MultiHotDense(6, 50, kernel_regularizer=decay, name="words")
        self.tags = MultiHotDense(4, 7, activation="tanh", name="tags")
        self.norm = keras.layers.BatchNormalization(momentum=0.7, name="norm")
        self.frozen = keras.layers.Dense(5, trainable=False, name="frozen")
        self.unused = keras.layers.Dense(2, name="unused")
        self.head = keras.layers.Dense(
            num_outputs, kernel_regularizer=decay, activity_regularizer=decay, name="head"
        )

    def call(self, inputs: Any, training: bool = False) -> Any:
        x = keras.ops.concatenate(
            [self.words(inputs["words"]), self.tags(inputs["tags"]), inputs["numbers"]], axis=1
        )
        x = keras.ops.gelu(self.frozen(self.norm(x, training=training)))
        if training:  # an evaluation is compared with all rows at once
            self.add_loss(0.1 * keras.ops.mean(keras.ops.square(x)))
            x = (x - keras.ops.mean(x, axis=0)) * (keras.ops.shape(x)[0] / 8)
        self.unused(x)
        return self.head(x)


def taken(examples: Examples, rows: np.ndarray) -> Examples:
    """Returns some of the rows."""

    def of(part: Any) -> Any:
        if part is None:
            return None
        return part.take(rows) if isinstance(part, RaggedSets) else part[rows]

    return Examples(
        inputs={name: of(part) for name, part in examples.inputs.items()},
        labels=of(examples.labels),
        weights=of(examples.weights),
    )


def inputs_of(examples: Examples) -> dict[str, Any]:
    """Returns the inputs as a model takes them."""
    return {
        name: {"values": part.values, "row_splits": part.row_splits}
        if isinstance(part, RaggedSets)
        else part
        for name, part in examples.inputs.items()
    }


def targets(examples: Examples, num_outputs: int) -> np.ndarray:
    """Returns the labels as Keras takes them, [rows, outputs]."""
    if isinstance(examples.labels, RaggedSets):
        matrix = np.zeros([examples.num_rows, num_outputs], np.float32)
        for row in range(examples.num_rows):
            matrix[row, examples.labels.row(row)] = 1
        return matrix
    assert examples.labels is not None
    return examples.labels.reshape([-1, num_outputs]).astype(np.float32)


def keras_step(
    model: keras.Model, examples: Examples, weights: np.ndarray | None
) -> tuple[float, float]:
    """Does one step of plain descent; returns the loss of the rows and the added losses."""
    with tf.GradientTape() as tape:
        outputs = model(inputs_of(examples), training=True)
        loss = keras.losses.BinaryCrossentropy(from_logits=True)(
            targets(examples, outputs.shape[1]), outputs, sample_weight=weights
        )
        added = tf.add_n(model.losses)
        total = loss + added
    variables = [v.value for v in model.trainable_variables]
    gradients = tape.gradient(total, variables, unconnected_gradients="zero")
    for variable, gradient in zip(variables, gradients, strict=True):
        variable.assign_sub(RATE * tf.convert_to_tensor(gradient))
    return float(loss), float(added)


def steps_of(rig: Rig) -> Iterator[tuple[Any, Batches, np.ndarray]]:
    """Yields each call of one step, and the rows that it trains on."""
    order = rig.plan.order(0)
    size = rig.plan.batch_size
    step = 0
    for dispatch, batches in rig.dispatches():
        for call in dispatch.calls:
            assert call.num_steps == 1
            yield call, batches, order[step * size : (step + 1) * size]
            step += 1


def own_model(examples: Examples, num_outputs: int, seed: int = 3) -> keras.Model:
    """Returns a built model whose weights are not zeros."""
    model = Own(num_outputs)
    model(inputs_of(examples))
    rng = np.random.default_rng(seed)
    model.set_weights([rng.uniform(0.1, 0.9, size=w.shape) for w in model.get_weights()])
    return model


@pytest.mark.parametrize(
    ("labels", "input_"),
    [
        ("classes", "resident"),
        ("ragged", "stream"),
    ],
)
def test_a_step_is_keras_own(labels: Labels, input_: str) -> None:
    """There are 21 rows in batches of 8, so that the last has 5. Layers over the rows of a batch
    see only these, a frozen layer does not change, and the loss has the added losses once."""
    examples = random_examples(np.random.default_rng(), rows=21, labels=labels)
    num_outputs = 5 if labels in ("matrix", "ragged") else 1
    class_weight = {1: 3.0} if labels == "classes" else None
    rig = build_rig(
        examples,
        model=own_model(examples, num_outputs),
        task=Task(class_weight=class_weight),
        steps_per_call=1,
        optimizer=keras.optimizers.SGD(RATE),
        input=input_,
    )
    twin = own_model(examples, num_outputs)
    frozen = twin.frozen.get_weights()
    steps = 0
    for call, batches, rows in steps_of(rig):
        real = taken(examples, rows)
        weights = real.weights
        assert weights is not None
        if class_weight is not None:
            weights = weights * np.where(real.labels == 1, 3.0, 1.0)
        loss, added = keras_step(twin, real, weights)
        sums = rig.run(call, batches)
        np.testing.assert_allclose(sums[0] / len(rows), loss + added, rtol=1e-5)
        assert added > 0.05 * loss
        rig.states[0].write_to_model()
        for (name, own), expected in zip(
            variables_by_name(rig.model).items(), variables_by_name(twin).values(), strict=True
        ):
            np.testing.assert_allclose(
                own.numpy(), expected.numpy(), rtol=1e-4, atol=1e-5, err_msg=name
            )
        steps += 1
    assert steps == 3
    for own, expected in zip(rig.model.frozen.get_weights(), frozen, strict=True):
        np.testing.assert_array_equal(own, expected)
    assert set(rig.programs.take_unused()) == {"own/unused/kernel", "own/unused/bias"}
    assert rig.programs.take_unused() == (), "once"
    assert not [name for name in rig.states[0].save() if name.startswith("optimizer/own/frozen")]
