"""The exchange between devices for the table of a product: ids and dy, not the rows' gradients.

The gradients of a table's rows follow from the batch's ids and from dy, the gradient of the
products, which are far smaller: for each row of a batch with 130 ids and 50 units, 180 numbers
instead of 6,630. So each device gets the ids and dy of all devices, and computes the gradients as
one device alone would, in the same order: the gradients of the touched rows, if the table is
updated by rows; or, between workers, the gradient of the whole table, if ids and dy are at most
half as much to send.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from harness.base.errors import InputError
from harness.feed.batch import Share
from harness.model.layers import MultiHotDense
from harness.program.tables import ProductGradient, RowGradient
from kernels.multi_hot import table_gradient, touched_rows

MAX_NUMBER = 2**24
"""Float32 holds every integer up to this, so that one vector can carry ids and gradients."""
# The divisor that splits an id into the two numbers that are sent: quotient and remainder.
_SPLIT = 2**16
# Elements of a table, 256 KB, below which an all-reduce takes hardly longer than a round trip.
_LARGE = 2**16
# The most numbers to send in place of a table's gradient, as a share of the table's elements. A
# ring moves four times as many to sum the gradient then. In return every device computes the
# gradient of the whole batch: with 1.4 two workers on two cores trained at 0.4 times the speed.
_MOST = 0.5


class Gradients(NamedTuple):
    """The gradients of a batch: a device's part, or those of all devices."""

    weights: list[tf.Tensor | tf.IndexedSlices | None]
    """The gradients of `State.trainable`; None where `products` alone tell a weight's gradient."""
    rows: list[RowGradient]
    """The gradients of the tables that are updated by rows."""
    products: list[ProductGradient]
    """The products whose gradients are still to be added to `weights`."""
    unused: tuple[str, ...]
    """Names of weights that the loss does not depend on."""


def pays_for(share: Share) -> Callable[[MultiHotDense, Mapping[str, Any]], bool]:
    """Returns `TableCalls.pays`: whether a gradient is to follow from all devices' ids and dy."""
    graph = tf.compat.v1.get_default_graph()

    def pays(layer: MultiHotDense, inputs: Mapping[str, Any]) -> bool:
        if tf.compat.v1.get_default_graph() is not graph:  # in a branch: the tape cannot give dy
            return False
        table = layer.num_tokens * layer.units
        if table < _LARGE or layer.compute_dtype == "float64":
            return False
        if not layer.kernel.trainable or layer.kernel_regularizer is not None:
            return False
        num_values = inputs["values"].shape[0]
        if max(num_values, layer.num_tokens) > MAX_NUMBER:
            return False
        sent = num_values * (2 if "weights" in inputs else 1)
        sent += share.most_rows * (1 + layer.units) + 1
        return bool(sent * share.num_devices <= _MOST * table)

    return pays


