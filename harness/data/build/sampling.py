"""A sample of the train rows of texts, in memory: all that a search needs of a file of any size."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.data.build.building import Rows
from harness.data.options import BuildOptions
from harness.data.readers.records import Part, Problems, Source

_LEAST = 500  # rows, however long they are
Row = tuple[str, list[str]]  # a text, and the names of its classes
Places = npt.NDArray[np.int64]


class Sample(Source):
    """Some train rows of a source, in its order, B in all. A build wants a test row: the first."""

    def __init__(
        self, source: Source, rows: Sequence[Row], *, places: Places, num_train_rows: int
    ) -> None:
        super().__init__(source.path, source.name)
        self.is_multi_label, self._rows = source.is_multi_label, rows
        self.places, self.num_train_rows = places, num_train_rows
        """Each row's place among the source's train rows, [B], and the number of these."""

    def rows(self, problems: Problems) -> Iterator[tuple[int, str, str | list[str], Part]]:
        parts: list[tuple[Part, Sequence[Row]]] = [("train", self._rows), ("test", self._rows[:1])]
        for part, rows in parts:
            for number, (text, names) in enumerate(rows):
                yield number, text, names if self.is_multi_label else names[0], part


def sample_of(
    source: Source,
    options: BuildOptions,
    *,
    seed: int,
    most: int,
    progress: Callable[[str], None] = lambda text: None,
) -> Sample:
    """Reads all texts of a source once, and returns rows drawn from those that a build with these
    options and this seed trains on: all of them, or some with `most` characters together."""
    problems, rows = Problems(strict=options.strict), Rows(source)
    draws = np.random.RandomState(seed)
    limit, size, num_rows = 1.0, 0, 0
    kept: list[tuple[float, int, Row]] = []  # with the number that was drawn, and the row's place
    for block in source.blocks(problems):
        rows.add(block, np.zeros(len(block.labels), np.int64))
        numbers = draws.random_sample(len(block.labels)).tolist()
        texts: Any = block.contents
        drawn = zip(numbers, itertools.count(num_rows), texts, block.labels, strict=False)
        new = [
            (number, place, (text, names))
            for number, place, text, names in drawn
            if number < limit and block.part != "test"
        ]
        num_rows += len(block.labels)
        progress(f"reading {source.path}: {num_rows:,} rows")
        kept += new
        size += sum(len(text) for _, _, (text, _) in new)
        # Twice as many as wanted, since some turn out to be test rows.
        while size > 2 * most and len(kept) > 4 * _LEAST:
            limit /= 2
            kept = [row for row in kept if row[0] < limit]
            size = sum(len(text) for _, _, (text, _) in kept)
    rows.settle(problems, test_split=options.test_split, seed=seed)
    in_order = [row for row in sorted(kept, key=lambda row: row[0]) if rows.train[row[1]]]
    ends = np.cumsum([len(text) for _, _, (text, _) in in_order])
    count = max(_LEAST, int(np.searchsorted(ends, most, "right")))
    chosen = sorted(in_order[:count], key=lambda row: row[1])
    of_source = np.array([place for _, place, _ in chosen], np.int64)
    sample = Sample(
        source,
        [row for *_, row in chosen],
        places=(np.cumsum(rows.train) - 1)[of_source],
        num_train_rows=int(rows.train.sum()),
    )
    sample.class_names = rows.class_names
    return sample
