"""Ragged sets of token ids in CSR form: immutable, and validated once, when they are built.
Letters: B rows, V num_tokens, N nnz (ids in all rows together)."""

import hashlib
import html
import io
import itertools
import mmap
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from harness.base.checks import require, require_count
from harness.base.errors import InputError

Array = npt.NDArray[Any]
Integers = npt.NDArray[np.integer[Any]]
Int32Array = npt.NDArray[np.int32]
Int64Array = npt.NDArray[np.int64]
Float32Array = npt.NDArray[np.float32]

_NO_LABELS = np.zeros(0, np.int32)
_SHOWN_ROWS, _SHOWN_IDS = 5, 12  # what a notebook shows of the sets

# `unique` works on about _UNIQUE_CHUNK_IDS ids at a time, which stay in the processor's cache, and
# sorts about _UNIQUE_SORTED_IDS at a time: more would take up to three times as long, fewer would
# need more calls.
_UNIQUE_CHUNK_IDS = 1 << 15
_UNIQUE_SORTED_IDS = 1 << 10


@dataclass(frozen=True, kw_only=True, eq=False)
class RaggedSets:
    """B labelled rows of token ids; row i is `values[row_splits[i]:row_splits[i + 1]]`.

    Construction checks everything once and raises `InputError` with the row and the value at
    fault. A writable array is copied; a read-only one of the right dtype (such as a memory map
    opened with mode "r") is not. A row may be empty.
    """

    values: Int32Array
    """Ids, int32 [N], each in [0, num_tokens); converted from any integers."""
    row_splits: Int64Array
    """Row boundaries, int64 [B + 1], from 0 to N, never falling; converted from any integers."""
    labels: Array = field(default_factory=lambda: _NO_LABELS)
    """Classes, int32 [B], each in [0, num_classes); floats that are such whole numbers are
    converted. Other floats are targets of a regression, or shares of class 1: float32 [B]. Zeros if
    left out, for rows to predict for and for one of several inputs of `Examples`."""
    num_tokens: int
    """V, the number of possible ids."""
    name: str = "ragged sets"
    """The set's name in messages and results."""
    num_classes: int = 2
    """Number of classes. `take` and `split` keep it, even if a part lacks a class."""
    is_unique: bool = field(init=False, default=False)
    """Whether the set comes from `unique`, so that no row holds an id twice."""
    is_labelled: bool = field(init=False, default=True)
    """Whether the rows have labels."""
    label_sets: "RaggedSets | None" = None
    """Classes of each row, as ids below num_classes, if a row may have several classes or none;
    then `labels` are zeros."""
    weights: Float32Array | None = None
    """Weights of the ids, such as counts or tf-idf, float32 [N], finite; those of an id that a row
    repeats add up. Any real dtype is accepted and converted. None: an id counts once in its row."""

    def __post_init__(self) -> None:
        require_count(f"{self.name}: num_tokens", self.num_tokens)
        require_count(f"{self.name}: num_classes", self.num_classes, least=2)
        ids = _checked_array(self.name, "values", self.values)
        row_splits = _checked_row_splits(self.name, self.row_splits, ids.shape[0])
        values = _checked_ids(self.name, ids, row_splits, self.num_tokens)
        num_rows = row_splits.shape[0] - 1
        if self.labels is _NO_LABELS:
            object.__setattr__(self, "is_labelled", self.label_sets is not None)
            object.__setattr__(self, "labels", np.zeros(num_rows, np.int32))
        labels = _checked_labels(self.name, self.labels, num_rows, self.num_classes)
        if self.label_sets is not None:
            self._check_label_sets(self.label_sets, num_rows, labels)
        if self.weights is not None:
            weights = _checked_weights(self.name, self.weights, row_splits)
            object.__setattr__(self, "weights", weights)
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "row_splits", row_splits)
        object.__setattr__(self, "labels", labels)

    @classmethod
    def from_lists(cls, rows: Iterable[Iterable[int]], **parts: Any) -> Self:
        """Returns sets of lists, tuples, sets or arrays of ids, one for each row.

        Args:
            rows: the rows; an iterator is read once.
            **parts: other fields, such as labels. num_tokens is one more than the highest id if
                left out.
        """
        rows = [*rows]
        for kind in {*map(type, rows)}:
            if issubclass(kind, bytes | Mapping):  # iterating over them gives other numbers
                raise InputError(
                    f"a row is {kind.__name__}; give lists of ids, or a SciPy matrix of their "
                    "weights, as sklearn.feature_extraction.DictVectorizer makes one of mappings"
                )
        lists = [sorted(row) if isinstance(row, set | frozenset) else list(row) for row in rows]
        lengths = np.array([*map(len, lists)], np.int64)
        try:
            ids = np.array([*itertools.chain.from_iterable(lists)])
        except ValueError:  # lists of several lengths
            ids = np.zeros([0, 0])
        if ids.ndim > 1 or ids.dtype.kind in "SU":
            raise InputError(
                "a row holds lists, vectors or strings; give a list of rows, each of ids, or a "
                "scipy.sparse.csr_array; numpy.unique(items, return_inverse=True) numbers strings"
            )
        values = ids if ids.size else np.zeros(0, np.int32)
        return cls.from_csr(values, splits_of(lengths), **parts)

    @classmethod
    def from_ragged(cls, ragged: Any, **parts: Any) -> Self:
        """Returns sets of a tf.RaggedTensor [rows, None] of ids; see `from_lists`."""
        return cls.from_csr(np.asarray(ragged.values), np.asarray(ragged.row_splits), **parts)

    @classmethod
    def from_scipy(cls, matrix: Any, **parts: Any) -> Self:
        """Returns sets of a SciPy matrix or array of any sparse form: columns are ids, and values
        their weights, unless all are 1. Entries of one place add up, as in SciPy. num_tokens is the
        number of columns if left out; see `from_lists`."""
        matrix = matrix.tocsr()
        if len(matrix.shape) != 2:
            raise InputError(f"a matrix has the shape {matrix.shape}; give rows, as X[:1] does")
        parts = {"num_tokens": matrix.shape[1], "name": "the matrix", **parts}
        data = matrix.data.astype(np.float32) if matrix.data.dtype == bool else matrix.data
        sets = cls.from_csr(matrix.indices, matrix.indptr, weights=data, **parts).unique()
        all_ones = sets.weights is not None and bool(np.all(sets.weights == 1))
        return sets.derived(weights=None) if all_ones else sets

    @classmethod
    def from_csr(cls, values: Any, row_splits: Any, **parts: Any) -> Self:
        """Returns sets of all rows' ids and the rows' boundaries in them; see `from_lists`."""
        is_open = "num_tokens" not in parts
        if is_open:
            ids = _checked_array("the rows", "ids", values)
            parts["num_tokens"] = 1 + int(ids.max(initial=0))
        sets = cls(values=values, row_splits=row_splits, **parts)
        if is_open and sets.num_tokens <= 2 < sets.lengths.min() == sets.lengths.max():
            raise InputError(
                f"all rows have {sets.lengths[0]} numbers, which are 0 or 1, so they look like "
                "vectors; give scipy.sparse.csr_array(rows), or num_tokens if they are ids"
            )
        return sets

    def __repr__(self) -> str:
        shown = f"{self.num_rows:,} rows, {self.nnz:,} ids below {self.num_tokens:,}"
        return f"<harness.RaggedSets {self.name!r}: {shown}>"

    def _repr_html_(self) -> str:
        rows = (
            f"<tr><th>{place}</th><td>{', '.join(map(str, self.row(place)[:_SHOWN_IDS]))}"
            f"{', ...' if self.lengths[place] > _SHOWN_IDS else ''}</td></tr>"
            for place in range(min(_SHOWN_ROWS, self.num_rows))
        )
        return f"<p>{html.escape(repr(self))}</p><table>{''.join(rows)}</table>"

    def __len__(self) -> int:
        return self.num_rows

    def __getitem__(self, rows: Any) -> Any:
        """Returns the ids of one row, or the sets of a slice, an array of row numbers or a mask."""
        if isinstance(rows, slice):
            return self.take(np.arange(self.num_rows)[rows])
        if isinstance(rows, int | np.integer):
            return self.row(int(rows) + (self.num_rows if rows < 0 else 0))
        rows = np.asarray(rows)
        if rows.dtype == bool and rows.shape == (self.num_rows,) and rows.any():
            # A mask of the ids takes an eighth of the memory of their places.
            return self._part(rows, np.repeat(rows, self.lengths), splits_of(self.lengths[rows]))
        return self.take(np.flatnonzero(rows) if rows.dtype == bool else rows)

    def __iter__(self) -> Iterator[Int32Array]:
        return map(self.row, range(self.num_rows))

    def _check_label_sets(self, sets: "RaggedSets", num_rows: int, labels: Array) -> None:
        if (sets.num_rows, sets.num_tokens) != (num_rows, self.num_classes) or labels.any():
            raise InputError(
                f"{self.name}: label_sets have {sets.num_rows} rows of {sets.num_tokens} classes "
                f"for {num_rows} rows of {self.num_classes}. Give one for each row, with "
                "num_tokens=num_classes, and no labels beside them."
            )
        if sets.weights is not None:
            raise InputError(
                f"{self.name}: label_sets have weights, which classes cannot. Leave them out."
            )

    def derived(self, **changes: Any) -> Self:
        """Returns a copy with other parts. Nothing is checked: use it for parts of checked sets."""
        kept = {field.name: getattr(self, field.name) for field in fields(self)}
        sets = object.__new__(type(self))
        sets.__setstate__(kept | changes)
        return sets

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Makes the arrays read-only, which pickle and `copy.deepcopy` do not."""
        for name, value in state.items():
            if isinstance(value, np.ndarray):
                value.flags.writeable = False
            object.__setattr__(self, name, value)

    @property
    def num_rows(self) -> int:
        """B, the number of rows."""
        return self.row_splits.shape[0] - 1

    @property
    def nnz(self) -> int:
        """N, the number of ids in all rows together."""
        return self.values.shape[0]

    @property
    def lengths(self) -> Int64Array:
        """Number of ids in each row, int64 [B]."""
        return np.diff(self.row_splits)

    def check_files(self) -> None:
        """Raises InputError if a file that the rows are mapped from was changed since it was
        opened. Reading rows of one that was cut short would end the process."""
        if self.label_sets is not None:
            self.label_sets.check_files()
        for array in (self.values, self.row_splits, self.labels, self.weights):
            mapped = None if array is None else mapping_of(array)
            if isinstance(mapped, MappedFile) and mapped.is_changed:
                raise InputError(
                    f"{self.name}: {mapped.name} was changed while in use. Load the data again."
                )

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 as hex of rows, labels, weights, num_tokens and num_classes, not of the name."""
        facts = [self.num_rows, self.num_tokens, self.num_classes]
        several = [] if self.label_sets is None else [self.label_sets.fingerprint]
        digest = hashlib.sha256(" ".join(map(str, [*facts, *several])).encode())
        for array in (self.row_splits, self.labels, self.values, self.weights):
            if array is not None:
                digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def row(self, index: int) -> Int32Array:
        """Returns the ids of one row as a view, int32 [row length]."""
        if not 0 <= index < self.num_rows:
            raise InputError(f"{self.name}: no row {index}; rows are 0 to {self.num_rows - 1}.")
        return self.values[self.row_splits[index] : self.row_splits[index + 1]]

    def unique(self) -> Self:
        """Returns the rows with each id once, in ascending order, marked as `is_unique`.

        The weights of an id that a row repeats are added up in float64.

        Raises:
            InputError: if a sum is beyond float32.
        """
        if self.is_unique:
            return self
        values, row_splits, sums = _unique_rows(
            self.values, self.row_splits, self.num_tokens, self.weights
        )
        weights = None
        if sums is not None:
            weights = _checked_weights(self.name, sums, row_splits)
        return self.derived(values=values, row_splits=row_splits, weights=weights, is_unique=True)

    def with_weights(self) -> Self:
        """Returns the rows with weights: if they had none, each id once, with the weight 1."""
        if self.weights is not None:
            return self
        sets = self.unique()
        return sets.derived(weights=np.ones(sets.nnz, np.float32))

    def take(self, rows: npt.ArrayLike) -> Self:
        """Returns the given rows in the given order.

        Args:
            rows: integer [M], M > 0, each in [0, B); a row may be taken more than once.
        """
        rows = _checked_rows(self.name, rows, self.num_rows)
        starts = self.row_splits[rows]
        lengths = self.row_splits[rows + 1] - starts
        row_splits = splits_of(lengths)
        # Position k of the result reads position k + (old start - new start) of its row.
        source = np.repeat(starts - row_splits[:-1], lengths)
        source += np.arange(source.shape[0])
        return self._part(rows, source, row_splits)

    def _part(self, rows: Any, ids: Any, row_splits: Int64Array) -> Self:
        return self.derived(
            values=self.values[ids],
            row_splits=row_splits,
            labels=self.labels[rows],
            label_sets=None if self.label_sets is None else self.label_sets[rows],
            weights=None if self.weights is None else self.weights[ids],
        )

    def split(self, num_head_rows: int) -> tuple[Self, Self]:
        """Returns the first `num_head_rows` rows and the rest as views; neither may be empty."""
        self._check_split(num_head_rows)
        cut, splits = self.row_splits[num_head_rows], self.row_splits
        head = self._part(slice(num_head_rows), slice(cut), splits[: num_head_rows + 1])
        rest = slice(num_head_rows, self.num_rows)
        return head, self._part(rest, slice(cut, self.nnz), splits[num_head_rows:] - cut)

    def stratified_split(self, num_drawn_rows: int, *, seed: int | None) -> tuple[Self, Self]:
        """Splits off `num_drawn_rows` rows, drawn at random, the same share of each class.

        Returns the drawn rows and the rest, both as copies. A row of several classes counts for its
        rarest. Rows keep their order. The same seed draws the same rows with any NumPy version;
        None draws the last rows of each class.
        """
        drawn = self.stratified_rows(num_drawn_rows, seed=seed)
        return self.take(np.flatnonzero(drawn)), self.take(np.flatnonzero(~drawn))

    def stratified_rows(self, num_drawn_rows: int, *, seed: int | None) -> npt.NDArray[np.bool_]:
        """Returns whether `stratified_split` draws each row, bool [B]."""
        self._check_split(num_drawn_rows)
        several = self.label_sets
        labels = self.labels if self.labels.dtype == np.int32 else np.zeros(self.num_rows, np.int32)
        classes = labels if several is None else rarest(several.values, several.row_splits)
        return stratified(classes, num_drawn_rows, seed=seed)

    def _check_split(self, num_rows: int) -> None:
        if not 0 < num_rows < self.num_rows:
            raise InputError(
                f"{self.name}: cannot split off {num_rows} of {self.num_rows} rows, both parts "
                f"need a row. Choose from 1 to {self.num_rows - 1}."
            )

    @staticmethod
    def concatenate(parts: Sequence["RaggedSets"], *, name: str) -> "RaggedSets":
        """Returns the rows of one or more parts, whose num_tokens and num_classes must agree. If
        some parts have weights, the others get the weight 1; see `with_weights`."""
        if any(part.weights is not None for part in parts):
            parts = [part.with_weights() for part in parts]
        first = parts[0]
        for part in parts[1:]:
            here, there = (part.num_tokens, part.num_classes), (first.num_tokens, first.num_classes)
            if here != there or (part.label_sets is None) != (first.label_sets is None):
                raise InputError(
                    f"{name}: (num_tokens, num_classes) of {part.name} are {here}, of {first.name} "
                    f"{there}; label_sets go with label_sets. Build both with the same."
                )
        several = [part.label_sets for part in parts if part.label_sets is not None]
        weights = [part.weights for part in parts if part.weights is not None]
        return first.derived(
            values=np.concatenate([part.values for part in parts]),
            row_splits=splits_of(np.concatenate([part.lengths for part in parts])),
            labels=np.concatenate([part.labels for part in parts]),
            name=name,
            is_unique=all(part.is_unique for part in parts),
            is_labelled=all(part.is_labelled for part in parts),
            label_sets=RaggedSets.concatenate(several, name=name) if several else None,
            weights=np.concatenate(weights) if weights else None,
        )


