"""What devices exchange for a table that is updated by touched rows.

Not the gradients of rows. Those follow from the batch's ids and from dy, the gradient of the
products, which are far smaller: for each row of a batch with 130 ids and 50 units, 180 numbers
instead of 6,630. So each device gets the ids and dy of all, and finds the gradients of all touched
rows as one device alone would, in the same order.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from harness.engine.tables import RowGradient, Table
from harness.errors import InputError
from kernels.multi_hot import touched_rows

MAX_NUMBER = 2**24
"""Up to here float32 holds every integer, so that ids and gradients travel in one vector."""


class _Packed(NamedTuple):
    """What a vector holds: the parts' names and shapes, in order."""

    table: Table
    unique: bool
    shapes: dict[str, list[int]]


class Exchange:
    """The rows of all tables of a step."""

    def __init__(self, num_devices: int) -> None:
        """Args:
        num_devices: over all workers.
        """
        self._num_devices = num_devices
        self._packed: list[_Packed] = []

    def packed(self, rows: Sequence[RowGradient], share: int) -> list[tf.Tensor]:
        """A device's part of what is summed over all: float32 [devices, numbers] for each table,
        zeros but in the device's own place. The sum is what each has sent.

        Args:
            rows: of this device.
            share: the device's place among all.

        Raises:
            InputError: when a share has more ids than can be sent.
        """
        self._packed, vectors = [], []
        for row in rows:
            parts = {"row_splits": row.sets["row_splits"], "values": row.sets["values"]}
            if row.sets["weights"] is not None:
                parts["weights"] = row.sets["weights"]
            parts["dy"] = row.dy
            shapes = {name: part.shape.as_list() for name, part in parts.items()}
            if shapes["values"][0] > MAX_NUMBER:
                raise InputError(
                    f"each device's share of a batch has up to {shapes['values'][0]:,} ids, and "
                    f"with --table-optimizer {row.table.kind} devices exchange at most "
                    f"{MAX_NUMBER:,}; set a smaller --batch-size, or --table-optimizer dense"
                )
            self._packed.append(_Packed(row.table, row.sets["unique"], shapes))
            flat = [tf.reshape(tf.cast(part, tf.float32), [-1]) for part in parts.values()]
            own = tf.concat(flat, axis=0)[None]
            vectors.append(tf.pad(own, [[share, self._num_devices - 1 - share], [0, 0]]))
        return vectors

    def unpacked(
        self, summed: Sequence[tf.Tensor]
    ) -> tuple[list[RowGradient], Sequence[tf.Tensor]]:
        """The rows of all devices, from the sums of what was packed last; and the other sums.

        Args:
            summed: those of what was packed, and others behind them.
        """
        rows = [
            self._joined(*each)
            for each in zip(self._packed, summed[: len(self._packed)], strict=True)
        ]
        return rows, summed[len(self._packed) :]

    def _joined(self, packed: _Packed, vectors: tf.Tensor) -> RowGradient:
        sizes = [math.prod(shape) for shape in packed.shapes.values()]
        parts = dict(zip(packed.shapes, tf.split(vectors, sizes, axis=1), strict=True))
        splits = tf.cast(parts["row_splits"], tf.int32)
        ends = tf.cumsum(splits[:, -1])
        begins = ends - splits[:, -1]
        # Each device's ids end before its buffer does: the gaps are left out.
        num_values = packed.shapes["values"][0]
        places = tf.range(self._num_devices * num_values)
        device = tf.add_n([tf.cast(places >= end, tf.int32) for end in tf.unstack(ends)[:-1]])
        read = places - tf.gather(begins, device) + device * num_values

        def in_turn(name: str) -> tf.Tensor:
            return tf.gather(tf.reshape(parts[name], [-1]), tf.minimum(read, places[-1]))

        row_splits = tf.concat(
            [tf.reshape(splits[:, :-1] + begins[:, None], [-1]), ends[-1:]], axis=0
        )
        sets: dict[str, Any] = {
            "values": tf.cast(in_turn("values"), tf.int32),
            "row_splits": row_splits,
            "weights": in_turn("weights") if "weights" in parts else None,
            "unique": packed.unique,
        }
        table = packed.table
        touched = touched_rows(
            **sets, num_tokens=table.variable.shape[0], implementation=table.implementation
        )
        dy = tf.reshape(parts["dy"], [-1, packed.shapes["dy"][1]])
        return RowGradient(table, touched, dy, sets, is_of_all=True)
