"""The grid and the order in which it is measured."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.bench.results import AXES
from harness.bench.sweep import cells, remaining
from harness.errors import InputError
from tests.harness.bench.samples import CELL, pair, results, row

GRID = dict.fromkeys(AXES, ("auto",)) | {
    "batch_size": (100, 200),
    "implementation": ("gather", "dense"),
    "replicas": ("auto", 2),
}


def test_every_combination_is_a_cell() -> None:
    planned = cells(GRID, rows=200)
    assert len(planned) == len(set(planned)) == 8
    assert (planned[0].batch_size, planned[0].implementation, planned[0].replicas) == (
        100,
        "gather",
        "auto",
    )
    assert planned[-1] == dataclasses.replace(
        CELL, batch_size=200, implementation="dense", replicas="2"
    )


def test_a_batch_larger_than_the_data() -> None:
    with pytest.raises(InputError, match="names 200, but the data set has 199 rows"):
        cells(GRID, rows=199)


@given(num=st.integers(1, 6), repeats=st.integers(1, 6))
def test_the_order_alternates(num: int, repeats: int) -> None:
    planned = [dataclasses.replace(CELL, batch_size=n) for n in range(1, num + 1)]
    order = remaining(planned, repeats, results())
    assert len(set(order)) == num * repeats
    for repeat in range(repeats):
        of_repeat = [cell for cell, r in order if r == repeat]
        assert of_repeat == (planned if repeat % 2 == 0 else planned[::-1])
    if repeats % 2 == 0:  # every cell lies in the middle of the sweep, on average
        places = [[i for i, (c, _) in enumerate(order) if c == cell] for cell in planned]
        assert len({sum(p) for p in places}) == 1


def test_what_remains() -> None:
    other = dataclasses.replace(CELL, batch_size=8192)
    planned = (CELL, other)
    assert remaining(planned, 2, results()) == [(CELL, 0), (other, 0), (other, 1), (CELL, 1)]
    done = results(row(CELL, 0), row(other, 0, None))
    assert remaining(planned, 2, done) == [(CELL, 1)]  # the other would run out of memory again
    assert remaining(planned, 1, done) == []
    assert remaining((CELL,), 2, results(pair(0, (0.0,)))) == [(CELL, 1)]