def stratified(
    classes: Integers, num_drawn_rows: int, *, seed: int | None
) -> npt.NDArray[np.bool_]:
    """Draws `num_drawn_rows` rows, the same share of each of the `classes`, integers [B]; returns
    their mask, bool [B]. Without a seed it draws the last rows of each class."""
    num_rows = classes.shape[0]
    shuffled = np.arange(num_rows)[::-1]
    if seed is not None:
        # RandomState, not Generator: only its streams are promised never to change (NEP 19).
        shuffled = np.random.RandomState(seed).permutation(num_rows)
    by_class = shuffled[np.argsort(classes[shuffled], kind="stable")]
    _, counts = np.unique(classes, return_counts=True)
    ranks = np.arange(num_rows) - np.repeat(np.cumsum(counts) - counts, counts)
    # The rows of the lowest quantiles within their classes are an equal share of each class.
    quantiles = (ranks + 0.5) / np.repeat(counts, counts)
    drawn = np.zeros(num_rows, np.bool_)
    drawn[by_class[np.argsort(quantiles, kind="stable")[:num_drawn_rows]]] = True
    return drawn


def rarest(values: Integers, row_splits: Int64Array) -> Int64Array:
    """Returns each row's rarest id over all rows, int64 [B]; -1 for a row without ids."""
    # No bincount: one high id, which a file may hold, would take gigabytes.
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    found = np.full(row_splits.shape[0] - 1, -1, np.int64)
    rows = np.repeat(np.arange(found.shape[0]), np.diff(row_splits))
    commonest_first = np.lexsort((values, -counts[places]))
    found[rows[commonest_first]] = values[commonest_first]  # a row's last one stays
    return found


