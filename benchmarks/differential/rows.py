"""The rows of a case, for the trainer and as batches for `keras.Model.fit`.

Letters: B rows of a batch, K classes.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import harness
from benchmarks.differential.draw import Draw

NUM_TOKENS = 50
LARGE_NUM_TOKENS = 2**20
"""The number of ids of a table with 4 units for which `table_optimizer="auto"` considers touched
rows."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """An input of a model."""

    name: str  # The input's name; "" if it is the model's only input
    num_tokens: int = 0  # The number of ids; 0 for an input of numbers
    weighted: bool = False
    unique: bool = False
    features: int = 0  # The numbers of a row, for an input of numbers

    @property
    def is_ragged(self) -> bool:
        """Whether the input holds token ids."""
        return self.num_tokens > 0

    def __str__(self) -> str:
        if not self.is_ragged:
            return f"{self.name}: {self.features} numbers"
        marks = [word for word in ("weighted", "unique") if getattr(self, word)]
        return " ".join([f"{self.name or 'ids'}: below {self.num_tokens}", *marks])


def draw_parts(draw: Draw, *, large: bool) -> tuple[Part, ...]:
    """Draws one to three inputs, at least one of them of token ids."""

    def ids(name: str) -> Part:
        tokens = LARGE_NUM_TOKENS if large else NUM_TOKENS
        if not large and draw.chance(0.2):
            tokens = draw.integer(5, 80)
        return Part(
            name=name, num_tokens=tokens, weighted=draw.chance(0.25), unique=draw.chance(0.3)
        )

    if large or draw.chance(0.55):
        return (ids("words" if draw.chance(0.1) else ""),)
    names = draw.one([("words", "tags", "numbers"), ("a", "b", "c"), ("items", "Age", "zip")])
    number = draw.integer(2, 3)
    parts = [ids(names[0])]
    if number == 3 or draw.chance(0.5):
        parts.append(ids(names[1]))
    if len(parts) < number:
        parts.append(Part(name=names[2], features=draw.integer(1, 5)))
    return tuple(parts)


def ragged_rows(rng: np.random.Generator, part: Part, rows: int) -> harness.RaggedSets:
    """Draws random rows of ids, some of which are empty."""
    lengths = rng.integers(0, 9, rows)
    lengths[rng.integers(rows)] = 0
    lengths[0] += 1
    splits = np.concatenate([[0], np.cumsum(lengths)])
    if part.num_tokens > NUM_TOKENS * 4:  # few distinct ids, so that rows still share some
        ids = rng.integers(0, part.num_tokens, 40)[rng.integers(0, 40, splits[-1])]
    else:
        ids = rng.integers(0, part.num_tokens, splits[-1])
    weights: Any = rng.normal(1, 0.5, len(ids)) if part.weighted else None
    sets = harness.RaggedSets(
        values=ids, row_splits=splits, num_tokens=part.num_tokens, weights=weights, name="rows"
    )
    return sets.unique() if part.unique else sets


def inputs_of(rng: np.random.Generator, parts: tuple[Part, ...], rows: int) -> dict[str, Any]:
    """Draws the rows of every input, by name."""
    return {
        part.name: ragged_rows(rng, part, rows)
        if part.is_ragged
        else rng.normal(size=(rows, part.features)).astype(np.float32)
        for part in parts
    }


def keras_inputs(parts: tuple[Part, ...]) -> Any:
    """Returns symbolic inputs for a functional model, with the names that the trainer uses."""

    def of(part: Part) -> Any:
        if not part.is_ragged:
            return keras.Input(shape=(part.features,), dtype="float32", name=part.name)
        start = f"{part.name}_" if part.name else ""
        return {
            field: keras.Input(batch_shape=(None,), dtype=dtype, name=f"{start}{field}")
            for field, dtype in _fields(part).items()
        }

    return _unnamed({part.name: of(part) for part in parts})


def _fields(part: Part) -> dict[str, str]:
    fields = {"values": "int32", "row_splits": "int32"}
    return {**fields, "weights": "float32"} if part.weighted else fields


def _unnamed(inputs: Mapping[str, Any]) -> Any:
    return inputs[""] if list(inputs) == [""] else dict(inputs)


@dataclass(frozen=True, kw_only=True, eq=False)
class Labelled:
    """Rows with labels, for both sides."""

    examples: harness.Examples  # The rows for the trainer
    targets: np.ndarray  # The labels for Keras, [rows, ...]
    row_weights: np.ndarray | None
    """The weights for Keras, float32 [rows]: each row's weight, in training times its class's."""

    @property
    def num_rows(self) -> int:
        return self.examples.num_rows

    def batch(self, rows: np.ndarray) -> tuple[Any, ...]:
        """Returns the batch of the rows with these numbers for Keras, without padding."""

        def of(part: Any) -> Any:
            if not isinstance(part, harness.RaggedSets):
                return part[rows]
            taken = part.take(rows)
            fields = {"values": taken.values, "row_splits": taken.row_splits.astype(np.int32)}
            return fields if taken.weights is None else {**fields, "weights": taken.weights}

        inputs = _unnamed({name: of(part) for name, part in self.examples.inputs.items()})
        if self.row_weights is None:
            return inputs, self.targets[rows]
        return inputs, self.targets[rows], self.row_weights[rows]

    def evaluated(self) -> "Labelled":
        """Returns the same rows without the class weights, which count only in training."""
        return replace(self, row_weights=self.examples.weights)

    def dataset(
        self, batch_size: int, orders: Sequence[np.ndarray] | None = None
    ) -> tf.data.Dataset:
        """Returns the batches of epochs in these orders, by default of one in the rows' own order;
        the last batch of an epoch may be smaller."""
        orders = orders or [np.arange(self.num_rows)]

        def batches() -> Iterator[tuple[Any, ...]]:
            for rows in orders:
                for start in range(0, len(rows), batch_size):
                    yield self.batch(rows[start : start + batch_size])

        def spec(array: np.ndarray) -> tf.TensorSpec:
            return tf.TensorSpec([None, *array.shape[1:]], array.dtype)

        signature = tf.nest.map_structure(spec, self.batch(np.arange(1)))
        made = tf.data.Dataset.from_generator(batches, output_signature=signature)
        number = len(orders) * -(-self.num_rows // batch_size)
        return made.apply(tf.data.experimental.assert_cardinality(number))
