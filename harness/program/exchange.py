"""The exchange between replicas: sums of gradients, and for the table of a product ids and dy.

The gradients of a table's rows follow from the batch's ids and from dy, the gradient of the
products, which are far smaller: for each row of a batch with 130 ids and 50 units, 180 numbers
instead of 6,630. So each replica gets the ids and dy of all, and computes the gradients as one
device alone would, in the same order: the gradients of the touched rows, if the table is updated by
rows; or, between workers, the gradient of the whole table, if ids and dy are at most half as much
to send.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import tensorflow as tf

from harness.base.errors import InputError
from harness.feed.batch import ReplicaBatch
from harness.model.layers import MultiHotDense, TableCall
from harness.program.strategy import this_replica
from kernels.multi_hot import Implementation, table_gradient
from kernels.multi_hot.table_rules import Touched

MAX_NUMBER = 2**24
"""Float32 holds every integer up to this, so that one vector can carry ids and gradients."""
# Elements of a table, 256 KB, below which an all-reduce takes hardly longer than a round trip.
_LARGE = 2**16
# The most numbers to send in place of a table's gradient, as a share of the table's elements. A
# ring moves four times as many to sum the gradient then. In return every device computes the
# gradient of the whole batch: with 1.4 two workers on two cores trained at 0.4 times the speed.
_MOST = 0.5


class TableGradient(NamedTuple):
    """The sets of a batch and dy, from which the gradient of a product's table follows."""

    sets: Mapping[str, Any]  # `values`, `row_splits`, `weights`, `unique`, `num_tokens`
    dy: tf.Tensor  # The gradient of the products, float32 [B, H]
    implementation: Implementation
    dtype: str  # of the table

    @classmethod
    def of(cls, call: TableCall, dy: tf.Tensor) -> "TableGradient":
        names = ("values", "row_splits", "weights", "unique")
        sets = {name: call.sets[name] for name in names} | {"num_tokens": call.layer.num_tokens}
        return cls(sets, tf.cast(dy, tf.float32), call.implementation, call.layer.kernel.dtype)

    def of_table(self) -> tf.Tensor:
        """Returns the gradient of the whole table [V, H], in its dtype."""
        whole = table_gradient(self.dy, **self.sets, implementation=self.implementation)
        return tf.cast(whole, self.dtype)


class TableVector(tf.experimental.ExtensionType):
    """A table's gradient as numbers for other replicas; programs take and return it like a tensor.
    Letters: B most rows of a replica, C ids, H units, R replicas."""

    numbers: tf.Tensor
    """float32 [B + 1 + C (+ C if weighted) + B H], of all replicas [R, ...]: the row splits, ids,
    weights and dy."""
    num_values: int
    units: int
    weighted: bool
    unique: bool
    num_tokens: int
    implementation: str
    dtype: str

    @classmethod
    def of(cls, table: TableGradient, most_rows: int) -> "TableVector":
        sets, missing = table.sets, most_rows - table.dy.shape[0]
        num_values, weighted = sets["values"].shape[0], sets["weights"] is not None
        if num_values > MAX_NUMBER:
            raise InputError(
                f"each replica's part of a batch has up to {num_values:,} ids, and replicas "
                f"exchange at most {MAX_NUMBER:,} for a table that is updated by rows; set a "
                "smaller --batch-size, or --table-optimizer=dense"
            )
        splits = sets["row_splits"]
        parts = [tf.concat([splits, tf.repeat(splits[-1:], missing)], axis=0), sets["values"]]
        parts += [sets["weights"]] if weighted else []
        parts.append(tf.pad(table.dy, [[0, missing], [0, 0]]))
        flat = [tf.reshape(tf.cast(part, tf.float32), [-1]) for part in parts]
        return cls(
            numbers=tf.concat(flat, axis=0),
            num_values=num_values,
            units=table.dy.shape[1],
            weighted=weighted,
            unique=sets["unique"],
            num_tokens=sets["num_tokens"],
            implementation=table.implementation,
            dtype=table.dtype,
        )

    def replaced(self, numbers: tf.Tensor) -> "TableVector":
        static = {
            field.name: getattr(self, field.name) for field in self._tf_extension_type_fields()
        }
        return TableVector(**{**static, "numbers": numbers})

    def joined(self, most_rows: int) -> TableGradient:
        """Returns the sets and dy of all replicas, concatenated, from the numbers of all."""
        ids = [self.num_values] * (2 if self.weighted else 1)
        sizes = [most_rows + 1, *ids, most_rows * self.units]
        row_splits, *of_ids, dy = tf.split(self.numbers, sizes, axis=1)
        splits = tf.cast(row_splits, tf.int32)
        ends = tf.cumsum(splits[:, -1])
        begins = ends - splits[:, -1]
        # Each replica's ids end before its buffer does: leave out the gaps.
        places = tf.range(self.numbers.shape[0] * self.num_values)
        replica = tf.add_n([tf.cast(places >= end, tf.int32) for end in tf.unstack(ends)[:-1]])
        read = places - tf.gather(begins, replica) + replica * self.num_values
        read = tf.minimum(read, places[-1])
        values, *weights = (tf.gather(tf.reshape(part, [-1]), read) for part in of_ids)
        every = tf.reshape(splits[:, :-1] + begins[:, None], [-1])
        sets = {
            "values": tf.cast(values, tf.int32),
            "row_splits": tf.concat([every, ends[-1:]], axis=0),
            "weights": weights[0] if weights else None,
            "unique": self.unique,
            "num_tokens": self.num_tokens,
        }
        how = cast(Implementation, self.implementation)
        return TableGradient(sets, tf.reshape(dy, [-1, self.units]), how, self.dtype)


