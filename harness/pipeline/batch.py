"""The batches of a dispatch, as one replica gets them, and how the compiled loop reads one.

Letters: S batches at hand, b rows of a replica's share of a batch, C capacity.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from kernels.multi_hot.resident import take_rows


class Step(NamedTuple):
    """One batch, read inside the compiled loop."""

    inputs: dict[str, tf.Tensor]
    """What the network takes: `values` [C] and `row_splits` int32 [b + 1]."""
    labels: tf.Tensor
    """int32 [b]: class of each row; 0 in padding rows."""
    num_rows: tf.Tensor
    """int32 scalar: real rows of the *global* batch; row j of replica r is real if r*b + j is
    below."""


class Batches(NamedTuple):
    """S batches of fixed shape, so that one compiled program serves every dispatch."""

    values: tf.Tensor
    """uint16 or int32 [S, C]: the ids of a batch's rows one after another, then padding."""
    row_splits: tf.Tensor
    """int32 [S, b + 1]: where each row begins in `values`; what follows the last is ignored."""
    labels: tf.Tensor
    """int32 [S, b]."""
    num_rows: tf.Tensor
    """int32 [S]."""

    def read(self, step: tf.Tensor) -> Step:
        """The batch of one step, counted from the first at hand."""
        # Gathered, not sliced: XLA wants the bounds of a slice at compile time where they are
        # arguments, and would compile a program for each step.
        values, row_splits, labels, num_rows = (tf.gather(field, step) for field in self)
        return Step({"values": values, "row_splits": row_splits}, labels, num_rows)


class ResidentSets(NamedTuple):
    """All rows of a data set on one device, with an empty row of label 0 behind the last."""

    values: tf.Tensor
    """uint16 or int32 [nnz]."""
    row_splits: tf.Tensor
    """int32 or int64 [rows + 2]."""
    labels: tf.Tensor
    """int32 [rows + 1]."""


class ResidentBatches(NamedTuple):
    """S batches as row ids into sets that lie on the device."""

    sets: ResidentSets
    rows: tf.Tensor
    """int32 [S, b]."""
    num_rows: tf.Tensor
    """int32 [S]."""
    capacity: int
    """C; a Python number, so another one is another program."""
    implementation: str
    """Of `take_rows`."""

    def read(self, step: tf.Tensor) -> Step:
        """The batch of one step, counted from the first at hand."""
        rows = tf.gather(self.rows, step)
        values, row_splits = take_rows(
            self.sets.values,
            self.sets.row_splits,
            rows,
            capacity=self.capacity,
            implementation=self.implementation,
        )
        inputs = {"values": values, "row_splits": row_splits}
        return Step(inputs, tf.gather(self.sets.labels, rows), tf.gather(self.num_rows, step))


AnyBatches = Batches | ResidentBatches


def distributed(replicas: Sequence[AnyBatches], strategy: tf.distribute.Strategy) -> AnyBatches:
    """The batches of all replicas as one, whose tensors are replaced by one for each replica."""

    def of_all(*tensors: Any) -> Any:
        if isinstance(tensors[0], int | str):
            return tensors[0]  # the capacity, the implementation: the same for all
        return strategy.experimental_distribute_values_from_function(
            lambda context: tensors[context.replica_id_in_sync_group]
        )

    return tf.nest.map_structure(of_all, *replicas)
