"""Facts about the rows of a source before they have ids: parts, labels, and digests.

Letters: B rows, K classes, L labels of all rows together.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.base.errors import InputError
from harness.data.build.blocks import BlockFacts
from harness.data.ragged import rarest, stratified
from harness.data.readers.records import Kind, Part, Problems
from harness.data.tokens import Places

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

_MAX_LISTED = 5


class RowFacts:
    """Collects the facts about rows, block by block."""

    def __init__(self, where: str) -> None:
        """Args:
        where: the rows' source, for messages.
        """
        self.where = where
        self.kind: Kind = "texts"
        self.is_multi_label = False
        self.has_weights = False
        """Whether any ids came with weights."""
        self.class_numbers = Places()
        """Numbers of the classes' names, in the order in which they first appear."""
        self._parts: list[tuple[Part, int]] = []
        self._digests: list[npt.NDArray[np.uint64]] = []
        self._labels: list[Ints] = []
        self._num_labels: list[Ints] = []

    def add(self, block: BlockFacts) -> None:
        """Adds the rows of a block."""
        self.kind = block.kind
        self.is_multi_label |= block.is_multi_label
        self.has_weights |= block.has_weights
        numbers = [self.class_numbers[name] for name in block.labels.strings()]
        self._parts.append((block.part, block.num_rows))
        self._digests.append(block.digests)
        self._labels.append(np.array(numbers, np.int64)[block.labels.values])
        self._num_labels.append(np.diff(block.labels.row_splits))

    @property
    def num_rows(self) -> int:
        """B, the number of rows."""
        return sum(count for _, count in self._parts)

    def of_part(self, part: Part) -> Bools:
        """Returns a mask of the rows of a part, [B]."""
        return np.repeat(
            [name == part for name, _ in self._parts], [count for _, count in self._parts]
        )

    @property
    def digests(self) -> npt.NDArray[np.uint64]:
        """The rows' digests, [B]."""
        return np.concatenate(self._digests)

    @property
    def labels(self) -> tuple[Ints, Ints]:
        """The rows' classes by number [L], and row boundaries among them [B + 1]."""
        lengths = np.concatenate(self._num_labels)
        return np.concatenate(self._labels), np.concatenate([[0], np.cumsum(lengths)])


@dataclass(frozen=True, kw_only=True, eq=False)
class Rows:
    """The use of each row, and its labels."""

    where: str
    kind: Kind
    train: Bools
    test: Bools
    """Mask of the test rows, [B]. Rows that are neither train nor test rows are left out."""
    is_drawn: bool
    """Whether the test rows were drawn from the others."""
    is_multi_label: bool
    has_weights: bool
    class_names: Sequence[str]
    """Names of the classes, [K], sorted."""
    labels: Ints
    label_splits: Ints
    """Boundaries of the rows in `labels`, which are places in `class_names`."""

    def labels_of(self, rows: Ints) -> dict[str, npt.NDArray[Any]]:
        """Returns the store's arrays of these rows' labels."""
        if not self.is_multi_label:  # each row has one
            return {"labels": self.labels[rows].astype(np.int32)}
        lengths = np.diff(self.label_splits)[rows]
        splits = np.concatenate([[0], np.cumsum(lengths)])
        source = np.repeat(self.label_splits[rows] - splits[:-1], lengths)
        labels = self.labels[source + np.arange(splits[-1])].astype(np.int32)
        no_labels = np.zeros(rows.shape[0], np.int32)
        return {"labels": no_labels, "label_values": labels, "label_splits": splits}

    def rows_of_classes(self) -> dict[str, int]:
        """Returns the number of train and test rows together of each class."""
        used = np.repeat(self.train | self.test, np.diff(self.label_splits))
        counts = np.bincount(self.labels[used], minlength=len(self.class_names))
        return dict(zip(self.class_names, counts.tolist(), strict=True))


def settled(facts: RowFacts, problems: Problems, *, test_split: float, seed: int) -> Rows:
    """Draws test rows where there are none, and numbers the classes.

    Raises:
        InputError: there is nothing to train on, or nothing to tell apart.
    """
    where, num_rows = facts.where, facts.num_rows
    if num_rows < 2:
        raise InputError(
            f"{where} has {num_rows} rows that can be used, and training and testing take one "
            "each. Give more rows."
        )
    labels, splits = facts.labels
    test = facts.of_part("test")
    is_drawn = not test.any()
    if is_drawn:
        classes = rarest(labels, splits) if facts.is_multi_label else labels
        num_drawn = min(num_rows - 1, max(1, round(test_split * num_rows)))
        test = stratified(classes, num_drawn, seed=seed)
    elif test.all():
        raise InputError(f"{where} has test rows alone. Give rows to train on.")
    train = ~test
    # Classes are those of the train rows; a model cannot learn another.
    known = np.zeros(len(facts.class_numbers), np.bool_)
    of_row = np.repeat(np.arange(num_rows), np.diff(splits))
    known[labels[train[of_row]]] = True
    names = sorted([name for name, has in zip(facts.class_numbers, known, strict=True) if has])
    if all(_is_number(name) for name in names):
        names.sort(key=float)
    if len(names) < 2:
        listed = f"the class {names[0]:.100}" if names else "no classes"
        raise InputError(f"{where} has {listed} alone to train on. Give rows of two or more.")
    places = np.full(len(facts.class_numbers), -1)
    places[[facts.class_numbers[name] for name in names]] = np.arange(len(names))
    labels = places[labels]
    if (labels < 0).any():
        unknown = [name for name, has in zip(facts.class_numbers, known, strict=True) if not has]
        listed = ", ".join(f"{name:.40}" for name in unknown[:_MAX_LISTED])
        count = int((labels < 0).sum())
        problems.add(
            "test label that no train row has", f"{where}, as in the class {listed}", count=count
        )
        if not facts.is_multi_label:
            test = test & (labels >= 0)
            if not test.any():
                raise InputError(f"{where}: no test row has a class of the train rows.")
            labels = np.maximum(labels, 0)  # only of rows that are left out
        else:
            splits = np.concatenate([[0], np.cumsum(labels >= 0)])[splits]
            labels = labels[labels >= 0]
    num_repeated = _num_repeated(facts.digests, train, test)
    if num_repeated:
        problems.add("test row that is a train row as well", where, count=num_repeated)
    return Rows(
        where=where,
        kind=facts.kind,
        train=train,
        test=test,
        is_drawn=is_drawn,
        is_multi_label=facts.is_multi_label,
        has_weights=facts.has_weights,
        class_names=names,
        labels=labels,
        label_splits=splits,
    )


def _num_repeated(digests: npt.NDArray[np.uint64], train: Bools, test: Bools) -> int:
    """Returns how many test rows have the content of a train row, empty rows not counted."""
    # A search in sorted digests: np.isin would make several more arrays of that size.
    known, asked = np.sort(digests[train]), digests[test]
    places = np.minimum(np.searchsorted(known, asked), len(known) - 1)
    return int(((known[places] == asked) & (asked > 0)).sum())


def _is_number(name: str) -> bool:
    try:
        return float(name) == float(name)
    except ValueError:
        return False