def starting_with(token: int, sets: RaggedSets) -> RaggedSets:
    """Returns rows without weights with one more id at the start of each."""
    values = np.insert(sets.values, sets.row_splits[:-1], np.int32(token))
    return sets.derived(values=values, row_splits=sets.row_splits + np.arange(sets.num_rows + 1))


class MappedFile(mmap.mmap):
    """A file that is mapped into memory, which notices when the file is changed."""

    name: str
    _descriptor = -1
    _opened: tuple[int, int]

    def __new__(cls, file: io.BufferedReader, name: str) -> Self:
        mapped = super().__new__(cls, file.fileno(), 0, access=mmap.ACCESS_READ)
        mapped.name, mapped._descriptor = name, os.dup(file.fileno())
        mapped._opened = mapped._status()
        return mapped

    def __del__(self) -> None:
        if self._descriptor >= 0:  # opening it may have failed
            os.close(self._descriptor)

    def _status(self) -> tuple[int, int]:
        status = os.fstat(self._descriptor)
        return status.st_size, status.st_mtime_ns

    @property
    def is_changed(self) -> bool:
        return self._status() != self._opened


def mapping_of(array: Array) -> mmap.mmap | None:
    """Returns the memory map that an array is a view of, if there is one."""
    base: Any = array
    while not isinstance(base, mmap.mmap | None):
        base = base.obj if isinstance(base, memoryview) else getattr(base, "base", None)
    return base


