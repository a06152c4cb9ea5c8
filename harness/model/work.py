"""The least memory traffic and computation of a training step."""

import math

import keras

from harness.model.layers import MultiHotDense


def work_of_step(
    model: keras.Model, *, rows: int, ids: float, implementation: str
) -> tuple[float, float]:
    """Returns the bytes that a model's step moves without caches, and its operations, for a
    device's rows and their ids. A multi-hot layer reads a row of its units for each id and adds one
    in the backward pass. Adam reads gradient, weight and two moments, and writes three of them
    back. A matrix costs two operations for each element and row forward, and four backward."""
    bytes_moved = flops = 0.0
    tables = set()
    for layer in model._flatten_layers():
        if isinstance(layer, MultiHotDense):
            tables.add(id(layer.kernel))
            # `dense` multiplies with all rows of the table, the others add up those of the ids.
            is_dense = (layer.implementation or implementation) == "dense"
            flops += layer.units * (6 * rows * layer.num_tokens if is_dense else 2 * ids)
            bytes_moved += 2 * ids * layer.units * 4
    for variable in model.trainable_variables:
        size = math.prod(variable.shape)
        bytes_moved += 8 * 4 * size
        flops += 12 * size
        if len(variable.shape) > 1 and id(variable) not in tables:
            flops += 6 * rows * size
    return bytes_moved, flops
