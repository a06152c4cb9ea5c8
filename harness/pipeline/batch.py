"""The batches of a dispatch, as a device gets them, and how its compiled program reads them.

A device trains one share of every batch, or on a CPU all of them, side by side. Arrays that stay on
a device are never int32: TensorFlow keeps those in host memory, also those of a GPU.
Letters: S batches at hand, k shares of a batch on the device, b rows of a share, C capacity of an
input, L steps of a call.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from harness.data.examples import Examples
from harness.data.ragged import RaggedSets
from harness.pipeline.capacity import Capacity
from kernels.multi_hot import reads_resident_rows, takes_rowids
from kernels.multi_hot.resident import take_batches, take_rows
from kernels.multi_hot.segments import rowids_of_splits

LABELS, WEIGHTS = "/labels", "/weights"
"""Names beside those of the inputs."""


class Share(NamedTuple):
    """A device's share of a batch, read inside the compiled program."""

    inputs: dict[str, Any]
    """By name: of ragged sets a dict of `values` [C] and `row_splits` int32 [rows + 1], of numbers
    float32 [rows, features]."""
    rowids: dict[str, tf.Tensor]
    """Of ragged sets the row of each value [C], where the implementation takes it."""
    labels: Any
    """[rows], [rows, K], or ragged sets of class numbers as an input has them."""
    real: tf.Tensor
    """float32 [rows]: 1 for each real row, 0 for padding."""
    weights: tf.Tensor
    """float32 [rows]: of the rows' losses; 0 for padding."""
    batch_rows: tf.Tensor
    """float32 scalar: real rows of the whole batch, over all devices; at least 1."""


class Ragged(NamedTuple):
    """Ragged sets as tensors."""

    values: tf.Tensor
    row_splits: tf.Tensor


Reader = Callable[[tf.Tensor], Share]
"""From a step of the call, int32 scalar, to the device's share of its batch."""
_Read = Callable[[tf.Tensor, int], Any]
"""From a step and one of the k shares to a part of it."""


class Columns(NamedTuple):
    """What the rows of examples consist of, in NumPy."""

    ragged: dict[str, RaggedSets]
    """Inputs, and labels where they are ragged."""
    dense: dict[str, np.ndarray]
    """[rows, ...]: inputs, labels and weights, in the types in which they travel."""

    @classmethod
    def of(cls, examples: Examples) -> "Columns":
        """Those of examples."""
        ragged, dense = examples.ragged, examples.dense
        labels = examples.labels
        if isinstance(labels, RaggedSets):
            ragged[LABELS] = labels
        elif labels is None:
            dense[LABELS] = np.zeros(examples.num_rows, np.uint16)
        elif labels.dtype.kind == "f":
            dense[LABELS] = labels.astype(np.float32)
        else:
            dense[LABELS] = labels.astype(wire_type(int(labels.max(initial=0)) + 1))
        if examples.weights is not None:
            dense[WEIGHTS] = examples.weights
        return cls(ragged, dense)

    @property
    def lengths(self) -> np.ndarray:
        """Ids of each row of each ragged column, int64 [columns, rows]."""
        (num_rows,) = {
            *(sets.num_rows for sets in self.ragged.values()),
            *(len(array) for array in self.dense.values()),
        }
        parts = [sets.lengths for sets in self.ragged.values()]
        return np.stack(parts) if parts else np.zeros([0, num_rows], np.int64)

    @property
    def num_bytes(self) -> int:
        """Memory that they take on one device."""
        ragged = sum(
            sets.nnz * np.dtype(wire_type(sets.num_tokens)).itemsize + (sets.num_rows + 2) * 8
            for sets in self.ragged.values()
        )
        return ragged + sum(array.nbytes + array[:1].nbytes for array in self.dense.values())

    def padded(self) -> tuple[dict[str, Ragged], dict[str, tf.Tensor]]:
        """As tensors on the device at hand, with a row without ids behind the last, of numbers that
        the model knows (a logarithm of zeros would spoil gradients that count for nothing): what an
        incomplete batch is padded with."""
        ragged = {
            name: Ragged(
                tf.constant(sets.values.astype(wire_type(sets.num_tokens), copy=False)),
                tf.constant(np.append(sets.row_splits, sets.nnz)),
            )
            for name, sets in self.ragged.items()
        }
        dense = {
            name: tf.constant(np.concatenate([array, array[:1]]))
            for name, array in self.dense.items()
        }
        return ragged, dense


