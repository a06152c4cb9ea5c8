"""Refuses a model whose own layers count padding: a batch's buffer is longer than its ids.

Products leave out the ids behind `row_splits[-1]`. Other layers get ids there that no table has
(`RaggedInput.without_padding`), with which most are right.
"""

import keras
import numpy as np
import tensorflow as tf

from harness.base.errors import InputError
from harness.data.examples import Examples
from harness.feed.batch import MASKED_IDS, Columns, batch_of
from harness.model.compile_errors import naming_failed_layer
from harness.model.layers import MultiHotDense
from harness.model.network import computes_in_16_bits, is_functional
from harness.program.model_programs import ModelPrograms
from harness.task.outputs import AnyTask

_MAX_ROWS, _MORE = 8, 128
_TOLERANCE, _TOLERANCE_16_BITS = 1e-4, 2e-2  # of the largest number: sums round in different orders


def require_masked(programs: ModelPrograms, examples: Examples, task: AnyTask) -> None:
    """Raises InputError for a model whose loss or gradients differ with padding behind rows."""
    forward, state = programs.forward, programs.state
    model = forward.model
    if _is_read_by_products(model):
        return
    columns = Columns.of(examples).take(np.arange(min(_MAX_ROWS, examples.num_rows)))

    @tf.function(jit_compile=True, autograph=False)
    def step(padding: int) -> list[tf.Tensor]:
        batch = batch_of(columns, padding, forward.implementation)
        with state.devices.replica(0, list), tf.GradientTape() as tape:
            # `training` is off, since random masks depend on the number of ids.
            result = forward(state, batch, training=False)
            losses = task.compute_loss(batch.labels, result.outputs, training=False).of_rows
            added = 0.0 if result.added_loss is None else result.added_loss
            loss = tf.reduce_mean(losses) + added
        found = tf.nest.flatten(tape.gradient(loss, result.weights))
        return [loss, *(tf.convert_to_tensor(g) for g in found if g is not None)]

    with naming_failed_layer(model), tf.device(state.devices.names[0]):
        graph = step.get_concrete_function(_MORE).graph
        masked = (o for o in graph.get_operations() if MASKED_IDS in o.name)
        if not any(operation.outputs[0].consumers() for operation in masked):
            return  # no layer reads them
        exacts, others = ([t.numpy() for t in step(more)] for more in (0, _MORE))
    tolerance = _TOLERANCE_16_BITS if computes_in_16_bits(model) else _TOLERANCE
    tolerance *= max(np.abs(exact).max() for exact in exacts)
    for exact, padded in zip(exacts, others, strict=True):
        if not np.allclose(exact, padded, rtol=0, atol=tolerance):
            raise InputError(
                f"a layer of the model {model.name!r} counts positions of `values` behind "
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
