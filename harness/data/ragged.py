"""Ragged sets of token ids in CSR form: immutable, validated once when they are built.

Shape letters: B rows, V num_tokens, N nnz (ids in all rows together).
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from harness.data import validation
from harness.errors import InputError

Int32Array = npt.NDArray[np.int32]
Int64Array = npt.NDArray[np.int64]

# Ids sorted at a time by `unique`: the keys of one piece stay near the cache, the peak stays small.
_UNIQUE_CHUNK_IDS = 1 << 21


@dataclass(frozen=True, kw_only=True, eq=False)
class RaggedSets:
    """B labelled rows of token ids; row i is `values[row_splits[i]:row_splits[i + 1]]`.

    Construction checks everything once and raises `InputError` with the row and the value at
    fault. An array that can be written to is copied; a read-only one (such as a memory map opened
    with mode "r") is kept as it is, if it has the right dtype. An empty row is legal.
    """

    values: Int32Array
    """int32 [N], each in [0, num_tokens). Any integer dtype is accepted and converted."""
    row_splits: Int64Array
    """int64 [B + 1], from 0 to N, never falling. Any integer dtype is accepted and converted."""
    labels: Int32Array
    """int32 [B], each in [0, num_classes). Whole floats are accepted and converted."""
    num_tokens: int
    """V: ids are below it."""
    name: str
    """What the set is called in messages and results."""
    num_classes: int = 2
    """Labels are below it. Kept by `take` and `split`, even where a part lacks a class."""
    is_unique: bool = False
    """True when no row holds an id twice. Checked when claimed."""

    def __post_init__(self) -> None:
        validation.check_counts(self.name, self.num_tokens, self.num_classes)
        ids = validation.integer_values(self.name, self.values)
        row_splits = validation.checked_row_splits(self.name, self.row_splits, ids.shape[0])
        values = validation.checked_ids(self.name, ids, row_splits, self.num_tokens)
        num_rows = row_splits.shape[0] - 1
        labels = validation.checked_labels(self.name, self.labels, num_rows, self.num_classes)
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "row_splits", row_splits)
        object.__setattr__(self, "labels", labels)
        if self.is_unique:
            self._check_unique()

    @classmethod
    def _trusted(cls, **fields: Any) -> Self:
        """Builds from parts of sets that were checked already, without checking again."""
        sets = object.__new__(cls)
        for name, value in fields.items():
            if isinstance(value, np.ndarray):
                value.flags.writeable = False
            object.__setattr__(sets, name, value)
        return sets

    def __setstate__(self, state: dict[str, Any]) -> None:
        """From a pickle, as of another process: the arrays can still not be written to."""
        self.__dict__.update(RaggedSets._trusted(**state).__dict__)

    def _check_unique(self) -> None:
        if not _repeats_possible(self.values, self.row_splits):
            return
        deduplicated = _unique_rows(self.values, self.row_splits, self.num_tokens)[1]
        repeats = np.flatnonzero(np.diff(deduplicated) != self.lengths)
        if repeats.size:
            raise InputError(
                f"{self.name}: marked as unique, but {repeats.size} rows hold an id twice, the "
                f"first is row {repeats[0]}. Leave is_unique False and call unique()."
            )

    @property
    def num_rows(self) -> int:
        """B."""
        return self.row_splits.shape[0] - 1

    @property
    def nnz(self) -> int:
        """N: the ids in all rows together."""
        return self.values.shape[0]

    @property
    def lengths(self) -> Int64Array:
        """The ids in each row, int64 [B]."""
        return np.diff(self.row_splits)

    def row(self, index: int) -> Int32Array:
        """The ids of one row, int32 [its length], as a view."""
        if not 0 <= index < self.num_rows:
            raise InputError(f"{self.name}: no row {index}; rows are 0 to {self.num_rows - 1}.")
        return self.values[self.row_splits[index] : self.row_splits[index + 1]]

    def unique(self) -> Self:
        """The same rows as sets: each id once, sorted upwards; the result is marked `is_unique`."""
        if self.is_unique:
            return self
        values, row_splits = _unique_rows(self.values, self.row_splits, self.num_tokens)
        return self._like(values, row_splits, self.labels, is_unique=True)

    def take(self, rows: npt.ArrayLike) -> Self:
        """The given rows in the given order.

        Args:
            rows: integer [M], M > 0, each in [0, B); a row may be taken more than once.
        """
        rows = validation.checked_rows(self.name, rows, self.num_rows)
        starts = self.row_splits[rows]
        lengths = self.row_splits[rows + 1] - starts
        row_splits = _splits_of(lengths)
        # Position k of the result reads position k + (old start - new start) of its row.
        source = np.repeat(starts - row_splits[:-1], lengths)
        source += np.arange(source.shape[0])
        return self._like(self.values[source], row_splits, self.labels[rows])

    def split(self, num_head_rows: int) -> tuple[Self, Self]:
        """The first `num_head_rows` rows and the rest, both as views; neither may be empty."""
        if not 0 < num_head_rows < self.num_rows:
            raise InputError(
                f"{self.name}: cannot split off {num_head_rows} of {self.num_rows} rows, both "
                f"parts need a row. Choose from 1 to {self.num_rows - 1}."
            )
        return self._slice(0, num_head_rows), self._slice(num_head_rows, self.num_rows)

    def _slice(self, start: int, stop: int) -> Self:
        splits = self.row_splits[start : stop + 1]
        values = self.values[splits[0] : splits[-1]]
        return self._like(values, splits - splits[0], self.labels[start:stop])

    def _like(
        self,
        values: Int32Array,
        row_splits: Int64Array,
        labels: Int32Array,
        is_unique: bool | None = None,
    ) -> Self:
        return self._trusted(
            values=values,
            row_splits=row_splits,
            labels=labels,
            num_tokens=self.num_tokens,
            name=self.name,
            num_classes=self.num_classes,
            is_unique=self.is_unique if is_unique is None else is_unique,
        )

    @classmethod
    def concatenate(cls, parts: Sequence["RaggedSets"], *, name: str) -> Self:
        """The rows of all parts, one after the other; num_tokens and num_classes must agree."""
        if not parts:
            raise InputError(f"{name}: nothing to concatenate. Give at least one set.")
        first = parts[0]
        for part in parts[1:]:
            here, there = (part.num_tokens, part.num_classes), (first.num_tokens, first.num_classes)
            if here != there:
                raise InputError(
                    f"{name}: (num_tokens, num_classes) of {part.name} are {here}, of {first.name} "
                    f"{there}. Build both with the same."
                )
        return cls._trusted(
            values=np.concatenate([part.values for part in parts]),
            row_splits=_splits_of(np.concatenate([part.lengths for part in parts])),
            labels=np.concatenate([part.labels for part in parts]),
            num_tokens=first.num_tokens,
            name=name,
            num_classes=first.num_classes,
            is_unique=all(part.is_unique for part in parts),
        )


def _splits_of(lengths: Int64Array) -> Int64Array:
    row_splits = np.zeros(lengths.shape[0] + 1, np.int64)
    np.cumsum(lengths, out=row_splits[1:])
    return row_splits


def _repeats_possible(values: Int32Array, row_splits: Int64Array) -> bool:
    """False when every row rises strictly, which one pass shows; True says nothing yet."""
    if values.shape[0] < 2:
        return False
    rises = values[1:] > values[:-1]
    starts = row_splits[1:-1]
    # A row's first id may be anything compared with the id before it, which ends another row.
    rises[starts[(starts > 0) & (starts < values.shape[0])] - 1] = True
    return not bool(rises.all())


def _unique_rows(
    values: Int32Array, row_splits: Int64Array, num_tokens: int
) -> tuple[Int32Array, Int64Array]:
    """Sorts (row, id) packed into one integer, in pieces of whole rows, and drops neighbours."""
    num_rows = row_splits.shape[0] - 1
    id_bits = max(1, (num_tokens - 1).bit_length())
    cuts = np.searchsorted(row_splits, np.arange(0, values.shape[0], _UNIQUE_CHUNK_IDS), "left")
    bounds = np.unique(np.concatenate([[0], cuts, [num_rows]]))
    kept: list[Int32Array] = []
    counts: list[Int64Array] = []
    for start, stop in itertools.pairwise(bounds):
        splits = row_splits[start : stop + 1]
        # 32-bit keys sort about twice as fast; they hold (row, id) unless ids are very many.
        packs = (int(stop - start) << id_bits) <= 1 << 32
        key_type = np.uint32 if packs else np.uint64
        keys = np.repeat(np.arange(stop - start, dtype=key_type), np.diff(splits))
        keys <<= key_type(id_bits)
        keys |= values[splits[0] : splits[-1]].astype(key_type)
        keys.sort()
        first = np.ones(keys.shape[0], np.bool_)
        np.not_equal(keys[1:], keys[:-1], out=first[1:])
        keys = keys[first]
        kept.append((keys & key_type((1 << id_bits) - 1)).astype(np.int32))
        counts.append(
            np.bincount((keys >> key_type(id_bits)).astype(np.int64), minlength=stop - start)
        )
    return np.concatenate(kept), _splits_of(np.concatenate(counts))
