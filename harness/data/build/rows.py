"""The use of the rows of a source, and their classes, before their tokens have ids. Letters: B
rows, K classes, L labels of all rows together."""

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow

from harness.base.errors import InputError
from harness.data.ragged import RaggedSets, rarest, stratified
from harness.data.readers.records import Block, Problems, Source
from harness.data.tokens import Numbered

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
Digests = npt.NDArray[np.int64]  # Python's hashes of rows' contents, [B]; 0 for an empty row

_MAX_LISTED = 5
_LABELS = pyarrow.large_list(pyarrow.dictionary(pyarrow.int32(), pyarrow.string()))


class Rows:
    """The use of each row and its labels: noted while they are read, then settled."""

    test: Bools
    train: Bools  # masks, [B]; rows that are neither are left out
    is_drawn: bool  # whether the test rows were drawn from the others
    class_names: Sequence[str]  # names of the classes, [K], sorted
    labels: RaggedSets  # each row's classes, as places in `class_names`

    def __init__(self, source: Source) -> None:
        self.where, self.kind, self._note = str(source.path), source.kind, source.note
        self.is_multi_label = source.is_multi_label
        self.has_weights = False
        self.num_tokens = 0  # number of distinct tokens of each block, added up
        self.num_ids = 1  # the limit of ids in rows that hold ids
        self._digests: list[Digests] = []
        self._labels: list[pyarrow.Array] = []  # names of each row's classes
        self._is_test: list[Bools] = [np.zeros(0, np.bool_)]

    def add(self, block: Block, numbered: Numbered, digests: Digests) -> None:
        self._is_test.append(np.full(len(block.labels), block.part == "test"))
        self._labels.append(pyarrow.array(block.labels, _LABELS))
        if isinstance(block.contents, RaggedSets):
            self.has_weights |= block.contents.weights is not None
            self.num_ids = max(self.num_ids, block.contents.num_tokens)
        self.num_tokens += len(numbered.tokens)
        self._digests.append(digests)

    def settle(
        self, problems: Problems, *, test_split: float, seed: int, class_names: Sequence[str] = ()
    ) -> None:
        """Draws test rows where there are none, numbers the classes, and counts problems. The
        classes are those of the train rows, unless others are named."""
        where, test = self.where, np.concatenate(self._is_test)
        num_rows = test.size
        if num_rows < 2:
            problem = next((f" ({at}: {kind})" for kind, at in problems.first.items()), "")
            raise InputError(
                f"{where} has {num_rows} rows that can be used{problem}, and training and testing "
                "take one each. Correct the rows, or give more."
            )
        lists = pyarrow.chunked_array(self._labels).unify_dictionaries().combine_chunks()
        labels, splits = lists.values.indices.to_numpy(), lists.offsets.to_numpy()
        names = lists.values.dictionary.to_pylist()  # in the order in which they first appear
        self.is_drawn = not test.any()
        if self.is_drawn:  # the source does not say which rows are for testing
            classes = rarest(labels, splits) if self.is_multi_label else labels
            num_drawn = min(num_rows - 1, max(1, round(test_split * num_rows)))
            test = stratified(classes, num_drawn, seed=seed)
        elif test.all():
            raise InputError(f"{where} has test rows alone. Give rows to train on.")
        self.train = ~test
        used = labels[np.repeat(self.train, np.diff(splits))]
        self.class_names = class_names or self._chosen(names, used)
        numbers = {name: number for number, name in enumerate(self.class_names)}
        labels = np.array([numbers.get(name, -1) for name in names], np.int64)[labels]
        is_known = labels >= 0
        if not is_known.all():
            unknown = _listed(name for name in names if name not in numbers)
            problems.add(
                "test label that no train row has",
                f"{where}, as in the class {unknown}",
                count=int((~is_known).sum()),
            )
            splits = np.concatenate([[0], np.cumsum(is_known)])[splits]
            labels = labels[is_known]
            if not self.is_multi_label:  # a row without its class is left out
                self.train, test = (part & (np.diff(splits) > 0) for part in (self.train, test))
                if not (self.train.any() and test.any()):
                    raise InputError(
                        f"{where}: no test row has a class of the train rows. Those have "
                        f"{_listed(self.class_names)}, the test rows {unknown}. A label names a "
                        f"class, and is no quantity to predict. Check the columns: {self._note}."
                    )
        # A search in sorted digests: np.isin would make several more arrays of that size.
        digests = np.concatenate(self._digests)
        known, asked = np.sort(digests[self.train]), digests[test]
        places = np.minimum(np.searchsorted(known, asked), len(known) - 1)
        is_repeated = (known[places] == asked) & (asked != 0)  # 0 is that of an empty row
        if num_repeated := int(is_repeated.sum()):
            problems.add("test row that is a train row as well", where, count=num_repeated)
        ids, num_classes = labels.astype(np.int32), len(self.class_names)
        self.labels = RaggedSets(values=ids, row_splits=splits, num_tokens=num_classes)
        self.test = test

    def labels_of(self, rows: Ints) -> dict[str, npt.NDArray[Any]]:
        sets = self.labels.take(rows)
        if not self.is_multi_label:  # each row has one
            return {"labels": sets.values}
        no_labels = np.zeros(rows.shape[0], np.int32)
        return {"labels": no_labels, "label_values": sets.values, "label_splits": sets.row_splits}

    def rows_of_classes(self) -> dict[str, int]:
        used = self.labels[self.train | self.test].values
        counts = np.bincount(used, minlength=len(self.class_names))
        return dict(zip(self.class_names, counts.tolist(), strict=True))

    def _chosen(self, names: Sequence[str], labels: Ints) -> list[str]:
        """Returns the sorted names of the classes of the train rows, by their labels."""
        names = _sorted([names[number] for number in np.unique(labels).tolist()])
        if len(names) < 2:
            listed = f"the class {names[0]:.100}" if names else "no classes"
            raise InputError(
                f"{self.where} has {listed} alone to train on. Give rows of two or more."
            )
        return names


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"{name:.40}" for name in itertools.islice(names, _MAX_LISTED))


def _sorted(names: list[str]) -> list[str]:
    """Returns names sorted, as numbers if all are numbers."""
    try:
        numbers = {name: float(name) for name in names}
    except ValueError:
        return sorted(names)
    if np.isnan(list(numbers.values())).any():
        return sorted(names)
    return sorted(names, key=lambda name: (numbers[name], name))