def num_among(digests: npt.NDArray[Any], among: npt.NDArray[Any]) -> int:
    """Returns the number of digests that are `among` others, without 0, that of an empty row."""
    # A search in sorted digests: np.isin takes ten times as long and several more arrays.
    known = np.sort(among)
    places = np.minimum(np.searchsorted(known, digests), len(known) - 1)
    return int(((known[places] == digests) & (digests != 0)).sum())


def splits_of(lengths: npt.ArrayLike) -> Int64Array:
    """Returns the boundaries, int64 [B + 1], of rows of these lengths."""
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)], dtype=np.int64)


def _chunks(row_splits: Int64Array, num_ids: int) -> Int64Array:
    cuts = np.searchsorted(row_splits, np.arange(0, row_splits[-1], num_ids), "left")
    return np.unique(np.concatenate([[0], cuts, [row_splits.shape[0] - 1]]))


def _unique_rows(
    values: Int32Array, row_splits: Int64Array, num_tokens: int, weights: Float32Array | None
) -> tuple[Int32Array, Int64Array, Array | None]:
    """Sorts pairs (row, id), packed into integers, by chunks of whole rows; drops equal pairs."""
    id_bits = max(1, (num_tokens - 1).bit_length())
    kept: list[Int32Array] = []
    counts: list[Int64Array] = []
    sums: list[Array] = []
    for start, stop in itertools.pairwise(_chunks(row_splits, _UNIQUE_CHUNK_IDS)):
        splits = row_splits[start : stop + 1]
        # 32-bit keys sort about twice as fast; they hold (row, id) unless ids are very many.
        packs = (int(stop - start) << id_bits) <= 1 << 32
        key_type = np.uint32 if packs else np.uint64
        keys = np.repeat(np.arange(stop - start, dtype=key_type), np.diff(splits))
        keys <<= key_type(id_bits)
        keys |= values[splits[0] : splits[-1]].astype(key_type)
        if weights is None:
            places = splits - splits[0]
            for first_id, behind in itertools.pairwise(places[_chunks(places, _UNIQUE_SORTED_IDS)]):
                keys[first_id:behind].sort()
            keys = np.concatenate([keys[:1], keys[1:][keys[1:] != keys[:-1]]])
        else:
            keys, places = np.unique(keys, return_inverse=True)
            sums.append(np.bincount(places, weights[splits[0] : splits[-1]].astype(np.float64)))
        kept.append((keys & key_type((1 << id_bits) - 1)).astype(np.int32))
        counts.append(
            np.bincount((keys >> key_type(id_bits)).astype(np.int64), minlength=stop - start)
        )
    added = None if weights is None else np.concatenate(sums)
    return np.concatenate(kept), splits_of(np.concatenate(counts)), added


