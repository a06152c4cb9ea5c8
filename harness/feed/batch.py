"""The batches of a dispatch as a device gets them, and how the compiled program reads them.

A device trains on its replica's rows of every batch. Arrays that stay on a device are never int32,
because TensorFlow keeps int32 arrays in host memory, even a GPU's.
Letters: S batches at hand, b rows of a replica, C capacity of an input, L steps of a call.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from harness.data.examples import Examples
from harness.data.ragged import RaggedSets
from harness.feed.capacity import Capacity
from harness.feed.plan import shares_of
from kernels.multi_hot import BatchGroup, BatchRef, takes_rowids
from kernels.multi_hot.native.product import take_rows
from kernels.multi_hot.segments import rowids_of_splits, take_batches

LABELS, WEIGHTS = "/labels", "/weights"  # columns beside those of the inputs
MASKED_IDS, _NO_ID = "ids_without_padding", 2**30  # Name of the operation, and what it puts there
_MAX_TAKEN_AHEAD = 2**26
"""Limit of a column's ids in a call up to which a GPU takes the ids of all steps from resident rows
before its loop and sorts them, which needs some 40 bytes for each. Beyond it, every step reads and
sorts its own ids."""
_MAX_BATCHES = 2**16 - 1  # Limit of the batches that one kernel launch can cover


class RaggedInput(NamedTuple):
    """A ragged input of a batch, with what layers can use beside the tensors that a model gets."""

    values: Any  # Ids [C], behind the last row's end any numbers
    row_splits: Any  # int32 [b + 1]
    weights: Any = None  # float32 [C], if ids have some
    value_rowids: Any = None  # Row of each value, [C], if the implementation takes them
    group: BatchRef | None = None  # All batches of the call, of which a GPU sorted the ids
    unique: bool = False  # Whether no row holds an id twice

    @property
    def sets(self) -> "Sets":
        return _sets(self.values, self.row_splits, self.weights)

    def without_padding(self) -> tf.Tensor:
        """Returns the ids [C], with an id that no table has in each place behind the last row's
        end. Products leave out what is there; for a user's own layers that read ids, XLA drops the
        gradient of such an id."""
        is_id = tf.range(self.values.shape[0]) < tf.cast(self.row_splits[-1], tf.int32)
        return tf.where(is_id, self.values, _NO_ID, name=MASKED_IDS)


class ReplicaBatch(NamedTuple):
    """A replica's rows of a batch, read inside the compiled program."""

    inputs: dict[str, Any]  # `RaggedInput`s, and float32 [b, features] of numbers, by name
    labels: Any  # Labels [b] or [b, K], or sets of class numbers: `values` and `row_splits`
    weights: tf.Tensor  # float32 [b]; NaN if the rows hold more ids than their buffer
    batch_rows: int = 0  # Rows of the whole batch, over all replicas
    num_rows: int = 0
    """b; or 0 if the replica has no row of the batch, and takes another's with the weight 0."""
    num_replicas: int = 1  # Number of replicas that share the batch

    @property
    def ragged(self) -> dict[str, RaggedInput]:
        return {n: part for n, part in self.inputs.items() if isinstance(part, RaggedInput)}

    @property
    def most_rows(self) -> int:
        return -(-self.batch_rows // self.num_replicas)

    @property
    def fraction(self) -> float:
        return self.num_rows / self.batch_rows

    def within(self, batch_rows: int, num_replicas: int, replica: int) -> "ReplicaBatch":
        """Returns the rows with their numbers filled in, as those of a replica."""
        num_rows = shares_of(batch_rows, num_replicas)[replica]
        weights = self.weights if num_rows else tf.zeros_like(self.weights)
        return self._replace(
            weights=weights, batch_rows=batch_rows, num_rows=num_rows, num_replicas=num_replicas
        )


Sets = dict[str, Any]  # arrays or tensors: `values`, `row_splits` and perhaps `weights`
Reader = Callable[[tf.Tensor], ReplicaBatch]  # from a step of the call, int32 scalar
Prepared = tuple["Arrays", tf.Tensor]
Sizes = tuple[tuple[int, tf.DType], ...]  # Lengths and types of tensors


class Columns(NamedTuple):
    """The rows of examples as NumPy arrays, by column."""

    ragged: dict[str, RaggedSets]  # Ragged inputs, and labels if they are ragged
    dense: dict[str, np.ndarray]  # Other columns [rows, ...], in the types that are transferred

    @classmethod
    def of(cls, examples: Examples) -> "Columns":
        ragged, dense = examples.ragged, examples.dense
        labels = examples.labels
        if isinstance(labels, RaggedSets):
            ragged[LABELS] = labels
        elif labels is None:
            dense[LABELS] = np.zeros(examples.num_rows, np.uint32)
        elif isinstance(labels, Mapping):  # of several outputs, beside each other
            parts = (part.reshape(len(part), -1) for part in labels.values())
            dense[LABELS] = np.concatenate([*parts], axis=1, dtype=np.float32)
        else:
            # Not uint16: when XLA compares few classes in vectors of uint16 on a CPU with AVX-512,
            # LLVM aborts ("Cannot select: SUBV_BROADCAST_LOAD").
            kind = np.float32 if labels.dtype.kind == "f" else np.uint32
            dense[LABELS] = labels.astype(kind)
        if examples.weights is not None:
            dense[WEIGHTS] = examples.weights
        return cls(ragged, dense)

    @property
    def lengths(self) -> np.ndarray:
        """Number of ids in each row of each ragged column, int64 [columns, rows]."""
        parts = [sets.lengths for sets in self.ragged.values()]
        # Without ragged columns, the labels are dense.
        return np.stack(parts) if parts else np.zeros([0, len(self.dense[LABELS])], np.int64)

    @property
    def num_bytes(self) -> int:
        """Memory that the columns take on one device."""
        ragged = sum(
            sets.nnz * np.dtype(wire_type(sets.num_tokens)).itemsize
            + (0 if sets.weights is None else sets.weights.nbytes)
            + (sets.num_rows + 1) * 8
            for sets in self.ragged.values()
        )
        return ragged + sum(array.nbytes for array in self.dense.values())

    def take(self, rows: np.ndarray) -> "Columns":
        """Returns some rows, int64 [M], M > 0; reads no other rows from mapped files."""
        return Columns(
            {name: sets.take(rows) for name, sets in self.ragged.items()},
            {name: array[rows] for name, array in self.dense.items()},
        )

    def check_files(self) -> None:
        for sets in self.ragged.values():
            sets.check_files()

    def arrays(self) -> "Arrays":
        ragged = {}
        for name, sets in self.ragged.items():
            values = sets.values.astype(wire_type(sets.num_tokens), copy=False)
            ragged[name] = _sets(values, sets.row_splits, sets.weights)
        return Arrays(ragged, self.dense)


class Arrays(NamedTuple):
    ragged: dict[str, Sets]
    dense: dict[str, Any]


class StreamBatches(NamedTuple):
    """S batches of fixed shape, so that one compiled program serves every dispatch. A shorter
    dispatch is filled up with batches of empty rows, which nobody reads."""

    ragged: dict[str, Sets]
    """`values` uint16 or uint32 [S, C], a share's ids, then padding; `row_splits` uint32 [S, b +
    1]; perhaps `weights` float32 [S, C]."""
    dense: dict[str, tf.Tensor]  # Dense columns [S, b, ...]

    @property
    def num_rows(self) -> int:
        if LABELS in self.dense:
            return int(self.dense[LABELS].shape[1])
        return int(self.ragged[LABELS]["row_splits"].shape[1]) - 1

    def resized(self, capacity: Capacity) -> "StreamBatches":
        ragged: dict[str, Sets] = {}
        for (name, sets), own in zip(self.ragged.items(), capacity, strict=True):
            values = {part: tf.zeros([a.shape[0], own], a.dtype) for part, a in sets.items()}
            ragged[name] = values | {"row_splits": tf.zeros_like(sets["row_splits"])}
        return self._replace(ragged=ragged)

    def prepared(self, first: tf.Tensor, num_steps: int, capacity: Capacity) -> Prepared:
        """Takes a call's L steps; returns its arrays, with `rowids` of ragged columns, and [L, b]
        ones, or NaN for a share that holds more ids than its buffer."""
        cut = tf.nest.map_structure(lambda field: _cut(field, first, num_steps), self)
        ragged: dict[str, Sets] = {}
        for (name, sets), own in zip(cut.ragged.items(), capacity, strict=True):
            splits = tf.cast(sets["row_splits"], tf.int32)
            ragged[name] = {**sets, "row_splits": splits, "rowids": rowids_of_splits(splits, own)}
        return Arrays(ragged, cut.dense), tf.ones([num_steps, self.num_rows])


class ResidentBatches(NamedTuple):
    """S batches as ids of rows that all lie on the device."""

    ragged: dict[str, Sets]
    """`values` uint16 or uint32 [nnz], `row_splits` int64 [rows + 1]; perhaps `weights`."""
    dense: dict[str, tf.Tensor]  # Dense columns [rows, ...]
    rows: tf.Tensor  # Row ids of the batches, uint32 [S, b]

    @property
    def num_rows(self) -> int:
        return int(self.rows.shape[1])

    def resized(self, capacity: Capacity) -> "ResidentBatches":
        del capacity
        with tf.device(self.rows.device):
            ragged = {
                name: {**sets, "row_splits": tf.zeros_like(sets["row_splits"])}
                for name, sets in self.ragged.items()
            }
            return self._replace(ragged=ragged)

    def prepared(self, first: tf.Tensor, num_steps: int, capacity: Capacity) -> Prepared:
        rows = tf.bitcast(_cut(self.rows, first, num_steps), tf.int32)
        dense = {name: tf.gather(array, rows) for name, array in self.dense.items()}
        fits = tf.ones(rows.shape)
        ragged: dict[str, Sets] = {}
        for (name, sets), own in zip(self.ragged.items(), capacity, strict=True):
            values, row_splits, rowids, weights = take_batches(
                sets["values"], sets["row_splits"], rows, capacity=own, weights=sets.get("weights")
            )
            # Ids beyond the buffer would be dropped unnoticed.
            fits = tf.where(row_splits[:, -1:] <= own, fits, float("nan"))
            ragged[name] = _sets(values, row_splits, weights) | {"rowids": rowids}
        return Arrays(ragged, dense), fits

    def read(self, at: tf.Tensor, capacity: Capacity) -> ReplicaBatch:
        """Reads one batch by a native kernel."""
        rows = tf.bitcast(tf.gather(self.rows, at), tf.int32)
        inputs: dict[str, Any] = {n: tf.gather(array, rows) for n, array in self.dense.items()}
        for (name, sets), own in zip(self.ragged.items(), capacity, strict=True):
            taken = take_rows(
                sets["values"], sets["row_splits"], rows, capacity=own, weights=sets.get("weights")
            )
            inputs[name] = RaggedInput(*taken)
        return _batch(inputs, tf.ones(rows.shape))


AnyBatches = StreamBatches | ResidentBatches
BatchesByRows = Mapping[int, Sequence[AnyBatches]]  # of each device, by the rows of a whole batch


def _sets(values: Any, row_splits: Any, weights: Any | None) -> Sets:
    sets = {"values": values, "row_splits": row_splits}
    return sets if weights is None else {**sets, "weights": weights}


def wire_type(limit: int) -> type[np.uint16] | type[np.uint32]:
    """Returns the type in which numbers below `limit` are transferred and lie on a device."""
    return np.uint16 if limit <= np.iinfo(np.uint16).max + 1 else np.uint32


def sizes_of(batches: AnyBatches) -> Sizes:
    """Returns what a program depends on, beside the capacity and the rows of a batch."""
    return tuple((tensor.shape[0], tensor.dtype) for tensor in tf.nest.flatten(batches))


def _fits_a_lot(num_steps: int, capacity: Capacity) -> bool:
    most = max(capacity, default=0)
    return num_steps <= _MAX_BATCHES and num_steps * most <= _MAX_TAKEN_AHEAD


def _cut(tensor: tf.Tensor, first: tf.Tensor, num_steps: int) -> tf.Tensor:
    # Gathered, not sliced: XLA would compile a program for each slice's bounds.
    return tf.gather(tensor, first + tf.range(num_steps, dtype=first.dtype))


def reader_of(
    batches: AnyBatches,
    first: tf.Tensor,
    num_steps: int,
    *,
    capacity: Capacity,
    implementation: str,
    for_gpu: bool = False,
) -> Reader:
    """Prepares a call's steps outside its loop, unless native kernels copy each inside."""
    natively = not takes_rowids(implementation)
    # Whether kernels read from all steps' batches.
    in_lots = natively and for_gpu and _fits_a_lot(num_steps, capacity)
    if isinstance(batches, ResidentBatches) and natively and not in_lots:
        return lambda step: batches.read(first + tf.cast(step, first.dtype), capacity)
    (ragged, dense), fits = batches.prepared(first, num_steps, capacity)
    # Row ids of 16 bits if these suffice: a loop reads them from memory in every step.
    kind = tf.uint16 if wire_type(fits.shape[1] + 1) is np.uint16 else tf.int32
    if not natively:
        for sets in ragged.values():
            sets["rowids"] = tf.cast(sets["rowids"], kind)
    lots = {
        name: BatchGroup(sets["values"], sets["row_splits"], sets.get("weights"))
        for name, sets in ragged.items()
        if in_lots
    }

    def read(step: tf.Tensor) -> ReplicaBatch:
        inputs: dict[str, Any] = {name: tf.gather(array, step) for name, array in dense.items()}
        for name, sets in ragged.items():
            own = {what: tf.gather(array, step) for what, array in sets.items()}
            inputs[name] = RaggedInput(
                # The network takes int32; on the device 16 bits travel as they are.
                values=tf.cast(own["values"], tf.int32),
                row_splits=own["row_splits"],
                weights=own.get("weights"),
                value_rowids=None if natively else own["rowids"],
                group=BatchRef(lots[name], step) if in_lots else None,
            )
        return _batch(inputs, tf.gather(fits, step))

    return read


def _batch(inputs: dict[str, Any], fits: tf.Tensor) -> ReplicaBatch:
    weights = fits * inputs.pop(WEIGHTS) if WEIGHTS in inputs else fits
    labels = inputs.pop(LABELS)
    labels = labels.sets if isinstance(labels, RaggedInput) else labels
    return ReplicaBatch(inputs, labels, weights)


def batch_of(columns: Columns, padding: int, implementation: str) -> ReplicaBatch:
    """Returns a batch of some rows for one device, with `padding` positions behind the ids."""
    num_rows = columns.lengths.shape[1]
    arrays: Arrays = tf.nest.map_structure(tf.constant, columns.arrays())
    batches = ResidentBatches(*arrays, rows=tf.constant(np.arange(num_rows, dtype=np.uint32)[None]))
    capacity = tuple(sets.nnz + padding for sets in columns.ragged.values())
    first = tf.constant(0, tf.int64)
    read = reader_of(batches, first, 1, capacity=capacity, implementation=implementation)
    return read(tf.constant(0)).within(num_rows, 1, 0)