class StreamBatches(NamedTuple):
    """S batches of fixed shape, so that one compiled program serves every dispatch."""

    ragged: dict[str, Ragged]
    """`values` uint16 or uint32 [S, k, C]: the ids of a share's rows one after another, then
    padding; `row_splits` uint32 [S, k, b + 1]: where each row begins in `values`."""
    dense: dict[str, tf.Tensor]
    """[S, k, b, ...]."""
    real_rows: tf.Tensor
    """int64 [S, k]: rows of each share that are no padding; they come first."""
    batch_rows: tf.Tensor
    """int64 [S]: the same of the whole batch, over all devices."""

    @property
    def num_rows(self) -> int:
        """Rows of a `Share`."""
        return _rows_of(self.real_rows.shape[1], self.share_rows)

    @property
    def share_rows(self) -> int:
        """b."""
        ends = [sets.row_splits.shape[2] - 1 for sets in self.ragged.values()]
        (rows,) = {*ends, *(array.shape[2] for array in self.dense.values())}
        return int(rows)

    def resized(self, capacity: Capacity) -> "StreamBatches":
        """Batches of another capacity, to compile a program with."""
        ragged = {
            name: Ragged(
                tf.zeros([*sets.values.shape[:2], own], sets.values.dtype),
                tf.zeros_like(sets.row_splits),
            )
            for (name, sets), own in zip(self.ragged.items(), capacity, strict=True)
        }
        return self._replace(ragged=ragged)

    def reader(
        self, first: tf.Tensor, num_steps: int, *, capacity: Capacity, implementation: str
    ) -> Reader:
        """Prepares a call's steps, outside of its loop, and returns what reads one inside."""
        ragged, dense, real_rows, batch_rows = tf.nest.map_structure(
            lambda field: _cut(field, first, num_steps), tuple(self)
        )
        arrays: dict[str, dict[str, tf.Tensor]] = {}
        for (name, sets), own in zip(ragged.items(), capacity, strict=True):
            splits = tf.cast(sets.row_splits, tf.int32)
            arrays[name] = {"values": sets.values, "row_splits": splits}
            if takes_rowids(implementation):
                arrays[name]["rowids"] = _rowids(splits, own)
        reads = {name: _taken_from(array) for name, array in arrays.items()}
        return _reader(reads, capacity, dense, real_rows, batch_rows, self.share_rows)


class ResidentSets(NamedTuple):
    """All rows of a data set on one device, with an empty row behind the last."""

    ragged: dict[str, Ragged]
    """`values` uint16 or uint32 [nnz], `row_splits` int64 [rows + 2]."""
    dense: dict[str, tf.Tensor]
    """[rows + 1, ...]."""


class ResidentBatches(NamedTuple):
    """S batches as row ids into sets that lie on the device."""

    sets: ResidentSets
    rows: tf.Tensor
    """uint32 [S, k, b]."""
    real_rows: tf.Tensor
    """int64 [S, k]: rows of each share that are no padding; they come first."""
    batch_rows: tf.Tensor
    """int64 [S]: the same of the whole batch, over all devices."""

    @property
    def num_rows(self) -> int:
        """Rows of a `Share`."""
        return _rows_of(self.rows.shape[1], self.rows.shape[2])

    def resized(self, capacity: Capacity) -> "ResidentBatches":
        """Batches of empty rows, to compile a program with; of any capacity."""
        del capacity
        ends = [sets.row_splits.shape[0] - 2 for sets in self.sets.ragged.values()]
        (empty,) = {*ends, *(array.shape[0] - 1 for array in self.sets.dense.values())}
        with tf.device(self.rows.device):
            return self._replace(rows=tf.constant(np.full(self.rows.shape, empty, np.uint32)))

    def reader(
        self, first: tf.Tensor, num_steps: int, *, capacity: Capacity, implementation: str
    ) -> Reader:
        """Prepares a call's steps, outside of its loop, and returns what reads one inside."""
        rows = tf.bitcast(_cut(self.rows, first, num_steps), tf.int32)
        real_rows, batch_rows = (
            _cut(field, first, num_steps) for field in (self.real_rows, self.batch_rows)
        )
        dense = {name: tf.gather(array, rows) for name, array in self.sets.dense.items()}
        reads: dict[str, _Read] = {}
        fits: list[tf.Tensor] = []
        for (name, sets), own in zip(self.sets.ragged.items(), capacity, strict=True):
            if reads_resident_rows(implementation):
                reads[name] = _taken_natively(sets, rows, capacity=own)
            else:
                arrays = _taken_at_once(sets, rows, capacity=own)
                fits.append(arrays["row_splits"][..., -1] <= own)
                reads[name] = _taken_from(arrays)
        # More ids than a buffer holds would be left out unseen.
        fit = tf.reduce_all(tf.stack(fits), axis=0) if fits else None
        return _reader(reads, capacity, dense, real_rows, batch_rows, rows.shape[2], fit)


AnyBatches = StreamBatches | ResidentBatches


def wire_type(limit: int) -> type[np.uint16] | type[np.uint32]:
    """What numbers below `limit` travel and lie on a device as."""
    return np.uint16 if limit <= np.iinfo(np.uint16).max + 1 else np.uint32


def _rows_of(num_shares: int, rows: int) -> int:
    """Rows of k shares side by side: between two of them lies a row for the padding."""
    return num_shares * (rows + 1) - 1


def _cut(tensor: tf.Tensor, first: tf.Tensor, num_steps: int) -> tf.Tensor:
    """Steps [first, first + num_steps) of a tensor."""
    # Gathered, not sliced: XLA wants to know the bounds of a slice when it compiles, and would
    # compile a program for each `first`.
    return tf.gather(tensor, first + tf.range(num_steps, dtype=first.dtype))