def _checked_array(
    name: str, part: str, array: npt.ArrayLike, kinds: str = "iu", what: str = "integers"
) -> Array:
    array = np.asarray(array)
    shape, dtype = array.shape, array.dtype
    require(array.ndim == 1, f"{name}: {part} has shape {shape}. It must have one dimension.")
    require(dtype.kind in kinds, f"{name}: {part} has dtype {dtype}. It must hold {what}.")
    return array


def _checked_row_splits(name: str, row_splits: npt.ArrayLike, num_values: int) -> Int64Array:
    array = _checked_array(name, "row_splits", row_splits)
    require(
        array.shape[0] >= 2,
        f"{name}: zero rows (row_splits has {array.shape[0]} entries, rows + 1 are needed). "
        "Give at least one row.",
    )
    falls = np.flatnonzero(array[1:] < array[:-1])  # a difference of unsigned integers wraps
    if falls.size:
        row = falls[0]
        raise InputError(
            f"{name}: row_splits is not monotonic: row {row} starts at {array[row]} and ends at "
            f"{array[row + 1]}. Each entry must be at least the one before."
        )
    require(
        array[0] == 0 and array[-1] == num_values,
        f"{name}: row_splits goes from {array[0]} to {array[-1]}. It must go from 0 to "
        f"{num_values}, the number of values.",
    )
    return frozen(array, np.int64)


