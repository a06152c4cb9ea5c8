"""BatchNormalization over the rows of all devices: one batch, one mean and variance."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence

import keras
import tensorflow as tf

from harness.feed.batch import Share

SumOverDevices = Callable[[Sequence[tf.Tensor]], list[tf.Tensor]]


def needs_all_rows(model: keras.Model) -> bool:
    return any(layer.trainable for layer in _layers(model))


@contextlib.contextmanager
def over_all_rows(model: keras.Model, share: Share, all_reduce: SumOverDevices) -> Iterator[None]:
    """Makes the model's BatchNormalization layers normalize over all devices' rows in the block.
    Keras's own way, `synchronized=True`, needs a replica context, which compiled programs lack."""
    layers = [la for la in _layers(model) if la.synchronized or share.num_devices > 1]
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
    all_reduce: SumOverDevices,
    inputs: tf.Tensor,
    mask: tf.Tensor | None = None,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the mean and variance [features] of `inputs` [rows, ..., features] in the mask."""
    axes = [axis for axis in range(inputs.shape.rank) if axis != layer.axis % inputs.shape.rank]

    @tf.custom_gradient
    def over_devices(own: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        # The gradients that flow back are summed as well.
        return all_reduce([own])[0], lambda gradient: all_reduce([gradient])[0]

    def total(values: tf.Tensor) -> tf.Tensor:
        if mask is not None:
            values = tf.where(tf.cast(mask, tf.bool)[..., None], values, 0.0)
        # Multiply, even by 0: every device must take part in the sums of the backward pass.
        own = tf.reduce_sum(values, axis=axes, keepdims=True) * (share.num_rows > 0)
        return over_devices(own)

    count = share.batch_rows * inputs.shape[1:].num_elements() / inputs.shape[layer.axis]
    if mask is not None:
        count = total(tf.ones_like(inputs)) + keras.backend.epsilon()
    means = total(inputs) / count
    variances = total(tf.square(inputs - means)) / count
    return tf.reshape(means, [-1]), tf.reshape(variances, [-1])