def _vector_of(gradient: tf.IndexedSlices) -> tf.Tensor:
    """Returns a gradient by rows as a vector: two numbers for each row's id, then the rows."""
    kind = tf.float64 if gradient.dtype == tf.float64 else tf.float32
    parts = (gradient.indices // _SPLIT, gradient.indices % _SPLIT, gradient.values)
    return tf.concat([tf.reshape(tf.cast(part, kind), [-1]) for part in parts], axis=0)


def _slices_of(like: tf.IndexedSlices, vectors: tf.Tensor) -> tf.IndexedSlices:
    """Returns the concatenated gradients of all devices, from the vector of each."""
    count, *rest = like.values.shape.as_list()
    high, low, values = tf.split(vectors, [count, count, count * math.prod(rest)], axis=1)
    high, low = (tf.cast(part, like.indices.dtype) for part in (high, low))
    return tf.IndexedSlices(
        tf.cast(tf.reshape(values, [-1, *rest]), like.dtype),
        tf.reshape(high * _SPLIT + low, [-1]),
        tf.constant(like.shape.as_list()),
    )


def _is_one_size(gradient: tf.IndexedSlices, share: Share) -> bool:
    """Whether all devices' gradients by rows are known to have the same number of rows: not if the
    shares differ and the number of rows follows from a share's. All devices give the same answer,
    even those of other workers, which know only their own shares."""
    fewest, uneven = divmod(share.batch_rows, share.num_devices)
    if not uneven or not fewest:  # a device without a row computes on another device's row
        return True
    ids = [sets["values"] for sets in share.inputs.values() if isinstance(sets, dict)]
    count = gradient.values.shape[0]
    if count in {values.shape[0] for values in ids} and count % fewest and count % (fewest + 1):
        return True
    # A multiple of the ids. The graph alone does not tell: row numbers are constants in it, too.
    of_ids = any(count % values.shape[0] == 0 for values in ids if values.shape[0])
    return of_ids and _follows_from(gradient.indices, ids)


def _follows_from(tensor: tf.Tensor, ids: Sequence[tf.Tensor]) -> bool:
    """Whether the graph computes the tensor from ids and constants alone. Scalars, such as the
    number of ids that are padding, do not count: no shape follows from them."""
    sources = {values.ref() for values in ids}
    found, seen, ahead = False, set(), [tensor]
    while ahead:
        tensor = ahead.pop()
        if tensor.ref() in sources:
            found = True
        elif tensor.shape.rank != 0 and tensor.ref() not in seen:
            seen.add(tensor.ref())
            if not tensor.op.inputs and tensor.op.type != "Const":
                return False
            ahead += tensor.op.inputs
    return found


class Packed(NamedTuple):
    sent: list[tf.Tensor | tf.IndexedSlices]
    """What a device sends to the others: for each table a float32 [numbers], to be gathered to
    [devices, numbers], then the gradients. Those by rows are gathered, too, since Keras's
    optimizers square them before they add up repeated rows."""
    gathered: list[bool]
    """Whether each tensor is to be gathered from all devices, not summed over them."""
    unpack: Callable[[Sequence[tf.Tensor | tf.IndexedSlices]], Gradients]
    """Returns the gradients of all devices from the tensors, gathered or summed."""


def packed(gradients: Gradients, share: Share) -> Packed:
    if share.num_devices == 1:
        own = [*gradients.weights]
        return Packed(own, [False] * len(own), lambda sent: gradients._replace(weights=[*sent]))
    tables: list[RowGradient | ProductGradient] = [*gradients.rows, *gradients.products]
    parts = [_parts_of(table, share) for table in tables]
    vectors = [
        tf.concat([tf.reshape(tf.cast(part, tf.float32), [-1]) for part in own.values()], axis=0)
        for own in parts
    ]
    of_weights = [gradient for gradient in gradients.weights if gradient is not None]
    by_rows = [isinstance(gradient, tf.IndexedSlices) for gradient in of_weights]
    for gradient, slices in zip(of_weights, by_rows, strict=True):
        if slices and not _is_one_size(gradient, share):
            raise InputError(
                f"the model looks up rows of a weight of shape {gradient.shape} by more than its "
                f"ids, and a batch of {share.batch_rows:,} rows does not divide among "
                f"{share.num_devices} devices: they cannot exchange that weight's gradient as "
                "Keras's optimizers take it, row by row; choose rows and --batch-size so that "
                "every batch divides, the last one too, or train on one device"
            )
        vectors.append(_vector_of(gradient) if slices else gradient)

    def unpack(exchanged: Sequence[tf.Tensor | tf.IndexedSlices]) -> Gradients:
        rest = iter(exchanged[len(tables) :])
        terms: list[list[tf.Tensor | tf.IndexedSlices]] = []
        for gradient in gradients.weights:
            own = [] if gradient is None else [next(rest)]
            terms.append(
                [_slices_of(gradient, *own)] if isinstance(gradient, tf.IndexedSlices) else own
            )
        rows = []
        for of, like, vectors in zip(tables, parts, exchanged, strict=False):
            sets, dy = _joined(like, vectors)
            sets |= {"unique": of.call.sets["unique"], "num_tokens": of.call.layer.num_tokens}
            if isinstance(of, RowGradient):
                touched = touched_rows(**sets, implementation=of.table.implementation)
                rows.append(of._replace(touched=touched, dy=dy, is_of_all=True))
            else:
                whole = table_gradient(dy, **sets, implementation=of.call.implementation)
                terms[of.place].append(tf.cast(whole, of.call.layer.kernel.dtype))
        weights = [own[0] if len(own) == 1 else tf.add_n(own) for own in terms]
        return Gradients(weights, rows, [], gradients.unused)

    return Packed(vectors, [True] * len(tables) + by_rows, unpack)


def _parts_of(table: RowGradient | ProductGradient, share: Share) -> dict[str, tf.Tensor]:
    """Returns what a table's gradient follows from, padded to the rows of the largest share."""
    missing = share.most_rows - table.dy.shape[0]
    sets = table.call.sets
    num_values = sets["values"].shape[0]
    if isinstance(table, RowGradient) and num_values > MAX_NUMBER:
        raise InputError(
            f"each device's share of a batch has up to {num_values:,} ids, and "
            f"with --table-optimizer={table.table.rule.kind} devices exchange at most "
            f"{MAX_NUMBER:,}; set a smaller --batch-size, or --table-optimizer=dense"
        )
    splits = sets["row_splits"]
    splits = tf.concat([splits, tf.repeat(splits[-1:], missing)], axis=0)
    weights = {} if sets["weights"] is None else {"weights": sets["weights"]}
    dy = tf.pad(table.dy, [[0, missing], [0, 0]])
    return {"row_splits": splits, "values": sets["values"], **weights, "dy": dy}


def _joined(like: Mapping[str, tf.Tensor], vectors: tf.Tensor) -> tuple[dict[str, Any], tf.Tensor]:
    """Returns the sets and dy of all devices, concatenated, from vectors of their parts."""
    sizes = [part.shape.num_elements() for part in like.values()]
    parts = dict(zip(like, tf.split(vectors, sizes, axis=1), strict=True))
    splits = tf.cast(parts["row_splits"], tf.int32)
    ends = tf.cumsum(splits[:, -1])
    begins = ends - splits[:, -1]
    # Each device's ids end before its buffer does: leave out the gaps.
    num_values = like["values"].shape[0]
    places = tf.range(vectors.shape[0] * num_values)
    device = tf.add_n([tf.cast(places >= end, tf.int32) for end in tf.unstack(ends)[:-1]])
    read = places - tf.gather(begins, device) + device * num_values

    def in_turn(name: str) -> tf.Tensor:
        return tf.gather(tf.reshape(parts[name], [-1]), tf.minimum(read, places[-1]))

    row_splits = tf.concat([tf.reshape(splits[:, :-1] + begins[:, None], [-1]), ends[-1:]], axis=0)
    sets: dict[str, Any] = {
        "values": tf.cast(in_turn("values"), tf.int32),
        "row_splits": row_splits,
        "weights": in_turn("weights") if "weights" in parts else None,
    }
    return sets, tf.reshape(parts["dy"], [-1, like["dy"].shape[1]])