def _rowids(row_splits: tf.Tensor, capacity: int) -> tf.Tensor:
    """The row of each value, [..., C], of splits [..., b + 1]."""
    flat = tf.reshape(row_splits, [-1, row_splits.shape[-1]])
    rowids = _narrow(rowids_of_splits(flat, capacity), flat.shape[1])
    return tf.reshape(rowids, [*row_splits.shape[:-1], capacity])


def _taken_at_once(sets: Ragged, rows: tf.Tensor, *, capacity: int) -> dict[str, tf.Tensor]:
    """What the rows [L, k, b] hold."""
    flat = tf.reshape(rows, [-1, rows.shape[2]])
    values, row_splits, rowids = take_batches(*sets, flat, capacity=capacity)
    rowids = _narrow(rowids, rows.shape[2] + 1)
    arrays = {"values": values, "row_splits": row_splits, "rowids": rowids}
    return {n: tf.reshape(a, [*rows.shape[:2], a.shape[1]]) for n, a in arrays.items()}


def _narrow(rowids: tf.Tensor, limit: int) -> tf.Tensor:
    """In 16 bits where they suffice: a loop reads them from memory in every step."""
    return tf.cast(rowids, tf.uint16) if wire_type(limit) is np.uint16 else rowids


def _taken_from(arrays: Mapping[str, tf.Tensor]) -> _Read:
    return lambda step, share: {
        name: tf.gather(array, step)[share] for name, array in arrays.items()
    }


def _taken_natively(sets: Ragged, rows: tf.Tensor, *, capacity: int) -> _Read:
    def taken(step: tf.Tensor, share: int) -> dict[str, tf.Tensor]:
        values, splits = take_rows(*sets, tf.gather(rows, step)[share], capacity=capacity)
        return {"values": values, "row_splits": splits}

    return taken


def _reader(
    reads: Mapping[str, _Read],
    capacity: Capacity,
    dense: Mapping[str, tf.Tensor],
    real_rows: tf.Tensor,
    batch_rows: tf.Tensor,
    share_rows: int,
    fit: tf.Tensor | None = None,
) -> Reader:
    """Args:
    reads: of the ragged columns.
    capacity: of each of them.
    dense: [L, k, b, ...].
    real_rows, batch_rows: [L, k] and [L].
    share_rows: b.
    fit: bool [L, k], False where a share holds more ids than its buffer; None: none does.
    """
    num_shares = real_rows.shape[1]
    real = tf.cast(tf.range(share_rows, dtype=tf.int64) < real_rows[..., None], tf.float32)
    if fit is not None:
        real = tf.where(fit[..., None], real, float("nan"))
    batch_rows = tf.cast(tf.maximum(batch_rows, 1), tf.float32)

    def side_by_side(array: tf.Tensor) -> tf.Tensor:
        """[k, b, ...] as rows, with a copy of another between two shares."""
        if num_shares == 1:
            return array[0]
        padded = tf.concat([array, array[:, -1:]], axis=1)
        return tf.reshape(padded, [-1, *array.shape[2:]])[:-1]

    def read(step: tf.Tensor) -> Share:
        rows = {name: side_by_side(tf.gather(array, step)) for name, array in dense.items()}
        between = tf.pad(tf.gather(real, step), [[0, 0], [0, 1]])
        real_row = tf.reshape(between, [-1])[:-1]
        weights = real_row * rows.pop(WEIGHTS) if WEIGHTS in rows else real_row
        rowids: dict[str, tf.Tensor] = {}
        inputs: dict[str, Any] = {}
        for (name, taken), own in zip(reads.items(), capacity, strict=True):
            shares = [taken(step, share) for share in range(num_shares)]
            sets = _joined(shares, own, share_rows)
            if "rowids" in sets:
                rowids[name] = sets.pop("rowids")
            inputs[name] = sets
        inputs |= rows
        labels = inputs.pop(LABELS)
        return Share(inputs, rowids, labels, real_row, weights, tf.gather(batch_rows, step))

    return read


def _joined(
    shares: list[dict[str, tf.Tensor]], capacity: int, share_rows: int
) -> dict[str, tf.Tensor]:
    """Shares as rows of one buffer; the padding of each but the last becomes a row behind it."""
    if len(shares) == 1:
        (sets,) = shares
    else:
        sets = {
            "values": tf.concat([s["values"] for s in shares], axis=0),
            "row_splits": tf.concat(
                [s["row_splits"] + capacity * place for place, s in enumerate(shares)], axis=0
            ),
        }
        if "rowids" in shares[0]:
            own = [tf.cast(s["rowids"], tf.int32) for s in shares]
            behind = [ids + (share_rows + 1) * place for place, ids in enumerate(own)]
            sets["rowids"] = tf.concat(behind, axis=0)
    # The network takes int32; on the device 16 bits travel as they are.
    if sets["values"].dtype != tf.int32:
        sets["values"] = tf.cast(sets["values"], tf.int32)
    return sets
