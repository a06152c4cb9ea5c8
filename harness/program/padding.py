"""Padding for the user's own layers that read token ids: a batch's buffer is longer than its ids.

Products leave out the ids behind `row_splits[-1]`. Other layers get ids there that no table has,
whose gradients XLA drops. With these most layers are right; a model that is still wrong is refused.
"""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from harness.base.errors import InputError
from harness.data.examples import Examples
from harness.feed.batch import Columns, share_of
from harness.model.layers import MultiHotDense
from harness.model.network import computes_in_16_bits, is_functional

_NO_ID = 2**30
_NAME = "ids_without_padding"
_MAX_ROWS, _MORE = 8, 128
_TOLERANCE, _TOLERANCE_16_BITS = 1e-4, 2e-2  # of the largest number: sums round in different orders


def without_padding(values: tf.Tensor, row_splits: tf.Tensor, **_: Any) -> tf.Tensor:
    """Returns the ids [N], with an id that no table has in each place behind `row_splits[-1]`."""
    is_id = tf.range(values.shape[0]) < tf.cast(row_splits[-1], tf.int32)
    return tf.where(is_id, values, _NO_ID, name=_NAME)


def require_masked(call: Any, state: Any, examples: Examples, task: Any) -> None:
    """Refuses a model whose loss or gradients differ with padding behind some rows."""
    if _is_read_by_products(call.model):
        return
    columns = Columns.of(examples).take(np.arange(min(_MAX_ROWS, examples.num_rows)))

    @tf.function(jit_compile=True, autograph=False)
    def step(padding: int) -> list[tf.Tensor]:
        share = share_of(columns, padding, call.implementation)
        with tf.GradientTape() as tape:
            # `training` is off, since random masks depend on the number of ids.
            called = call(state, share, list, training=False)
            losses = task.judge(share.labels, called.outputs, training=False).losses
            added = 0.0 if called.added_loss is None else called.added_loss
            loss = tf.reduce_mean(losses) + added
        found = tf.nest.flatten(tape.gradient(loss, called.weights))
        return [loss, *(tf.convert_to_tensor(g) for g in found if g is not None)]

    graph = step.get_concrete_function(_MORE).graph
    if not any(_NAME in o.name and o.outputs[0].consumers() for o in graph.get_operations()):
        return  # no layer reads them
    with tf.device(state.device):
        exacts, others = ([t.numpy() for t in step(more)] for more in (0, _MORE))
    tolerance = _TOLERANCE_16_BITS if computes_in_16_bits(call.model) else _TOLERANCE
    tolerance *= max(np.abs(exact).max() for exact in exacts)
    for exact, padded in zip(exacts, others, strict=True):
        if not np.allclose(exact, padded, rtol=0, atol=tolerance):
            raise InputError(
                f"a layer of the model {call.model.name!r} counts positions of `values` behind "
                "`row_splits[-1]`, where a batch has no ids: the gradients differ by as much as "
                f"{np.abs(exact - padded).max():.3g}; leave them out, as the example in "
                "docs/your_own_model.md does"
            )


def _is_read_by_products(model: keras.Model) -> bool:
    """Whether no layers but MultiHotDense read integers."""
    graph = getattr(model, "_functional", None) or model  # a Sequential model's own
    if not is_functional(graph):
        return False
    readers = [
        node.operation
        for tensor in graph.inputs
        if "int" in tensor.dtype
        for node in tensor._keras_history.operation._outbound_nodes
    ]
    return all(isinstance(reader, MultiHotDense) for reader in readers)