def _checked_ids(
    name: str, values: Integers, row_splits: Int64Array, num_tokens: int
) -> Int32Array:
    if values.size and (values.min() < 0 or values.max() >= num_tokens):
        wrong = np.flatnonzero((values < 0) | (values >= num_tokens))
        row = np.searchsorted(row_splits, wrong[0], "right") - 1
        raise InputError(
            f"{name}: row {row} holds id {values[wrong[0]]}, outside [0, {num_tokens}) "
            f"({wrong.size} such ids, from {values.min()} to {values.max()}). "
            "Correct the ids, or raise num_tokens above the highest."
        )
    return frozen(values, np.int32)


def _checked_labels(name: str, labels: npt.ArrayLike, num_rows: int, num_classes: int) -> Array:
    """Returns labels [B]: whole numbers in [0, num_classes) as read-only int32, and other finite
    floats, which are no classes, as read-only float32."""
    array = _checked_array(name, "labels", labels, "iuf", "integers or floats")
    require(
        array.shape[0] == num_rows,
        f"{name}: {array.shape[0]} labels for {num_rows} rows. Give one label for each row.",
    )
    wrong = np.flatnonzero((array != np.floor(array)) | (array < 0) | (array >= num_classes))
    if wrong.size and array.dtype.kind == "f":
        finite = finite_in_float32(array)
        if finite.all():
            return frozen(array, np.float32)
        wrong = np.flatnonzero(~finite)
    if wrong.size:
        raise InputError(
            f"{name}: label {array[wrong[0]]} of row {wrong[0]} is not a whole number in "
            f"[0, {num_classes}) ({wrong.size} such labels). Correct the labels, or raise "
            "num_classes. Numbers for a regression must be finite floats."
        )
    return frozen(array, np.int32)


