"""Layers as users write them: over the batch axis, with added losses, with other layers' weights.

Letters: B rows, N values, V num_tokens, H units.
"""

from typing import Any

import keras
import tensorflow as tf

import harness


class Centred(keras.layers.Layer):
    """Subtracts the batch's mean."""

    def call(self, inputs: Any) -> Any:
        return inputs - tf.reduce_mean(inputs, axis=0, keepdims=True)


class PerRow(keras.layers.Layer):
    """Scales by the number of rows."""

    def call(self, inputs: Any) -> Any:
        rows = tf.cast(tf.shape(inputs)[0], inputs.dtype)
        return inputs * (1 + 3 / rows)


class SoftmaxOverRows(keras.layers.Layer):
    """Attention of every row to all rows of its batch."""

    def call(self, inputs: Any) -> Any:
        return inputs + tf.nn.softmax(inputs @ tf.transpose(inputs)) @ inputs


class Penalty(keras.layers.Layer):
    """Adds a loss, times a factor."""

    def __init__(self, factor: float = 1e-3, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.factor = factor


class RowMeanPenalty(Penalty):
    """Adds the mean over rows of a loss of each row, such as a variational autoencoder's KL."""

    def call(self, inputs: Any) -> Any:
        rows = tf.reduce_sum(tf.square(inputs) + tf.exp(-inputs) - 1, axis=-1)
        self.add_loss(self.factor * tf.reduce_mean(rows))
        return inputs


class InBatchSoftmax(Penalty):
    """Adds a contrastive loss: every row against the others of its batch."""

    def call(self, inputs: Any) -> Any:
        scores = inputs @ tf.transpose(tf.sin(inputs))
        rows = tf.range(tf.shape(inputs)[0])
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=rows, logits=scores)
        self.add_loss(self.factor * tf.reduce_mean(losses))
        return inputs


class RowSumPenalty(Penalty):
    """Adds a loss that is summed over rows, so that larger batches count more."""

    def call(self, inputs: Any) -> Any:
        self.add_loss(self.factor * tf.reduce_sum(tf.square(inputs)))
        return inputs


class KernelPenalty(Penalty):
    """Adds the sum of squares of another layer's kernel."""

    def __init__(self, other: keras.layers.Layer, factor: float, **kwargs: Any) -> None:
        super().__init__(factor, **kwargs)
        self.other = other

    def call(self, inputs: Any) -> Any:
        self.add_loss(self.factor * tf.reduce_sum(tf.square(self.other.kernel)))
        return inputs


class Tied(keras.layers.Layer):
    """Computes logits from the first rows of a `MultiHotDense`'s table: `h @ kernel[:K].T`."""

    def __init__(self, table: harness.MultiHotDense, num_outputs: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.table = table
        self.num_outputs = num_outputs

    def call(self, inputs: Any) -> Any:
        kernel = tf.convert_to_tensor(self.table.kernel)
        return inputs @ tf.transpose(kernel[: self.num_outputs])


class SameTable(harness.MultiHotDense):
    """Computes a second product with the table of another layer."""

    def __init__(self, table: harness.MultiHotDense, **kwargs: Any) -> None:
        super().__init__(table.units, table.num_tokens, use_bias=False, **kwargs)
        self.table = table

    def build(self, input_shape: Any) -> None:
        self.kernel = self.table.kernel
        self.bias = None


class Pooled(keras.layers.Layer):
    """Sums or averages the embeddings of a row's ids, as a user computes that from the batch."""

    def __init__(
        self, num_tokens: int, units: int, *, mean: bool, seed: int, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.mean = mean
        self.units = units
        initializer = keras.initializers.RandomNormal(stddev=0.5, seed=seed)
        self.embedding = keras.layers.Embedding(
            num_tokens, units, embeddings_initializer=initializer, name="embedding"
        )

    def build(self, input_shape: Any) -> None:
        self.embedding.build(None)

    def call(self, inputs: Any) -> Any:
        splits, values = inputs["row_splits"], inputs["values"]
        vectors = self.embedding(values)
        if "weights" in inputs:
            vectors *= inputs["weights"][:, None]
        rows = tf.searchsorted(splits, tf.range(tf.shape(values)[0]), side="right") - 1
        sums = tf.math.unsorted_segment_sum(vectors, rows, tf.shape(splits)[0] - 1)
        if self.mean:
            counts = tf.cast(splits[1:] - splits[:-1], sums.dtype)
            sums /= tf.maximum(counts, 1)[:, None]
        return sums

    def compute_output_spec(self, inputs: Any) -> Any:
        return keras.KerasTensor((None, self.units), dtype=self.compute_dtype)


class Counting(keras.layers.Layer):
    """Keeps a number of its own that training changes: the steps so far, and a moving mean."""

    def build(self, input_shape: Any) -> None:
        self.steps = self.add_weight(name="steps", shape=(), initializer="zeros", trainable=False)
        self.seen = self.add_weight(
            name="seen", shape=(input_shape[-1],), initializer="zeros", trainable=False
        )

    def call(self, inputs: Any, training: bool = False) -> Any:
        if training:
            self.steps.assign_add(1.0)
            self.seen.assign(0.9 * self.seen + 0.1 * tf.reduce_mean(inputs, axis=0))
        return inputs - 0.5 * tf.convert_to_tensor(self.seen) + 0.01 * self.steps


class Bias(keras.layers.Layer):
    """Adds a weight for each output."""

    def build(self, input_shape: Any) -> None:
        self.bias = self.add_weight(name="bias", shape=(input_shape[-1],), initializer="ones")

    def call(self, inputs: Any) -> Any:
        return inputs + self.bias


class Scale(Bias):
    """Multiplies each output by a weight."""

    def call(self, inputs: Any) -> Any:
        return inputs * self.bias


class ByName(keras.layers.Layer):
    """Calls the function of `tf.nn` with this name, so that a file can hold the layer."""

    def __init__(self, function: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.function = function

    def call(self, inputs: Any) -> Any:
        return getattr(tf.nn, self.function)(inputs)
