"""BatchNormalization over the real rows of all devices: one batch, one mean and variance."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence

import keras
import tensorflow as tf

AllReduce = Callable[[Sequence[tf.Tensor]], list[tf.Tensor]]
"""Sums each tensor over all devices."""


def needs_all_rows(model: keras.Model) -> bool:
    """Whether a training step calls `all_reduce` in the middle of the model."""
    return any(layer.trainable for layer in _layers(model))


@contextlib.contextmanager
def over_all_rows(model: keras.Model, real: tf.Tensor, all_reduce: AllReduce) -> Iterator[None]:
    """Inside, the model's BatchNormalization layers normalize by all devices' real rows.

    Keras's own way, `synchronized=True`, needs a replica context, which compiled programs lack, and
    knows nothing of padding.

    Args:
        model: with any layers.
        real: float32 [rows], 1 for each real row of this device.
        all_reduce: sums over all devices.
    """
    layers = _layers(model)
    for layer in layers:
        layer._moments = functools.partial(_moments, layer, real, all_reduce)
    try:
        yield
    finally:
        for layer in layers:
            del layer._moments


def _layers(model: keras.Model) -> list[keras.layers.BatchNormalization]:
    layers = model._flatten_layers()
    return [layer for layer in layers if isinstance(layer, keras.layers.BatchNormalization)]


def _moments(
    layer: keras.layers.BatchNormalization,
    real: tf.Tensor,
    all_reduce: AllReduce,
    inputs: tf.Tensor,
    mask: None = None,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Mean and variance [features] of `inputs` [rows, ..., features]."""
    del mask
    axes = [axis for axis in range(inputs.shape.rank) if axis != layer.axis % inputs.shape.rank]
    counts = tf.reshape(real, [-1] + [1] * (inputs.shape.rank - 1)) > 0

    def summed(values: tf.Tensor) -> tf.Tensor:
        return tf.reduce_sum(tf.where(counts, values, 0.0), axis=axes, keepdims=True)

    total, count = _reduced(all_reduce, summed(inputs), summed(tf.ones_like(inputs)))
    mean = total / tf.maximum(count, 1.0)
    (squares,) = _reduced(all_reduce, summed(tf.square(inputs - mean)))
    return tf.reshape(mean, [-1]), tf.reshape(squares / tf.maximum(count, 1.0), [-1])


def _reduced(all_reduce: AllReduce, *tensors: tf.Tensor) -> Sequence[tf.Tensor]:
    """The tensors' sums over all devices; what flows back is summed as well."""

    @tf.custom_gradient
    def reduced(*parts: tf.Tensor) -> tuple[list[tf.Tensor], Callable[..., list[tf.Tensor]]]:
        return all_reduce(parts), lambda *gradients: all_reduce(gradients)

    return reduced(*tensors)
