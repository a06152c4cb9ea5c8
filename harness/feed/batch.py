"""The batches of a dispatch, as a device gets them, and how its compiled program reads them.

A device trains one share of every batch. Arrays that stay on a device are never int32: TensorFlow
keeps those in host memory, also those of a GPU.
Letters: S batches at hand, b rows of a share, C capacity of an input, L steps of a call.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from harness.data.examples import Examples
from harness.data.ragged import RaggedSets
from harness.feed.capacity import Capacity
from harness.feed.plan import shares_of
from kernels.multi_hot import Batches, Lot, takes_rowids
from kernels.multi_hot.native.product import take_rows
from kernels.multi_hot.segments import rowids_of_splits, take_batches

LABELS, WEIGHTS = "/labels", "/weights"
"""Names beside those of the inputs."""
_MAX_TAKEN_AHEAD = 2**26
"""Ids of a column and a call, up to which a GPU takes all columns from resident rows before its
loop and sorts them, which needs some 40 bytes for each. Where a column has more, every step reads
and sorts its own."""
_MAX_BATCHES = 2**16 - 1
"""That a launch can be of."""


class Share(NamedTuple):
    """A device's share of a batch, read inside the compiled program."""

    inputs: dict[str, Any]
    """By name: of ragged sets a dict of `values` [C], `row_splits` int32 [b + 1] and, where ids
    have weights, `weights` float32 [C]; of numbers float32 [b, features]."""
    rowids: dict[str, tf.Tensor]
    """Of ragged sets the row of each value [C], where the implementation takes it."""
    labels: Any
    """[b], [b, K], or ragged sets of class numbers as an input has them."""
    weights: tf.Tensor
    """float32 [b]: of the rows' losses; NaN where the share holds more ids than its buffer."""
    among: dict[str, Batches]
    """Of ragged sets the call's batches, where kernels read them from there."""
    batch_rows: int = 0
    """Of the whole batch, over all devices."""
    num_rows: int = 0
    """b; or 0 where the batch has fewer rows than there are devices, and this one computes on a row
    of another, which counts for nothing."""
    num_devices: int = 1
    """That share the batch."""

    @property
    def most_rows(self) -> int:
        """The largest b of all devices."""
        return -(-self.batch_rows // self.num_devices)

    @property
    def fraction(self) -> float:
        """Of the batch's rows, those of this device."""
        return self.num_rows / self.batch_rows

    def within(self, batch_rows: int, num_devices: int, place: int) -> "Share":
        """The same, known to be the share of the device at `place` of so many."""
        num_rows = shares_of(batch_rows, num_devices)[place]
        weights = self.weights if num_rows else tf.zeros_like(self.weights)
        return self._replace(
            weights=weights, batch_rows=batch_rows, num_rows=num_rows, num_devices=num_devices
        )


class Ragged(NamedTuple):
    """Ragged sets as arrays or tensors."""

    values: Any
    row_splits: Any


Reader = Callable[[tf.Tensor], Share]
"""From a step of the call, int32 scalar, to the device's share of its batch."""
Sizes = tuple[tuple[tuple[int, ...], tf.DType], ...]
"""Shapes and types of tensors."""


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
            dense[LABELS] = np.zeros(examples.num_rows, np.uint32)
        elif labels.dtype.kind == "f":
            dense[LABELS] = labels.astype(np.float32)
        else:
            # Not as narrow as could be: where XLA compares few classes with vectors of uint16 on a
            # CPU that has AVX-512, LLVM aborts ("Cannot select: SUBV_BROADCAST_LOAD").
            dense[LABELS] = labels.astype(np.uint32)
        if examples.weights is not None:
            dense[WEIGHTS] = examples.weights
        return cls(ragged, dense)

    @property
    def lengths(self) -> np.ndarray:
        """Ids of each row of each ragged column, int64 [columns, rows]."""
        num_rows = len(self.dense[LABELS]) if LABELS in self.dense else self.ragged[LABELS].num_rows
        parts = [sets.lengths for sets in self.ragged.values()]
        return np.stack(parts) if parts else np.zeros([0, num_rows], np.int64)

    @property
    def num_bytes(self) -> int:
        """Memory that they take on one device."""
        ragged = sum(
            sets.nnz * np.dtype(wire_type(sets.num_tokens)).itemsize + (sets.num_rows + 1) * 8
            for sets in self.ragged.values()
        )
        ragged += sum(s.weights.nbytes for s in self.ragged.values() if s.weights is not None)
        return ragged + sum(array.nbytes for array in self.dense.values())

    def take(self, rows: np.ndarray) -> "Columns":
        """Some rows, int64 [M], M > 0. Of columns that are mapped from files, no others are
        read."""
        return Columns(
            {name: sets.take(rows) for name, sets in self.ragged.items()},
            {name: array[rows] for name, array in self.dense.items()},
        )

    def arrays(self) -> "Arrays":
        """In the types in which they travel."""
        return Arrays(
            {
                name: Ragged(
                    sets.values.astype(wire_type(sets.num_tokens), copy=False), sets.row_splits
                )
                for name, sets in self.ragged.items()
            },
            self.dense,
            {n: sets.weights for n, sets in self.ragged.items() if sets.weights is not None},
        )


class Arrays(NamedTuple):
    """Columns as arrays or tensors."""

    ragged: dict[str, Ragged]
    dense: dict[str, Any]
    id_weights: dict[str, Any]
    """float32 [nnz], of the ragged columns that have some."""


class StreamBatches(NamedTuple):
    """S batches of fixed shape, so that one compiled program serves every dispatch; behind those
    of a shorter dispatch, batches of empty rows that nobody reads."""

    ragged: dict[str, Ragged]
    """`values` uint16 or uint32 [S, C]: the ids of a share's rows one after another, then padding;
    `row_splits` uint32 [S, b + 1]: where each row begins in `values`."""
    dense: dict[str, tf.Tensor]
    """[S, b, ...]."""
    id_weights: dict[str, tf.Tensor]
    """float32 [S, C], of the ragged columns that have some."""

    @property
    def num_rows(self) -> int:
        """b."""
        if LABELS in self.dense:
            return int(self.dense[LABELS].shape[1])
        return int(self.ragged[LABELS].row_splits.shape[1]) - 1

    @property
    def sizes(self) -> Sizes:
        """What a program depends on, beside the capacity."""
        sets = self.ragged.values()
        fixed = [self.dense, [own.row_splits for own in sets]]
        types = [
            tensor.dtype for tensor in (*(own.values for own in sets), *self.id_weights.values())
        ]
        return (*_sizes(fixed), *(((), dtype) for dtype in types))

    def resized(self, capacity: Capacity) -> "StreamBatches":
        """Batches of another capacity, to compile a program with."""
        ragged = {
            name: Ragged(
                tf.zeros([sets.values.shape[0], own], sets.values.dtype),
                tf.zeros_like(sets.row_splits),
            )
            for (name, sets), own in zip(self.ragged.items(), capacity, strict=True)
        }
        id_weights = {
            name: tf.zeros(ragged[name].values.shape, weights.dtype)
            for name, weights in self.id_weights.items()
        }
        return self._replace(ragged=ragged, id_weights=id_weights)

    def reader(
        self,
        first: tf.Tensor,
        num_steps: int,
        *,
        capacity: Capacity,
        implementation: str,
        for_gpu: bool = False,
    ) -> Reader:
        """Prepares a call's steps, outside of its loop, and returns what reads one inside."""
        cut = tf.nest.map_structure(lambda field: _cut(field, first, num_steps), self)
        ragged: dict[str, Mapping[str, tf.Tensor]] = {}
        lots: dict[str, Lot] = {}
        for (name, (values, row_splits)), own in zip(cut.ragged.items(), capacity, strict=True):
            arrays = {"values": values, "row_splits": tf.cast(row_splits, tf.int32)}
            if takes_rowids(implementation):
                rowids = rowids_of_splits(arrays["row_splits"], own)
                arrays["rowids"] = _narrow(rowids, self.num_rows)
            if name in cut.id_weights:
                arrays["weights"] = cut.id_weights[name]
            ragged[name] = arrays
            if for_gpu and "rowids" not in arrays and _fits_a_lot(num_steps, capacity):
                lots[name] = Lot(arrays["values"], arrays["row_splits"], arrays.get("weights"))
        return _reader(ragged, cut.dense, tf.ones([num_steps, self.num_rows]), lots)


class ResidentBatches(NamedTuple):
    """S batches as row ids into rows that all lie on the device."""

    ragged: dict[str, Ragged]
    """`values` uint16 or uint32 [nnz], `row_splits` int64 [rows + 1]."""
    dense: dict[str, tf.Tensor]
    """[rows, ...]."""
    id_weights: dict[str, tf.Tensor]
    """float32 [nnz], of the ragged columns that have some."""
    rows: tf.Tensor
    """uint32 [S, b]."""

    @property
    def num_rows(self) -> int:
        """b."""
        return int(self.rows.shape[1])

    @property
    def sizes(self) -> Sizes:
        """What a program depends on, beside the capacity."""
        return _sizes(self)

    def resized(self, capacity: Capacity) -> "ResidentBatches":
        """Batches of empty rows, to compile a program with; of any capacity."""
        del capacity
        with tf.device(self.rows.device):
            return self._replace(
                ragged={
                    name: sets._replace(row_splits=tf.zeros_like(sets.row_splits))
                    for name, sets in self.ragged.items()
                }
            )

    def reader(
        self,
        first: tf.Tensor,
        num_steps: int,
        *,
        capacity: Capacity,
        implementation: str,
        for_gpu: bool = False,
    ) -> Reader:
        """Prepares a call's steps, outside of its loop, and returns what reads one inside. Where
        the native kernels copy each step's ids inside the loop, which they do on a CPU, and on a
        GPU for calls of many ids, nothing is prepared, and there is less to compile."""
        natively = not takes_rowids(implementation)
        if natively and not (for_gpu and _fits_a_lot(num_steps, capacity)):
            return lambda step: self._read(first + tf.cast(step, first.dtype), capacity)
        rows = tf.bitcast(_cut(self.rows, first, num_steps), tf.int32)
        dense = {name: tf.gather(array, rows) for name, array in self.dense.items()}
        fits = tf.ones(rows.shape)
        ragged: dict[str, Mapping[str, tf.Tensor]] = {}
        lots: dict[str, Lot] = {}
        for (name, sets), own in zip(self.ragged.items(), capacity, strict=True):
            values, row_splits, rowids, weights = take_batches(
                *sets, rows, capacity=own, weights=self.id_weights.get(name)
            )
            # More ids than a buffer holds would be left out unseen.
            fits = tf.where(row_splits[:, -1:] <= own, fits, float("nan"))
            arrays = {"values": values, "row_splits": row_splits}
            if weights is not None:
                arrays["weights"] = weights
            if natively:
                lots[name] = Lot(values, row_splits, weights)
            else:
                arrays = arrays | {"rowids": _narrow(rowids, self.num_rows)}
            ragged[name] = arrays
        return _reader(ragged, dense, fits, lots)

    def _read(self, at: tf.Tensor, capacity: Capacity) -> Share:
        """The share of one of the S batches, by the native kernels."""
        rows = tf.bitcast(tf.gather(self.rows, at), tf.int32)
        inputs: dict[str, Any] = {n: tf.gather(array, rows) for n, array in self.dense.items()}
        for (name, sets), own in zip(self.ragged.items(), capacity, strict=True):
            values, row_splits, weights = take_rows(
                *sets, rows, capacity=own, weights=self.id_weights.get(name)
            )
            inputs[name] = {"values": values, "row_splits": row_splits}
            if weights is not None:
                inputs[name]["weights"] = weights
        return _share(inputs, {}, tf.ones(rows.shape), {})


AnyBatches = StreamBatches | ResidentBatches
BatchesByRows = Mapping[int, Sequence[AnyBatches]]
"""The batches that come with a dispatch, of each device, by the rows of a whole batch."""


def wire_type(limit: int) -> type[np.uint16] | type[np.uint32]:
    """What numbers below `limit` travel and lie on a device as."""
    return np.uint16 if limit <= np.iinfo(np.uint16).max + 1 else np.uint32


def _sizes(tensors: Any) -> Sizes:
    return tuple((tuple(tensor.shape), tensor.dtype) for tensor in tf.nest.flatten(tensors))


def _fits_a_lot(num_steps: int, capacity: Capacity) -> bool:
    """Whether a GPU may prepare all steps of a call before its loop."""
    most = max(capacity, default=0)
    return num_steps <= _MAX_BATCHES and num_steps * most <= _MAX_TAKEN_AHEAD


def _cut(tensor: tf.Tensor, first: tf.Tensor, num_steps: int) -> tf.Tensor:
    """Steps [first, first + num_steps) of a tensor."""
    # Gathered, not sliced: XLA wants to know the bounds of a slice when it compiles, and would
    # compile a program for each `first`.
    return tf.gather(tensor, first + tf.range(num_steps, dtype=first.dtype))


def _narrow(rowids: tf.Tensor, num_rows: int) -> tf.Tensor:
    """In 16 bits where they suffice: a loop reads them from memory in every step."""
    return tf.cast(rowids, tf.uint16) if wire_type(num_rows + 1) is np.uint16 else rowids


def _reader(
    ragged: Mapping[str, Mapping[str, tf.Tensor]],
    dense: Mapping[str, tf.Tensor],
    fits: tf.Tensor,
    lots: Mapping[str, Lot],
) -> Reader:
    """Args:
    ragged: `values` [L, C], `row_splits` [L, b + 1] and, where there are some, `weights` of the
        ragged columns, and their `rowids` where those are taken.
    dense: [L, b, ...].
    fits: float32 [L, b], 1, and NaN where a share holds more ids than its buffer.
    lots: of the ragged columns whose kernels read all L batches.
    """

    def read(step: tf.Tensor) -> Share:
        rowids: dict[str, tf.Tensor] = {}
        inputs: dict[str, Any] = {name: tf.gather(array, step) for name, array in dense.items()}
        for name, arrays in ragged.items():
            sets = {what: tf.gather(array, step) for what, array in arrays.items()}
            if "rowids" in sets:
                rowids[name] = sets.pop("rowids")
            # The network takes int32; on the device 16 bits travel as they are.
            inputs[name] = sets | {"values": tf.cast(sets["values"], tf.int32)}
        among = {name: Batches(lot, step) for name, lot in lots.items()}
        return _share(inputs, rowids, tf.gather(fits, step), among)

    return read


def _share(
    inputs: dict[str, Any],
    rowids: dict[str, tf.Tensor],
    fits: tf.Tensor,
    among: dict[str, Batches],
) -> Share:
    """Args:
    inputs: with the labels, and the rows' weights if there are some.
    rowids, among: of a `Share`.
    fits: float32 [b], a factor of the weights.
    """
    weights = fits * inputs.pop(WEIGHTS) if WEIGHTS in inputs else fits
    labels = inputs.pop(LABELS)
    return Share(inputs, rowids, labels, weights, among)


def share_of(columns: Columns, padding: int, implementation: str) -> Share:
    """A batch of some rows for one device, with so many positions behind the ids."""

    def padded(array: Any) -> Any:
        return tf.constant(np.pad(array, (0, padding))[None])

    ragged = columns.ragged
    batches = StreamBatches(
        ragged={
            name: Ragged(padded(sets.values.astype(np.int32)), tf.constant(sets.row_splits[None]))
            for name, sets in ragged.items()
        },
        dense={name: tf.constant(array[None]) for name, array in columns.dense.items()},
        id_weights={n: padded(s.weights) for n, s in ragged.items() if s.weights is not None},
    )
    capacity = tuple(sets.nnz + padding for sets in ragged.values())
    read = batches.reader(tf.constant(0), 1, capacity=capacity, implementation=implementation)
    return read(tf.constant(0)).within(batches.num_rows, 1, 0)
