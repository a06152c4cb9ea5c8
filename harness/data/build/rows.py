"""The use of the rows of a source, and their classes, before their tokens have ids.

Letters: B rows, K classes, L labels of all rows together.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from harness.base.errors import InputError
from harness.data.build.blocks import NumberedBlock
from harness.data.ragged import RaggedSets, rarest, stratified
from harness.data.readers.records import Kind, Problems
from harness.data.tokens import Places

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

_MAX_LISTED = 5


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
        sets = RaggedSets(
            values=self.labels.astype(np.int32),
            row_splits=self.label_splits,
            num_tokens=len(self.class_names),
        ).take(rows)
        no_labels = np.zeros(rows.shape[0], np.int32)
        return {"labels": no_labels, "label_values": sets.values, "label_splits": sets.row_splits}

    def rows_of_classes(self) -> dict[str, int]:
        """Returns the number of train and test rows together of each class."""
        used = np.repeat(self.train | self.test, np.diff(self.label_splits))
        counts = np.bincount(self.labels[used], minlength=len(self.class_names))
        return dict(zip(self.class_names, counts.tolist(), strict=True))


class _Facts(NamedTuple):
    """Facts about all rows before test rows are drawn and classes are numbered."""

    kind: Kind
    is_multi_label: bool
    has_weights: bool
    class_numbers: dict[str, int]
    """Numbers of the classes' names, in the order in which they first appear."""
    is_test: Bools
    digests: npt.NDArray[np.uint64]
    labels: Ints
    label_splits: Ints


def _facts_of(blocks: Iterable[NumberedBlock]) -> _Facts:
    kind: Kind = "texts"
    is_multi_label = has_weights = False
    class_numbers = Places()
    is_test, digests = [np.zeros(0, np.bool_)], [np.zeros(0, np.uint64)]
    labels, lengths = [np.zeros(0, np.int64)], [np.zeros(1, np.int64)]
    for block in blocks:
        kind = block.kind
        is_multi_label |= block.is_multi_label
        has_weights |= block.weights is not None
        numbers = [class_numbers[name] for name in block.labels.strings()]
        is_test.append(np.full(block.digests.size, block.part == "test"))
        digests.append(block.digests)
        labels.append(np.array(numbers, np.int64)[block.labels.values])
        lengths.append(np.diff(block.labels.row_splits))
    return _Facts(
        kind,
        is_multi_label,
        has_weights,
        class_numbers,
        np.concatenate(is_test),
        np.concatenate(digests),
        np.concatenate(labels),
        np.cumsum(np.concatenate(lengths)),
    )


def settled(
    blocks: Iterable[NumberedBlock],
    problems: Problems,
    *,
    where: str,
    test_split: float,
    seed: int,
) -> Rows:
    """Draws test rows where there are none, and numbers the classes. Counts the problems that show
    in all rows together; `where` is the rows' source, for messages."""
    facts = _facts_of(blocks)
    test, labels, splits = facts.is_test, facts.labels, facts.label_splits
    num_rows = test.size
    if num_rows < 2:
        raise InputError(
            f"{where} has {num_rows} rows that can be used, and training and testing take one "
            "each. Give more rows."
        )
    is_drawn = not test.any()
    if is_drawn:  # the source does not say which rows are for testing
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
    names = _sorted([name for name, has in zip(facts.class_numbers, known, strict=True) if has])
    if len(names) < 2:
        listed = f"the class {names[0]:.100}" if names else "no classes"
        raise InputError(f"{where} has {listed} alone to train on. Give rows of two or more.")
    # Numbers by first appearance become places among the sorted names, -1 for unknown classes.
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


def _sorted(names: list[str]) -> list[str]:
    """Returns names sorted, as numbers if all are numbers."""
    try:
        numbers = {name: float(name) for name in names}
    except ValueError:
        return sorted(names)
    if np.isnan(list(numbers.values())).any():
        return sorted(names)
    return sorted(names, key=lambda name: (numbers[name], name))