def _checked_weights(name: str, weights: npt.ArrayLike, row_splits: Int64Array) -> Float32Array:
    array = _checked_array(name, "weights", weights, "fiu", "real numbers")
    require(
        array.shape[0] == row_splits[-1],
        f"{name}: {array.shape[0]} weights for {row_splits[-1]} ids. Give one weight for each id.",
    )
    wrong = np.flatnonzero(~finite_in_float32(array))
    if wrong.size:
        row = np.searchsorted(row_splits, wrong[0], "right") - 1
        raise InputError(
            f"{name}: row {row} holds the weight {array[wrong[0]]} ({wrong.size} such weights). "
            "Weights must be finite, also in float32."
        )
    return frozen(array, np.float32)


def finite_in_float32(array: Array) -> npt.NDArray[np.bool_]:
    """Returns a mask of the numbers that are finite in float32, in the array's shape."""
    with np.errstate(over="ignore"):  # numbers beyond float32 become infinite
        return np.isfinite(array.astype(np.float32, copy=False))


def _checked_rows(name: str, rows: npt.ArrayLike, num_rows: int) -> Int64Array:
    array = _checked_array(name, "rows", rows, "iu" if np.size(rows) else "iuf")
    ok = array.size > 0 and array.min() >= 0 and array.max() < num_rows
    require(ok, f"{name}: cannot take these rows. Give at least one, from 0 to {num_rows - 1}.")
    return array.astype(np.int64)


def frozen(array: Array, dtype: npt.DTypeLike) -> Array:
    # Copied unless the array is read-only: nobody may change it after the check.
    found = array.astype(dtype, copy=array.flags.writeable)
    found.flags.writeable = False
    return found
