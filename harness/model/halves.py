"""Gradients summed over both halves of a batch, as two replicas come to them.

Float addition is not associative: a sum over 500 rows has other bits than the sum of two replicas'
sums over 250 rows each. A difference in the last bit moves a weight by its last bit, and some steps
later a row to the other side of a ReLU's kink; from there on the losses part. Summed by halves, one
replica trains as two do, bit by bit.
Letters: B rows, even with `halves`; H units.
"""

from typing import Any

import keras
import tensorflow as tf


def add_bias(x: tf.Tensor, bias: tf.Tensor, *, halves: bool) -> tf.Tensor:
    """`x + bias`, [B, H]; with `halves` the gradient to `bias` [H] is the sum of two."""
    if not halves:
        return x + bias
    gradient_scope = _gradient_scope()

    @tf.custom_gradient
    def added(x: tf.Tensor, bias: tf.Tensor) -> Any:
        def gradient(dy: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            with tf.name_scope(gradient_scope):
                first, second = tf.unstack(tf.reduce_sum(_halved(dy), axis=1))
                return dy, first + second

        return x + bias, gradient

    return added(x, bias)


def product(x: tf.Tensor, kernel: tf.Tensor, *, halves: bool) -> tf.Tensor:
    """`x @ kernel`, [B, H]; with `halves` the gradient to `kernel` is the sum of two."""
    gradient_scope = _gradient_scope()

    @tf.custom_gradient
    def multiplied(x: tf.Tensor, kernel: tf.Tensor) -> Any:
        def gradient(dy: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            with tf.name_scope(gradient_scope):
                xs, dys = (_halved(t) if halves else t[None] for t in (x, dy))
                if kernel.shape[1] == 1:
                    # XLA computes a product with one column in an order that depends on its shape.
                    parts = tf.reduce_sum(xs * dys, axis=1)[:, :, None]
                else:
                    parts = tf.matmul(xs, dys, transpose_a=True)
                # Added one by one: XLA would be free to sum an axis in any order.
                to_kernel = parts[0] + parts[1] if halves else parts[0]
                return tf.matmul(dy, kernel, transpose_b=True), to_kernel

        return x @ kernel, gradient

    return multiplied(x, kernel)


def _gradient_scope() -> str:
    """As TensorFlow names gradients of its own: a profile finds a layer's part by its scope, which
    is left when the gradient is computed."""
    scope = tf.get_current_name_scope()
    return f"gradient_tape/{scope}/" if scope else "gradient_tape/"


def _halved(rows: tf.Tensor) -> tf.Tensor:
    return tf.reshape(rows, [2, -1, rows.shape[1]])


@keras.saving.register_keras_serializable(package="harness")
class HalvesDense(keras.layers.Dense):
    """Keras's Dense, whose gradients may be summed over both halves of a batch."""

    def __init__(self, units: int, *, halves: bool = False, **kwargs: Any) -> None:
        """Args:
        units: H.
        halves: whether they are; then every batch that it is trained on has an even B.
        **kwargs: of `keras.layers.Dense`.
        """
        super().__init__(units, **kwargs)
        self.halves = halves

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """`activation(inputs @ kernel + bias)`, [B, H]."""
        del training  # it makes no difference
        kernel = tf.cast(tf.convert_to_tensor(self.kernel), self.compute_dtype)
        outputs = product(inputs, kernel, halves=self.halves)
        if self.bias is not None:
            bias = tf.cast(tf.convert_to_tensor(self.bias), self.compute_dtype)
            outputs = add_bias(outputs, bias, halves=self.halves)
        return outputs if self.activation is None else self.activation(outputs)

    def get_config(self) -> dict[str, Any]:
        """Everything that `__init__` takes, in Keras's serialized form."""
        return {**super().get_config(), "halves": self.halves}
