"""Named shapes, shared by tests and benchmarks, so that nothing untested is timed."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Sets(NamedTuple):
    """A batch of ragged sets, with the operands of the product and its gradient."""

    values: NDArray[np.int32]  # [N]; garbage behind nnz
    row_splits: NDArray[np.int64]  # [B + 1]
    table: NDArray[np.float32]  # [V, H]
    dy: NDArray[np.float32]  # [B, H]
    weights: NDArray[np.float32] | None  # [N]; NaN behind nnz


class Case(NamedTuple):
    """A named shape; `draw` makes its data from a seed."""

    name: str
    num_rows: int  # B
    num_tokens: int  # V
    units: int  # H
    mean_length: float  # mean number of ids per row; lengths are log-normal as in IMDB
    unique: bool = False  # whether no row holds an id twice
    spare: int = 0  # positions of `values` behind nnz
    weighted: bool = False  # whether ids have weights

    def draw(self, seed: int) -> Sets:
        rng = np.random.default_rng(seed)
        B, V = self.num_rows, self.num_tokens
        # IMDB's unique ids per row: mean 130, deviation 70, hence the spread of 0.5.
        spread = 0.5
        mean = np.log(max(self.mean_length, 1e-9)) - spread**2 / 2
        lengths = np.rint(rng.lognormal(mean, spread, B)).astype(np.int64)
        rows = np.repeat(np.arange(B), 2 * lengths if self.unique else lengths)
        # P(id) is proportional to 1 / (id + 3), as for word ranks.
        cumulative = np.cumsum(1.0 / (np.arange(V) + 3.0))
        drawn = rng.random(len(rows)) * cumulative[-1]
        ids = np.searchsorted(cumulative, drawn, side="right").clip(max=V - 1)
        if self.unique:  # keeps the first `lengths` different ids of each row, if it has as many
            _, first = np.unique(rows * V + ids, return_index=True)
            first.sort()
            rows, ids = rows[first], ids[first]
            rank = np.arange(len(rows)) - np.searchsorted(rows, rows)
            kept = rank < lengths[rows]
            rows, ids = rows[kept], ids[kept]
        garbage = rng.integers(-(2**31), 2**31, self.spare)
        table = rng.normal(size=(V, self.units)).astype(np.float32)
        dy = rng.normal(size=(B, self.units)).astype(np.float32)
        weights = None
        if self.weighted:
            weights = np.full(len(ids) + self.spare, np.nan, np.float32)
            weights[: len(ids)] = rng.normal(size=len(ids))
        return Sets(
            values=np.concatenate([ids, garbage]).astype(np.int32),
            row_splits=np.searchsorted(rows, np.arange(B + 1)),
            table=table,
            dy=dy,
            weights=weights,
        )


# B, V, H and the mean length.
IMDB_500 = Case("imdb_500", 500, 10_000, 50, 130.2, unique=True)
IMDB_4096 = Case("imdb_4096", 4_096, 10_000, 50, 130.2, unique=True)
REPEATED_500 = Case("repeated_500", 500, 10_000, 50, 234.7)
TF_IDF_500 = IMDB_500._replace(name="tf_idf_500", weighted=True)
PADDED = Case("padded", 33, 300, 50, 12, unique=True, spare=97)
WIDE = Case("wide", 17, 97, 131, 9, spare=3)
NARROW = Case("narrow", 64, 41, 1, 5)
ALIGNED = Case("aligned", 40, 128, 64, 7, unique=True)
SPARSE = Case("sparse", 50, 1_000, 3, 0.7, spare=10)
WEIGHTED = Case("weighted", 30, 90, 21, 11, spare=5, weighted=True)

SMALL = (PADDED, WIDE, NARROW, ALIGNED, SPARSE, WEIGHTED)
LARGE = (IMDB_500, IMDB_4096, REPEATED_500, TF_IDF_500)
CASES = {case.name: case for case in SMALL + LARGE}