class Gradients(NamedTuple):
    """One replica's part of a batch's gradients, or their sums over all replicas."""

    weights: dict[str, tf.Tensor | tf.IndexedSlices]
    """The gradients of weights, by name; without weights that the loss does not depend on."""
    rows: dict[str, TableGradient]
    """What the updates of tables by rows follow from."""
    products: dict[str, tuple[TableGradient, ...]]
    """Products whose gradients are to be added to those of `weights`."""
    touched: dict[str, Touched]
    """The rows that the batch touches, of tables that have caught up."""


def pays_for(batch: ReplicaBatch) -> Callable[[MultiHotDense, Mapping[str, Any]], bool]:
    """Returns whether a table's gradient is to follow from all replicas' ids and dy, as a function
    of the table's layer and its inputs."""
    return functools.partial(_pays, batch, tf.compat.v1.get_default_graph())


def _pays(
    batch: ReplicaBatch, graph: tf.Graph, layer: MultiHotDense, inputs: Mapping[str, Any]
) -> bool:
    if tf.compat.v1.get_default_graph() is not graph:  # in a branch: the tape cannot give dy
        return False
    table = layer.num_tokens * layer.units
    if table < _LARGE or layer.compute_dtype == "float64":
        return False
    if not layer.kernel.trainable or layer.kernel_regularizer is not None:
        return False
    num_values = inputs["values"].shape[0]
    if num_values > MAX_NUMBER or layer.num_tokens > MAX_NUMBER:
        return False
    sent = num_values * (2 if "weights" in inputs else 1)
    sent += batch.most_rows * (1 + layer.units) + 1
    return bool(sent * batch.num_replicas <= _MOST * table)


class Packed(NamedTuple):
    """What replicas exchange of a batch: one replica's, or that of all, summed and gathered."""

    weights: dict[str, tf.Tensor]  # gradients to sum
    changes: dict[str, tf.Tensor]  # floats to sum
    rows: dict[str, TableVector]  # to gather
    products: dict[str, tuple[TableVector, ...]]  # to gather

    @property
    def tensors(self) -> list[tf.Tensor]:
        return [*self.weights.values(), *self.changes.values()]

    @property
    def vectors(self) -> list[tf.Tensor]:
        products = [vector for calls in self.products.values() for vector in calls]
        return [vector.numbers for vector in [*self.rows.values(), *products]]

    def of_all(self, sums: Sequence[tf.Tensor], gathered: Sequence[tf.Tensor]) -> "Packed":
        """Returns the same of all replicas, from the sums of `tensors` and the gathered `vectors`,
        each [replicas, numbers]."""
        total, vectors = iter(sums), iter(gathered)
        return Packed(
            weights={name: next(total) for name in self.weights},
            changes={name: next(total) for name in self.changes},
            rows={name: own.replaced(next(vectors)) for name, own in self.rows.items()},
            products={
                name: tuple(own.replaced(next(vectors)) for own in calls)
                for name, calls in self.products.items()
            },
        )


def exchange(
    gradients: Gradients, changes: Mapping[str, tf.Tensor], batch: ReplicaBatch
) -> tuple[Gradients, dict[str, tf.Tensor]]:
    """Returns the gradients of all replicas of a process, and the sums of the floats of
    `changes`."""
    if batch.num_replicas == 1:
        return gradients, dict(changes)
    own, replica = pack(gradients, changes, batch.most_rows), this_replica()
    # The replicas of a process have sums alone: each adds its vector in a row of its own.
    rows = [[replica.replica_id, batch.num_replicas - 1 - replica.replica_id], [0, 0]]
    vectors = [tf.pad(vector[None], rows) for vector in own.vectors]
    found = replica.total([*vectors, *own.tensors])
    every, sums = own.of_all(found[len(vectors) :], found[: len(vectors)]), dict(changes)
    return unpack(every, batch.most_rows), sums | every.changes


def pack(gradients: Gradients, changes: Mapping[str, tf.Tensor], most_rows: int) -> Packed:
    return Packed(
        weights={name: tf.convert_to_tensor(g) for name, g in gradients.weights.items()},
        # For what is no float, such as a count, any replica's value will do.
        changes={name: v for name, v in changes.items() if v.dtype.is_floating},
        rows={n: TableVector.of(table, most_rows) for n, table in gradients.rows.items()},
        products={
            name: tuple(TableVector.of(call, most_rows) for call in calls)
            for name, calls in gradients.products.items()
        },
    )


def unpack(packed: Packed, most_rows: int) -> Gradients:
    """Returns the gradients of all replicas."""
    weights = dict(packed.weights)
    for name, calls in packed.products.items():
        others = [weights[name]] if name in weights else []
        weights[name] = tf.add_n([*others, *(call.joined(most_rows).of_table() for call in calls)])
    rows = {name: table.joined(most_rows) for name, table in packed.rows.items()}
    return Gradients(weights, rows, {}, {})
