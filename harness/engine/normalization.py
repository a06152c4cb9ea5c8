"""BatchNormalization over the rows of all devices: one batch, one mean and variance."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence

import keras
import tensorflow as tf

from harness.pipeline.batch import Share

AllReduce = Callable[[Sequence[tf.Tensor]], list[tf.Tensor]]
"""Sums each tensor over all devices."""


def needs_all_rows(model: keras.Model) -> bool:
    """Whether a training step calls `all_reduce` in the middle of the model."""
    return any(layer.trainable for layer in _layers(model))


@contextlib.contextmanager
def over_all_rows(model: keras.Model, share: Share, all_reduce: AllReduce) -> Iterator[None]:
    """Inside, the model's BatchNormalization layers normalize by all devices' rows.

    Keras's own way, `synchronized=True`, needs a replica context, which compiled programs lack.

    Args:
        model: with any layers.
        share: of this device.
        all_reduce: sums over all devices.
    """
    is_alone = share.num_rows == share.batch_rows
    layers = [la for la in _layers(model) if la.synchronized or not is_alone]
    for layer in layers:
        layer._moments = functools.partial(_moments, layer, share, all_reduce)
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
    share: Share,
    all_reduce: AllReduce,
    inputs: tf.Tensor,
    mask: None = None,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Mean and variance [features] of `inputs` [rows, ..., features]."""
    del mask
    axes = [axis for axis in range(inputs.shape.rank) if axis != layer.axis % inputs.shape.rank]
    of_row = inputs.shape[1:].num_elements() / inputs.shape[layer.axis]
    factor = (share.num_rows > 0) / (share.batch_rows * of_row)

    def mean(values: tf.Tensor) -> tf.Tensor:
        own = factor * tf.reduce_sum(values, axis=axes, keepdims=True)
        return _reduced(all_reduce, own)[0]

    means = mean(inputs)
    variances = mean(tf.square(inputs - means))
    return tf.reshape(means, [-1]), tf.reshape(variances, [-1])


def _reduced(all_reduce: AllReduce, *tensors: tf.Tensor) -> Sequence[tf.Tensor]:
    """The tensors' sums over all devices; what flows back is summed as well."""

    @tf.custom_gradient
    def reduced(*parts: tf.Tensor) -> tuple[list[tf.Tensor], Callable[..., list[tf.Tensor]]]:
        return all_reduce(parts), lambda *gradients: all_reduce(gradients)

    return reduced(*tensors)
