"""Named shapes that serve both the contract tests and the benchmarks: nothing untested is timed.

Shapes: B rows, V num_tokens, H units, N values (capacity; nnz = row_splits[-1] of them count).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Sets(NamedTuple):
    """A batch of ragged sets with what the product and its gradient are applied to."""

    values: NDArray[np.int32]  # [N]; garbage behind nnz
    row_splits: NDArray[np.int64]  # [B + 1]
    table: NDArray[np.float32]  # [V, H]
    dy: NDArray[np.float32]  # [B, H]


@dataclass(frozen=True, kw_only=True)
class Case:
    """A named shape; `draw` makes its data from a seed."""

    name: str

    num_rows: int
    """B."""

    num_tokens: int
    """V."""

    units: int
    """H."""

    mean_length: float
    """Mean number of ids per row; lengths are log-normal as IMDB's are, so some rows are empty
    or long."""

    unique: bool = False
    """Whether no row holds an id twice."""

    spare: int = 0
    """Slots of `values` behind nnz."""

    def draw(self, seed: int) -> Sets:
        """Return the case's data, the same for the same seed."""
        rng = np.random.default_rng(seed)
        lengths = _row_lengths(rng, self.num_rows, self.mean_length)
        if self.unique:
            rows = _unique_rows(rng, np.minimum(lengths, self.num_tokens), self.num_tokens)
            lengths = np.array([len(row) for row in rows], np.int64)
            ids = np.concatenate([np.empty(0, np.int64), *rows])
        else:
            ids = _zipf(rng, int(lengths.sum()), self.num_tokens)
        garbage = rng.integers(-(2**31), 2**31, self.spare)
        return Sets(
            values=np.concatenate([ids, garbage]).astype(np.int32),
            row_splits=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            table=rng.normal(size=(self.num_tokens, self.units)).astype(np.float32),
            dy=rng.normal(size=(self.num_rows, self.units)).astype(np.float32),
        )


def _row_lengths(rng: np.random.Generator, num_rows: int, mean: float) -> NDArray[np.int64]:
    # IMDB's unique ids per row: mean 130, deviation 70, hence the spread of 0.5.
    spread = 0.5
    lengths = rng.lognormal(np.log(max(mean, 1e-9)) - spread**2 / 2, spread, num_rows)
    return np.rint(lengths).astype(np.int64)


def _zipf(rng: np.random.Generator, count: int, num_tokens: int) -> NDArray[np.int64]:
    """Return `count` ids with P(id) proportional to 1 / (id + 3), as word ranks have."""
    cumulative = np.cumsum(1.0 / (np.arange(num_tokens) + 3.0))
    return np.searchsorted(cumulative, rng.random(count) * cumulative[-1], side="right").clip(
        max=num_tokens - 1
    )


def _unique_rows(
    rng: np.random.Generator, lengths: NDArray[np.int64], num_tokens: int
) -> list[NDArray[np.int64]]:
    """Return rows of exactly `lengths` different ids each, frequent ids more often."""
    rows = []
    for length in lengths:
        row = np.empty(0, np.int64)
        while len(row) < length:
            # Doubling what is drawn ends soon even where a row takes nearly every id.
            more = _zipf(rng, 2 * int(length) + len(row), num_tokens)
            row = np.unique(np.concatenate([row, more]))
            if 2 * length > num_tokens:
                row = np.arange(num_tokens)
        rows.append(rng.permutation(row)[:length])
    return rows


IMDB_500 = Case(
    name="imdb_500", num_rows=500, num_tokens=10_000, units=50, mean_length=130.2, unique=True
)
IMDB_4096 = Case(
    name="imdb_4096", num_rows=4_096, num_tokens=10_000, units=50, mean_length=130.2, unique=True
)
REPEATED_500 = Case(
    name="repeated_500", num_rows=500, num_tokens=10_000, units=50, mean_length=234.7
)
PADDED = Case(
    name="padded", num_rows=33, num_tokens=300, units=50, mean_length=12, unique=True, spare=97
)
WIDE = Case(name="wide", num_rows=17, num_tokens=97, units=131, mean_length=9, spare=3)
NARROW = Case(name="narrow", num_rows=64, num_tokens=41, units=1, mean_length=5)
ALIGNED = Case(name="aligned", num_rows=40, num_tokens=128, units=64, mean_length=7, unique=True)
SPARSE = Case(name="sparse", num_rows=50, num_tokens=1_000, units=3, mean_length=0.7, spare=10)

SMALL = (PADDED, WIDE, NARROW, ALIGNED, SPARSE)
LARGE = (IMDB_500, IMDB_4096, REPEATED_500)
CASES = {case.name: case for case in SMALL + LARGE}
