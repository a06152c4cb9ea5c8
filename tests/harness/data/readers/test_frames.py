"""Frames of pandas and polars, and SciPy's CSR matrices."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import sparse

from harness.base.errors import InputError
from harness.data.options import BuildOptions
from harness.data.readers.formats import FrameSource, MatrixSource

Reader = Callable[..., Any]


@pytest.mark.parametrize("package", ["pandas", "polars"])
def test_frames(read: Reader, package: str) -> None:
    make = pytest.importorskip(package).DataFrame
    source = FrameSource(make({"text": ["a", None, "b"], "label": [1, 0, 1]}), BuildOptions())
    rows = read(source)
    assert (rows.contents, rows.labels) == (["a", "", "b"], ["1", "0", "1"])
    assert rows.problems.first == {"empty text": "the frame, row 2"}
    tags = make({"items": [["x"], ["y", "z"]], "labels": [["a", "b"], ["a"]]})
    rows = read(FrameSource(tags, BuildOptions()))
    assert (rows.contents, rows.labels) == ([["x"], ["y", "z"]], [["a", "b"], ["a"]])
    with pytest.raises(InputError, match=r"the frame: .* Its columns are a, b, c\."):
        FrameSource(make({"a": [1], "b": [2], "c": [3]}), BuildOptions())


def test_a_matrix(read: Reader) -> None:
    matrix = sparse.csr_matrix([[0, 1, 1], [0, 0, 0]])
    rows = read(MatrixSource(matrix, np.array([1, 0])))
    assert (rows.contents, rows.labels) == ([[1, 2], []], ["1", "0"])
    (sets,) = rows.sets
    assert (sets.num_tokens, sets.weights) == (3, None)
    with pytest.raises(InputError, match="the matrix has 2 rows, and there are 1 labels"):
        MatrixSource(matrix, [1])
    with pytest.raises(InputError, match="the matrix's label 1: empty label"):
        MatrixSource(matrix, ["a", np.nan])
    with pytest.raises(InputError, match="the matrix has no labels, which training needs"):
        MatrixSource(matrix.tocsc(), None)


def test_a_matrix_of_weights(read: Reader) -> None:
    """Entries of one place add up, be they ones; of a matrix of booleans True is 1."""
    counts = sparse.csr_matrix([[0, 1, 1], [0, 0, 0]])
    twice = sparse.csr_matrix((np.ones(3, bool), [2, 1, 2], [0, 3]), shape=(1, 3))
    for matrix, contents, weights in (
        (counts * 0.5, [[1, 2], []], [0.5, 0.5]),
        (counts * 7, [[1, 2], []], [7, 7]),
        (twice, [[1, 2]], [1, 2]),
        (twice.astype(np.int8), [[1, 2]], [1, 2]),
    ):
        rows = read(MatrixSource(matrix, np.zeros(matrix.shape[0], int)))
        (sets,) = rows.sets
        assert (rows.contents, sets.weights.tolist()) == (contents, weights)
    with pytest.raises(InputError, match="the matrix: row 0 holds the weight nan"):
        MatrixSource(counts * np.nan, None)
