"""What bounds a training step on a device: the bytes that it has to move, and its arithmetic.

A step of the optimizer reads and writes its weights, gradients and slots once, and the rows of the
table that its ids name. It cannot be faster than a plain copy of as many bytes, nor than a matrix
product of as many operations. Both are measured here, on the device and at the size of the step,
so that caches help the copy as they help the step (the roofline of Williams, Waterman and
Patterson, 2009).
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from harness.data.ragged import RaggedSets
from harness.model.network import multi_hot_layers
from harness.trainer.choices import work_of_step
from kernels.multi_hot import ROW_OPTIMIZERS

_NUM_COPIES = 8  # of one compiled program, whose call then costs next to nothing
_SIZES = (256, 512, 1_024, 2_048, 4_096)  # rows and columns of the matrices that are multiplied
_LONG_SECONDS = 0.02  # of a compiled program: larger matrices would only take longer
_ROUNDS = 5
_FLOAT_BYTES, _ID_BYTES = 4, 4
_UPDATE_FLOATS = 8  # Adam reads a weight, its gradient and two slots, and writes as many


def bytes_of_step(
    model: keras.Model, rows: RaggedSets, *, num_rows: int, by_rows: bool
) -> tuple[float, float]:
    """Returns the bytes that a step of `num_rows` rows has to move, each number once, and its ids.
    `rows` tells how many ids they have; `by_rows`, only the touched rows of a table are updated.
    What activations take is left out."""
    batch = rows.take(np.arange(min(num_rows, rows.num_rows)))
    ids, distinct = batch.nnz * num_rows / batch.num_rows, len(np.unique(batch.values))
    bytes_moved, tables = 2 * ids * _ID_BYTES, {}
    for layer in multi_hot_layers(model):
        tables[layer.kernel.path] = distinct / layer.num_tokens
        bytes_moved += 2 * distinct * layer.units * _FLOAT_BYTES
    for variable in model.trainable_variables:
        share = tables.get(variable.path, 1.0) if by_rows else 1.0
        bytes_moved += _UPDATE_FLOATS * _FLOAT_BYTES * share * float(np.prod(variable.shape))
    return bytes_moved, ids


def limits(
    model: keras.Model, rows: RaggedSets, *, num_rows: int, device: str, chosen: Mapping[str, Any]
) -> dict[str, float]:
    """Measures on a device the seconds of a copy of as many bytes as a step of `num_rows` rows
    moves, and of matrix products of as many operations; returns them with the step's work. `chosen`
    has what the settings `implementation`, `precision` and `table_optimizer` came to."""
    by_rows = chosen["table_optimizer"] in ROW_OPTIMIZERS
    bytes_moved, ids = bytes_of_step(model, rows, num_rows=num_rows, by_rows=by_rows)
    _, flops = work_of_step(model, num_rows, ids, chosen["implementation"])
    rate = 0.0  # operations a second
    with tf.device(device):
        numbers = tf.ones([max(1, int(bytes_moved / 2 / _FLOAT_BYTES))])
        copy_seconds = _seconds(lambda x: -x, numbers)
        for size in _SIZES:
            matrix = tf.eye(size, dtype=chosen["precision"].removeprefix("mixed_"))
            seconds = _seconds(lambda x: tf.matmul(x, matrix), matrix)  # noqa: B023 - called here
            rate = max(rate, 2.0 * size**3 / seconds)
            if seconds * _NUM_COPIES > _LONG_SECONDS:
                break
    return {
        "bytes_per_step": bytes_moved,
        "flops_per_step": flops,
        "copy_seconds": copy_seconds,
        "matmul_seconds": flops / rate,
    }


def _seconds(action: Callable[[Any], Any], operand: tf.Tensor) -> float:
    """Returns the best seconds of an action that turns a tensor into one of its shape."""

    @tf.function(jit_compile=True, autograph=False)
    def repeated(operand: tf.Tensor) -> tf.Tensor:
        # The count is a constant, so that a GPU does not wait for the host.
        body = lambda step, x: (step + 1, action(x))  # noqa: E731
        return tf.while_loop(lambda step, _: step < _NUM_COPIES, body, (0, operand))[1]

    times = []
    for _ in range(_ROUNDS + 1):  # the first call compiles
        began = time.perf_counter()
        tf.reshape(repeated(operand), [-1])[:1].numpy()  # waits for the device
        times.append(time.perf_counter() - began)
    return min(times[1:]) / _NUM_COPIES
