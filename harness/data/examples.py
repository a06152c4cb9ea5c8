"""Rows with one or several inputs and labels, as training examples of a model of any form.

Letters: B rows, K classes.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np

from harness.base.errors import InputError
from harness.data.ragged import RaggedSets, finite_in_float32, frozen, num_among

_MOST_EXACT = 2**24  # float32 has all whole numbers up to it
_MOST_COMPARED = 2**24  # ids of rows that are compared, and the most `num_tokens`


@dataclass(frozen=True, kw_only=True, eq=False)
class Examples:
    """B rows, each with one or several inputs and a label.

    Construction checks that all parts have the same number of rows, and that numbers are finite. It
    copies arrays that are not read-only: to change them later does not change the examples.
    """

    inputs: Mapping[str, RaggedSets | np.ndarray]
    """Ragged sets or numbers [B, features], by the model's names for them. A single input named ""
    is the model's whole input."""
    labels: np.ndarray | RaggedSets | Mapping[str, np.ndarray] | None = None
    """Classes, integers [B]; or several classes of a row, as 0 and 1 [B, K] or as ragged sets of
    class numbers; or targets of a regression, floats [B] or [B, K]. For a model of several outputs
    such arrays by the names of the outputs. None if the rows have no labels, such as rows to
    predict for."""
    weights: np.ndarray | None = None
    """Weights of the rows' losses, float [B]; None means 1."""
    num_classes: int | None = None
    """Number of classes; None means as many as the labels show, at least 2. That of several outputs
    follows from the model."""
    class_names: tuple[Any, ...] = ()
    """Names of the classes; none if the labels are their numbers."""
    name: str = "examples"
    """The rows' name in messages and results."""

    def __post_init__(self) -> None:
        if not self.inputs:
            raise InputError(f"{self.name} has no inputs; give at least one")
        inputs = {
            name: part if isinstance(part, RaggedSets) else self._checked_numbers(name, part)
            for name, part in self.inputs.items()
        }
        object.__setattr__(self, "inputs", inputs)
        rows = {name: len(part) for name, part in inputs.items()}
        if isinstance(self.labels, Mapping):
            named = all(isinstance(name, str) and name for name in self.labels)
            if not (self.labels and named):
                raise InputError(
                    f"{self.name}: labels by output have the names {[*self.labels]}; give those of "
                    "at least one output, by strings"
                )
            given = sorted(self.labels.items())
            labels = {name: self._checked_labels(name, part) for name, part in given}
            object.__setattr__(self, "labels", labels)
            rows |= {f"the labels of {name}": len(part) for name, part in labels.items()}
        elif self.labels is not None:
            object.__setattr__(self, "labels", self._checked_labels("", self.labels))
            rows["labels"] = len(self.labels)
        if self.weights is not None:
            try:
                weights = np.asarray(self.weights, np.float32)
            except (ValueError, TypeError):  # texts, or lists of several lengths
                weights = np.zeros([0, 0], np.float32)
            if weights.ndim != 1 or not np.isfinite(weights).all() or (weights < 0).any():
                raise InputError(f"{self.name}: weights must be [rows], finite and not negative")
            rows["weights"] = len(weights)
            object.__setattr__(self, "weights", frozen(weights, np.float32))
        if len(set(rows.values())) > 1:
            counts = ", ".join(f"{name or 'the input'} {count}" for name, count in rows.items())
            raise InputError(f"{self.name}: its parts differ in their number of rows: {counts}")
        if self.num_rows == 0:
            raise InputError(f"{self.name} has no rows; give at least one")

    def __repr__(self) -> str:
        return f"<harness.Examples {self.name!r}: {self.num_rows:,} rows of {[*self.inputs]}>"

    def _checked_numbers(self, name: str, given: np.ndarray) -> np.ndarray:
        part = np.asarray(given)
        if part.ndim != 2 or part.dtype.kind not in "fiub":
            raise InputError(
                f"{self.name}: the input {name!r} is {part.dtype} {list(part.shape)}; give numbers "
                "[rows, features], or RaggedSets"
            )
        if part.dtype.kind in "iu" and part.size:
            most = max(int(part.max()), -int(part.min()))
            if most > _MOST_EXACT:
                raise InputError(
                    f"{self.name}: the input {name!r} holds whole numbers up to {most:,}, which "
                    f"float32 rounds beyond {_MOST_EXACT:,}; give ids as RaggedSets, or else floats"
                )
        finite = finite_in_float32(part).all(axis=1)
        if not finite.all():
            row = finite.argmin()
            raise InputError(f"{self.name}: row {row} of the input {name!r} is not finite")
        return frozen(part, part.dtype)

    def _checked_labels(self, output: str, given: Any) -> np.ndarray | RaggedSets:
        """Returns the labels of one of several outputs, or with "" of the only one."""
        of = f" of {output}" if output else ""
        if isinstance(given, RaggedSets):
            if given.weights is not None or output:
                what, give = "have a weight for each class", "labels without weights"
                if output:
                    what, give = "are RaggedSets", "0 and 1 for each class, [rows, classes]"
                raise InputError(
                    f"{self.name}: the labels{of} {what}, which cannot be trained on; give {give}"
                )
            return given
        labels = np.asarray(given)
        labels = frozen(labels, labels.dtype)
        if labels.ndim not in (1, 2) or labels.dtype.kind not in "fiub":
            raise InputError(
                f"{self.name}: labels{of} are {labels.dtype} {list(labels.shape)}; give classes "
                "[rows], 0 and 1 for each class [rows, classes], RaggedSets of class numbers, or "
                "floats for a regression; those of several outputs by name"
            )
        limit: float = 1 if labels.ndim == 2 else _MOST_EXACT if output else np.inf
        if labels.ndim == 1 and self.num_classes is not None:
            limit = self.num_classes - 1
        if labels.dtype.kind == "f":  # a task says which numbers it takes
            right, wanted = finite_in_float32(labels), ""
        else:
            right = (labels >= 0) & (labels <= limit)
            wanted = f" and from 0 to {limit}; those of a regression must be floats"
        if not right.all():
            place = np.unravel_index(right.argmin(), labels.shape)
            raise InputError(
                f"{self.name}: row {place[0]} has the label {labels[place]}{of}; "
                f"labels must be finite{wanted}"
            )
        return labels

    def of_output(self, output: str) -> "Examples":
        """Returns the rows with the labels of one of several outputs."""
        made = object.__new__(Examples)  # all parts are checked already
        own = {field.name: getattr(self, field.name) for field in fields(self)}
        own |= {"labels": self.labels_by_output[output], "num_classes": None}
        vars(made).update(own, name=f"{self.name} of the output {output!r}")
        return made

    @cached_property
    def class_numbers(self) -> Mapping[str, np.ndarray | None]:
        """For each of `labels_by_output` the class numbers [B], if they are one-hot vectors."""
        return {name: _class_numbers(labels) for name, labels in self.labels_by_output.items()}

    @classmethod
    def of(cls, rows: "Examples | RaggedSets") -> "Examples":
        """Returns examples as they are, and ragged sets with their labels as a model's whole input.

        Raises:
            InputError: if `rows` are neither.
        """
        if isinstance(rows, cls):
            for sets in rows.ragged.values():
                sets.check_files()
            return rows
        if not isinstance(rows, RaggedSets):
            raise InputError(
                f"rows are given as {type(rows).__name__}; give harness.RaggedSets or Examples"
            )
        rows.check_files()
        labels: np.ndarray | RaggedSets | None = rows.labels if rows.is_labelled else None
        if rows.label_sets is not None:
            labels = rows.label_sets
        return cls(inputs={"": rows}, labels=labels, num_classes=rows.num_classes, name=rows.name)

    def is_same(self, other: "Examples") -> bool:
        """Whether all parts are the same objects as the other's, not merely equal."""
        same = self.inputs.keys() == other.inputs.keys()
        same = same and all(part is other.inputs[name] for name, part in self.inputs.items())
        labels, others = self.labels_by_output, other.labels_by_output
        same = same and labels.keys() == others.keys()
        same = same and all(part is others[name] for name, part in labels.items())
        return same and self.weights is other.weights

    @property
    def labels_by_output(self) -> Mapping[str, Any]:
        """The labels of each of several outputs, or under "" those of a single one."""
        return self.labels if isinstance(self.labels, Mapping) else {"": self.labels}

    @property
    def num_rows(self) -> int:
        """B."""
        return len(next(iter(self.inputs.values())))

    @property
    def ragged(self) -> dict[str, RaggedSets]:
        """The inputs that are ragged sets."""
        return {n: part for n, part in self.inputs.items() if isinstance(part, RaggedSets)}

    @property
    def dense(self) -> dict[str, np.ndarray]:
        """The inputs that are numbers, float32 [B, features]."""
        return {
            name: part.astype(np.float32, copy=False)
            for name, part in self.inputs.items()
            if not isinstance(part, RaggedSets)
        }

    @property
    def nnz(self) -> int:
        """Number of ids in all rows and inputs together."""
        return sum(sets.nnz for sets in self.ragged.values())

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the content, as hex."""
        sets = self.inputs.get("")
        if (
            isinstance(sets, RaggedSets)
            and self.labels is (sets.labels if sets.label_sets is None else sets.label_sets)
            and self.weights is None
        ):
            return sets.fingerprint
        digest = hashlib.sha256()
        labels = ((f"/{name}", part) for name, part in self.labels_by_output.items())
        for name, part in [*self.inputs.items(), *labels, ("/", self.weights)]:
            digest.update(name.encode())
            if isinstance(part, RaggedSets):
                digest.update(part.fingerprint.encode())
            elif part is not None:
                digest.update(f"{part.dtype}{part.shape}".encode())
                digest.update(np.ascontiguousarray(part).data)
        return digest.hexdigest()


def _class_numbers(labels: Any) -> np.ndarray | None:
    if not isinstance(labels, np.ndarray) or labels.ndim == 1 or labels.shape[1] == 1:
        return None
    if labels.min() < 0 or (labels.sum(axis=1) != 1).any() or (labels.max(axis=1) != 1).any():
        return None
    return frozen(labels.argmax(axis=1), np.dtype(np.int64))


def num_repeated(rows: Examples, others: Examples) -> int:
    """Returns the number of rows that have the same ids as a row of `others` in every ragged
    input. Rows without ids do not count; nor does any if there are inputs of numbers, or more
    than 2^24 ids or numbers that ids may have."""
    # The parts of a data set may have different limits of their ids.
    most = {n: max(s.num_tokens, rows.ragged[n].num_tokens) for n, s in others.ragged.items()}
    if rows.dense or max(rows.nnz, others.nnz, *most.values()) > _MOST_COMPARED:
        return 0
    known, asked = (np.zeros(part.num_rows, np.uint64) for part in (others, rows))
    random = np.random.RandomState(0)
    for name, sets in others.ragged.items():
        # Rows with the same ids have the same sum of random numbers, whatever their order.
        numbers = random.randint(2**64, size=most[name], dtype=np.uint64)
        for digests, part in ((known, sets), (asked, rows.ragged[name])):
            sums = np.concatenate([[np.uint64(0)], np.cumsum(numbers[part.values])])
            digests += np.diff(sums[part.row_splits])
    return num_among(asked, known)
